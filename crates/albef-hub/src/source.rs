//! What a user names.

use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

use crate::error::{HubError, Result};
use crate::published::{PUBLISHED, Published};

/// Hosts of pages of Hugging Face, whose addresses name files of a model.
const HUB_HOSTS: [&str; 2] = ["huggingface.co", "hf.co"];

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A checkpoint of the table.
    Published(&'static Published),
    /// A file at an address.
    Url(String),
    /// A model of a hub.
    Hub(HubModel),
}

/// A model of a hub, or one file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// Who publishes it.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The one file that is meant; none for the model's own weights.
    pub file: Option<String>,
}

impl HubModel {
    /// `OWNER/NAME`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hub:{}/{}", self.owner, self.name)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        self.file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published(p) => f.write_str(p.name),
            Self::Url(url) => f.write_str(url),
            Self::Hub(model) => model.fmt(f),
        }
    }
}

/// The branch that is meant where none is named.
const MAIN: &str = "main";

impl FromStr for Source {
    type Err = HubError;

    /// `albef-coco` (or its file, `mscoco.pth`), `https://…`, or `hub:OWNER/NAME`, with `@REVISION` for
    /// another revision than `main` and `:FILE` for one file of the model. An address of a file of
    /// Hugging Face is that file of the model.
    fn from_str(text: &str) -> Result<Self> {
        let named = |p: &&Published| p.name == text || p.file() == text;
        if let Some(published) = PUBLISHED.iter().find(named) {
            return Ok(Self::Published(published));
        }
        if let Some(rest) = text.strip_prefix("hub:") {
            return hub(text, rest).map(Self::Hub);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(HubError::Unknown(text.to_owned()));
        };
        let wrong = |detail: &str| HubError::Name { name: text.into(), detail: detail.into() };
        if !["http", "https"].contains(&scheme) {
            return Err(wrong("an address begins with https:// or http://"));
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if HUB_HOSTS.contains(&host) {
            return of_page(text, path).map(Self::Hub);
        }
        if host.is_empty() || file_name(text).is_none() {
            return Err(wrong("this address names no file"));
        }
        Ok(Self::Url(text.to_owned()))
    }
}

/// The name of the file that an address ends in, if it is one that can be written.
pub(crate) fn file_name(url: &str) -> Option<&str> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let (_, rest) = path.split_once("://")?;
    let (_, name) = rest.rsplit_once('/')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+%=@".contains(c);
    let good = !name.is_empty() && !name.starts_with('.') && name.chars().all(plain);
    (good && name.len() <= 200).then_some(name)
}

/// `OWNER/NAME[@REVISION][:FILE]`.
fn hub(text: &str, rest: &str) -> Result<HubModel> {
    let (rest, file) = match rest.split_once(':') {
        Some((rest, file)) => (rest, Some(file)),
        None => (rest, None),
    };
    let (id, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
    let Some((owner, name)) = id.split_once('/') else {
        let detail = "a model of a hub is named `hub:OWNER/NAME`".into();
        return Err(HubError::Name { name: text.into(), detail });
    };
    checked(text, owner, name, revision, file)
}

/// `OWNER/NAME`, and `/resolve/REVISION/FILE` or `/blob/REVISION/FILE` behind it.
fn of_page(text: &str, path: &str) -> Result<HubModel> {
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let mut parts = path.splitn(5, '/');
    let mut next = || parts.next().unwrap_or_default();
    let (owner, name, kind, revision, file) = (next(), next(), next(), next(), next());
    let (revision, file) = match kind {
        "" => (MAIN, None),
        "tree" if file.is_empty() => (revision, None),
        "resolve" | "blob" if !file.is_empty() => (revision, Some(file)),
        _ => {
            let detail = "this page of a hub names neither a model nor a file of one".into();
            return Err(HubError::Name { name: text.into(), detail });
        }
    };
    checked(text, owner, name, revision, file)
}

fn checked(
    text: &str,
    owner: &str,
    name: &str,
    revision: &str,
    file: Option<&str>,
) -> Result<HubModel> {
    let wrong = |detail: String| HubError::Name { name: text.into(), detail };
    for (what, part) in [("owner", owner), ("name", name)] {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let good = !part.is_empty()
            && part.len() <= 96
            && part.chars().all(plain)
            && !part.starts_with(['.', '-'])
            && !part.contains("--");
        if !good {
            return Err(wrong(format!("`{part}` is no {what} of a model")));
        }
    }
    if !is_relative(revision) {
        return Err(wrong(format!("`{revision}` is no revision")));
    }
    if let Some(file) = file.filter(|file| !is_relative(file)) {
        return Err(wrong(format!("`{file}` is no file of a model")));
    }
    Ok(HubModel {
        owner: owner.into(),
        name: name.into(),
        revision: revision.into(),
        file: file.map(str::to_owned),
    })
}

/// Whether a text is a plain path below a folder, safe to join and to put into an address.
pub(crate) fn is_relative(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+=@/ ".contains(c);
    !text.is_empty()
        && text.len() <= 250
        && text.chars().all(plain)
        && !text.ends_with('/')
        && !text.contains("//")
        && Path::new(text).components().all(|c| matches!(c, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_and_shown_as_they_are_named() {
        let parse = |text: &str| text.parse::<Source>();
        assert_eq!(parse("mscoco.pth").unwrap().to_string(), "albef-coco");
        for text in [
            "albef-14m",
            "https://example.org/a/b.pth?download=true",
            "hub:owner/name",
            "hub:owner/name@v1.0",
            "hub:o-w/n.a_m@refs/pr/1:sub/model.pth",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        for (text, want) in [
            ("https://huggingface.co/a/b", "hub:a/b"),
            ("https://huggingface.co/a/b/tree/v2", "hub:a/b@v2"),
            ("https://hf.co/a/b/blob/main/x/y.pth", "hub:a/b:x/y.pth"),
            ("https://huggingface.co/a/b/resolve/v2/y.pth?download=true", "hub:a/b@v2:y.pth"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), want);
        }
    }

    #[test]
    fn what_would_lead_out_of_the_cache_is_refused() {
        for text in [
            "albef",
            "./model",
            "hub:name",
            "hub:a/b@../x",
            "hub:a/b:/etc/passwd",
            "hub:a/b:x/../../y",
            "hub:../b",
            "hub:a/b--c",
            "ftp://example.org/x.pth",
            "https://example.org/",
            "https://example.org",
            "https://example.org/..",
            "https://example.org/.hidden",
            "https:///x.pth",
            "https://huggingface.co/a/b/discussions/1",
        ] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }
}
