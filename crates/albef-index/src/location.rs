//! Where an index is: in a folder, or in a database.

use std::fmt;
use std::path::PathBuf;

use albef_data::names;

#[cfg(feature = "postgres")]
use crate::database::Database;
use crate::embedded::{Embedded, Identity, Repair, repair};
use crate::error::Result;
#[cfg(feature = "postgres")]
use crate::postgres::Postgres;
use crate::store::Store;

/// Where an index is. Its `Display` names it without a password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// In a schema of a PostgreSQL database.
    #[cfg(feature = "postgres")]
    Database(Database),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => f.write_str(&names::shown(&names::text_of_path(path))),
            #[cfg(feature = "postgres")]
            Self::Database(database) => write!(f, "{database}"),
        }
    }
}

impl Location {
    /// Whether there is an index.
    ///
    /// # Errors
    /// If the database cannot be reached.
    pub fn exists(&self) -> Result<bool> {
        match self {
            Self::Folder(path) => Ok(Embedded::exists(path)),
            #[cfg(feature = "postgres")]
            Self::Database(database) => Postgres::exists(database),
        }
    }

    /// Opens an index for reading, whatever its model.
    ///
    /// # Errors
    /// [`crate::IndexError::Missing`], [`crate::IndexError::Damaged`] or [`crate::IndexError::Database`].
    pub fn read(&self) -> Result<Box<dyn Store>> {
        Ok(match self {
            Self::Folder(path) => Box::new(Embedded::read(path)?),
            #[cfg(feature = "postgres")]
            Self::Database(database) => Box::new(Postgres::read(database)?),
        })
    }

    /// Opens an index for writing, and makes it where there is none. `reencode`: forgets the vectors of another
    /// model.
    ///
    /// # Errors
    /// As [`Location::read`], and if the index is of another model, or another process writes to a folder.
    pub fn write(&self, identity: &Identity, reencode: bool) -> Result<Box<dyn Store>> {
        Ok(match self {
            Self::Folder(path) if reencode => Box::new(Embedded::write_anew(path, identity)?),
            Self::Folder(path) => Box::new(Embedded::write(path, identity)?),
            #[cfg(feature = "postgres")]
            Self::Database(database) if reencode => {
                Box::new(Postgres::open_anew(database, identity)?)
            }
            #[cfg(feature = "postgres")]
            Self::Database(database) => Box::new(Postgres::open(database, identity)?),
        })
    }

    /// Opens an index to free space, whatever its model.
    ///
    /// # Errors
    /// As [`Location::read`], and if another process writes to a folder.
    pub fn maintain(&self) -> Result<Box<dyn Store>> {
        match self {
            Self::Folder(path) => Ok(Box::new(Embedded::maintain(path)?)),
            #[cfg(feature = "postgres")]
            Self::Database(_) => self.read(),
        }
    }

    /// Deletes the index. The images stay, and what else is in its folder or its schema.
    ///
    /// # Errors
    /// As [`Location::maintain`], and if a file cannot be deleted.
    pub fn delete(&self) -> Result<()> {
        match self {
            Self::Folder(path) => Embedded::delete(path),
            #[cfg(feature = "postgres")]
            Self::Database(database) => Postgres::read(database)?.delete(),
        }
    }

    /// Mends a damaged index from what is there: in a folder also where the catalogue is lost; in a database, whose
    /// server keeps the tables, by forgetting images that contradict their checksums.
    ///
    /// # Errors
    /// As [`Location::maintain`].
    pub fn repair(&self) -> Result<Repair> {
        match self {
            Self::Folder(path) => repair(path),
            #[cfg(feature = "postgres")]
            Self::Database(database) => {
                let store = Postgres::read(database)?;
                let damaged = store.verify()?.damaged;
                let forgotten = damaged.len() as u64;
                store.apply(&damaged.into_iter().map(crate::Change::Forget).collect::<Vec<_>>())?;
                Ok(Repair { forgotten, ..Repair::default() })
            }
        }
    }
}
