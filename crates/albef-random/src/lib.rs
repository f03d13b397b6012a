//! SplitMix64 (Steele, Lea and Flood, 2014), the generator behind every draw. Data, kernels and report
//! share no other crate that models do not need too, so it is one of its own, without dependencies.
//!
//! No number that it gives may ever change: runs are resumed, and tests pinned, by them.

/// What the state of the generator grows by at each draw; also spreads small numbers over 64 bits.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads small numbers over 64 bits, differently from [`STEP`].
pub const SPREAD: u64 = 0xd134_2543_de82_ef95;

/// Mixes 64 bits: a bijection in which every bit of the result depends on all of `z`.
#[must_use]
#[inline(always)]
pub const fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Draw `index`, from 1 on, of the generator that starts from `seed`. Inlined into kernels, whose
/// instruction sets it then has.
#[must_use]
#[inline(always)]
pub const fn draw(seed: u64, index: u64) -> u64 {
    scramble(seed.wrapping_add(index.wrapping_mul(STEP)))
}

/// A seed for one purpose, by its salt, out of a seed for all.
#[must_use]
pub const fn derive_seed(seed: u64, salt: u64) -> u64 {
    scramble(seed ^ salt.wrapping_mul(SPREAD))
}

/// The generator: equal seeds, equal numbers.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// Starts from a seed; all are equally good.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        scramble(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        // The test vector of the reference implementation in C.
        let mut draws = SplitMix64::new(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(expected, std::array::from_fn(|_| draws.next_u64()));
    }

    #[test]
    fn a_draw_by_its_place_is_that_of_the_sequence() {
        let mut draws = SplitMix64::new(7);
        (1..100).for_each(|i| assert_eq!(draws.next_u64(), draw(7, i)));
    }
}
