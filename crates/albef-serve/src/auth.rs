//! Who may ask: keys, and pages and hosts that are this one.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::error::{Code, Problem, Result};

/// Keys of which a request must have one; their hashes, so that comparing takes the same time for all.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; 32]>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Keys {
    /// A key a line; blank lines and those that begin with `#` are passed over.
    #[must_use]
    pub fn from_lines(text: &str) -> Self {
        let keys = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        Self(keys.map(hash).collect())
    }

    /// Whether there is none: everybody may ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares with all keys, and all bytes of each.
    fn has(&self, key: &str) -> bool {
        let found = hash(key);
        let differ = |known: &[u8; 32]| known.iter().zip(found).fold(0, |d, (a, b)| d | (a ^ b));
        self.0.iter().fold(false, |any, known| any | (differ(known) == 0))
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Lets a request pass that has a key, where keys are set.
///
/// # Errors
/// [`Code::Unauthorized`].
pub fn check_key(keys: &Keys, headers: &HeaderMap) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let key = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()));
    match key {
        Some(key) if keys.has(key) => Ok(()),
        Some(_) => Err(Problem::new(Code::Unauthorized, "this key is not known")),
        None => Err(Problem::new(
            Code::Unauthorized,
            "a key is needed: `Authorization: Bearer KEY` or `X-API-Key: KEY`",
        )),
    }
}

/// Refuses requests that a page of another origin makes, and, at a loopback address, those for a host that is not
/// this machine or one of `hosts`: by them a page could reach a service that listens to its user only.
///
/// # Errors
/// [`Code::Forbidden`].
pub fn check_origin(loopback: bool, hosts: &[String], headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let known = ["localhost", "127.0.0.1", "[::1]", ""].contains(&name)
        || hosts.iter().any(|host| host.eq_ignore_ascii_case(name));
    if loopback && !known {
        let detail = format!(
            "this service answers at loopback addresses, not at `{name}`; behind a proxy, start it with --host"
        );
        return Err(Problem::new(Code::Forbidden, detail));
    }
    match text(header::ORIGIN) {
        None => Ok(()),
        Some(origin) if origin.split_once("://").is_some_and(|(_, own)| own == host) => Ok(()),
        Some(_) => Err(Problem::new(Code::Forbidden, "the request comes from another origin")),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(entries: &[(&'static str, &'static str)]) -> HeaderMap {
        entries.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn one_of_the_keys_opens() {
        let keys = Keys::from_lines("# keys\nfirst\n\n second \n");
        let passes =
            |entries: &[(&'static str, &'static str)]| check_key(&keys, &headers(entries)).is_ok();
        assert!(passes(&[("authorization", "Bearer first")]));
        assert!(passes(&[("authorization", "bearer  second")]));
        assert!(passes(&[("x-api-key", "second")]));
        for wrong in ["Bearer third", "Basic first", "first", "Bearer", "Bearer # keys", ""] {
            let value = HeaderValue::from_str(wrong).unwrap();
            let given = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            assert!(check_key(&keys, &given).is_err(), "{wrong}");
        }
        assert!(!passes(&[]));
        assert!(check_key(&Keys::default(), &headers(&[])).is_ok());
        assert_eq!(format!("{keys:?}"), "2 keys");
    }

    #[test]
    fn other_pages_and_names_are_refused() {
        let passes = |loopback, entries: &[(&'static str, &'static str)]| {
            check_origin(loopback, &["photos.example".into()], &headers(entries)).is_ok()
        };
        assert!(passes(true, &[("host", "127.0.0.1:8080")]));
        assert!(passes(true, &[("host", "[::1]:8080"), ("origin", "http://[::1]:8080")]));
        let proxied = [("host", "Photos.example"), ("origin", "https://Photos.example")];
        assert!(passes(true, &proxied));
        assert!(!passes(true, &[("host", "photos.example"), ("origin", "http://evil.example")]));
        assert!(!passes(true, &[("host", "evil.example:8080")]));
        assert!(!passes(true, &[("host", "localhost:8080"), ("origin", "http://evil.example")]));
        assert!(!passes(true, &[("host", "localhost:8080"), ("origin", "null")]));
        assert!(passes(false, &[("host", "photos.example"), ("origin", "https://photos.example")]));
        assert!(!passes(false, &[("host", "photos.example"), ("origin", "https://other.example")]));
    }
}
