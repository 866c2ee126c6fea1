//! wip

mod client;
mod config;
mod search;
mod stock;
mod world;

use config::Config;
use search::search;

#[test]
fn try_it() {
    for faults in 0..=1 {
        let config = Config { faults, ..Config::default() };
        let start = std::time::Instant::now();
        let report = search(&config);
        println!(
            "{} faults: {} states {} steps {} ends in {:?}",
            faults,
            report.states,
            report.steps,
            report.ends,
            start.elapsed()
        );
        if let Some(c) = report.counterexample {
            panic!("{c}");
        }
    }
}
