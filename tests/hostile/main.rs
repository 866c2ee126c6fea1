//! What others wrote, damaged or meant to do harm: whatever it is, it is read or refused, at once and
//! in little memory.
//!
//! | module | is |
//! | --- | --- |
//! | `parsers` | all that read what others wrote, with samples |
//! | `mutate` | a sample with a few things changed |
//! | `seeded` | how property tests get their seed |
//!
//! A short run by default, of what is well formed with a few things changed, and of noise. A failure
//! prints its seed; `TFWRAP_HOSTILE` names one parser, `TFWRAP_HOSTILE_SECONDS` goes on for so long
//! with further seeds:
//!
//! ```text
//! PROPTEST_RNG_SEED=7 TFWRAP_HOSTILE=plan cargo test --test hostile
//! TFWRAP_HOSTILE_SECONDS=3600 cargo test --test hostile -- --nocapture
//! ```
//!
//! `fuzz` does the same with an eye on which code is reached, from what `corpus` writes.

mod mutate;
mod parsers;
#[path = "../support/seeded.rs"]
mod seeded;

use std::fs;
use std::path::Path;
use std::time::Duration;

use parsers::{PARSERS, Parser};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use tfwrap::clock::uptime;

/// Of each parser.
const CASES: u32 = 400;

/// The longest that one case may take, on a busy machine.
const MOST_TIME: Duration = Duration::from_secs(10);

/// The most memory that all of them may take together, in KiB.
const MOST_MEMORY: u64 = 512 * 1024;

fn asked(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
    std::env::var(name).ok()
}

fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn put_to(parser: &Parser, config: Config) {
    let mut runner = TestRunner::new(config);
    let result = runner.run(&mutate::input(parser.samples), |input| {
        let began = uptime();
        (parser.read)(&input);
        let took = uptime().since(began);
        if took > MOST_TIME {
            return Err(TestCaseError::fail(format!("it took {took:?}")));
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{}: {error}", parser.name);
    }
}

#[test]
fn whatever_others_wrote_is_read_or_refused() {
    let only = asked("TFWRAP_HOSTILE");
    let seconds = asked("TFWRAP_HOSTILE_SECONDS").map_or(0, |text| text.parse().unwrap());
    let until = uptime().plus(Duration::from_secs(seconds));
    let mut config = seeded::seeded(CASES);
    loop {
        for parser in PARSERS.iter().filter(|it| only.as_deref().is_none_or(|only| it.name == only))
        {
            put_to(parser, config.clone());
        }
        let memory = most_memory();
        assert!(memory <= MOST_MEMORY, "{memory} KiB");
        let RngSeed::Fixed(seed) = &mut config.rng_seed else { unreachable!("it is seeded") };
        if uptime() >= until {
            break;
        }
        *seed = seed.wrapping_add(1);
        println!("PROPTEST_RNG_SEED={seed}");
    }
}

/// Or a parser that refuses everything would do.
#[test]
fn each_parser_reads_its_samples() {
    for parser in PARSERS {
        assert!((parser.read)(parser.samples[0]), "{}", parser.name);
    }
}

/// What `fuzz` begins with is written where `TFWRAP_HOSTILE_CORPUS` says.
#[test]
fn corpus() {
    let Some(corpus) = asked("TFWRAP_HOSTILE_CORPUS") else { return };
    for parser in PARSERS {
        let dir = Path::new(&corpus).join(parser.name);
        fs::create_dir_all(&dir).unwrap();
        for (number, sample) in parser.samples.iter().enumerate() {
            fs::write(dir.join(number.to_string()), sample).unwrap();
        }
    }
}
