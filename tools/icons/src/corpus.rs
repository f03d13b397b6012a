//! The corpus: what is drawn, which drawings are kept apart, and the files.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::likeness::{Fingerprint, alike_any};
use crate::policy::{self, Candidate, Side};
use crate::render::{Art, Look, PLAIN, Pixels};
use crate::select::{Account, Rules, groups_of_neighbors, hash, select};
use crate::set::{self, Icon, Listed};
use crate::{Options, caption};

/// An icon with its first drawing.
struct Drawn {
    set: String,
    colored: bool,
    icon: Icon,
    plain: Pixels,
    print: Fingerprint,
}

impl Drawn {
    fn key(&self) -> String {
        format!("{}:{}", self.set, self.icon.name)
    }

    fn record(&self) -> Value {
        let words = self.icon.parts.words();
        let captions = caption::captions(&self.icon.parts, &self.icon.others, hash(&self.key()));
        json!({
            "caption": captions, "image_id": words, "set": self.set, "name": self.icon.name,
            "style": self.icon.parts.style.join(" "), "category": self.icon.category,
        })
    }
}

/// What became of a set.
struct Outcome {
    listed: Listed,
    side: Result<Side, &'static str>,
    used: usize,
    left_out: Account,
}

/// Makes the corpus.
///
/// # Errors
/// If the package is not as expected, or a file cannot be written.
pub fn make(o: &Options) -> Result<()> {
    if o.output.exists() {
        bail!("{} exists; name another folder or remove it", o.output.display());
    }
    let held_out = match &o.hold_out {
        Some(path) => policy::held_out(
            &fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
        ),
        None => BTreeSet::new(),
    };
    let mut sets: BTreeMap<String, Outcome> = BTreeMap::new();
    let (mut train, mut apart) = (Vec::new(), Vec::new());
    for (prefix, listed) in set::catalogue(&o.package)? {
        let candidate = Candidate {
            prefix: &prefix,
            licence: &listed.license.spdx,
            category: &listed.category,
            brands: o.brands,
        };
        let side = policy::side(&candidate);
        let mut outcome = Outcome { listed, side, used: 0, left_out: Account::new() };
        if let Ok(side) = side {
            let icons = set::icons(&o.package, &prefix)?;
            let none = BTreeSet::new();
            let rules = match side {
                Side::Train => Rules { styles: o.styles, brands: o.brands, held_out: &held_out },
                // A gallery shows each thing once, and what it shows is not chosen.
                Side::Validation | Side::Test => {
                    Rules { styles: usize::MAX, brands: o.brands, held_out: &none }
                }
            };
            let icons = select(icons, &rules, &mut outcome.left_out);
            let drawn = draw_all(icons, &prefix, outcome.listed.palette, o, &mut outcome.left_out);
            eprintln!("{prefix}: {} icons", drawn.len());
            if side == Side::Train {
                train.extend(drawn)
            } else {
                apart.extend(drawn.into_iter().map(|d| (side, d)))
            }
        }
        sets.insert(prefix, outcome);
    }
    keep_apart(&mut train, &apart, o.threads, &mut sets);
    for drawn in train.iter().chain(apart.iter().map(|(_, d)| d)) {
        if let Some(outcome) = sets.get_mut(&drawn.set) {
            outcome.used += 1;
        }
    }
    let part = o.output.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir_all(&part)?;
    let mut files = write_train(&train, &part, o)?;
    for (side, name) in [(Side::Validation, "validation"), (Side::Test, "test")] {
        let of_side = apart.iter().filter(|(s, _)| *s == side).map(|(_, d)| d);
        files.extend(write_galleries(of_side, &part, name, o)?);
    }
    write_manifest(&part, &sets, &files)?;
    fs::write(part.join("SOURCES.md"), sources(&sets))?;
    fs::rename(&part, &o.output)?;
    eprintln!(
        "{} icons to train on, {} kept apart, in {}",
        train.len(),
        apart.len(),
        o.output.display()
    );
    Ok(())
}

