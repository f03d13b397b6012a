//! Fetching a model into the cache.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use albef_weights::{remove_leftovers_of, write_atomic};

use crate::cache::{Caches, Record, is_commit};
use crate::client::{Ask, Client, Failure, Settings};
use crate::download::{Checksum, Place, Wanted, download};
use crate::error::{HubError, Result};
use crate::lock::Lock;
use crate::repository::{Described, address, choose, describe, list, parts};
use crate::source::{HubModel, Source, file_name};
use crate::watch::{Progress, Watch};

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The file, or the folder of the model.
    pub path: PathBuf,
    /// Whether anything was fetched; else it was there.
    pub fetched: bool,
}

/// Fetches a model into the cache, if it is not there, and gives its place. Files appear whole or not at
/// all; what a broken connection or a killed process left is continued. Checksums are checked where they
/// are known: by the table, by the hub, or in the name of the file, as `torch.hub` has it; a checkpoint
/// without one must be whole by its own structure. One process at a time fetches a file.
///
/// # Errors
/// If it is not there and nothing may be fetched; if the server does not have it, refuses it, cannot be
/// reached, or sends something else; if the cache cannot be written; [`HubError::Cancelled`].
pub fn pull(
    source: &Source,
    caches: &Caches,
    settings: &Settings,
    watch: &mut Watch<'_>,
) -> Result<Pulled> {
    let found = |path| Pulled { path, fetched: false };
    if settings.offline {
        let path = caches.find(source).ok_or_else(|| HubError::Offline(source.to_string()))?;
        return Ok(found(path));
    }
    let client = Client::new(settings.clone());
    match source {
        Source::Published(p) => {
            let checksum = p.sha256.map(|sum| Checksum::Sha256(sum.to_owned()));
            pull_url(p.url, p.size, checksum, caches, &client, watch)
        }
        Source::Url(url) => pull_url(url, None, of_name(url), caches, &client, watch),
        Source::Hub(model) => {
            if is_commit(&model.revision)
                && let Some(path) = caches.find(source)
            {
                // A commit never changes.
                return Ok(found(path));
            }
            pull_model(model, caches, &client, watch)
        }
    }
}

/// The checksum in the name of a file, `NAME-0123abcd.pth`.
fn of_name(url: &str) -> Option<Checksum> {
    let (stem, _) = file_name(url)?.rsplit_once('.')?;
    let (_, sum) = stem.rsplit_once('-')?;
    let hex = sum.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    ((8..=64).contains(&sum.len()) && hex).then(|| Checksum::Sha256(sum.to_owned()))
}

fn pull_url(
    url: &str,
    size: Option<u64>,
    checksum: Option<Checksum>,
    caches: &Caches,
    client: &Client,
    watch: &mut Watch<'_>,
) -> Result<Pulled> {
    let Some(path) = caches.file_of(url) else {
        return Err(HubError::Name {
            name: url.into(),
            detail: "this address names no file".into(),
        });
    };
    let there = |path: &Path| -> Result<bool> {
        let Ok(found) = fs::metadata(path) else { return Ok(false) };
        let occupied = |detail: String| {
            Err(HubError::Occupied { path: path.to_owned(), detail, url: url.to_owned() })
        };
        match caches.record(path) {
            Some(record) if record.url != url => occupied(format!("it is from {}", record.url)),
            Some(Record { size: Some(size), .. }) if size != found.len() => {
                occupied(format!("it has {} bytes, and {size} were fetched", found.len()))
            }
            Some(_) => Ok(true),
            None => {
                let wanted = size.or_else(|| length_at(client, url));
                if wanted == Some(found.len()) {
                    return Ok(true);
                }
                occupied(match wanted {
                    Some(n) => format!("it has {} bytes, and that one {n}", found.len()),
                    None => "another program put it there, and the server tells no length".into(),
                })
            }
        }
    };
    let place = Place {
        part: caches.beside(&path, ".part"),
        record: caches.beside(&path, ".part.json"),
        target: path.clone(),
    };
    if there(&path)? {
        // Whoever was killed between the file and its record left the record half written.
        remove_leftovers_of(&caches.beside(&path, ".json"));
        place.forget_part();
        return Ok(Pulled { path, fetched: false });
    }
    let name = file_name(url).unwrap_or_default();
    let _lock = Lock::wait(&caches.beside(&path, ".lock"), || waiting(watch, name))?;
    if there(&path)? {
        return Ok(Pulled { path, fetched: false });
    }
    let wanted = Wanted { url, name, size, checksum, weights: true };
    let record = download(client, &wanted, &place, watch)?;
    let text = serde_json::to_vec(&record).unwrap_or_default();
    write_atomic(&caches.beside(&path, ".json"), |f| f.write_all(&text))?;
    Ok(Pulled { path, fetched: true })
}

fn waiting(watch: &mut Watch<'_>, file: &str) -> Result<()> {
    let phase = "waiting for another process that fetches";
    match watch(&Progress { phase, file, done: 0, total: None }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(HubError::Cancelled),
    }
}

