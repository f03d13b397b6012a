//! Searches a folder of images by a text: `cargo run --release --example search -- FOLDER TEXT`.

use std::error::Error;

use albef::inference::SearchOptions;
use albef::{Control, ImageSet, Pipeline, default_model, device};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or("data/drawings/drawings-val-style/fxemoji".into());
    let text = arguments.next().unwrap_or("a cat".into());

    let path = default_model().ok_or("no model found; run this in the repository")?;
    let model = Pipeline::open(&path, &device::open("cpu")?)?;
    let images = ImageSet::open(&folder, None)?;
    let control = Control::new().on_progress(|p| eprintln!("{} {}/{}", p.phase, p.done, p.total));
    let options = SearchOptions::default().top_k(5).rerank_k(32);
    let (results, skipped) = model.search(&images, &text, &options, &control)?;

    for hit in &results.results {
        println!("{:6.2}  cosine {:.3}  {}", hit.score, hit.cosine, hit.image);
    }
    eprintln!("{} images could not be used", skipped.len());
    Ok(())
}
