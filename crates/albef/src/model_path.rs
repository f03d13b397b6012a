//! Where models are, and what is known of them before they are read.

use std::path::{Path, PathBuf};

/// Folder of the default model below each root.
const DEFAULT: &str = "models/mini";

/// The default model: the path in `ALBEF_MODEL`, else the first `models/mini` of the working directory, of the
/// executable's folder and its ancestors (a repository, an unpacked release), and of the user's data folder
/// (`$XDG_DATA_HOME/albef`, or `~/.local/share/albef`). `None` if there is none.
#[must_use]
pub fn default_model() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = set("ALBEF_MODEL") {
        return Some(path);
    }
    let program = std::env::current_exe().ok().and_then(|p| p.canonicalize().ok());
    let above = program.iter().flat_map(|p| p.ancestors().skip(1).take(4)).map(Path::to_owned);
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    let mut roots =
        std::iter::once(PathBuf::from(".")).chain(above).chain(data.map(|d| d.join("albef")));
    roots.find_map(|root| Some(root.join(DEFAULT)).filter(|path| path.is_dir()))
}

/// Logs a note where a weights file, or the one of a folder, has no configuration beside it.
pub fn note_inferred(path: &Path) {
    let of_folder = path.is_dir().then(|| albef_weights::weights_file(path).ok()).flatten();
    let file = of_folder.as_deref().unwrap_or(path);
    if file.exists() && !file.is_dir() && !file.with_file_name("config.json").exists() {
        tracing::info!(
            "there is no config.json beside {}: sizes are inferred from its weights, assuming heads 64 \
             wide as in every published model",
            file.display()
        );
    }
}
