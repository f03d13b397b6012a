//! A model of a hub: what files it has, and which of them make the model.

use std::fs;
use std::path::Path;
use std::thread::sleep;

use serde::Deserialize;

use crate::cache::is_commit;
use crate::client::{Answer, Ask, Client, Failure};
use crate::download::Checksum;
use crate::error::{HubError, Result};
use crate::source::{HubModel, is_relative};

/// The files of a revision.
#[derive(Debug)]
pub(crate) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// What the hub tells of a file before it is fetched.
#[derive(Debug)]
pub(crate) struct Described {
    /// The name of its blob.
    pub etag: String,
    pub size: Option<u64>,
    pub checksum: Option<Checksum>,
}

/// The files that make a model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// The file of the weights, or the index of several.
    pub weights: String,
    /// Configuration, word pieces and the like, where there are such.
    pub others: Vec<String>,
}

/// Bytes of a listing at most.
const LISTING: u64 = 32 << 20;
/// Files that describe a model.
const OTHERS: [&str; 3] = ["config.json", "vocab.txt", "README.md"];
/// Names of weights, the preferred ones first.
const WEIGHTS: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "weights.pth",
];
/// Endings of weights of other names, the preferred ones first.
const ENDINGS: [&str; 5] = [".safetensors", ".pth", ".pt", ".bin", ".ckpt"];
/// Names that a message lists.
const SHOWN: usize = 8;

/// Asks again where an answer may come next time.
fn answered(client: &Client, url: &str, ask: &Ask, missing: &str) -> Result<Answer> {
    let settings = &client.settings;
    let mut failed = 0;
    loop {
        let detail = match client.ask(url, ask) {
            Ok(answer) => match answer.status {
                200..=399 => return Ok(answer),
                401 | 403 => {
                    return Err(HubError::Refused { url: url.into(), status: answer.status });
                }
                404 | 410 => {
                    return Err(HubError::NotFound { url: url.into(), hint: missing.into() });
                }
                status @ (408 | 425 | 429 | 500..) => {
                    format!("the server answers with status {status}")
                }
                status => {
                    let detail = format!("the server answers with status {status}");
                    return Err(HubError::Protocol { url: url.into(), detail });
                }
            },
            Err(Failure::Passing(detail)) => detail,
            Err(Failure::Lasting(error)) => return Err(error),
        };
        failed += 1;
        if failed >= settings.attempts {
            return Err(HubError::Unreachable { url: url.into(), detail });
        }
        sleep(settings.pause.saturating_mul(1 << (failed - 1).min(8)));
    }
}