/// Draws the icons of a set, black on white; those that show nothing are counted.
fn draw_all(
    icons: Vec<Icon>,
    set: &str,
    colored: bool,
    o: &Options,
    account: &mut Account,
) -> Vec<Drawn> {
    let part = icons.len().div_ceil(o.threads.max(1)).max(1);
    let drawings: Vec<Option<Pixels>> = std::thread::scope(|scope| {
        let workers: Vec<_> = icons
            .chunks(part)
            .map(|chunk| {
                scope.spawn(move || {
                    chunk.iter().map(|i| art(i).draw(&PLAIN, o.side).ok()).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    });
    let mut found = Vec::new();
    for (icon, plain) in icons.into_iter().zip(drawings) {
        match plain {
            Some(plain) => {
                let print = Fingerprint::of(&plain);
                found.push(Drawn { set: set.to_owned(), colored, icon, plain, print });
            }
            None => *account.entry("nothing to see").or_default() += 1,
        }
    }
    found
}

fn art(icon: &Icon) -> Art<'_> {
    Art { body: &icon.body, view: icon.view }
}

/// Removes from training what is drawn twice under the same name, and what looks like a drawing kept apart.
fn keep_apart(
    train: &mut Vec<Drawn>,
    apart: &[(Side, Drawn)],
    threads: usize,
    sets: &mut BTreeMap<String, Outcome>,
) {
    let mut count = |set: &str, why| {
        if let Some(outcome) = sets.get_mut(set) {
            *outcome.left_out.entry(why).or_default() += 1;
        }
    };
    let mut seen = HashSet::new();
    train.retain(|d| {
        let new = seen.insert((Sha256::digest(&d.plain.rgb), d.icon.parts.words()));
        if !new {
            count(&d.set, "same bytes and name in another set");
        }
        new
    });
    let prints: Vec<_> = train.iter().map(|d| &d.print).collect();
    let alike =
        alike_any(&prints, &apart.iter().map(|(_, d)| &d.print).collect::<Vec<_>>(), threads);
    let mut alike = alike.into_iter();
    train.retain(|d| {
        let is = alike.next().unwrap_or(false);
        if is {
            count(&d.set, "looks like one kept apart");
        }
        !is
    });
}

/// How many sets must draw a thing for it to be in a group, from the easiest group on.
const GROUPS: [(&str, usize); 3] = [("frequent", 12), ("common", 3), ("rare", 1)];

/// The shards of the training side, each group in an order drawn by hash: by how many sets draw a thing, and apart
/// from that the drawings as they are (`plain`) and in other colors and weights (`varied`).
fn write_train(train: &[Drawn], folder: &Path, o: &Options) -> Result<Vec<(String, Value)>> {
    let mut drawn_by: HashMap<String, BTreeSet<&str>> = HashMap::new();
    for d in train {
        drawn_by.entry(d.icon.parts.words()).or_default().insert(&d.set);
    }
    let group_of = |d: &Drawn| {
        let sets = drawn_by.get(&d.icon.parts.words()).map_or(1, BTreeSet::len);
        GROUPS.iter().position(|(_, least)| sets >= *least)
    };
    fs::create_dir_all(folder.join("train"))?;
    let mut files = Vec::new();
    for (number, (group, _)) in GROUPS.iter().enumerate() {
        let members: Vec<&Drawn> = train.iter().filter(|d| group_of(d) == Some(number)).collect();
        for (looks, kind) in [(0..1, "plain"), (1..o.looks.max(1), "varied")] {
            let mut order: Vec<Shown> =
                members.iter().flat_map(|d| looks.clone().map(|look| shown(d, look))).collect();
            order.sort_by_key(|(h, d, look)| (*h, d.key(), *look));
            files.extend(write_shards(&order, &format!("train/{group}-{kind}"), folder, o)?);
            eprintln!("{group}, {kind}: {} samples", order.len());
        }
    }
    if let Some(size) = o.neighbors {
        for (looks, kind) in [(0..1, "plain"), (1..o.looks.max(1), "varied")] {
            let order: Vec<Shown> =
                looks.flat_map(|look| neighbors(train, size.get(), look)).collect();
            files.extend(write_shards(&order, &format!("train/neighbors-{kind}"), folder, o)?);
            eprintln!("neighbors, {kind}: {} samples", order.len());
        }
    }
    Ok(files)
}

/// A drawing in one of its looks, with the hash that draws it.
type Shown<'a> = (u64, &'a Drawn, u32);

fn shown(drawn: &Drawn, look: u32) -> Shown<'_> {
    (hash(&format!("{} {look}", drawn.key())), drawn, look)
}

/// The drawings in groups of neighbors, groups in an order drawn by hash.
fn neighbors(train: &[Drawn], size: usize, look: u32) -> Vec<Shown<'_>> {
    let named = |d: &Drawn| (d.set.clone(), d.icon.parts.words(), d.icon.name.clone());
    let mut groups = groups_of_neighbors(train.iter().map(named), size);
    groups.sort_by_cached_key(|group| group.first().map(|i| shown(&train[*i], look).0));
    groups.into_iter().flatten().map(|i| shown(&train[i], look)).collect()
}

