//! The options that say where an index is.

use std::path::PathBuf;

use albef::index::{Database, Location};
use anyhow::Result;

/// The variable with the address of a store, whose password others could read among the arguments of a process.
const STORE: &str = "ALBEF_STORE";

#[derive(clap::Args)]
pub struct IndexPlace {
    /// Folder of the index [default: one for each set of folders, in `$XDG_DATA_HOME/albef/index` or
    /// `~/.local/share/albef/index`].
    #[arg(long, value_name = "DIR", conflicts_with = "store")]
    pub index: Option<PathBuf>,
    /// Keep the index in PostgreSQL with pgvector, for several machines: `postgres://USER:PASSWORD@HOST/DATABASE`,
    /// with `?schema=NAME` for one of several indexes. Or as `ALBEF_STORE`.
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
}

impl IndexPlace {
    /// Where the index is; `None` for the default.
    pub fn location(&self) -> Result<Option<Location>> {
        if let Some(folder) = &self.index {
            return Ok(Some(Location::Folder(folder.clone())));
        }
        let set = || std::env::var(STORE).ok().filter(|url| !url.is_empty());
        let database =
            self.store.clone().or_else(set).map(|url| Database::parse(&url)).transpose()?;
        Ok(database.map(Location::Database))
    }
}
