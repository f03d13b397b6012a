//! Images per second of the training loader: `loader_speed PATH [IMAGE_ROOT] [WORKERS] [SIZE]`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use albef_data::dataset::{Dataset, LoaderOptions, SkipReport, SourceSpec, TrainLoader};
use albef_data::image::{
    ImageReader, Normalization, RandAugment, ReferenceQuirks, ResizeOrder, TrainTransform,
};
use albef_data::text::{Tokenizer, Vocabulary};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path = args.first().ok_or("usage: loader_speed PATH [IMAGE_ROOT] [WORKERS] [SIZE]")?;
    let root = args.get(1).filter(|r| !r.is_empty()).map(Path::new);
    let number = |i: usize, otherwise: usize| args.get(i).map_or(Ok(otherwise), |a| a.parse());
    let (workers, size) = (number(2, 2)?, number(3, 256)?);
    let start = Instant::now();
    let data = Arc::new(Dataset::open(&[SourceSpec::new(path, root)])?);
    println!("{} samples indexed in {:.2} s", data.len(), start.elapsed().as_secs_f64());
    let tokenizer = Arc::new(Tokenizer::new(Vocabulary::from_text(
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nof\nthe\n",
    )?));
    let report = SkipReport::default();
    for epoch in 0..2 {
        let options = LoaderOptions {
            batch_size: 32.min(data.len()),
            seed: 1,
            epoch,
            start_batch: 0,
            workers,
            text: Default::default(),
            max_words: 30,
            max_tokens: 25,
            mixgen: Default::default(),
            image_index: false,
            transform: TrainTransform {
                size,
                crop_scale: (0.2, 1.0),
                flip: true,
                rand_augment: Some(RandAugment { n: 2, m: 7.0 }),
                quirks: ReferenceQuirks::default(),
                resize_order: ResizeOrder::default(),
            },
            flip_sided: true,
            normalization: Normalization::default(),
            reader: ImageReader::default(),
            max_skipped: None,
        };
        let mut loader =
            TrainLoader::new(data.clone(), tokenizer.clone(), options, report.clone())?;
        let (start, mut images) = (Instant::now(), 0);
        while let Some(batch) = loader.next_batch()? {
            images += batch.samples.len();
        }
        let rate = images as f64 / start.elapsed().as_secs_f64();
        println!(
            "epoch {epoch}: {images} images, {rate:.0} a second, {workers} workers, {size} px"
        );
    }
    for s in report.list() {
        println!("skipped {}: {}", s.name, s.error);
    }
    Ok(())
}