fn write_shards(
    order: &[Shown<'_>],
    name: &str,
    folder: &Path,
    o: &Options,
) -> Result<Vec<(String, Value)>> {
    let mut files = Vec::new();
    for (number, samples) in order.chunks(o.shard.max(1)).enumerate() {
        let name = format!("{name}-{number:05}.tar");
        let images = draw_looks(samples, o);
        let mut tar = tar::Builder::new(File::create(folder.join(&name))?);
        for (place, ((_, drawn, _), png)) in samples.iter().zip(images).enumerate() {
            let key = format!("{:09}", number * o.shard + place);
            append(&mut tar, &format!("{key}.png"), &png?)?;
            append(&mut tar, &format!("{key}.json"), drawn.record().to_string().as_bytes())?;
        }
        tar.into_inner()?.sync_all()?;
        files.push(described(folder, name, samples.len())?);
    }
    Ok(files)
}

/// The PNG files of some samples, on several threads.
fn draw_looks(samples: &[Shown<'_>], o: &Options) -> Vec<Result<Vec<u8>>> {
    let one = |(h, drawn, look): &Shown<'_>| {
        if *look == 0 {
            return drawn.plain.png();
        }
        let another = art(&drawn.icon).draw(&Look::drawn(*h, drawn.colored), o.side);
        // A white icon on a white ground would be lost: its plain drawing stands in.
        another.as_ref().unwrap_or(&drawn.plain).png()
    };
    let part = samples.len().div_ceil(o.threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = samples
            .chunks(part)
            .map(|chunk| scope.spawn(move || chunk.iter().map(one).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    })
}

fn append(tar: &mut tar::Builder<File>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, bytes)?;
    Ok(())
}

/// A list and its images for each set: as many things as the gallery has, drawn by hash, each once.
fn write_galleries<'a>(
    drawn: impl Iterator<Item = &'a Drawn>,
    folder: &Path,
    side: &str,
    o: &Options,
) -> Result<Vec<(String, Value)>> {
    let mut sets: BTreeMap<&str, Vec<&Drawn>> = BTreeMap::new();
    for d in drawn {
        sets.entry(&d.set).or_default().push(d);
    }
    let mut files = Vec::new();
    for (set, mut drawn) in sets {
        drawn.sort_by_key(|d| hash(&d.key()));
        let mut seen = HashSet::new();
        drawn.retain(|d| seen.insert(d.icon.parts.words()));
        drawn.truncate(o.gallery);
        let images = folder.join(side).join(set);
        fs::create_dir_all(&images)?;
        let mut list = Vec::new();
        for d in &drawn {
            let file = format!("{}.png", d.icon.name);
            fs::write(images.join(&file), d.plain.png()?)?;
            let words = d.icon.parts.words();
            list.push(
                json!({"image": format!("{set}/{file}"), "caption": [words], "image_id": words}),
            );
        }
        let name = format!("{side}/{set}.json");
        let mut text = serde_json::to_string_pretty(&list)?;
        text.push('\n');
        fs::write(folder.join(&name), text)?;
        files.push(described(folder, name, list.len())?);
    }
    Ok(files)
}

/// Name, number of samples, size and hash of a file.
fn described(folder: &Path, name: String, samples: usize) -> Result<(String, Value)> {
    let bytes = fs::read(folder.join(&name))?;
    let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    Ok((name, json!({"samples": samples, "bytes": bytes.len(), "sha256": digest})))
}

/// Who drew what is trained on, under which licence, as a table.
fn sources(sets: &BTreeMap<String, Outcome>) -> String {
    let mut text = String::from(
        "# Icon sets\n\nThe sets whose drawings were trained on, as the npm package `@iconify/json` names them.\n\n\
         | set | name | author | licence | icons |\n| --- | --- | --- | --- | ---: |\n",
    );
    for (prefix, o) in sets.iter().filter(|(_, o)| o.side == Ok(Side::Train) && o.used > 0) {
        let Listed { name, author, license, .. } = &o.listed;
        let author = match author.url.as_str() {
            "" => author.name.clone(),
            url => format!("[{}]({url})", author.name),
        };
        text.push_str(&format!(
            "| {prefix} | {name} | {author} | {} | {} |\n",
            license.spdx, o.used
        ));
    }
    text
}

fn write_manifest(
    folder: &Path,
    sets: &BTreeMap<String, Outcome>,
    files: &[(String, Value)],
) -> Result<()> {
    let sets: BTreeMap<&String, Value> = sets
        .iter()
        .map(|(prefix, o)| {
            let side = match o.side {
                Ok(Side::Train) => json!("train"),
                Ok(Side::Validation) => json!("validation"),
                Ok(Side::Test) => json!("test"),
                Err(why) => json!({"left_out": why}),
            };
            let value = json!({
                "name": o.listed.name, "author": o.listed.author.name, "url": o.listed.author.url,
                "licence": o.listed.license.spdx, "side": side, "icons": o.used, "left_out": o.left_out,
            });
            (prefix, value)
        })
        .collect();
    let files: BTreeMap<&String, &Value> =
        files.iter().map(|(name, value)| (name, value)).collect();
    let mut file = File::create(folder.join("manifest.json"))?;
    let text = serde_json::to_string_pretty(&json!({"files": files, "sets": sets}))?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    Ok(())
}
