//! Shows where in an image the model finds a phrase:
//! `cargo run --release --example heat_map -- IMAGE PHRASE OUTPUT.png`.

use std::error::Error;
use std::path::PathBuf;

use albef::inference::GroundOptions;
use albef::{Pipeline, default_model, device};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let example = "data/drawings/drawings-val-style/fxemoji/1f415.png";
    let image = PathBuf::from(arguments.next().unwrap_or(example.into()));
    let phrase = arguments.next().unwrap_or("a dog".into());
    let output = arguments.next().map_or(std::env::temp_dir().join("heat_map.png"), PathBuf::from);

    let path = default_model().ok_or("no model found; run this in the repository")?;
    let model = Pipeline::open(&path, &device::open("cpu")?)?;
    let image = model.open_image(&image)?;
    let found = model.ground(&image, &phrase, &GroundOptions::default())?;

    std::fs::write(&output, found.render(&image)?)?;
    println!("box [left, top, width, height]: {:?}", found.region);
    println!("{}", output.display());
    Ok(())
}
