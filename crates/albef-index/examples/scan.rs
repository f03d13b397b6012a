//! Times the exact scan against a plain read of the same bytes, which is the least that it can take.
//!
//! ```sh
//! cargo run --release -p albef-index --example scan
//! ```
//!
//! The vectors are in a mapped file, as those of an index, and are read once before. Each figure is the fastest run of
//! some seconds, in which scan and read take turns: on a machine that is shared, others are about other programs. Other
//! numbers of vectors and another width can be given: `scan 10000,1000000 512`.

use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use albef_index::scan::{Kernel, Rows, top_k};
use half::f16;
use rayon::prelude::*;

/// Bytes that a thread reads at a time.
const BLOCK: usize = 4 << 20;

/// The sum of all words: every byte is read, and little else is done.
fn plain_read(bytes: &[u8]) -> u64 {
    let sum = |block: &[u8]| {
        let (lines, rest) = block.as_chunks::<64>();
        let mut sums = [0_u64; 8];
        for line in lines {
            for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        let rest: u64 = rest.iter().map(|b| u64::from(*b)).sum();
        sums.iter().fold(rest, |a, b| a.wrapping_add(*b))
    };
    bytes.par_chunks(BLOCK).map(sum).reduce(|| 0, u64::wrapping_add)
}

fn timed(run: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    run();
    begin.elapsed()
}

fn fastest(times: &[Duration]) -> f64 {
    times.iter().min().map_or(f64::NAN, Duration::as_secs_f64)
}

fn measure(n: usize, width: usize) -> std::io::Result<()> {
    let mut file = tempfile::tempfile()?;
    let mut state = 1_u64;
    let mut writer = BufWriter::with_capacity(1 << 20, &mut file);
    for _ in 0..n * width {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
        writer.write_all(&f16::from_f32(value / 8.0).to_le_bytes())?;
    }
    writer.flush()?;
    drop(writer);
    // SAFETY: the file has no name, so that no other process can change it.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    // SAFETY: the mapping begins at a page, every two bytes are an `f16`, and there are as many as were written.
    let values: &[f16] = unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), n * width) };
    let ids: Vec<i64> = (0..n as i64).collect();
    let query: Vec<f32> = (0..width).map(|i| (i as f32 * 0.37).sin()).collect();
    let rows = Rows { values, width, ids: &ids, mask: &[] };
    let kernels = Kernel::available();
    let (mut reads, mut scans) = (Vec::new(), vec![Vec::new(); kernels.len()]);
    black_box(plain_read(&map));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2 + 2 * kernels.len() as u64) || reads.len() < 5 {
        reads.push(timed(|| _ = black_box(plain_read(black_box(&map)))));
        for (kernel, times) in kernels.iter().zip(&mut scans) {
            times.push(timed(|| _ = black_box(top_k(rows, &query, 64, *kernel))));
        }
    }
    let gigabytes = map.len() as f64 / 1e9;
    let floor = fastest(&reads);
    println!("{n:>9} {width:>5}  {:<9} {:>9.3} {:>8.1}", "read", floor * 1e3, gigabytes / floor);
    for (kernel, times) in kernels.iter().zip(&scans) {
        let time = fastest(times);
        let name = format!("{kernel:?}").to_lowercase();
        println!(
            "{n:>9} {width:>5}  {name:<9} {:>9.3} {:>8.1} {:>8.0} %",
            time * 1e3,
            gigabytes / time,
            100.0 * floor / time
        );
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let sizes = arguments.next().unwrap_or("10000,100000,1000000".into());
    let width = arguments.next().map_or(Ok(256), |w| w.parse())?;
    println!("{} threads, the best 64 images", rayon::current_num_threads());
    println!("  vectors width  what             ms     GB/s  of read");
    for n in sizes.split(',') {
        measure(n.trim().parse()?, width)?;
    }
    Ok(())
}
