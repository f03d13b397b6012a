//! One file, whole and checked, over as many connections as it takes.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use albef_weights::{FileKind, HEAD, WeightsError, publish, write_atomic};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::cache::{Record, read_record};
use crate::client::{Answer, Ask, Client, Failure};
use crate::error::{HubError, Result};
use crate::watch::{Progress, Watch};

/// What is fetched.
pub(crate) struct Wanted<'a> {
    pub url: &'a str,
    /// Name in messages.
    pub name: &'a str,
    /// Bytes, where something else than the answer tells them.
    pub size: Option<u64>,
    pub checksum: Option<Checksum>,
    /// Whether it is a checkpoint, and not a short text beside one.
    pub weights: bool,
}

/// A checksum that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// SHA-256, or the beginning of it.
    Sha256(String),
    /// Of a blob of git: SHA-1 of its length and bytes.
    Git(String),
}

/// Where it goes.
pub(crate) struct Place {
    /// What has been fetched of it.
    pub part: PathBuf,
    /// What is known of the part.
    pub record: PathBuf,
    pub target: PathBuf,
}

impl Place {
    /// Removes what is known of a part that has become the file: who was killed between the two left it.
    pub(crate) fn forget_part(&self) {
        let _ = fs::remove_file(&self.record);
    }
}

/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;
/// Between two reports of progress.
const REPORT: Duration = Duration::from_millis(100);
/// The longest pause that a server may ask for.
const LONGEST: Duration = Duration::from_secs(60);

/// How one connection ended.
enum Ended {
    /// The file is complete.
    Whole,
    /// It may be better next time; after how long, if the server says so.
    Broken(String, Option<Duration>),
}

/// Fetches a file to its place. What a broken connection or a killed process left is continued, if it is of
/// the file that the server has now. Gives what the answer told of the file.
pub(crate) fn download(
    client: &Client,
    wanted: &Wanted<'_>,
    place: &Place,
    watch: &mut Watch<'_>,
) -> Result<Record> {
    for folder in [&place.part, &place.record, &place.target].iter().filter_map(|p| p.parent()) {
        fs::create_dir_all(folder).map_err(HubError::io(folder))?;
    }
    let mut failed = 0;
    loop {
        let before = length(&place.part);
        let (detail, wait) = match connect(client, wanted, place, watch)? {
            Ended::Whole => break,
            Ended::Broken(detail, wait) => (detail, wait),
        };
        failed = if length(&place.part) > before { 1 } else { failed + 1 };
        let settings = &client.settings;
        if failed >= settings.attempts {
            return Err(HubError::Unreachable { url: wanted.url.into(), detail });
        }
        let pause = settings.pause.saturating_mul(1 << (failed - 1).min(8));
        report(watch, wanted, Phase::Waiting, length(&place.part), wanted.size)?;
        pausing(wait.unwrap_or(pause).min(LONGEST), watch, wanted, place)?;
    }
    let found = length(&place.part);
    let record = read_record(&place.record);
    let told = record.as_ref().and_then(|r| r.size);
    if let Some(expected) = wanted.size.or(told).filter(|size| *size != found) {
        discard(place);
        return Err(HubError::Size { url: wanted.url.into(), found, expected });
    }
    if let Some(expected) = &wanted.checksum {
        verify(wanted, place, expected, watch)?;
    } else if wanted.weights
        && let Err(error) = albef_weights::read(&place.part)
    {
        discard(place);
        let detail = match error {
            WeightsError::Damaged { detail, .. } => detail,
            other => other.to_string(),
        };
        return Err(HubError::NotThatFile { url: wanted.url.into(), detail });
    }
    publish(&place.part, &place.target)?;
    place.forget_part();
    let mut record = record.unwrap_or_else(|| blank(wanted));
    record.size = Some(found);
    Ok(record)
}

