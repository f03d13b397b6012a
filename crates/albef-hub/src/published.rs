//! The checkpoints that others published, and where.

use std::fmt::Write;

use serde::Serialize;

/// A published checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The name by which it is pulled.
    pub name: &'static str,
    /// The task, by the name that it has in this program.
    pub task: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Pixels along the side of an image.
    pub image_res: usize,
    /// Bytes, where they are known for certain.
    pub size: Option<u64>,
    /// SHA-256, where it is known for certain.
    pub sha256: Option<&'static str>,
    /// License of the repository that publishes it.
    pub licence: &'static str,
    /// Its address.
    pub url: &'static str,
}

impl Published {
    /// The name of the file.
    #[must_use]
    pub fn file(&self) -> &'static str {
        self.url.rsplit('/').next().unwrap_or_default()
    }
}

macro_rules! official {
    ($name:literal, $task:literal, $res:literal, $file:literal, $about:literal) => {
        Published {
            name: $name,
            task: $task,
            about: $about,
            image_res: $res,
            size: None,
            sha256: None,
            licence: "BSD-3-Clause",
            url: concat!("https://storage.googleapis.com/sfr-pcl-data-research/ALBEF/", $file),
        }
    };
}

macro_rules! lavis {
    ($name:literal, $task:literal, $file:literal, $about:literal) => {
        Published {
            name: $name,
            task: $task,
            about: $about,
            image_res: 384,
            size: None,
            sha256: None,
            licence: "BSD-3-Clause",
            url: concat!(
                "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/ALBEF/",
                $file
            ),
        }
    };
}

/// The published checkpoints: those of the official code, then those of LAVIS. No size and no checksum was
/// published with them.
pub const PUBLISHED: [Published; 12] = [
    official!("albef-14m", "pretrain", 256, "ALBEF.pth", "pre-trained on 14M images"),
    official!("albef-4m", "pretrain", 256, "ALBEF_4M.pth", "pre-trained on 4M images"),
    official!("albef-coco", "retrieval", 384, "mscoco.pth", "retrieval, fine-tuned on COCO"),
    official!(
        "albef-flickr",
        "retrieval",
        384,
        "flickr30k.pth",
        "retrieval, fine-tuned on Flickr30K"
    ),
    official!(
        "albef-refcoco",
        "grounding",
        384,
        "refcoco.pth",
        "grounding, fine-tuned on RefCOCO+"
    ),
    official!("albef-vqa", "vqa", 384, "vqa.pth", "question answering, fine-tuned on VQA v2"),
    official!(
        "albef-nlvr-ta",
        "nlvr-ta",
        256,
        "pretrain_model_nlvr.pth",
        "text assignment, the start for NLVR2"
    ),
    lavis!(
        "lavis-coco",
        "retrieval",
        "albef_coco_retrieval_lavis.pt",
        "retrieval, fine-tuned on COCO by LAVIS"
    ),
    lavis!(
        "lavis-flickr",
        "retrieval",
        "albef_flickr_retrieval_lavis.pt",
        "retrieval, fine-tuned on Flickr30K by LAVIS"
    ),
    lavis!(
        "lavis-vqa",
        "vqa",
        "albef_vqav2_lavis.pt",
        "question answering, fine-tuned on VQA v2 by LAVIS"
    ),
    lavis!(
        "lavis-ve",
        "ve",
        "albef_snli_ve_lavis.pt",
        "visual entailment, fine-tuned on SNLI-VE by LAVIS"
    ),
    lavis!(
        "lavis-nlvr",
        "nlvr",
        "albef_nlvr_lavis.pt",
        "statements about two images, fine-tuned on NLVR2 by LAVIS"
    ),
];

/// The table of the documents, in Markdown.
#[must_use]
pub fn table() -> String {
    let mut out = String::from(
        "| Name | Checkpoint | Task | Images | Size | SHA-256 | License |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for p in &PUBLISHED {
        let size = p.size.map_or("unknown".to_owned(), |n| format!("{:.2} GB", n as f64 / 1e9));
        let sum = p.sha256.map_or("unknown".to_owned(), |s| format!("`{s}`"));
        // Writing to a text cannot fail.
        let _ = writeln!(
            out,
            "| `{}` | [`{}`]({}): {} | `{}` | {} px | {size} | {sum} | {} |",
            p.name,
            p.file(),
            p.url,
            p.about,
            p.task,
            p.image_res,
            p.licence
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_files_are_each_of_one_checkpoint() {
        let names: BTreeSet<&str> = PUBLISHED.iter().map(|p| p.name).collect();
        let files: BTreeSet<&str> = PUBLISHED.iter().map(Published::file).collect();
        assert_eq!((names.len(), files.len()), (PUBLISHED.len(), PUBLISHED.len()));
        for p in &PUBLISHED {
            assert!(p.url.starts_with("https://") && !p.about.is_empty(), "{p:?}");
            assert!(
                p.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
        }
    }
}
