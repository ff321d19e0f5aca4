//! Chance that can be repeated: the same seed gives the same moments. Nothing here is secret.

/// A sequence of numbers by SplitMix64 (Steele, Lea, Flood 2014).
pub struct Chance {
    state: u64,
}

impl Chance {
    /// The sequence of a seed.
    pub fn of(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below a bound; zero when the bound is.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The high half of a product with the bound is even enough for bounds far below 2^64.
        u64::try_from((u128::from(mixed) * u128::from(bound)) >> 64).expect("the high half has 64 bits")
    }
}
