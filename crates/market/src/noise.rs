//! A small seeded generator and keyed hashes, the same on every machine.
//!
//! Not for secrets: it only gives shapes to prices. Nothing here draws on the machine's randomness.
//!
//! Invariant: the numbers depend on the key alone, and use only integer arithmetic and the `+ - * /`
//! and `sqrt` of floating point, which every machine rounds alike.

/// The step of the SplitMix64 sequence: 2⁶⁴ divided by the golden ratio, made odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64: a bijection that spreads every bit.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A key extended by one more number. The order of extensions matters.
pub(crate) const fn extended(key: u64, with: u64) -> u64 {
    mix(key.wrapping_add(GOLDEN) ^ mix(with.wrapping_add(GOLDEN)))
}

/// A key extended by a text.
pub(crate) fn extended_by_text(key: u64, text: &str) -> u64 {
    text.bytes().fold(extended(key, text.len() as u64), |key, b| extended(key, u64::from(b)))
}

/// A number in [0, 1) from the upper bits of a hash.
pub(crate) fn unit(hash: u64) -> f64 {
    // 53 bits and a power of two: exact.
    (hash >> 11) as f64 / 9_007_199_254_740_992.0
}

/// The SplitMix64 sequence of a key.
#[derive(Debug, Clone)]
pub(crate) struct Generator {
    state: u64,
}

impl Generator {
    /// The sequence that belongs to a key.
    pub(crate) const fn new(key: u64) -> Generator {
        Generator { state: key }
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// A number in `0..bound`; 0 for a bound of 0. The bias is below bound / 2⁶⁴.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// About normally distributed, mean 0, variance 1, within ±3.5: the sum of four uniform
    /// numbers, which needs no logarithm.
    pub(crate) fn normal(&mut self) -> f64 {
        let bits = self.bits();
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
        let centred = sum as f64 / 65_535.0 - 2.0;
        // The variance of the sum is 4/12.
        centred * 1.732_050_807_568_877_2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64() {
        // The first outputs of the published algorithm for the seed 1234567.
        let mut generator = Generator::new(1_234_567);
        let outputs: Vec<u64> = (0..3).map(|_| generator.bits()).collect();
        assert_eq!(
            outputs,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn keys_differ_in_every_part() {
        let key = |seed, text, n| extended(extended_by_text(seed, text), n);
        let all = [key(1, "A", 1), key(2, "A", 1), key(1, "B", 1), key(1, "A", 2), key(1, "A1", 1)];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let mut generator = Generator::new(7);
        let draws: Vec<f64> = (0..20_000).map(|_| generator.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        assert!(draws.iter().all(|x| x.abs() < 3.5));
    }

    #[test]
    fn bounded_numbers_stay_below_their_bound_and_reach_all() {
        let mut generator = Generator::new(7);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[generator.below(5) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(generator.below(0), 0);
    }
}
