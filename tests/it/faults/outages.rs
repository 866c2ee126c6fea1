//! A store that does not answer for a while, or refuses: whoever waits or works is told so, and why,
//! long before anything follows from it, and when it is over.

use super::{Stage, says};
use crate::support::harness::{Gate, Running};
use crate::support::proxy::{Fault, Rule};

/// Something else's answer, which ends its connection as it says.
const PAGE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";

#[tokio::test]
async fn at_the_start_an_outage_is_told_of_soon() {
    let stage = Stage::new("outages/start").await;
    for (fault, why) in [
        (Fault::Refuse, "no answer from DynamoDB table `outages-start`"),
        (Fault::Hold, "no answer so far"),
        (Fault::THROTTLED, "the store is throttling"),
    ] {
        stage.proxy.plan([Rule::all(fault.clone())]);
        let ours = Running::start(&mut stage.around("true"));
        ours.says("requests for `dynamodb://outages-start/");
        ours.says(why);
        stage.proxy.plan([]);
        stage.proxy.release();
        ours.says("succeed again");
        stage.went_well(ours.finish(), &format!("{fault:?}")).await;
    }
}

#[tokio::test]
async fn a_holder_is_not_said_to_hold_what_nobody_can_see() {
    let stage = Stage::new("outages/wait").await;
    stage.taken_by_a_stranger().await;
    let ours = Running::start(&mut stage.around("true"));
    ours.says("held by stranger@elsewhere");
    stage.proxy.plan([Rule::all(Fault::SERVER_ERROR)]);
    ours.says("requests for `dynamodb://outages-wait/");
    ours.says("s ago), lock ID `11111111-2222-3333-4444-555555555555`, last seen ");
    stage.cleared().await;
    stage.proxy.plan([]);
    ours.says("succeed again");
    stage.went_well(ours.finish(), "after an outage").await;
}

#[tokio::test]
async fn heartbeats_that_fail_are_told_of_before_the_child_is_interrupted() {
    let stage = Stage::new("outages/held").await;
    let gate = Gate::new(stage.path(), "held");
    let ours = Running::start(&mut stage.with(&["--lease", "15s"], &gate.command()));
    gate.reached();
    stage.plan(&[("PutItem", Fault::DENIED, usize::MAX)]);
    ours.says("no heartbeat of the lock `dynamodb://outages-held/");
    ours.says("succeeds: access denied: `dynamodb:PutItem`");
    ours.says("; the child will be interrupted in ");
    ours.says("hint: allow `dynamodb:GetItem`, `dynamodb:PutItem`");
    stage.proxy.plan([]);
    ours.says("succeed again");
    gate.open();
    stage.went_well(ours.finish(), "after a permission was missing").await;
}

#[tokio::test]
async fn a_child_is_interrupted_with_the_reason() {
    let stage = Stage::new("outages/fence").await;
    let gate = Gate::new(stage.path(), "held");
    let script = format!("trap 'exit 4' INT; {}", gate.command());
    let ours = Running::start(&mut stage.with(&["--lease", "15s"], &script));
    gate.reached();
    stage.plan(&[("PutItem", Fault::OVER_CAPACITY, usize::MAX)]);
    let done = ours.finish();
    assert_eq!(done.status.code(), Some(76), "{}", done.stderr);
    says(
        &done,
        &["no heartbeat has been confirmed for over half of the lease", "(the store is throttling"],
    );
    says(&done, &["interrupting the child"]);
}

#[tokio::test]
async fn a_release_that_has_to_wait_says_so() {
    let stage = Stage::new("outages/release").await;
    stage.plan(&[("DeleteItem", Fault::SERVER_ERROR, usize::MAX)]);
    let ours = Running::start(&mut stage.around("true"));
    ours.says("cannot release the lock `dynamodb://outages-release/");
    ours.says("; retrying for up to 1m");
    stage.proxy.plan([]);
    ours.says("succeed again");
    stage.went_well(ours.finish(), "after a late release").await;
}

#[tokio::test]
async fn writes_that_fail_where_reads_do_not_are_told_of() {
    let stage = Stage::new("outages/writes").await;
    for (fault, why) in [
        (Fault::SERVER_ERROR, "InternalServerError"),
        (Fault::OVER_CAPACITY, "the store is throttling"),
        (Fault::Page(PAGE), "is not DynamoDB"),
    ] {
        stage.plan(&[("PutItem", fault.clone(), usize::MAX)]);
        let ours = Running::start(&mut stage.around("true"));
        ours.says("requests for `dynamodb://outages-writes/");
        ours.says(why);
        stage.proxy.plan([]);
        ours.says("succeed again");
        stage.went_well(ours.finish(), &format!("{fault:?}")).await;
    }
}