/// The length of the file at an address, if the server tells it.
fn length_at(client: &Client, url: &str) -> Option<u64> {
    let ask = Ask { head: true, other_servers: true, ..Ask::default() };
    match client.ask(url, &ask) {
        Ok(answer) if answer.status == 200 => answer.number("content-length"),
        Ok(_) | Err(Failure::Passing(_) | Failure::Lasting(_)) => None,
    }
}

/// One model of a hub on its way into the cache.
struct Model<'a> {
    model: &'a HubModel,
    commit: String,
    caches: &'a Caches,
    client: &'a Client,
    fetched: bool,
}

fn pull_model(
    model: &HubModel,
    caches: &Caches,
    client: &Client,
    watch: &mut Watch<'_>,
) -> Result<Pulled> {
    let listing = list(client, model)?;
    let snapshot = caches.snapshot(model, &listing.commit);
    let mut work = Model { model, commit: listing.commit.clone(), caches, client, fetched: false };
    let path = match &model.file {
        Some(file) => {
            let blob = work.blob(file, is_weights(file), watch)?;
            work.link(&blob, file)?;
            snapshot.join(file)
        }
        None => {
            let chosen = choose(model, &listing.files)?;
            for file in &chosen.others {
                let blob = work.blob(file, false, watch)?;
                work.link(&blob, file)?;
            }
            let index = chosen.weights.ends_with(".index.json");
            let blob = work.blob(&chosen.weights, !index, watch)?;
            if index {
                for part in parts(model, &blob)? {
                    let blob = work.blob(&part, true, watch)?;
                    work.link(&blob, &part)?;
                }
            }
            // Last: a snapshot that has it is whole.
            work.link(&blob, &chosen.weights)?;
            snapshot
        }
    };
    if !is_commit(&model.revision) {
        let place = caches.model(model).join("refs").join(&model.revision);
        if fs::read_to_string(&place).ok().as_deref() != Some(listing.commit.as_str()) {
            make_folder(place.parent())?;
            write_atomic(&place, |f| f.write_all(listing.commit.as_bytes()))?;
        }
    }
    Ok(Pulled { path, fetched: work.fetched })
}

fn is_weights(file: &str) -> bool {
    [".safetensors", ".pth", ".pt", ".bin", ".ckpt"].iter().any(|e| file.ends_with(e))
}

fn make_folder(folder: Option<&Path>) -> Result<()> {
    match folder {
        Some(folder) => fs::create_dir_all(folder).map_err(HubError::io(folder)),
        None => Ok(()),
    }
}

impl Model<'_> {
    /// The blob of a file, fetched if it is not there.
    fn blob(&mut self, file: &str, weights: bool, watch: &mut Watch<'_>) -> Result<PathBuf> {
        let url = address(self.client, self.model, &self.commit, file);
        let told = describe(self.client, &url)?;
        let folder = self.caches.model(self.model);
        let blob = folder.join("blobs").join(&told.etag);
        let place = Place {
            part: folder.join("blobs").join(format!("{}.incomplete", told.etag)),
            record: folder.join("blobs").join(format!("{}.incomplete.json", told.etag)),
            target: blob.clone(),
        };
        if blob.is_file() {
            place.forget_part();
            return Ok(blob);
        }
        // Where Hugging Face's libraries have theirs.
        let own = folder.file_name().unwrap_or_default();
        let locks = self.caches.hub.join(".locks").join(own);
        let _lock =
            Lock::wait(&locks.join(format!("{}.lock", told.etag)), || waiting(watch, file))?;
        if blob.is_file() {
            return Ok(blob);
        }
        let Described { size, checksum, .. } = told;
        let wanted = Wanted { url: &url, name: file, size, checksum, weights };
        download(self.client, &wanted, &place, watch)?;
        self.fetched = true;
        Ok(blob)
    }

    /// Shows a blob under the name of a file of the snapshot.
    fn link(&self, blob: &Path, file: &str) -> Result<()> {
        let at = self.caches.snapshot(self.model, &self.commit).join(file);
        make_folder(at.parent())?;
        let above = "../".repeat(2 + file.matches('/').count());
        let name = blob.file_name().unwrap_or_default();
        let target = Path::new(&above).join("blobs").join(name);
        if fs::read_link(&at).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let mut own = at.file_name().unwrap_or_default().to_owned();
        own.push(format!(".tmp{}", std::process::id()));
        let temporary = at.with_file_name(own);
        let made = match fs::remove_file(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => link_to(&target, blob, &temporary),
        };
        made.and_then(|()| fs::rename(&temporary, &at)).map_err(HubError::io(&at))
    }
}

#[cfg(unix)]
fn link_to(target: &Path, _blob: &Path, at: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

/// Links need rights on such systems; a second name of the file does not.
#[cfg(not(unix))]
fn link_to(_target: &Path, blob: &Path, at: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, at).or_else(|_| fs::copy(blob, at).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_in_a_name_is_read_as_by_pytorch() {
        let of = |name: &str| of_name(&format!("https://a.org/{name}"));
        assert_eq!(of("x-0a1b2c3d.pth"), Some(Checksum::Sha256("0a1b2c3d".into())));
        for name in ["x.pth", "x-0a1b2c.pth", "x-0A1B2C3D.pth", "x-checkpoint.pth", "0a1b2c3d"] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
