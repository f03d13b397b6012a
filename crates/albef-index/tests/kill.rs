//! Indexing that is killed again and again ends as if it never had been, and keeps what it acknowledged.
//!
//! The program starts itself as the process that is killed. Lives are drawn so that kills fall into every phase:
//! opening, walking, committing, forgetting, compacting. Between kills files are added, changed, moved and removed.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

#[path = "it/common.rs"]
#[allow(dead_code, reason = "it serves other tests too")]
mod common;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use albef_data::image::{ImageReader, RgbImage};
use albef_index::{
    ContentHash, Control, Embedded, Encoder, Identity, KeptStates, StatePrecision, Status, Store,
    UpdateOptions, update,
};
use common::{Colors, contents, image, index, update_all};

const CHILD: &str = "--index-as-a-child";
const CHILD_WITH_STATES: &str = "--index-with-states-as-a-child";
const KILLS: usize = 1000;
/// Kills between two comparisons with an index made from scratch.
const CHECKED: usize = 40;

/// Updates, then compacts, and again, printing what is acknowledged: the number of images.
fn child(folder: &Path) {
    let encoder = Colors::default();
    let store = Embedded::write(folder, &encoder.identity()).unwrap();
    let options = UpdateOptions { workers: 2, batch: 2, dry_run: false, within: Vec::new() };
    for _ in 0..50 {
        update(&store, &encoder, &options, &Control::new()).unwrap();
        // What is on the disk now is promised.
        println!("{}", store.info().unwrap().images);
        store.compact().unwrap();
    }
}

fn start(folder: &Path) -> (Child, Receiver<u64>) {
    start_as(CHILD, folder)
}

fn start_as(what: &str, folder: &Path) -> (Child, Receiver<u64>) {
    let program = std::env::current_exe().unwrap();
    let mut child =
        Command::new(program).arg(what).arg(folder).stdout(Stdio::piped()).spawn().unwrap();
    let (sender, receiver) = channel();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = sender.send(line.parse().unwrap());
        }
    });
    (child, receiver)
}

struct Draws(u64);

impl Draws {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Changes some files. `files`: name and seed of each.
fn change(photos: &Path, files: &mut HashMap<String, u64>, draws: &mut Draws, count: &mut u64) {
    for _ in 0..1 + draws.below(6) {
        *count += 1;
        let new = format!("{}/{count}.png", draws.below(4));
        let some = files.keys().min_by_key(|k| k.len() as u64 + draws.below(100)).cloned();
        match (draws.below(4), some) {
            (1, Some(name)) => {
                fs::write(photos.join(&name), image(*count)).unwrap();
                files.insert(name, *count);
            }
            (2, Some(name)) => {
                fs::rename(photos.join(&name), photos.join(&new)).unwrap();
                let seed = files.remove(&name).unwrap();
                files.insert(new, seed);
            }
            (3, Some(name)) if files.len() > 40 => {
                fs::remove_file(photos.join(&name)).unwrap();
                files.remove(&name);
            }
            _ => {
                fs::write(photos.join(&new), image(*count)).unwrap();
                files.insert(new, *count);
            }
        }
    }
}

fn thousand_kills() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    (0..4).for_each(|i| fs::create_dir_all(photos.join(i.to_string())).unwrap());
    let mut files = HashMap::new();
    let (mut draws, mut count) = (Draws(7), 0);
    for _ in 0..40 {
        change(&photos, &mut files, &mut draws, &mut count);
    }
    drop(index(&folder, &photos, &Colors::default()));
    let begin = Instant::now();
    let (mut kills, mut promises, mut checks) = (0, 0, 0);
    while kills < KILLS {
        let (mut child, promised) = start(&folder);
        let life = Duration::from_micros(300 + draws.below(34_000));
        // Files change while the process runs, too.
        if draws.below(2) == 0 {
            std::thread::sleep(life / 2);
            change(&photos, &mut files, &mut draws, &mut count);
            std::thread::sleep(life / 2);
        } else {
            std::thread::sleep(life);
        }
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none_or(|status| status.success()), "kill {kills}: {ended:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        promises += promised.iter().count();
        if kills % CHECKED == 0 {
            checks += 1;
            check(&folder, &photos, &files, kills);
        }
    }
    check(&folder, &photos, &files, kills);
    println!(
        "{kills} kills in {:.0} s, {promises} completed updates, {checks} checks, {} files",
        begin.elapsed().as_secs_f64(),
        files.len()
    );
    assert!(promises > kills / 50, "kills came before anything was done: {promises}");
}

