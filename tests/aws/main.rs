//! tfwrap's way to AWS beside stock Terraform's: `terraform plan` and `tfwrap run -- true` in equal
//! surroundings, before a server that answers as all of AWS. tfwrap asks for the lock as the very
//! identity, at the very endpoint and by the very route that Terraform does; it fails nowhere where
//! Terraform works, and takes no lock where Terraform takes none.
//!
//! | module | is |
//! | --- | --- |
//! | `cases` | what was designed: a case a line, by subject |
//! | `random` | cases by dice |
//! | `case` | how a case is written |
//! | `play` | how it is played |
//! | `world` | namespaces with AWS in them |
//! | `server`, `services`, `seen` | that AWS: connections and proxies, answers, what was asked |
//! | `verdict` | whether they agree |
//! | `exceptions` | where they may differ, and why |
//! | `lanes` | many worlds side by side |
//!
//! A random case follows from the seed and its number alone, and a failure prints it as a line that
//! may be put among the designed. To play one again, many more, or one of the designed:
//!
//! ```text
//! TFWRAP_AWS_SEED=7 TFWRAP_AWS_FIRST=41 TFWRAP_AWS_CASES=1 cargo test --test aws random
//! TFWRAP_AWS_SEED=$RANDOM TFWRAP_AWS_CASES=1000 cargo test --test aws -- --nocapture
//! TFWRAP_AWS_ONLY=C1- cargo test --test aws designed -- --nocapture
//! TFWRAP_AWS_LINE='x | AWS_PROFILE=p | cred [p]; @P' cargo test --test aws line -- --nocapture
//! ```

mod case;
mod exceptions;
mod lanes;
mod play;
mod random;
mod seen;
mod server;
mod services;
mod verdict;
mod world;

#[path = "../chaos/dice.rs"]
mod dice;

use std::sync::Mutex;

use case::Case;
use exceptions::Exceptions;
use lanes::{Lane, play_all};
use verdict::Kind;

/// What was designed, by subject.
const DESIGNED: [&str; 1] = [include_str!("cases/c.txt")];

const CASES: usize = 20;
/// The default run plays the same cases every time.
const SEED: u64 = 1;

fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    let value = variable(name)?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn count(value: u64) -> usize {
    usize::try_from(value).expect("not so many")
}

/// Plays them; fails with each that differs and may not. Gives how many Terraform takes its lock in.
fn play(cases: &[Case], exceptions: &Exceptions, replay: impl Fn(&Case) -> String + Sync) -> usize {
    let (failed, works, excepted) = (Mutex::new(Vec::new()), Mutex::new(0), Mutex::new(0));
    play_all(cases, &|lane: &mut Lane, case, played| {
        *works.lock().unwrap() += usize::from(played.stock_works);
        let Some(kind) = played.kind else { return };
        if exceptions.reason(case, kind).is_some() {
            *excepted.lock().unwrap() += 1;
            return;
        }
        let mut what = format!("{kind}: {case}\n{}{}\n", played.told, replay(case));
        if case.name.starts_with("random") {
            let (smallest, played) = lane.smallest(case, kind);
            what = format!("{kind}: {smallest}\n{}of {what}", played.told);
        }
        println!("{what}");
        failed.lock().unwrap().push(what);
    });
    let (failed, works) = (failed.into_inner().unwrap(), works.into_inner().unwrap());
    println!(
        "{} cases; Terraform takes its lock in {works}; {} may differ; {} differ and may not",
        cases.len(),
        excepted.into_inner().unwrap(),
        failed.len()
    );
    assert!(
        failed.is_empty(),
        "{} of {} differ:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
    works
}

#[test]
fn designed_cases_find_aws_as_terraform_does() {
    let mut cases: Vec<Case> = DESIGNED.iter().flat_map(|text| case::read(text)).collect();
    let only = variable("TFWRAP_AWS_ONLY");
    if let Some(only) = &only {
        cases.retain(|case| case.name.starts_with(only.as_str()));
    }
    let exceptions = Exceptions::read();
    play(&cases, &exceptions, |case| {
        format!("again: TFWRAP_AWS_ONLY={} cargo test --test aws designed", case.name)
    });
    let idle = exceptions.idle();
    assert!(only.is_some() || idle.is_empty(), "no longer needed: {idle:?}");
}

#[test]
fn random_cases_find_aws_as_terraform_does() {
    let seed = number("TFWRAP_AWS_SEED").unwrap_or(SEED);
    let cases = number("TFWRAP_AWS_CASES").map_or(CASES, count);
    let first = number("TFWRAP_AWS_FIRST").map_or(0, count);
    println!("seed {seed}, cases {first} to {}", first + cases - 1);
    let cases: Vec<Case> = (first..first + cases).map(|it| random::case(seed, it)).collect();
    play(&cases, &Exceptions::read(), |case| {
        let number = case.name.rsplit('-').next().unwrap_or_default();
        format!(
            "again: TFWRAP_AWS_SEED={seed} TFWRAP_AWS_FIRST={number} TFWRAP_AWS_CASES=1 cargo \
             test --test aws random"
        )
    });
}

/// Plays what the environment says; nothing by itself.
#[test]
fn line_of_the_environment() {
    let Some(text) = variable("TFWRAP_AWS_LINE") else { return };
    let mut lane = Lane::start();
    for case in case::read(&text) {
        let played = lane.play(&case);
        println!("{:?}: {case}\n{}", played.kind, played.told);
    }
}

/// One who signs as somebody else, goes elsewhere, or goes by another way is seen; or the suite
/// proves nothing.
#[test]
fn the_negative_controls_are_seen() {
    let keys = "AWS_ACCESS_KEY_ID=AKIAE | AWS_SECRET_ACCESS_KEY=secretE";
    let mut lane = Lane::start();
    for (more, kind) in [
        ("TF_IN_AUTOMATION=1", None),
        ("ours AWS_ACCESS_KEY_ID=AKIAX", Some(Kind::Other)),
        ("ours AWS_SESSION_TOKEN=token", Some(Kind::Other)),
        ("ours AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:8000", Some(Kind::Other)),
        ("ours HTTPS_PROXY=http://proxy.test:3128", Some(Kind::Other)),
        ("ours AWS_CA_BUNDLE=/nowhere", Some(Kind::Refuses)),
        ("stock AWS_CA_BUNDLE=/nowhere", Some(Kind::Takes)),
    ] {
        let played = lane.play(&Case::of(&format!("control | {keys} | {more}")));
        assert_eq!(played.kind, kind, "{more}\n{}", played.told);
    }
}
