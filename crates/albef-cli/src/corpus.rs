//! Pictures and models as the commands take them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use albef::model::Albef;
use albef::params::{from_vec, to_vec};
use albef::pipeline::Pipeline;
use albef_data::dataset::{
    Contents, Dataset, Location, Sample, Skipped, SourceSpec, load_images, read_source,
};
use albef_data::image::{DecodeOptions, Normalization};
use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor};

use crate::notes::{in_a_line, tell_first, tell_left_out};

/// Opens the model named, or the one that ships with the program.
pub fn open_model(path: Option<&Path>, device: &Device) -> Result<Pipeline> {
    open_model_at(&model_path(path)?, None, device)
}

/// Where the model lies.
pub fn model_path(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None => shipped().context(
            "no model is named, and there is no `models/mini` here or above the program; \
             name one with --model (`albef demo` and `albef pretrain` train one)",
        ),
    }
}

/// Opens a model for pictures of `image_res` pixels along a side, if not those of the model.
pub fn open_model_at(path: &Path, image_res: Option<usize>, device: &Device) -> Result<Pipeline> {
    note_inferred(path);
    let model = Pipeline::open_at(path, image_res, device)
        .with_context(|| format!("cannot open the model {}", path.display()))?;
    if let Some((from, to)) = model.interpolated {
        eprintln!("note: position tables interpolated from {from} x {from} to {to} x {to} patches");
    }
    Ok(model)
}

/// Says so where sizes are not known but read off the weights.
pub fn note_inferred(path: &Path) {
    if path.is_file() && !path.with_file_name("config.json").exists() {
        eprintln!(
            "note: there is no config.json beside {}: sizes are read off its weights, heads taken to be \
             64 wide as in every published model",
            path.display()
        );
    }
}

/// `models/mini` in the working folder, or in a folder above the program: the repository's root where
/// it was built, the folder of a release where it was unpacked.
fn shipped() -> Option<PathBuf> {
    let program = std::env::current_exe().ok().and_then(|p| p.canonicalize().ok());
    let above = program.iter().flat_map(|p| p.ancestors().skip(1).take(4)).map(Path::to_owned);
    let mut roots = std::iter::once(PathBuf::from(".")).chain(above);
    roots.find_map(|root| Some(root.join("models/mini")).filter(|p| p.is_dir()))
}

/// Features of pictures by their index.
pub type Features = Vec<(usize, Vec<f32>)>;

/// Pictures of a folder, an archive or a list.
pub struct Pictures {
    pub data: Arc<Dataset>,
    /// Members of archives that form no sample.
    pub left_out: Vec<Skipped>,
    size: usize,
    device: Device,
}

impl Pictures {
    pub fn open(path: &str, root: Option<&Path>, size: usize, device: &Device) -> Result<Self> {
        let contents = read_source(&SourceSpec::new(path, root))?;
        tell_left_out(path, &contents.left_out);
        if contents.samples.is_empty() {
            bail!("there is no picture in {path}");
        }
        Ok(Self::of_source(contents, size, device))
    }

    pub fn of_source(contents: Contents, size: usize, device: &Device) -> Self {
        let Contents { samples, left_out } = contents;
        Self { left_out, ..Self::of(samples, size, device) }
    }

    pub fn of(samples: Vec<Sample>, size: usize, device: &Device) -> Self {
        let data = Arc::new(Dataset::from_samples(samples));
        Self { data, left_out: Vec::new(), size, device: device.clone() }
    }

    /// Normalised pixels `[n, 3, S, S]`, and what could not be used.
    pub fn load(&self, which: &[usize]) -> (Tensor<4>, Vec<(usize, Skipped)>) {
        let workers = rayon::current_num_threads();
        let (pixels, failed) = load_images(
            &self.data,
            which,
            self.size,
            Normalization::default(),
            &DecodeOptions::default(),
            workers,
        );
        (from_vec(pixels, [which.len(), 3, self.size, self.size], &self.device), failed)
    }

    /// Features of all usable pictures, by index, and how many were skipped; it shows how far it is and
    /// names the first that cannot be used.
    ///
    /// # Errors
    /// If none can be used.
    pub fn embed(&self, source: &str, model: &Albef) -> Result<(Features, usize)> {
        let all: Vec<usize> = (0..self.data.len()).collect();
        let mut feats = Vec::new();
        let mut skipped = Vec::new();
        let bar = indicatif::ProgressBar::new(all.len() as u64);
        for part in all.chunks(32) {
            let (images, failed) = self.load(part);
            let states = model.encoders.visual_encoder.forward(images)?;
            let rows = to_vec(model.encoders.image_feat(&states));
            for (i, row) in part.iter().zip(rows.chunks(model.config.embed_dim)) {
                if !failed.iter().any(|(f, _)| f == i) {
                    feats.push((*i, row.to_vec()));
                }
            }
            skipped
                .extend(failed.into_iter().map(|(i, s)| format!("{}: {}", self.place(i), s.error)));
            bar.inc(part.len() as u64);
        }
        bar.finish_and_clear();
        let count = skipped.len();
        tell_first("skipped", skipped.into_iter());
        if feats.is_empty() {
            bail!("none of the {count} pictures in {source} can be used");
        }
        Ok((feats, count))
    }

    /// A picture's name in a line, with that of its archive: shards number their members alike.
    pub fn place(&self, i: usize) -> String {
        let Sample { location, name, .. } = &self.data.samples()[i];
        let name = match location {
            Location::Member { archive, .. } => {
                let archive = archive.file_name().unwrap_or_default().to_string_lossy();
                format!("{archive}:{name}")
            }
            Location::File(_) => name.clone(),
        };
        in_a_line(&name)
    }
}
