//! `albef index status`, `verify`, `repair`, `gc`, `list` and `remove`.

use albef::index::{
    Embedded, IndexError, Location, Status, Store, folders, indexes, open_to_read, path_of,
};
use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{ListArguments, PlaceArguments, file, mb, place, shown};
use crate::ExitStatus;
use crate::output::say;

pub fn status(a: &PlaceArguments) -> Result<ExitStatus> {
    let place = place(a)?;
    let store = open_to_read(&place)?;
    let (info, roots) = (store.info()?, store.roots()?);
    let states = place.states_usage(&info.fingerprint)?;
    let mut broken = Vec::new();
    store.for_each(&mut |record| {
        if let Status::Broken(reason) = &record.image.status {
            broken.push((file(&record, &roots), reason.clone()));
        }
        Ok(())
    })?;
    let folders: Vec<String> = roots.iter().map(|root| shown(&path_of(&root.path))).collect();
    if a.json {
        let broken: Vec<Value> = broken
            .iter()
            .map(|(path, reason)| json!({"path": shown(path), "reason": reason}))
            .collect();
        say!(
            "{}",
            json!({
                "index": info.place,
                "folders": folders,
                "images": info.images,
                "broken": broken,
                "model": info.model,
                "fingerprint": info.fingerprint,
                "width": info.width,
                "bytes": info.bytes,
                "reclaimable_bytes": info.reclaimable,
                "generation": info.generation,
                "states": states.map(|(images, bytes)| json!({"images": images, "bytes": bytes})),
            })
        )?;
        return Ok(ExitStatus::Yes);
    }
    say!("index       {}", info.place)?;
    for folder in folders {
        say!("folder      {folder}")?;
    }
    say!("images      {}", info.images)?;
    say!("unusable    {}", info.broken)?;
    say!("model       {}", info.model)?;
    say!("fingerprint {}", info.fingerprint)?;
    say!("size        {:.1} MB, {:.1} MB reclaimable", mb(info.bytes), mb(info.reclaimable))?;
    if let Some((images, bytes)) = states {
        say!("states      {images} images, {:.1} MB", mb(bytes))?;
    }
    for (path, reason) in broken {
        say!("unusable: {}: {reason}", shown(&path))?;
    }
    Ok(ExitStatus::Yes)
}

pub fn verify(a: &PlaceArguments) -> Result<ExitStatus> {
    let place = place(a)?;
    let (sound, problems) = match open_to_read(&place).and_then(|store| Ok(store.verify()?)) {
        Ok(found) if found.is_sound() => (found.sound, Vec::new()),
        Ok(found) => {
            let mut problems = found.problems;
            problems.push(match found.damaged.len() {
                1 => "1 image is damaged".into(),
                n => format!("{n} images are damaged"),
            });
            (found.sound, problems)
        }
        Err(albef::Error::Index(IndexError::Damaged { detail, .. })) => (0, vec![detail]),
        Err(e) => return Err(e.into()),
    };
    let is_sound = problems.is_empty();
    if a.json {
        say!("{}", json!({"sound": is_sound, "sound_images": sound, "problems": problems}))?;
    } else if is_sound {
        say!("sound: {sound} images agree with their checksums")?;
    } else {
        for problem in problems {
            say!("damaged: {problem}")?;
        }
        eprintln!("hint: `albef index repair` mends the index from what is there");
    }
    Ok(if is_sound { ExitStatus::Yes } else { ExitStatus::No })
}

pub fn repair(a: &PlaceArguments) -> Result<ExitStatus> {
    let found = place(a)?.index.repair()?;
    if a.json {
        say!(
            "{}",
            json!({
                "catalogue_rebuilt": found.catalogue_rebuilt,
                "salvaged_vectors": found.salvaged,
                "forgotten": found.forgotten,
            })
        )?;
        return Ok(ExitStatus::Yes);
    }
    if found.catalogue_rebuilt {
        say!("the catalogue was lost and is made anew; {} vectors are kept", found.salvaged)?;
    }
    say!("{} damaged images were taken out", found.forgotten)?;
    if found.catalogue_rebuilt || found.forgotten > 0 {
        eprintln!("hint: `albef index` with the same folders reads what is missing");
    }
    Ok(ExitStatus::Yes)
}

