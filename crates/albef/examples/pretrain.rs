//! Pre-trains the smallest model from scratch for a few steps on the drawings of the repository, and searches
//! with it: `cargo run --release --example pretrain`.

use std::error::Error;

use albef::config::Source;
use albef::inference::SearchOptions;
use albef::task::TaskRef;
use albef::train::{RunEvent, RunOptions, run};
use albef::{Control, ImageSet, Pipeline, device};

fn main() -> Result<(), Box<dyn Error>> {
    let output = std::env::temp_dir().join(format!("albef-pretrain-{}", std::process::id()));
    let text = std::fs::read_to_string("configs/nano.yaml")?;
    let settings = [
        "train_file=[data/drawings/drawings_val.json]".into(),
        "image_root=data/drawings".into(),
        "max_steps=4".into(),
    ];
    let config =
        TaskRef::pretrain().configure(Source { text: &text, settings: &settings, file: None })?;
    let device = device::open("cpu")?;
    run(config, &RunOptions::new(&output), &device, &mut |event| {
        if let RunEvent::Step { report, total, .. } = event {
            println!("step {} of {total}: {:?}", report.step, report.losses);
        }
    })?;

    let model = Pipeline::open(&output.join("model"), &device)?;
    let images = ImageSet::open("data/drawings/drawings-val-style/fxemoji", None)?;
    let options = SearchOptions::default().top_k(1).rerank_k(0);
    let (results, _) = model.search(&images, "a dog", &options, &Control::default())?;
    println!("a model that has seen nothing finds {}", results.results[0].image);
    std::fs::remove_dir_all(&output)?;
    Ok(())
}
