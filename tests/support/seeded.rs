//! Random tests that name their seed when they fail, and begin there again.
//!
//! `PROPTEST_RNG_SEED=N` replays; `PROPTEST_CASES=N` asks for more cases.

use std::hash::{BuildHasher, RandomState};

use proptest::test_runner::{Config, RngSeed};

/// So many cases, or as many as the environment asks for.
pub(crate) fn seeded(cases: u32) -> Config {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    if !asked {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(RandomState::new().hash_one("seed"));
    }
    if let RngSeed::Fixed(seed) = config.rng_seed {
        // Shown of a test that fails.
        println!("to see the same again: PROPTEST_RNG_SEED={seed}");
    }
    config
}
