//! One model for all threads of a program, as in a server: `cargo run --release --example threads`.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use albef::{Pipeline, default_model, device};

fn main() -> Result<(), Box<dyn Error>> {
    let path = default_model().ok_or("no model found; run this in the repository")?;
    // Nothing in a model changes: it is opened once and shared.
    let model = Arc::new(Pipeline::open(&path, &device::open("cpu")?)?);
    let folder = Path::new("data/drawings/drawings-val-style/fxemoji");
    let image = Arc::new(model.open_image(&folder.join("1f415.png"))?);

    let workers = ["a dog", "a car", "a tree", "a house"].map(|text| {
        let (model, image) = (Arc::clone(&model), Arc::clone(&image));
        thread::spawn(move || -> albef::Result<(&str, f64)> {
            let images = std::slice::from_ref(&*image);
            Ok((text, model.match_text(images, text)?[0].probability))
        })
    });
    for worker in workers {
        let (text, probability) = worker.join().map_err(|_| "a thread ended early")??;
        println!("{probability:.3}  {text}");
    }
    Ok(())
}
