//! Credentials and permissions.

use std::time::Duration;

use jiff::SignedDuration;

use super::{Stage, says};
use crate::support::harness::{Running, run};
use crate::support::proxy::{Fault, Rule};
use crate::wrapped::uptime;

#[tokio::test]
async fn credentials_that_do_not_work_are_77_with_a_hint() {
    let stage = Stage::new("access/credentials").await;
    let identity = "`aws sts get-caller-identity`";
    for (code, word, hint) in [
        ("ExpiredTokenException", "expired", identity),
        ("UnrecognizedClientException", "not valid", identity),
        ("InvalidSignatureException", "secret key", "without a trailing newline"),
    ] {
        stage.plan(&[("PutItem", Fault::Status(400, code), usize::MAX)]);
        let done = run(&mut stage.around("true")).expect_code(77);
        says(&done, &[word, "hint: ", hint]);
        assert_eq!((stage.runs(), stage.info().await), (0, None));
    }
}

/// Terraform's too are refused then, and below us it would only log that: the state would be
/// written, its digest not.
#[tokio::test]
async fn a_clock_that_is_off_is_said_at_once_and_not_made_up_for() {
    let stage = Stage::new("access/clock").await;
    for (minutes, word) in [(10, "10m slow"), (-10, "10m fast")] {
        stage.proxy.plan([Rule::all(Fault::Clock(SignedDuration::from_mins(minutes)))]);
        let before = uptime();
        let done = run(&mut stage.around("true")).expect_code(77);
        says(
            &done,
            &["clock is off", word, "Terraform's too", "hint: correct this machine's clock"],
        );
        assert!(uptime().since(before) < Duration::from_secs(5), "{done:?}");
        assert_eq!((stage.runs(), stage.info().await), (0, None), "{minutes}");
    }
    // What AWS lets pass, we do.
    for minutes in [4, -4] {
        stage.proxy.plan([Rule::all(Fault::Clock(SignedDuration::from_mins(minutes)))]);
        stage.went_well(run(&mut stage.around("true")), "a little off").await;
    }
    // And a secret that is wrong is not the clock's fault.
    stage.plan(&[("PutItem", Fault::Status(400, "InvalidSignatureException"), usize::MAX)]);
    let done = run(&mut stage.around("true")).expect_code(77);
    assert!(!done.stderr.contains("clock is off"), "{done:?}");
}

#[tokio::test]
async fn a_refused_permission_is_77_and_named() {
    let stage = Stage::new("access/denied").await;
    stage.plan(&[("PutItem", Fault::DENIED, usize::MAX)]);
    let done = run(&mut stage.around("true")).expect_code(77);
    says(&done, &["`dynamodb:PutItem`", "access-denied", "hint: allow"]);
    assert_eq!((stage.runs(), stage.requests("PutItem")), (0, 1));
}

#[tokio::test]
async fn without_leave_to_read_a_wait_still_ends() {
    let stage = Stage::new("access/blind").await;
    let theirs = stage.taken_by_a_stranger().await;
    stage.plan(&[("GetItem", Fault::DENIED, usize::MAX)]);
    let ours = Running::start(&mut stage.around("true"));
    ours.says("stranger@elsewhere");
    // It goes on by trying.
    stage.arrived("PutItem", 3).await;
    assert_eq!(stage.runs(), 0);
    assert_eq!(stage.info().await, Some(theirs));
    stage.cleared().await;
    stage.went_well(ours.finish(), "blind").await;
    // Also one that nobody answers.
    stage
        .proxy
        .plan([stage.on("GetItem", Fault::DENIED), stage.on("PutItem", Fault::DropReply).times(1)]);
    stage.went_well(run(&mut stage.around("true")), "blind and lost").await;
}

#[tokio::test]
async fn without_leave_to_read_a_wait_that_ends_is_75() {
    let stage = Stage::new("access/blind-timeout").await;
    stage.taken_by_a_stranger().await;
    stage.plan(&[("GetItem", Fault::DENIED, usize::MAX)]);
    let done = run(&mut stage.with(&["--lock-timeout=1s"], "true")).expect_code(75);
    says(&done, &["stranger@elsewhere"]);
    assert_eq!(stage.runs(), 0);
}