/// The index is sound before anything mends it, and after an update is that of the folder.
fn check(folder: &Path, photos: &Path, files: &HashMap<String, u64>, kills: usize) {
    let encoder = Colors::default();
    let store = Embedded::write(folder, &encoder.identity()).unwrap();
    let verified = store.verify().unwrap();
    assert!(verified.is_sound(), "after {kills} kills: {verified:?}");
    update_all(&store, &encoder);
    let fresh = tempfile::tempdir().unwrap();
    let (scratch, _) = index(fresh.path(), photos, &Colors::default());
    assert_eq!(contents(&store), contents(&scratch), "after {kills} kills");
    assert_eq!(contents(&store).len(), files.len());
    let query = [0.25; common::WIDTH];
    let scores = |store: &Embedded| -> Vec<f32> {
        store.top_k(&query, 20, &Default::default()).unwrap().iter().map(|f| f.score).collect()
    };
    assert_eq!(scores(&store), scores(&scratch));
}

/// Each image that was committed is there after the kill, whatever came after it.
fn acknowledged_images_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    fs::create_dir_all(&photos).unwrap();
    let encoder = Colors::default();
    drop(index(&folder, &photos, &encoder));
    let mut draws = Draws(3);
    for round in 0..40_u64 {
        for i in 0..20 {
            fs::write(photos.join(format!("{round}-{i}.png")), image(round * 100 + i)).unwrap();
        }
        let (mut child, promised) = start(&folder);
        let first = promised.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(first, (round + 1) * 20);
        std::thread::sleep(Duration::from_micros(draws.below(20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Embedded::read(&folder).unwrap();
        assert_eq!(store.info().unwrap().images, first, "round {round}");
    }
}

/// Making an index is killed too: what is left is opened, and is an index without images.
fn creation_may_be_killed() {
    let mut draws = Draws(11);
    for round in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("index");
        let (mut child, _) = start(&folder);
        std::thread::sleep(Duration::from_micros(draws.below(15_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        if let Ok(store) = Embedded::read(&folder) {
            assert_eq!(store.info().unwrap().images, 0);
        }
        let store = Embedded::write(&folder, &Colors::default().identity());
        let store = store.unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert!(store.verify().unwrap().is_sound(), "round {round}");
    }
}

/// Tokens of an image's states, and their width.
const STATES: [usize; 2] = [5, 16];
/// Models and precisions that states are kept of, in turn.
const KINDS: [(&str, StatePrecision); 3] =
    [("a", StatePrecision::F16), ("b", StatePrecision::F16), ("a", StatePrecision::Int8)];

/// Keeps states beside the vectors.
struct Keeping {
    colors: Colors,
    model: &'static str,
    kept: KeptStates,
}

impl Keeping {
    fn new(folder: &Path, (model, precision): (&'static str, StatePrecision)) -> Self {
        let kept = KeptStates::create(folder, model, precision, STATES).unwrap();
        Self { colors: Colors::default(), model, kept }
    }

    /// As [`Encoder::encode`] keeps them, for images that were encoded before.
    fn complete(&self, store: &Embedded) {
        for content in usable(store) {
            if !self.kept.has(&content) {
                self.kept.save(&content, &states(self.model, &content)).unwrap();
            }
        }
    }
}

impl Encoder for Keeping {
    fn identity(&self) -> Identity {
        self.colors.identity()
    }

    fn reader(&self) -> &ImageReader {
        self.colors.reader()
    }

    fn prepare(&self, image: &RgbImage) -> Vec<f32> {
        self.colors.prepare(image)
    }

    fn encode(&self, prepared: &[Vec<f32>], contents: &[ContentHash]) -> Result<Vec<f32>, String> {
        for content in contents {
            self.kept.save(content, &states(self.model, content)).map_err(|e| e.to_string())?;
        }
        self.colors.encode(prepared, contents)
    }
}

/// The states of a content, which f16 and int8 hold exactly.
fn states(model: &str, content: &ContentHash) -> Vec<f32> {
    let sign = if model == "a" { 1.0 } else { -1.0 };
    let value =
        |i: usize| if i.is_multiple_of(16) { 127.0 } else { f32::from(content[i % 32] / 2) };
    (0..STATES[0] * STATES[1]).map(|i| sign * value(i)).collect()
}

fn usable(store: &Embedded) -> HashSet<ContentHash> {
    let mut out = HashSet::new();
    let mut see = |record: albef_index::Record| {
        if record.image.status == Status::Ok {
            out.insert(record.image.hash);
        }
        Ok(())
    };
    store.for_each(&mut see).unwrap();
    out
}

/// Keeps states of one kind after the other, forgets those of images that are gone, and says when each is complete.
fn child_with_states(folder: &Path) {
    let begin = KeptStates::precision_at(folder)
        .unwrap()
        .map_or(0, |precision| KINDS.iter().position(|kind| kind.1 == precision).unwrap_or(0) + 1);
    let options = UpdateOptions { workers: 2, batch: 2, dry_run: false, within: Vec::new() };
    for kind in KINDS.iter().cycle().skip(begin).take(50) {
        let encoder = Keeping::new(folder, *kind);
        let store = Embedded::write(folder, &encoder.identity()).unwrap();
        update(&store, &encoder, &options, &Control::new()).unwrap();
        encoder.complete(&store);
        encoder.kept.retain(&usable(&store)).unwrap();
        println!("{}", encoder.kept.usage().unwrap().0);
    }
}

/// States are those of their image and their model after any kill, or none; completing them gives all.
fn states_are_right_or_absent() {
    const KILLS: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    (0..4).for_each(|i| fs::create_dir_all(photos.join(i.to_string())).unwrap());
    let mut files = HashMap::new();
    let (mut draws, mut count) = (Draws(5), 0);
    for _ in 0..20 {
        change(&photos, &mut files, &mut draws, &mut count);
    }
    drop(index(&folder, &photos, &Colors::default()));
    let (mut completed, mut looked_at, mut partial) = (0, 0, 0);
    for kills in 1..=KILLS {
        let (mut child, promised) = start_as(CHILD_WITH_STATES, &folder);
        std::thread::sleep(Duration::from_micros(300 + draws.below(200_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        completed += promised.iter().count();
        change(&photos, &mut files, &mut draws, &mut count);
        let store = Embedded::write(&folder, &Colors::default().identity()).unwrap();
        let images = usable(&store);
        // Beginning with another model or precision must not find files of the one before.
        let kind = KINDS[draws.below(3) as usize];
        let found = KeptStates::open(&folder, "a").unwrap().map(|kept| (kept, "a"));
        let found = found.or(KeptStates::open(&folder, "b").unwrap().map(|kept| (kept, "b")));
        let begun = Keeping::new(&folder, kind);
        for (kept, model) in found.iter().map(|(kept, m)| (kept, *m)).chain([(&begun.kept, kind.0)])
        {
            let loaded = images.iter().filter_map(|content| Some((content, kept.load(content)?)));
            for (content, values) in loaded {
                looked_at += 1;
                assert_eq!(values, states(model, content), "after {kills} kills");
            }
        }
        let (left, _) = begun.kept.usage().unwrap();
        partial += usize::from(left > 0 && left < images.len() as u64);
        begun.complete(&store);
        for content in &images {
            assert_eq!(begun.kept.load(content).unwrap(), states(kind.0, content));
        }
        begun.kept.retain(&images).unwrap();
        assert_eq!(begun.kept.usage().unwrap().0, images.len() as u64);
    }
    println!(
        "{KILLS} kills with states: {completed} completed, {partial} partial, {looked_at} loaded"
    );
    assert!(completed > 0 && partial > 0 && looked_at > 0);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == CHILD) {
        child(&PathBuf::from(&arguments[1]));
        return;
    }
    if arguments.first().is_some_and(|a| a == CHILD_WITH_STATES) {
        child_with_states(&PathBuf::from(&arguments[1]));
        return;
    }
    let tests: [(&str, fn()); 4] = [
        ("creation_may_be_killed", creation_may_be_killed),
        ("thousand_kills", thousand_kills),
        ("acknowledged_images_stay", acknowledged_images_stay),
        ("states_are_right_or_absent", states_are_right_or_absent),
    ];
    if arguments.iter().any(|a| a == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    // What `cargo test -- NAME` gives; options are not for this small harness.
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    for (name, test) in tests {
        if wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
}