fn blank(wanted: &Wanted<'_>) -> Record {
    Record { url: wanted.url.into(), etag: None, last_modified: None, size: None }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// Removes what was fetched and is of no use. What cannot be removed is overwritten next time.
fn discard(place: &Place) {
    let _ = fs::remove_file(&place.record);
    let _ = fs::remove_file(&place.part);
}

enum Phase {
    Fetching,
    Waiting,
    Checking,
}

fn report(
    watch: &mut Watch<'_>,
    wanted: &Wanted<'_>,
    phase: Phase,
    done: u64,
    total: Option<u64>,
) -> Result<()> {
    let phase = match phase {
        Phase::Fetching => "fetching",
        Phase::Waiting => "waiting to try again for",
        Phase::Checking => "checking",
    };
    match watch(&Progress { phase, file: wanted.name, done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(HubError::Cancelled),
    }
}

fn pausing(
    pause: Duration,
    watch: &mut Watch<'_>,
    wanted: &Wanted<'_>,
    place: &Place,
) -> Result<()> {
    let end = Instant::now() + pause;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
        sleep(left.min(REPORT));
        report(watch, wanted, Phase::Waiting, length(&place.part), wanted.size)?;
    }
    Ok(())
}

/// One connection, as far as it goes.
fn connect(
    client: &Client,
    wanted: &Wanted<'_>,
    place: &Place,
    watch: &mut Watch<'_>,
) -> Result<Ended> {
    let begun = length(&place.part);
    let known = read_record(&place.record).filter(|r| r.url == wanted.url);
    let validator = known.as_ref().and_then(|r| r.etag.clone().or(r.last_modified.clone()));
    // Without a validator only a checksum shows that both parts are of one file.
    let start = if validator.is_some() || wanted.checksum.is_some() { begun } else { 0 };
    let mut ask = Ask { other_servers: true, ..Ask::default() };
    if start > 0 {
        ask.headers.push(("Range", format!("bytes={start}-")));
        ask.headers.extend(validator.map(|v| ("If-Range", v)));
    }
    let answer = match client.ask(wanted.url, &ask) {
        Ok(answer) => answer,
        Err(Failure::Passing(detail)) => return Ok(Ended::Broken(detail, None)),
        Err(Failure::Lasting(error)) => return Err(error),
    };
    let total = match answer.status {
        200 => answer.number("content-length"),
        206 => match continued(&answer, start, known.as_ref()) {
            Some(total) => total,
            None => {
                discard(place);
                return Ok(Ended::Broken("the file has changed meanwhile".into(), None));
            }
        },
        416 => {
            let all =
                answer.header("content-range").and_then(|r| r.rsplit_once('/')?.1.parse().ok());
            if all == Some(begun) {
                return Ok(Ended::Whole);
            }
            discard(place);
            return Ok(Ended::Broken("the file has changed meanwhile".into(), None));
        }
        status => return refused(wanted, &answer, status),
    };
    let start = if answer.status == 206 { start } else { 0 };
    receive(answer, wanted, place, start, total, watch)
}

/// The length of the whole file, by an answer that continues at `start`; `None` if it does not, or is of
/// another file.
fn continued(answer: &Answer, start: u64, known: Option<&Record>) -> Option<Option<u64>> {
    let range = answer.header("content-range")?.trim().strip_prefix("bytes")?.trim_start();
    let (range, total) = range.split_once('/')?;
    let first: u64 = range.split_once('-')?.0.trim().parse().ok()?;
    let total: Option<u64> = total.trim().parse().ok();
    let of_another = known.is_some_and(|known| {
        let differs = |a: &Option<String>, b: Option<String>| a.is_some() && b.is_some() && *a != b;
        let other_size = known.size.is_some() && total.is_some() && known.size != total;
        differs(&known.etag, answer.strong_etag()) || other_size
    });
    (first == start && !of_another).then_some(total)
}

fn refused(wanted: &Wanted<'_>, answer: &Answer, status: u16) -> Result<Ended> {
    let url = wanted.url.to_owned();
    Err(match status {
        401 | 403 => HubError::Refused { url, status },
        404 | 410 => HubError::NotFound {
            url,
            hint: "check the name; the publisher may have moved the file".into(),
        },
        408 | 425 | 429 | 500.. => {
            let wait = answer.number("retry-after").map(Duration::from_secs);
            return Ok(Ended::Broken(format!("the server answers with status {status}"), wait));
        }
        _ => HubError::Protocol { url, detail: format!("the server answers with status {status}") },
    })
}

/// Writes what comes behind the first `start` bytes of the part.
fn receive(
    answer: Answer,
    wanted: &Wanted<'_>,
    place: &Place,
    start: u64,
    total: Option<u64>,
    watch: &mut Watch<'_>,
) -> Result<Ended> {
    let page = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html"));
    let not_that = |detail: String| {
        discard(place);
        HubError::NotThatFile { url: wanted.url.into(), detail }
    };
    if page && wanted.weights {
        return Err(not_that(FileKind::HtmlPage.instead_of("a checkpoint")));
    }
    if let (Some(expected), Some(total)) = (wanted.size, total)
        && expected != total
    {
        // A pointer or message of the server says more than its length does.
        let begin = answer.text(HEAD as u64).unwrap_or_default();
        let kind = FileKind::of(&begin, total).filter(|_| wanted.weights && start == 0);
        discard(place);
        return Err(match kind {
            Some(kind) => not_that(kind.instead_of("a checkpoint")),
            None => HubError::Size { url: wanted.url.into(), found: total, expected },
        });
    }
    let fail = HubError::io(&place.part);
    let open = OpenOptions::new().create(true).truncate(start == 0).write(true).open(&place.part);
    let mut file = match open {
        Ok(file) => file,
        Err(error) => return Err(fail(error)),
    };
    if start == 0 {
        let record = Record {
            url: wanted.url.into(),
            etag: answer.strong_etag(),
            last_modified: answer.header("last-modified").map(str::to_owned),
            size: total,
        };
        let text = serde_json::to_vec(&record).unwrap_or_default();
        write_atomic(&place.record, |f| f.write_all(&text))?;
    }
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(start))
        .map_err(HubError::io(&place.part))?;
    let (mut reader, mut done) = (answer.into_reader(), start);
    let (mut buffer, mut told) = (vec![0; CHUNK], Instant::now());
    report(watch, wanted, Phase::Fetching, done, total)?;
    let mut head = Vec::new();
    let broken = loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => break None,
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => break Some(e.to_string()),
        };
        if start == 0 && head.len() < HEAD {
            head.extend_from_slice(&buffer[..n.min(HEAD - head.len())]);
        }
        file.write_all(&buffer[..n]).map_err(HubError::io(&place.part))?;
        done += n as u64;
        if total.is_some_and(|total| done > total) {
            break Some("more came than was announced".into());
        }
        if told.elapsed() >= REPORT {
            told = Instant::now();
            report(watch, wanted, Phase::Fetching, done, total)?;
        }
    };
    report(watch, wanted, Phase::Fetching, done, total)?;
    let whole = broken.is_none() && total.is_none_or(|total| done == total);
    if start == 0 && wanted.weights && (whole || head.len() == HEAD) {
        // Safetensors begin with a length, which may look like anything.
        let json = head.get(8) == Some(&b'{');
        if let Some(kind) = FileKind::of(&head, total.unwrap_or(done)).filter(|_| !json) {
            return Err(not_that(kind.instead_of("a checkpoint")));
        }
    }
    if total.is_some_and(|total| done > total) {
        discard(place);
    }
    Ok(match broken {
        None if whole => Ended::Whole,
        None => Ended::Broken("the connection ended before the file did".into(), None),
        Some(detail) => Ended::Broken(detail, None),
    })
}