/// A part of an address.
fn encoded(text: &str, keep: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        match c.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c) {
            true => out.push(c),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The commit and the files of a revision.
pub(crate) fn list(client: &Client, model: &HubModel) -> Result<Listing> {
    #[derive(Deserialize)]
    struct Info {
        sha: String,
        #[serde(default)]
        siblings: Vec<Sibling>,
    }
    #[derive(Deserialize)]
    struct Sibling {
        rfilename: String,
    }
    let endpoint = &client.settings.endpoint;
    let url =
        format!("{endpoint}/api/models/{}/revision/{}", model.id(), encoded(&model.revision, ""));
    let ask = Ask { other_servers: true, ..Ask::default() };
    let hint = "check owner, name and revision; a private model needs an access token in HF_TOKEN";
    let answer = answered(client, &url, &ask, hint)?;
    let fail = |detail: String| HubError::Protocol { url: url.clone(), detail };
    let text = answer.text(LISTING).map_err(|e| fail(e.to_string()))?;
    let info: Info = serde_json::from_slice(&text)
        .map_err(|e| fail(format!("this is no description of a model ({e})")))?;
    if !is_commit(&info.sha) {
        return Err(fail(format!("`{}` is no commit", info.sha.escape_debug())));
    }
    let files = info.siblings.into_iter().map(|s| s.rfilename).filter(|f| is_relative(f)).collect();
    Ok(Listing { commit: info.sha, files })
}

/// The address of a file.
pub(crate) fn address(client: &Client, model: &HubModel, commit: &str, file: &str) -> String {
    let endpoint = &client.settings.endpoint;
    format!("{endpoint}/{}/resolve/{commit}/{}", model.id(), encoded(file, "/"))
}

/// What the hub tells of a file.
pub(crate) fn describe(client: &Client, url: &str) -> Result<Described> {
    // A large file is on another server, to which the answer refers; it has the description already.
    let ask = Ask { head: true, ..Ask::default() };
    let answer = answered(client, url, &ask, "the model has no file of this name")?;
    let etag = answer.header("x-linked-etag").or(answer.header("etag")).unwrap_or_default();
    let etag = etag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if etag.is_empty() || etag.len() > 128 || !etag.chars().all(plain) {
        let detail = "the answer has no usable ETag: this server is no hub".into();
        return Err(HubError::Protocol { url: url.into(), detail });
    }
    let linked = answer.number("x-linked-size");
    let own = || answer.number("content-length").filter(|_| answer.status == 200);
    let hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
    let checksum = match etag.len() {
        64 if hex => Some(Checksum::Sha256(etag.clone())),
        40 if hex => Some(Checksum::Git(etag.clone())),
        _ => None,
    };
    Ok(Described { size: linked.or_else(own), checksum, etag })
}

/// Which files make the model.
pub(crate) fn choose(model: &HubModel, files: &[String]) -> Result<Chosen> {
    let has = |name: &&&str| files.iter().any(|f| f == **name);
    let others = OTHERS.iter().filter(has).map(|name| (*name).to_owned()).collect();
    let wrong = |detail: String| HubError::Files { model: model.to_string(), detail };
    if let Some(weights) = WEIGHTS.iter().find(has) {
        return Ok(Chosen { weights: (*weights).to_owned(), others });
    }
    for ending in ENDINGS {
        let found: Vec<&String> = files.iter().filter(|f| f.ends_with(ending)).collect();
        match &found[..] {
            [] => {}
            [one] => return Ok(Chosen { weights: (*one).clone(), others }),
            several => {
                let shown: Vec<String> =
                    several.iter().take(SHOWN).map(|f| format!("`{f}`")).collect();
                let more = if several.len() > SHOWN { ", …" } else { "" };
                return Err(wrong(format!(
                    "there are {} weights files ({}{more}); name one, as in `{model}:{}`",
                    several.len(),
                    shown.join(", "),
                    several[0]
                )));
            }
        }
    }
    Err(wrong(format!("none of its {} files has weights", files.len())))
}

/// The files that an index names, in order.
pub(crate) fn parts(model: &HubModel, index: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let text = fs::read(index).map_err(HubError::io(index))?;
    let wrong = |detail: String| HubError::Files { model: model.to_string(), detail };
    let index: Index = serde_json::from_slice(&text)
        .map_err(|e| wrong(format!("its index of weights cannot be read ({e})")))?;
    let mut parts: Vec<String> = index.weight_map.into_values().collect();
    parts.sort();
    parts.dedup();
    match parts.iter().find(|part| !is_relative(part)) {
        Some(odd) => {
            Err(wrong(format!("its index names `{}`, which is no file", odd.escape_debug())))
        }
        None => Ok(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    fn model() -> HubModel {
        match "hub:a/b".parse() {
            Ok(Source::Hub(model)) => model,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_files_of_a_model_are_chosen_as_libraries_do() {
        let choose = |files: &[&str]| {
            let files: Vec<String> = files.iter().map(|f| (*f).to_owned()).collect();
            choose(&model(), &files).map(|c| c.weights).map_err(|e| e.to_string())
        };
        let index = "model.safetensors.index.json";
        assert_eq!(
            choose(&["x.pth", "model.safetensors", "pytorch_model.bin"]).unwrap(),
            "model.safetensors"
        );
        assert_eq!(choose(&[index, "model-00001-of-00002.safetensors"]).unwrap(), index);
        assert_eq!(choose(&["README.md", "x.pth", "y.bin"]).unwrap(), "x.pth");
        let several = choose(&["x.pth", "y.pth"]).unwrap_err();
        assert!(several.contains("`hub:a/b:x.pth`"), "{several}");
        assert!(choose(&["README.md"]).unwrap_err().contains("none of its 1 files"));
    }

    #[test]
    fn a_branch_with_a_slash_is_one_part_of_an_address() {
        assert_eq!(encoded("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(encoded("sub/a b.pth", "/"), "sub/a%20b.pth");
    }
}
