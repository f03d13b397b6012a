//! Training does not grow in memory. Alone in its program, since all that the program holds is counted.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use albef::Control;
use albef::config::Source;
use albef::device::cpu;
use albef::task::TaskRef;
use albef::train::{Event, Trainer};
use albef_data::dataset::{Dataset, Location, Sample};

/// Counts the bytes that are held, and the most that were.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the promises of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn memory_stays_flat_over_two_hundred_steps() {
    let dir = tempfile::tempdir().unwrap();
    let samples = (0..8)
        .map(|i| {
            let path = dir.path().join(format!("{i}.png"));
            let image = albef_data::image::RgbImage::filled(20, 20, [i * 30, 9, 9]);
            std::fs::write(&path, albef_data::scenes::png(&image).unwrap()).unwrap();
            Sample {
                location: Location::File(path),
                name: i.to_string(),
                captions: vec![format!("image number {i} of red")],
                key: i.to_string(),
                task: Default::default(),
            }
        })
        .collect();
    let settings = [
        "preset=nano",
        "image_res=16",
        "batch_size=4",
        "queue_size=8",
        "vocab=corpus",
        "checkpoint_every=100000",
        "schedular.epochs=1000",
        "max_steps=200",
    ]
    .map(String::from);
    let source = Source { text: "", settings: &settings, file: None };
    let config = TaskRef::pretrain().configure(source).unwrap();
    let data = Dataset::from_samples(samples);
    let mut trainer = Trainer::with_data(config, data, dir.path(), &cpu()).unwrap();
    let (mut step, mut early, mut late, mut within) = (0, 0, 0, 0);
    trainer
        .run(&Control::new(), &mut |event| {
            let held = HELD.load(Ordering::Relaxed);
            if let Event::Step { .. } = event {
                step += 1;
                match step {
                    60 => {
                        early = held;
                        MOST.store(held, Ordering::Relaxed);
                    }
                    61 => within = MOST.load(Ordering::Relaxed) - early,
                    200 => late = held,
                    _ => {}
                }
            }
            Ok(())
        })
        .unwrap();
    eprintln!("{early} bytes after 60 steps, {late} after 200; {within} within a step");
    // If each of 140 steps left its activations, or a hundredth of what it holds at its height, that
    // would be more than this.
    assert!(within > 200_000, "{within} bytes within a step");
    assert!(late < early + within / 4, "{early} bytes after 60 steps, {late} after 200");
}
