//! Members of an archive that are not read: links, sparse files, hidden ones.

use std::fmt;

use tar::EntryType;

use crate::names;

/// Why the content of a member is not read.
#[derive(Clone, Copy)]
pub(super) enum Unread {
    /// It only points to a file.
    Link,
    /// It is stored without its holes.
    Sparse,
    /// It is no file, by this letter.
    Other(char),
}

impl Unread {
    /// `None` for a file, and for what needs not be named: folders, and labels of a volume.
    pub fn of(kind: EntryType, is_sparse: bool) -> Option<Self> {
        match kind {
            EntryType::Link | EntryType::Symlink => Some(Self::Link),
            EntryType::GNUSparse => Some(Self::Sparse),
            EntryType::Regular | EntryType::Continuous => is_sparse.then_some(Self::Sparse),
            other => Some(Self::Other(char::from(other.as_byte()))),
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link => f.write_str("it is a link, which is not followed; pack the image itself"),
            Self::Sparse => f.write_str(
                "it is stored as a sparse file, which is not read; pack it without `--sparse`",
            ),
            Self::Other(kind) => write!(
                f,
                "it is no file but a member of the kind `{}`, which is not read; pack a plain file",
                kind.escape_default()
            ),
        }
    }
}

/// Whether a member has no content that could be missed: folders, labels of a volume, headers of the whole archive.
pub(super) fn is_empty_by_kind(kind: EntryType) -> bool {
    kind.is_dir() || kind.is_pax_global_extensions() || matches!(kind.as_byte(), b'V' | b'D')
}

/// Whether a member is stored as a sparse file by its extended header, and its name if that is only there.
pub(super) fn sparse(extensions: Option<tar::PaxExtensions<'_>>) -> (bool, Option<String>) {
    let (mut is_sparse, mut name) = (false, None);
    for extension in extensions.into_iter().flatten().flatten() {
        let Some(key) = extension.key_bytes().strip_prefix(b"GNU.sparse.") else { continue };
        is_sparse = true;
        if key == b"name" {
            name = Some(names::text_of(extension.value_bytes()));
        }
    }
    (is_sparse, name)
}

/// Members whose names begin with a dot. macOS puts such a file beside each other one into its archives; these are
/// no samples, and no faults either.
#[derive(Default)]
pub(super) struct Hidden {
    pub count: u64,
    /// The name of the first.
    pub first: String,
}

impl Hidden {
    pub fn take(&mut self, name: &str) {
        if self.count == 0 {
            name.clone_into(&mut self.first);
        }
        self.count += 1;
    }

    /// Adds those of an archive.
    pub fn add(&mut self, own: Self, archive: &str) {
        if self.count == 0 && own.count > 0 {
            self.first = format!("{archive}: {}", own.first);
        }
        self.count += own.count;
    }

    pub fn note(&self) -> Option<String> {
        let first = names::shown(&self.first);
        let members =
            if self.count == 1 { "member whose name begins" } else { "members whose names begin" };
        (self.count > 0).then(|| {
            format!("{} {members} with a dot, as macOS adds them, are passed over; the first is {first}", self.count)
        })
    }
}
