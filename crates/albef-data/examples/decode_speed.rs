//! How long reading an image takes, and what of it: `decode_speed FOLDER [SIZE] [ROUNDS]`, on one thread. Milliseconds per
//! image for reading the file, decoding, resizing to SIZE x SIZE and normalizing; medians over the rounds.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use albef_data::image::{DecodeOptions, Normalization, ResizeOrder, decode, resize_bicubic};

fn files(folder: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files(&path, out)?,
            false => out.push(path),
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = args.first().ok_or("usage: decode_speed FOLDER [SIZE] [ROUNDS]")?;
    let number = |i: usize, otherwise: usize| args.get(i).map_or(Ok(otherwise), |a| a.parse());
    let (size, rounds) = (number(1, 256)?, number(2, 3)?.max(1));
    let mut paths = Vec::new();
    files(Path::new(folder), &mut paths)?;
    let options = DecodeOptions::own_images();
    let mut parts: [Vec<f64>; 4] = Default::default();
    let (mut images, mut pixels) = (0, 0);
    for _ in 0..rounds {
        let mut seconds = [0.0; 4];
        (images, pixels) = (0, 0);
        for path in &paths {
            let begin = Instant::now();
            let bytes = std::fs::read(path)?;
            let read = begin.elapsed();
            let Ok(image) = decode(&bytes, &options) else { continue };
            let decoded = begin.elapsed();
            let small = resize_bicubic(&image, size, size, ResizeOrder::default());
            let resized = begin.elapsed();
            let mut values = vec![0.0; 3 * size * size];
            Normalization::default().to_chw(&small, &mut values);
            let done = begin.elapsed();
            let spent = [read, decoded - read, resized - decoded, done - resized];
            seconds.iter_mut().zip(spent).for_each(|(sum, part)| *sum += part.as_secs_f64());
            images += 1;
            pixels += image.width * image.height;
        }
        for (all, sum) in parts.iter_mut().zip(seconds) {
            all.push(1e3 * sum / f64::from(images.max(1)));
        }
    }
    let median = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let [read, decode, resize, normalize] = parts.each_mut().map(median);
    println!("{images} images of {:.2} megapixels", pixels as f64 / 1e6 / f64::from(images.max(1)));
    println!(
        "read {read:.3} ms, decode {decode:.3} ms, resize to {size} {resize:.3} ms, normalize {normalize:.3} ms"
    );
    Ok(())
}