pub fn gc(a: &PlaceArguments) -> Result<ExitStatus> {
    let place = place(a)?;
    let store = place.index.maintain()?;
    let before = store.info()?;
    store.compact()?;
    let states = place.forget_states(&*store)?;
    let after = store.info()?;
    if a.json {
        say!(
            "{}",
            json!({"bytes_before": before.bytes, "bytes_after": after.bytes, "states_forgotten": states})
        )?;
    } else {
        say!("{:.1} MB before, {:.1} MB now", mb(before.bytes), mb(after.bytes))?;
        if states > 0 {
            say!("states of {states} forgotten images removed")?;
        }
    }
    Ok(ExitStatus::Yes)
}

/// What is known of an index, or why it cannot be opened.
fn described(index: &std::path::Path) -> Value {
    let facts = || -> albef::index::Result<Value> {
        let store = Embedded::read(index)?;
        let (info, roots) = (store.info()?, store.roots()?);
        let folders: Vec<String> = roots.iter().map(|root| shown(&path_of(&root.path))).collect();
        Ok(json!({
            "index": shown(index),
            "folders": folders,
            "images": info.images,
            "broken": info.broken,
            "model": info.model,
            "bytes": info.bytes,
        }))
    };
    facts().unwrap_or_else(|e| json!({"index": shown(index), "error": e.to_string()}))
}

pub fn list(a: &ListArguments) -> Result<ExitStatus> {
    let found: Vec<Value> = indexes().iter().map(|index| described(index)).collect();
    if a.json {
        say!("{}", json!({"indexes": found}))?;
        return Ok(ExitStatus::Yes);
    }
    if found.is_empty() {
        eprintln!("there is no index yet; `albef index FOLDER` makes one");
    }
    for index in found {
        let text = |key: &str| index[key].as_str().unwrap_or_default();
        say!("{}", text("index"))?;
        if index["error"].is_string() {
            say!("  {}", text("error"))?;
            continue;
        }
        for folder in index["folders"].as_array().into_iter().flatten() {
            say!("  folder {}", folder.as_str().unwrap_or_default())?;
        }
        let bytes = index["bytes"].as_u64().unwrap_or(0);
        say!("  {} images, {:.1} MB, {}", index["images"], mb(bytes), text("model"))?;
    }
    Ok(ExitStatus::Yes)
}

pub fn remove(a: &PlaceArguments) -> Result<ExitStatus> {
    let at = a.place.location()?;
    if a.folders.is_empty() && at.is_none() {
        bail!(
            "name the folders of the index, or give it with --index; `albef index list` lists all"
        );
    }
    let index = match at {
        Some(index) => index,
        None => own_index(a)?,
    };
    let images = match index.read() {
        Ok(store) => Some(store.info()?.images),
        // What is beyond repair can be removed, too.
        Err(IndexError::Damaged { .. }) => None,
        Err(e) => return Err(e.into()),
    };
    index.delete()?;
    if a.json {
        say!("{}", json!({"removed": index.to_string(), "images": images}))?;
    } else {
        let of = images.map_or(String::new(), |images| format!(" of {images} images"));
        say!("removed the index {index}{of}; the images are where they were")?;
    }
    Ok(ExitStatus::Yes)
}

/// The index of just these folders: one that has others as well is not meant.
fn own_index(a: &PlaceArguments) -> Result<Location> {
    let (wanted, found) = (folders(&a.folders)?, place(a)?.index);
    if !found.exists()? {
        bail!("there is no index of these folders; `albef index list` lists all");
    }
    let roots = match found.read() {
        Ok(store) => store.roots()?,
        Err(IndexError::Damaged { .. }) => return Ok(found),
        Err(e) => return Err(e.into()),
    };
    let mut roots: Vec<_> = roots.iter().map(|root| path_of(&root.path)).collect();
    roots.sort();
    if roots != wanted {
        let roots: Vec<String> = roots.iter().map(|root| shown(root)).collect();
        bail!("the index with these folders is that of {}; name all of them", roots.join(", "));
    }
    Ok(found)
}
