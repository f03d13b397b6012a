//! Fine-tunes a classifier on your own images, a folder for each label:
//! `cargo run --release --example fine_tune -- FOLDER`. Without a folder a few drawings are copied together.

use std::error::Error;
use std::path::{Path, PathBuf};

use albef::checkpoint::{Checkpoint, Parts};
use albef::config::Source;
use albef::task::{Query, TaskRef};
use albef::train::{RunEvent, RunOptions, run};
use albef::{default_model, device};

fn main() -> Result<(), Box<dyn Error>> {
    let output = std::env::temp_dir().join(format!("albef-fine-tune-{}", std::process::id()));
    let data = std::env::args().nth(1).map_or_else(|| drawings(&output), |d| Ok(d.into()))?;

    let task = TaskRef::named("classification")?;
    let path = default_model().ok_or("no model found; run this in the repository")?;
    let settings = [
        format!("checkpoint={}", path.display()),
        format!("train_file=[{}]", data.display()),
        "batch_size=4".into(),
        "schedular={sched: per_step, epochs: 3, warmup_steps: 1}".into(),
    ];
    let config = task.configure(Source { settings: &settings, ..Source::default() })?;
    let device = device::open("cpu")?;
    run(config, &RunOptions::new(output.join("run")), &device, &mut |event| {
        if let RunEvent::Step { report, total, .. } = event {
            println!("step {} of {total}: {:?}", report.step, report.losses);
        }
    })?;

    let model = Checkpoint::open(&output.join("run/model"))?;
    let model = model.load(&[task], &device, Parts::Inference)?;
    let image = first_file(&first_file(&data)?)?;
    let answer = task.predict(&model, &Query::new(vec![image], ""))?;
    println!("{}", answer.lines.join("\n"));
    std::fs::remove_dir_all(&output)?;
    Ok(())
}

fn first_file(folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let first = std::fs::read_dir(folder)?.next().ok_or("the folder is empty")?;
    Ok(first?.path())
}

/// Two animals and two vehicles.
fn drawings(output: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let from = Path::new("data/drawings/drawings-val-style/fxemoji");
    for (label, files) in [("animal", ["1f415", "1f42e"]), ("vehicle", ["1f697", "1f698"])] {
        let folder = output.join("data").join(label);
        std::fs::create_dir_all(&folder)?;
        for file in files {
            std::fs::copy(from.join(format!("{file}.png")), folder.join(format!("{file}.png")))?;
        }
    }
    Ok(output.join("data"))
}