fn verify(
    wanted: &Wanted<'_>,
    place: &Place,
    expected: &Checksum,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let fail = || HubError::io(&place.part);
    let total = length(&place.part);
    let mut file = File::open(&place.part).map_err(fail())?;
    let (mut of_git, mut of_bytes) = (Sha1::new(), Sha256::new());
    of_git.update(format!("blob {total}\0"));
    let (mut buffer, mut done, mut told) = (vec![0; CHUNK], 0, Instant::now());
    loop {
        let n = file.read(&mut buffer).map_err(fail())?;
        if n == 0 {
            break;
        }
        match expected {
            Checksum::Git(_) => of_git.update(&buffer[..n]),
            Checksum::Sha256(_) => of_bytes.update(&buffer[..n]),
        }
        done += n as u64;
        if told.elapsed() >= REPORT {
            told = Instant::now();
            report(watch, wanted, Phase::Checking, done, Some(total))?;
        }
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (found, expected) = match expected {
        Checksum::Git(sum) => (hex(&of_git.finalize()), sum),
        Checksum::Sha256(sum) => (hex(&of_bytes.finalize()), sum),
    };
    if found.starts_with(&expected.to_ascii_lowercase()) {
        return Ok(());
    }
    discard(place);
    Err(HubError::Checksum { url: wanted.url.into(), found, expected: expected.clone() })
}
