//! The floor of plain pixels: what the nearest training drawing is called.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::PixelOptions;
use crate::likeness::Fingerprint;
use crate::render::Pixels;

/// Drawings in black on white; looks in other colors say nothing about pixels.
struct Known {
    print: Fingerprint,
    words: u32,
}

/// Measures each gallery of a side and prints a table.
///
/// # Errors
/// If the corpus is not as `icons make` writes it.
pub fn measure(o: &PixelOptions) -> Result<()> {
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut known = Vec::new();
    let mut shards: Vec<_> =
        fs::read_dir(o.corpus.join("train"))?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    shards.retain(|p| p.extension().is_some_and(|e| e == "tar"));
    shards.sort();
    for shard in &shards {
        read_shard(shard, &mut numbers, &mut known)
            .with_context(|| format!("in {}", shard.display()))?;
    }
    println!(
        "| set | images | image→text R@1 | text→image R@1 | text→image R@10 |\n| --- | --- | --- | --- | --- |"
    );
    let mut sums = [0.0; 3];
    let galleries = galleries(&o.corpus.join(&o.side))?;
    if galleries.is_empty() {
        bail!("no list in {}", o.corpus.join(&o.side).display());
    }
    for (set, gallery) in &galleries {
        let found = of_gallery(gallery, &numbers, &known, o.threads);
        println!(
            "| {set} | {} | {:.1} | {:.1} | {:.1} |",
            gallery.len(),
            found[0],
            found[1],
            found[2]
        );
        sums.iter_mut().zip(found).for_each(|(sum, value)| *sum += value);
    }
    let mean = sums.map(|s| s / galleries.len() as f64);
    println!("| mean | | {:.1} | {:.1} | {:.1} |", mean[0], mean[1], mean[2]);
    Ok(())
}

fn read_shard(
    path: &Path,
    numbers: &mut HashMap<String, u32>,
    known: &mut Vec<Known>,
) -> Result<()> {
    let mut image = None;
    for entry in tar::Archive::new(File::open(path)?).entries()? {
        let mut entry = entry?;
        let is_image = entry.path()?.extension().is_some_and(|e| e == "png");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if is_image {
            image = Some(decode(&bytes)?);
            continue;
        }
        let record: Value = serde_json::from_slice(&bytes)?;
        let words = record["image_id"].as_str().context("no `image_id`")?;
        let next = numbers.len() as u32;
        let words = *numbers.entry(words.to_owned()).or_insert(next);
        let image = image.take().context("a record without an image before it")?;
        // The corners of a plain drawing are white.
        if image.rgb[..3] == [255; 3] {
            known.push(Known { print: Fingerprint::of(&image), words });
        }
    }
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<Pixels> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info()?;
    let mut buffer = vec![0; reader.output_buffer_size().context("an image of no size")?];
    let info = reader.next_frame(&mut buffer)?;
    let rgb = match info.color_type {
        png::ColorType::Grayscale => buffer.iter().flat_map(|v| [*v; 3]).collect(),
        png::ColorType::Rgb => buffer,
        other => bail!("an image of type {other:?}"),
    };
    Ok(Pixels { side: info.width, rgb })
}

type Gallery = Vec<(String, Fingerprint)>;

fn galleries(folder: &Path) -> Result<BTreeMap<String, Gallery>> {
    let mut found = BTreeMap::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        let (true, Some(set)) = (
            path.extension().is_some_and(|e| e == "json"),
            path.file_stem().and_then(|s| s.to_str()),
        ) else {
            continue;
        };
        let list: Vec<Value> = serde_json::from_slice(&fs::read(&path)?)?;
        let images = list.iter().map(|entry| {
            let (image, words) = (entry["image"].as_str(), entry["image_id"].as_str());
            let (image, words) =
                image.zip(words).context("an entry without `image` or `image_id`")?;
            Ok((words.to_owned(), Fingerprint::of(&decode(&fs::read(folder.join(image))?)?)))
        });
        found.insert(set.to_owned(), images.collect::<Result<_>>()?);
    }
    Ok(found)
}

/// Image→text R@1: the nearest of all training drawings that are called like some image of the gallery has the
/// image's name. Text→image R@1 and R@10: images in the order of their distance to the nearest training drawing of
/// that name; a name that training does not have finds nothing. In percent.
fn of_gallery(
    gallery: &Gallery,
    numbers: &HashMap<String, u32>,
    known: &[Known],
    threads: usize,
) -> [f64; 3] {
    let places: HashMap<u32, usize> = gallery
        .iter()
        .enumerate()
        .filter_map(|(i, (words, _))| Some((*numbers.get(words)?, i)))
        .collect();
    let known: Vec<(&Fingerprint, usize)> =
        known.iter().filter_map(|k| Some((&k.print, *places.get(&k.words)?))).collect();
    // Row i: the distance of image i to each name.
    let row = |print: &Fingerprint| {
        let mut distances = vec![u32::MAX; gallery.len()];
        for (other, name) in &known {
            let found = print.distance(other);
            distances[*name] = distances[*name].min(found);
        }
        distances
    };
    let part = gallery.len().div_ceil(threads.max(1)).max(1);
    let rows: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let workers: Vec<_> = gallery
            .chunks(part)
            .map(|chunk| scope.spawn(move || chunk.iter().map(|(_, p)| row(p)).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    });
    let mut hits = [0_usize; 3];
    for i in 0..rows.len() {
        let own = rows[i][i];
        if own == u32::MAX {
            continue;
        }
        hits[0] += usize::from(rows[i].iter().enumerate().all(|(j, d)| j == i || *d > own));
        let before = rows.iter().enumerate().filter(|(j, row)| *j != i && row[i] <= own).count();
        hits[1] += usize::from(before < 1);
        hits[2] += usize::from(before < 10);
    }
    hits.map(|h| 100.0 * h as f64 / rows.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(at: usize) -> Fingerprint {
        let rgb =
            (0..16 * 16).flat_map(|i| [if i == at || i == at + 1 { 0 } else { 255 }; 3]).collect();
        Fingerprint::of(&Pixels { side: 16, rgb })
    }

    #[test]
    fn a_drawing_is_called_like_the_nearest_one_and_an_unknown_name_finds_nothing() {
        let gallery = vec![
            ("cup".to_owned(), print(0)),
            ("car".to_owned(), print(50)),
            ("cow".to_owned(), print(90)),
        ];
        let numbers = HashMap::from([("cup".to_owned(), 0), ("car".to_owned(), 1)]);
        let known = [Known { print: print(1), words: 0 }, Known { print: print(50), words: 1 }];
        let [images, first, ten] = of_gallery(&gallery, &numbers, &known, 2);
        assert_eq!([images, first, ten].map(f64::round), [67.0, 67.0, 67.0]);
    }
}
