//! Which schema of which PostgreSQL database an index is in.

use std::fmt;
use std::path::PathBuf;

use crate::error::{IndexError, Result};

/// The schema where none is named.
const SCHEMA: &str = "albef";

/// A schema of a PostgreSQL database. It is never shown with its URL, which may have a password in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Database {
    pub(crate) url: String,
    pub(crate) schema: String,
    /// With what the certificate of the server is checked; nothing if the connection is not encrypted.
    pub(crate) encrypted: Option<Roots>,
}

/// Whose certificates a server may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Those that the system trusts.
    System,
    /// Those of a PEM file.
    File(PathBuf),
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL, schema {}", self.schema)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Database {
    /// A schema of the database at `postgres://USER:PASSWORD@HOST/DATABASE`, whose connection is not encrypted. The
    /// name of a schema has lower-case letters, digits and `_` only.
    ///
    /// # Errors
    /// [`IndexError::Database`] for a name of other characters.
    pub fn new(url: &str, schema: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if schema.is_empty() || !schema.chars().all(plain) {
            return Err(IndexError::Database {
                place: format!("PostgreSQL, schema {schema:?}"),
                cause: "a name of a schema has lower-case letters, digits and `_` only".into(),
            });
        }
        Ok(Self { url: url.to_owned(), schema: schema.to_owned(), encrypted: None })
    }

    /// A database as people write it: the URL of [`Database::new`], with the schema as the parameter `schema`
    /// where it is not `albef`. With `sslmode=verify-full` (or `require`, which checks as much here) the connection
    /// is encrypted and the server's certificate and name are checked, against the certificates that the system trusts
    /// or those of `sslrootcert=FILE`; with `sslmode=disable`, and without the parameter, it is not encrypted.
    ///
    /// ```
    /// use albef_index::Database;
    ///
    /// let database = Database::parse("postgres://me@server/images?schema=holidays")?;
    /// assert_eq!(database.to_string(), "PostgreSQL, schema holidays");
    /// # Ok::<(), albef_index::IndexError>(())
    /// ```
    ///
    /// # Errors
    /// [`IndexError::Database`] if it is no such URL.
    pub fn parse(text: &str) -> Result<Self> {
        let odd = |cause: String| IndexError::Database {
            place: "the address of the store".into(),
            cause,
        };
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            let form = "postgres://USER:PASSWORD@HOST/DATABASE";
            return Err(odd(format!("it must begin with postgres:// ({form})")));
        }
        let (base, parameters) = text.split_once('?').unwrap_or((text, ""));
        let (mut schema, mut mode, mut roots, mut rest) = (SCHEMA, "disable", None, Vec::new());
        for parameter in parameters.split('&').filter(|p| !p.is_empty()) {
            match parameter.split_once('=') {
                Some(("schema", name)) => schema = name,
                Some(("sslmode", name)) => mode = name,
                Some(("sslrootcert", file)) => roots = Some(PathBuf::from(file)),
                _ => rest.push(parameter),
            }
        }
        let encrypted = match (mode, roots) {
            ("disable", None) => None,
            ("require" | "verify-full", None) => Some(Roots::System),
            ("require" | "verify-full", Some(file)) => Some(Roots::File(file)),
            ("disable", Some(_)) => {
                return Err(odd("sslrootcert needs sslmode=verify-full".into()));
            }
            (other, _) => {
                return Err(odd(format!(
                    "sslmode={other} is not known here; use verify-full, or disable for no encryption"
                )));
            }
        };
        if encrypted.is_some() {
            rest.push("sslmode=require");
        }
        let url = match rest.is_empty() {
            true => base.to_owned(),
            false => format!("{base}?{}", rest.join("&")),
        };
        Ok(Self { encrypted, ..Self::new(&url, schema)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_taken_out_of_the_address_and_other_parameters_stay() {
        let of = |text: &str| Database::parse(text).unwrap();
        let plain = of("postgres://me@host/images");
        assert_eq!(
            (plain.url.as_str(), plain.schema.as_str()),
            ("postgres://me@host/images", "albef")
        );
        let named = of("postgresql:///images?host=/run&schema=a_1&connect_timeout=3");
        let url = "postgresql:///images?host=/run&connect_timeout=3";
        assert_eq!((named.url.as_str(), named.schema.as_str()), (url, "a_1"));
    }

    #[test]
    fn encryption_is_on_only_with_the_certificate_checked() {
        let of =
            |text: &str| Database::parse(&format!("postgres://me@host/images?{text}")).unwrap();
        assert_eq!(of("sslmode=disable").encrypted, None);
        assert_eq!(of("sslmode=disable").url, "postgres://me@host/images");
        let encrypted = of("sslmode=verify-full&schema=a");
        assert_eq!(encrypted.encrypted, Some(Roots::System));
        assert_eq!(encrypted.url, "postgres://me@host/images?sslmode=require");
        let own = of("sslrootcert=/etc/own.pem&sslmode=require");
        assert_eq!(own.encrypted, Some(Roots::File("/etc/own.pem".into())));
    }

    #[test]
    fn odd_addresses_are_refused_and_no_password_is_shown() {
        for text in [
            "mysql://a",
            "/folder",
            "postgres://h/d?schema=A",
            "postgres://h/d?schema=",
            "postgres://h/d?schema=a;b",
            "postgres://h/d?sslmode=prefer",
            "postgres://h/d?sslrootcert=own.pem",
        ] {
            assert!(Database::parse(text).is_err(), "{text}");
        }
        let database = Database::parse("postgres://me:secret@host/images").unwrap();
        assert!(!format!("{database} {database:?}").contains("secret"));
    }
}
