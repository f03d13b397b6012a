//! Fetching from servers of all kinds.

#![cfg(feature = "client")]
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod addresses;
mod models;
mod server;
mod table;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use albef_hub::{Caches, HubError, Pulled, Settings};
use albef_weights::{HostTensor, KeepAs, StateDict, write_torch};

/// A checkpoint of some hundred thousand bytes that depend on `seed`.
pub fn checkpoint(seed: u8) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..100_000_u32).map(|i| (i ^ u32::from(seed)) as f32).collect();
    let state =
        StateDict::from_iter([("w".to_owned(), HostTensor::from_f32(&[100, 1000], &values))]);
    write_torch(&dir.path().join("x.pth"), &state, KeepAs::Same, &mut |_| Ok(())).unwrap();
    std::fs::read(dir.path().join("x.pth")).unwrap()
}

/// The caches below a folder.
pub fn caches(dir: &Path) -> Caches {
    Caches { hub: dir.join("hub"), files: dir.join("files") }
}

/// Without waiting for long.
pub fn settings(endpoint: &str) -> Settings {
    let mut settings = Settings::default();
    settings.endpoint = endpoint.to_owned();
    settings.pause = Duration::from_millis(1);
    settings.timeout = Duration::from_secs(5);
    settings
}

/// Pulls by the text that a user types.
pub fn pulled(text: &str, dir: &Path, settings: &Settings) -> Result<Pulled, HubError> {
    let mut watch = |_: &albef_hub::Progress<'_>| ControlFlow::Continue(());
    albef_hub::pull(&text.parse()?, &caches(dir), settings, &mut watch)
}

/// The names below a folder, without those of locks.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return names };
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            names.extend(self::names(&entry.path()).iter().map(|n| format!("{name}/{n}")));
        } else if !name.ends_with(".lock") {
            names.push(name);
        }
    }
    names.sort();
    names
}
