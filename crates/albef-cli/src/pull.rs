//! `albef pull`: published checkpoints into the cache. The one command that reaches the network.

use std::io::{IsTerminal, stderr};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use albef_hub::{Caches, HubError, PUBLISHED, Progress, Published, Settings, Source};
use anyhow::Result;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::json;

use crate::ExitStatus;
use crate::output::say;
use crate::progress::BYTES;
use crate::train::interruptible;

/// Between two lines where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Arguments {
    /// A name of `--list`, an address, or `hub:OWNER/NAME[@REVISION][:FILE]`.
    #[arg(required_unless_present = "list", value_parser = str::parse::<Source>)]
    source: Option<Source>,
    /// Print the published checkpoints, and which are in the cache.
    #[arg(long, conflicts_with = "source")]
    list: bool,
    /// With --list: a JSON array.
    #[arg(long, requires = "list")]
    json: bool,
    /// Ask nothing of the network: only say where it is, if it is in the cache.
    #[arg(long)]
    offline: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let caches = Caches::from_env()?;
    let Some(source) = &a.source else { return list(&caches, a.json) };
    let mut settings = Settings::from_env()?;
    settings.offline |= a.offline;
    let control = interruptible();
    let mut shown = Shown::new();
    let pulled = albef_hub::pull(source, &caches, &settings, &mut |p| {
        shown.show(p);
        match control.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    shown.bar.finish_and_clear();
    let pulled = match pulled {
        Err(HubError::Cancelled) => {
            eprintln!("interrupted; run the same command again to resume");
            return Ok(ExitStatus::No);
        }
        other => other?,
    };
    if !pulled.fetched {
        tracing::info!("it is in the cache already");
    }
    say!("{}", pulled.path.display())?;
    Ok(ExitStatus::Yes)
}

fn list(caches: &Caches, as_json: bool) -> Result<ExitStatus> {
    let place = |p: &'static Published| caches.find(&Source::Published(p));
    if as_json {
        let all: Vec<_> = PUBLISHED
            .iter()
            .map(|p| json!({ "published": p, "file": p.file(), "path": place(p) }))
            .collect();
        say!("{}", serde_json::Value::from(all))?;
        return Ok(ExitStatus::Yes);
    }
    for p in &PUBLISHED {
        let there = if place(p).is_some() { " (in the cache)" } else { "" };
        say!("{:<15}{} px  {}{there}", p.name, p.image_res, p.about)?;
    }
    Ok(ExitStatus::Yes)
}

/// A bar; where there is no terminal, a line now and then.
struct Shown {
    bar: ProgressBar,
    terminal: bool,
    told: Instant,
}

impl Shown {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let bar = match ProgressStyle::with_template(BYTES) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        Self { bar, terminal: stderr().is_terminal(), told: Instant::now() }
    }

    fn show(&mut self, p: &Progress<'_>) {
        let what = format!("{} {}", p.phase, p.file);
        if self.terminal {
            self.bar.set_length(p.total.unwrap_or(p.done));
            self.bar.set_prefix(what);
            self.bar.set_position(p.done);
        } else if self.told.elapsed() >= LINE {
            self.told = Instant::now();
            let total = p.total.map(|n| format!(" of {}", HumanBytes(n))).unwrap_or_default();
            eprintln!("{what}: {}{total}", HumanBytes(p.done));
        }
    }
}
