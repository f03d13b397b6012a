//! Where models are, and what is known of them before they are read.

use std::path::{Path, PathBuf};

use albef_hub::{Caches, Source};

use crate::error::{Error, Result};

/// Folder of the default model below each root.
const DEFAULT: &str = "models/mini";
/// Folder of the model that answers questions where none is named.
const QUESTIONS: &str = "models/ask";
/// The variable that names the default model.
const VARIABLE: &str = "ALBEF_MODEL";

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The first folder of this name in the working directory, in the executable's folder and its ancestors (a
/// repository, an unpacked release), or in the user's data folder (`$XDG_DATA_HOME/albef`, or
/// `~/.local/share/albef`).
fn shipped(folder: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok().and_then(|p| p.canonicalize().ok());
    let above = program.iter().flat_map(|p| p.ancestors().skip(1).take(4)).map(Path::to_owned);
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    let mut roots =
        std::iter::once(PathBuf::from(".")).chain(above).chain(data.map(|d| d.join("albef")));
    roots.find_map(|root| Some(root.join(folder)).filter(|path| path.is_dir()))
}

fn not_shipped(folder: &str, named_by: &str) -> Error {
    Error::NoModel(format!(
        "no model found: there is no `{folder}` in the working directory, in the folder of the executable or \
         above it, or in `~/.local/share/albef` (`$XDG_DATA_HOME/albef`); hint: copy the folder `models` of the \
         repository there, or name a model with {named_by}"
    ))
}

/// The default model: the path in `ALBEF_MODEL`, else the first `models/mini` of the working directory, of the
/// executable's folder and its ancestors (a repository, an unpacked release), and of the user's data folder
/// (`$XDG_DATA_HOME/albef`, or `~/.local/share/albef`). `None` if there is none.
#[must_use]
pub fn default_model() -> Option<PathBuf> {
    set(VARIABLE).or_else(|| shipped(DEFAULT))
}

/// The path that is named, or that of the default model.
///
/// # Errors
/// [`Error::NoModel`] if there is no default model, with the places where it is looked for; if `ALBEF_MODEL`
/// names what does not exist.
pub fn model_or_default(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    match set(VARIABLE) {
        Some(path) if !path.exists() => Err(Error::NoModel(format!(
            "{VARIABLE} names {}, which does not exist",
            path.display()
        ))),
        _ => default_model().ok_or_else(|| not_shipped(DEFAULT, &format!("--model or {VARIABLE}"))),
    }
}

/// The path that is named, or that of the small model for questions that comes with the program: the first
/// `models/ask` in the places where [`default_model`] looks.
///
/// # Errors
/// [`Error::NoModel`] if none is named and none is there.
pub fn question_model(named: Option<&Path>) -> Result<PathBuf> {
    let path = named.map(Path::to_owned).or_else(|| shipped(QUESTIONS));
    path.ok_or_else(|| not_shipped(QUESTIONS, "--model"))
}

/// The path of a model: itself, where something is there, else that of a model which was fetched under this
/// name, address or `hub:OWNER/NAME` by `albef pull` or another tool that shares its cache. Nothing is asked
/// of the network. Other paths are given back, for the caller to name what is wrong.
///
/// # Errors
/// [`Error::NoModel`] with the command that fetches it, if it is the name of what was not fetched, or a plain
/// word that is no such name.
pub fn find_model(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.to_str().filter(|_| path.symlink_metadata().is_err()) else {
        return Ok(path.to_owned());
    };
    let source = match name.parse::<Source>() {
        Ok(source) => source,
        Err(albef_hub::HubError::Unknown(_)) => {
            let run = path
                .parent()
                .filter(|run| path.ends_with("model") && run.join("checkpoints").is_dir());
            if let Some(run) = run {
                return Err(Error::NoModel(format!(
                    "the run {} is not finished, so that it has no `model` yet; name the run itself for its \
                     latest checkpoint",
                    run.display()
                )));
            }
            let word = path.components().count() == 1 && !name.is_empty() && !name.contains('.');
            return match word {
                true => Err(Error::NoModel(format!(
                    "there is no file or folder `{name}`, and no published checkpoint of this name; `albef \
                     pull --list` names them"
                ))),
                false => Err(Error::NoModel(format!(
                    "there is no file or folder `{name}`; name a model folder, a weights file, or one of `albef \
                     pull --list`"
                ))),
            };
        }
        Err(wrong) => return Err(Error::NoModel(wrong.to_string())),
    };
    let caches = Caches::from_env().map_err(|e| Error::NoModel(e.to_string()))?;
    caches.find(&source).ok_or_else(|| {
        let what = match &source {
            Source::Published(_) => "this published checkpoint is",
            _ => "it is",
        };
        Error::NoModel(format!(
            "there is no file or folder `{name}`, and {what} not in the cache; fetch it with `albef pull \
             {source}`"
        ))
    })
}

/// Logs a note where a weights file, or the one of a folder, has no configuration beside it.
pub fn note_inferred(path: &Path) {
    let Ok(path) = &find_model(path) else { return };
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
