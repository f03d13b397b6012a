//! Checkpoints that training on several devices leaves divided among them: DeepSpeed's, and those of
//! `torch.distributed.checkpoint`.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Whether a file is named as DeepSpeed names its own.
pub(super) fn is_of_deepspeed(name: &str) -> bool {
    name.ends_with("_model_states.pt") || name.ends_with("_optim_states.pt")
}

/// Whether a file of DeepSpeed has one device's share (ZeRO), not all weights.
fn is_a_share(name: &str) -> bool {
    name.contains("zero_pp_rank_") || name.ends_with("_optim_states.pt")
}

/// The files of DeepSpeed of a folder as its only weights file: without ZeRO there is one, with all weights.
pub(super) fn whole(files: &[PathBuf]) -> Option<&PathBuf> {
    match files {
        [one] if !is_a_share(&name(one)) => Some(one),
        _ => None,
    }
}

/// The folder of the newest checkpoint in one to which DeepSpeed saves: the file `latest` names it.
pub(super) fn newest(folder: &Path) -> Option<PathBuf> {
    let tag = fs::read_to_string(folder.join("latest")).ok()?;
    let tag = Path::new(tag.trim());
    let plain = matches!(tag.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    let newest = folder.join(tag);
    (plain && names(&newest).iter().any(|n| is_of_deepspeed(n))).then_some(newest)
}

/// What a folder without weights files is, and the way out, if it is a divided checkpoint.
pub(super) fn divided(folder: &Path) -> Option<String> {
    if names(folder).iter().any(|n| is_of_deepspeed(n)) {
        return Some(OF_DEEPSPEED.into());
    }
    let has_parts = |folder: &Path| names(folder).iter().any(|n| is_distcp(Path::new(n)));
    if has_parts(folder) {
        return Some(of_distcp(folder));
    }
    let mut below: Vec<PathBuf> = names(folder).iter().map(|n| folder.join(n)).collect();
    // Moments are kept in a folder of their own.
    below.retain(|path| !name(path).contains("optim") && has_parts(path));
    below.sort();
    below.first().map(|path| of_distcp(path))
}

/// What a file is that has a share of a divided checkpoint, and the way out.
pub(super) fn share(path: &Path) -> Option<String> {
    let name = name(path);
    if is_of_deepspeed(&name) && is_a_share(&name) {
        return Some(OF_DEEPSPEED.into());
    }
    is_distcp(path).then(|| of_distcp(path.parent().unwrap_or(Path::new("."))))
}

const OF_DEEPSPEED: &str = "this is of a checkpoint of DeepSpeed, which divides the weights among devices; hint: \
                            `python zero_to_fp32.py . FOLDER`, run where DeepSpeed has put this script (beside \
                            `latest`), makes weights that can be read";

fn of_distcp(folder: &Path) -> String {
    let name = name(folder);
    format!(
        "this is of a distributed checkpoint of PyTorch (`.distcp`, in the folder `{name}`); hint: make one file \
         of it in Python with `torch.distributed.checkpoint.format_utils.dcp_to_torch_save(\"{name}\", \
         \"model.pth\")`"
    )
}

fn is_distcp(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("distcp"))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The names in a folder; none if it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}
