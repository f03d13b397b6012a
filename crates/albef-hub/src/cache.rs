//! The caches of Hugging Face and of PyTorch, which other tools share.

use std::env::{self, VarError};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{HubError, Result};
use crate::source::{HubModel, Source, file_name};

/// Where files are kept.
///
/// Models of a hub are in the layout of Hugging Face's libraries, `models--OWNER--NAME` with `blobs`, `refs`
/// and `snapshots`; files of addresses are where `torch.hub` keeps them, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caches {
    /// Folder of `models--…`.
    pub hub: PathBuf,
    /// Folder of files of addresses.
    pub files: PathBuf,
}

/// What is known of a file that was fetched from an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// Bytes of the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Folder beside the files of addresses for what this program knows of them.
const OWN: &str = ".albef";

pub(crate) fn variable(name: &'static str) -> Result<Option<String>> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|v| !v.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            Err(HubError::Environment { variable: name, detail: "it is not UTF-8".into() })
        }
    }
}

impl Caches {
    /// The caches that Hugging Face's libraries and PyTorch use: `HF_HUB_CACHE`, else `HF_HOME/hub`, else
    /// `huggingface/hub` in the user's cache; `TORCH_HOME/hub/checkpoints`, else
    /// `torch/hub/checkpoints` in the user's cache. The user's cache is `XDG_CACHE_HOME`, else
    /// `~/.cache`.
    ///
    /// # Errors
    /// If there is no home folder, or one of these is not UTF-8.
    pub fn from_env() -> Result<Self> {
        let home = || {
            let home = env::home_dir().filter(|h| !h.as_os_str().is_empty());
            home.ok_or_else(|| HubError::Environment {
                variable: "HOME",
                detail: "there is no home folder; name a cache with HF_HOME and TORCH_HOME".into(),
            })
        };
        let path = |name: &'static str| -> Result<Option<PathBuf>> {
            let Some(value) = variable(name)? else { return Ok(None) };
            // As Python's `expanduser`.
            Ok(Some(match value.strip_prefix("~/") {
                Some(rest) => home()?.join(rest),
                None => value.into(),
            }))
        };
        let user = || -> Result<PathBuf> {
            path("XDG_CACHE_HOME")?.map_or_else(|| Ok(home()?.join(".cache")), Ok)
        };
        let hub = match (path("HF_HUB_CACHE")?, path("HF_HOME")?) {
            (Some(hub), _) => hub,
            (None, Some(home)) => home.join("hub"),
            (None, None) => user()?.join("huggingface/hub"),
        };
        let torch = match path("TORCH_HOME")? {
            Some(home) => home,
            None => user()?.join("torch"),
        };
        Ok(Self { hub, files: torch.join("hub/checkpoints") })
    }

    /// Where a model is, if it was fetched: a file, or the folder of a snapshot of a hub. Nothing is asked
    /// of the network.
    #[must_use]
    pub fn find(&self, source: &Source) -> Option<PathBuf> {
        match source {
            Source::Published(p) => self.find_url(p.url),
            Source::Url(url) => self.find_url(url),
            Source::Hub(model) => self.find_model(model),
        }
    }

    fn find_url(&self, url: &str) -> Option<PathBuf> {
        let path = self.file_of(url)?;
        let other = self.record(&path).is_some_and(|record| record.url != url);
        (path.is_file() && !other).then_some(path)
    }

    fn find_model(&self, model: &HubModel) -> Option<PathBuf> {
        let snapshot = self.snapshot(model, &self.commit(model)?);
        match &model.file {
            Some(file) => Some(snapshot.join(file)).filter(|path| path.is_file()),
            // The mark of a whole model: a snapshot that another tool began may have other files alone.
            None => {
                let weights = albef_weights::weights_file(&snapshot).ok();
                weights.filter(|path| path.is_file()).map(|_| snapshot)
            }
        }
    }

    /// The folder of a model of a hub.
    pub(crate) fn model(&self, model: &HubModel) -> PathBuf {
        self.hub.join(format!("models--{}--{}", model.owner, model.name))
    }

    pub(crate) fn snapshot(&self, model: &HubModel, commit: &str) -> PathBuf {
        self.model(model).join("snapshots").join(commit)
    }

    /// The commit that a revision had when it was last asked for.
    pub(crate) fn commit(&self, model: &HubModel) -> Option<String> {
        if is_commit(&model.revision) {
            return Some(model.revision.clone());
        }
        let commit =
            fs::read_to_string(self.model(model).join("refs").join(&model.revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|c| is_commit(c))
    }

    /// The place of the file of an address.
    pub(crate) fn file_of(&self, url: &str) -> Option<PathBuf> {
        Some(self.files.join(file_name(url)?))
    }

    /// A file beside that of an address, in the folder of this program.
    pub(crate) fn beside(&self, path: &Path, ending: &str) -> PathBuf {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.files.join(OWN).join(format!("{name}{ending}"))
    }

    pub(crate) fn record(&self, path: &Path) -> Option<Record> {
        read_record(&self.beside(path, ".json"))
    }
}

/// Whether a revision is a commit and not a branch or tag.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A record; none where there is no usable one.
pub(crate) fn read_record(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_fetched_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches { hub: dir.path().join("hub"), files: dir.path().join("files") };
        let find = |text: &str| caches.find(&text.parse().unwrap());
        for text in ["albef-coco", "hub:a/b", "https://example.org/x.pth"] {
            assert_eq!(find(text), None, "{text}");
        }
        fs::create_dir_all(caches.files.join(OWN)).unwrap();
        let file = caches.files.join("mscoco.pth");
        fs::write(&file, "x").unwrap();
        assert_eq!(find("albef-coco"), Some(file.clone()));
        assert_eq!(find("mscoco.pth"), Some(file.clone()));
        // The same name from elsewhere is another file.
        let other = "https://example.org/mscoco.pth";
        let record = Record { url: other.into(), etag: None, last_modified: None, size: Some(1) };
        let text = serde_json::to_string(&record).unwrap();
        fs::write(caches.beside(&file, ".json"), text).unwrap();
        assert_eq!((find("albef-coco"), find(other)), (None, Some(file)));

        let commit = "0123456789abcdef0123456789abcdef01234567";
        let model = caches.hub.join("models--a--b");
        let snapshot = model.join("snapshots").join(commit);
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(model.join("refs")).unwrap();
        fs::write(model.join("refs/main"), commit).unwrap();
        fs::write(snapshot.join("config.json"), "{}").unwrap();
        assert_eq!(find("hub:a/b"), None, "without weights");
        fs::write(snapshot.join("model.safetensors"), "x").unwrap();
        assert_eq!(find("hub:a/b"), Some(snapshot.clone()));
        assert_eq!(find(&format!("hub:a/b@{commit}")), Some(snapshot.clone()));
        assert_eq!(find("hub:a/b@v2"), None);
        assert_eq!(find("hub:a/b:config.json"), Some(snapshot.join("config.json")));
        assert_eq!(find("hub:a/b:other.pth"), None);
    }
}
