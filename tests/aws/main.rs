//! tfwrap's way to AWS beside stock Terraform's: `terraform plan` and `tfwrap run -- true` in equal
//! surroundings, before a server that answers as all of AWS; once with the item, once with the lock
//! file. tfwrap asks for the lock as the very identity, at the very endpoint and by the very route that
//! Terraform does; it fails nowhere where Terraform works, and takes no lock where Terraform takes
//! none.
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
//! | `dice`, `rounds` | numbers from a seed; which cases, and how to play one again |
//!
//! A random case follows from the seed and its number alone, and a failure prints it as a line that
//! may be put among the designed. To play one again, many more, or one of the designed:
//!
//! ```text
//! TFWRAP_AWS_SEED=7 TFWRAP_AWS_FIRST=41 TFWRAP_AWS_CASES=1 cargo test --test aws random
//! TFWRAP_AWS_SEED=$RANDOM TFWRAP_AWS_CASES=1000 cargo test --test aws -- --nocapture
//! TFWRAP_AWS_ONLY=C1- cargo test --test aws designed -- --nocapture
//! TFWRAP_AWS_PROGRAM=/usr/local/bin/tfwrap cargo test --test aws designed # another tfwrap
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

#[path = "../support/dice.rs"]
mod dice;
#[path = "../support/rounds.rs"]
#[expect(dead_code, reason = "its cases are not played by it")]
mod rounds;

use std::sync::Mutex;

use case::Case;
use exceptions::Exceptions;
use lanes::{Lane, play_all};
use rounds::{Rounds, variable};
use verdict::Kind;

/// What was designed, by subject.
const DESIGNED: [&str; 6] = [
    include_str!("cases/c.txt"),
    include_str!("cases/f.txt"),
    include_str!("cases/m.txt"),
    include_str!("cases/r.txt"),
    include_str!("cases/e.txt"),
    include_str!("cases/agreed.txt"),
];

const CASES: usize = 60;
/// The default run plays the same cases every time.
const SEED: u64 = 1;

/// Plays them, and tells of each that differs and may not.
fn play(
    cases: &[Case],
    exceptions: &Exceptions,
    replay: impl Fn(&Case) -> String + Sync,
) -> Vec<String> {
    let (failed, works, excepted) = (Mutex::new(Vec::new()), Mutex::new(0), Mutex::new(0));
    let times = Mutex::new(Vec::new());
    play_all(cases, &|lane: &mut Lane, case, played| {
        times.lock().unwrap().push((played.seconds, case.name.clone()));
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
    let mut times = times.into_inner().unwrap();
    let sum = |at: usize| times.iter().map(|(seconds, _)| seconds[at]).sum::<f64>();
    println!("Terraform took {:.0} s, tfwrap {:.0} s; longest:", sum(0), sum(1));
    times.sort_by(|a, b| b.0.iter().sum::<f64>().total_cmp(&a.0.iter().sum()));
    for ([stock, ours], name) in times.iter().take(12) {
        println!("  {stock:.1} s, {ours:.1} s: {name}");
    }
    println!(
        "{} cases; Terraform takes its lock in {works}; {} may differ; {} differ and may not",
        cases.len(),
        excepted.into_inner().unwrap(),
        failed.len()
    );
    failed
}

#[test]
fn designed_cases_find_aws_as_terraform_does() {
    let mut cases: Vec<Case> = DESIGNED.iter().flat_map(|text| case::read(text)).collect();
    cases.extend(cases.clone().into_iter().map(Case::with_lock_file));
    let only = variable("TFWRAP_AWS_ONLY");
    if let Some(only) = &only {
        cases.retain(|case| case.name.starts_with(only.as_str()));
    }
    let exceptions = Exceptions::read();
    let failed = play(&cases, &exceptions, |case| {
        format!("again: TFWRAP_AWS_ONLY={} cargo test --test aws designed", case.name)
    });
    let idle = if only.is_none() { exceptions.idle() } else { Vec::new() };
    assert!(
        failed.is_empty() && idle.is_empty(),
        "{} of {} differ and may not:\n{}\nexceptions that nobody needs any more:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n"),
        idle.join("\n")
    );
}

#[test]
fn random_cases_find_aws_as_terraform_does() {
    let rounds = Rounds::of("aws random", ("TFWRAP_AWS", "CASES"), SEED, CASES);
    let cases: Vec<Case> = rounds.numbers.clone().map(|it| random::case(rounds.seed, it)).collect();
    let failed = play(&cases, &Exceptions::read(), |case| {
        let number = case.plain_name().rsplit('-').next().unwrap_or_default();
        rounds.replay(number.parse().expect("a random case ends with its number"))
    });
    assert!(failed.is_empty(), "{} differ and may not:\n{}", failed.len(), failed.join("\n"));
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
