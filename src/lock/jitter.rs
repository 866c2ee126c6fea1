//! Randomness from a seed that the event loop hands in, so that the machines stay reproducible.

use std::time::Duration;

/// A small deterministic generator (`SplitMix64`). For spreading requests, nothing else.
///
/// The seed 0 does not spread: it always gives the middle, so that a search over the machines
/// meets the same states again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Jitter(pub u64);

impl Jitter {
    /// A number from 0 to 1.
    fn unit(&mut self) -> f64 {
        if self.0 == 0 {
            return 0.5;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bits = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(u32::MAX);
        f64::from(bits) / f64::from(u32::MAX)
    }

    /// `span`, up to 20 % shorter or longer.
    pub fn around(&mut self, span: Duration) -> Duration {
        span.mul_f64(0.8 + 0.4 * self.unit())
    }

    /// Anything from nothing to `span` ("full jitter").
    pub fn up_to(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.unit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_0_gives_the_middle() {
        let (mut jitter, second) = (Jitter(0), Duration::from_secs(1));
        assert_eq!([jitter.around(second), jitter.up_to(second)], [second, second / 2]);
        assert_eq!(jitter, Jitter(0));
    }

    #[test]
    fn jitter_stays_in_its_bounds_and_spreads() {
        let mut jitter = Jitter(7);
        let second = Duration::from_secs(1);
        let spans: Vec<_> = (0..1000).map(|_| jitter.around(second)).collect();
        let (low, high) = (spans.iter().min().unwrap(), spans.iter().max().unwrap());
        assert!(*low >= second.mul_f64(0.8) && *low < second.mul_f64(0.81));
        assert!(*high <= second.mul_f64(1.2) && *high > second.mul_f64(1.19));
        assert!((0..1000).all(|_| jitter.up_to(second) <= second));
    }
}
