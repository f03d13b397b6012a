//! What `albef search` leaves besides its list: a page, heat maps, and results by number.

use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use albef::Pipeline;
use albef::index::{LastSearch, LastSearchError, user_folder};
use albef::inference::{Illustration, Preview, Verdict};
use albef_data::error::ImageError;
use albef_report::{ResultImage, ResultPage};
use albef_weights::write_atomic;
use anyhow::{Context, Result, anyhow};

use crate::arguments::{named, place};
use crate::progress::bar;
use crate::warnings::tell_unusable;

#[derive(clap::Args)]
pub struct PageOptions {
    /// Write the results here as one page, with thumbnails, match probabilities and a heat map for each word of the
    /// text.
    #[arg(long, value_name = "FILE", value_parser = place())]
    html: Option<PathBuf>,
    /// Open the page in the browser (`BROWSER`, or that of the system); without --html it is kept in the user's data
    /// folder.
    #[arg(long)]
    open: bool,
    /// Write heat maps over the results to this folder, one for the text and one for each word.
    #[arg(long, value_name = "DIR")]
    explain: Option<PathBuf>,
    /// Show each result as a small image in the terminal, as that terminal can: `blocks`, `blocks-256`, `kitty` or
    /// `iterm` chooses how, and shows them without a terminal too.
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    #[arg(value_parser = preview, conflicts_with_all = ["json", "paths_only"])]
    preview: Option<Shown>,
}

/// How previews are shown, if not as the terminal can.
#[derive(Clone, Copy)]
struct Shown(Option<Preview>);

fn preview(text: &str) -> Result<Shown, String> {
    if text.is_empty() { Ok(Shown(None)) } else { named(text).map(Some).map(Shown) }
}

/// What is above the results.
pub struct Head<'a> {
    pub text: Option<&'a str>,
    /// What was looked for, in words.
    pub query: String,
    pub order: &'a str,
    pub gallery: u64,
    pub verdict: &'a Verdict,
}

impl PageOptions {
    /// How results are shown below their lines.
    pub fn preview(&self) -> Option<Preview> {
        let found = match self.preview? {
            Shown(Some(how)) => Some(how),
            Shown(None) if stdout().is_terminal() => {
                Preview::of_terminal(|name| std::env::var(name).ok())
            }
            Shown(None) => None,
        };
        if found.is_none() {
            tracing::info!("no previews: they need a terminal with colors, or --preview=blocks");
        }
        found
    }

    /// Writes what was asked for. `read` gives the image of a result by its number.
    pub fn write(
        &self,
        model: &Pipeline,
        head: &Head<'_>,
        mut results: Vec<ResultImage>,
        read: &dyn Fn(usize) -> Result<albef::Image, ImageError>,
    ) -> Result<()> {
        let page = self.html.is_some() || self.open;
        if !page && self.explain.is_none() {
            return Ok(());
        }
        if let (None, Some(_)) = (head.text, &self.explain) {
            tracing::warn!("without a text there are no words to explain");
        }
        let how = Illustration { text: head.text, page, folder: self.explain.as_deref() };
        let skipped = model.illustrate(&mut results, &how, read, &bar())?;
        tell_unusable("skipped", &skipped);
        if let (Some(folder), Some(_)) = (&self.explain, head.text) {
            eprintln!("wrote heat maps of {} results to {}", results.len(), folder.display());
        }
        if !page {
            return Ok(());
        }
        let html = ResultPage {
            query: head.query.clone(),
            order: match head.order {
                "posterior" => "match and cosine together".into(),
                other => other.to_owned(),
            },
            gallery: head.gallery,
            nothing_matches: head.verdict.remark(),
            results,
        }
        .to_html();
        let path = match &self.html {
            Some(path) => path.clone(),
            None => own_page()?,
        };
        write_atomic(&path, |f| std::io::Write::write_all(f, html.as_bytes()))?;
        eprintln!("wrote {}", path.display());
        if self.open { open(&path) } else { Ok(()) }
    }
}

/// The page of the last search of this user.
fn own_page() -> Result<PathBuf> {
    let folder = user_folder()
        .ok_or_else(|| anyhow!("neither XDG_DATA_HOME nor HOME is set; name a file with --html"))?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder.join("last-search.html"))
}

/// Opens a file in the browser, and does not wait for it.
fn open(path: &Path) -> Result<()> {
    let path = std::path::absolute(path)?;
    let named = std::env::var("BROWSER").unwrap_or_default();
    let program = match named.split(':').find(|name| !name.is_empty()) {
        Some(program) => program,
        None if cfg!(target_os = "macos") => "open",
        None if cfg!(windows) => "explorer",
        None => "xdg-open",
    };
    Command::new(program)
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| {
            format!("cannot start `{program}`; open {} in a browser", path.display())
        })?;
    Ok(())
}

/// Keeps the results for `@1`, `@2` and so on. Where they cannot be kept the search was a search all the same.
pub fn remember<'a>(query: &str, files: impl IntoIterator<Item = Option<&'a Path>>) {
    match LastSearch::new(query, files).write() {
        Ok(()) => {}
        Err(LastSearchError::NoFolder) => tracing::debug!("there is no place for the last search"),
        Err(e) => tracing::info!("the results cannot be named by number: {e}"),
    }
}
