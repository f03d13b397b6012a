//! `albef completions` and `albef man`, from the same definitions as the help.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap_complete::Shell;

use crate::ExitStatus;
use crate::output;

#[derive(clap::Args)]
pub struct CompletionsArguments {
    /// The shell.
    shell: Shell,
}

#[derive(clap::Args)]
pub struct ManArguments {
    /// The folder.
    folder: PathBuf,
}

pub fn completions(a: &CompletionsArguments, mut command: clap::Command) -> Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(a.shell, &mut command, "albef", &mut script);
    output::write(format_args!("{}", String::from_utf8_lossy(&script)))?;
    Ok(ExitStatus::Yes)
}

pub fn man(a: &ManArguments, command: clap::Command) -> Result<ExitStatus> {
    let folder = &a.folder;
    let wrong = || format!("cannot write man pages to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(wrong)?;
    clap_mangen::generate_to(command, folder).with_context(wrong)?;
    Ok(ExitStatus::Yes)
}
