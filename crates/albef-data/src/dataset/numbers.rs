//! Numbers of images.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::LazyLock;

/// 128 bits of a text by a hash whose keys are drawn anew in every process. Even among billions of texts that
/// somebody chose, two with equal bits are not to be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hash128(u64, u64);

impl Hash128 {
    pub fn of<T: Hash + ?Sized>(value: &T) -> Self {
        static KEYS: LazyLock<(RandomState, RandomState)> = LazyLock::new(Default::default);
        let (a, b) = &*KEYS;
        Self(a.hash_one(value), b.hash_one(value))
    }
}

impl Hash128 {
    /// Half of the bits, for counting, where a wrong count among billions does no harm.
    pub fn short(self) -> u64 {
        self.0
    }
}

impl Hash for Hash128 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Takes the bits of a [`Hash128`] as they are.
#[derive(Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0.rotate_left(8) ^ u64::from(*b));
    }

    fn write_u64(&mut self, bits: u64) {
        self.0 = bits;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Gives equal keys one number, in order of first appearance.
#[derive(Default)]
pub(super) struct Numbers(HashMap<Hash128, u32, BuildHasherDefault<AsIs>>);

impl Numbers {
    pub fn of(&mut self, key: &str) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(Hash128::of(key)).or_insert(next)
    }

    /// How many numbers were given.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
