//! The permissions, the conditions and the clock; and what is left when a try is cut short.

use jiff::SignedDuration;
use jiff::tz::TimeZone;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tfwrap::clock::wall;

use super::{Said, items, with_lock};
use crate::support::harness::Running;
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{dynamodb, local_backend_dir};

/// A table with a proxy before it.
async fn stage(table: &str) -> (TempDir, Proxy) {
    dynamodb().create_lock_table(table).await;
    (local_backend_dir(), Proxy::before(&dynamodb().url))
}

#[tokio::test]
async fn only_keys_that_no_lock_uses_are_written() {
    let table = "doctor-keys";
    let (dir, proxy) = stage(table).await;
    let said = Said::of(&mut with_lock(dir.path(), table, proxy.url()));
    assert_eq!(said.code, 0, "{}", said.text);
    assert!(proxy.count("PutItem") >= 4 && proxy.count("DeleteItem") >= 3);
    for operation in ["PutItem", "DeleteItem"] {
        assert_eq!(proxy.count_of(operation, "a/lock"), 0);
        assert_eq!(proxy.count_of(operation, "a/lock.tfwrap/line"), 0);
    }
    let probes = proxy.count_with("a/lock.tfwrap/probe/");
    let all = ["PutItem", "DeleteItem"].map(|operation| proxy.count(operation));
    assert!(probes > all.iter().sum::<usize>(), "{probes} {all:?}");
    assert_eq!(items(table).await, 0);
}

#[tokio::test]
async fn each_permission_that_is_missing_is_named_and_nothing_is_left() {
    let table = "doctor-denied";
    let (dir, proxy) = stage(table).await;
    for action in ["GetItem", "PutItem", "DeleteItem"] {
        let before = proxy.count("PutItem");
        proxy.plan([Rule::on(action, Fault::DENIED)]);
        let said = Said::of(&mut with_lock(dir.path(), table, proxy.url()));
        said.expect("permissions", "fail", &format!("access denied: `dynamodb:{action}` on"));
        said.expect("permissions", "fail", "`tfwrap table policy`");
        said.expect("table", "pass", "hash key");
        said.expect("receipts", "pass", "no killed run");
        if action != "GetItem" {
            said.expect("holder", "pass", "a/lock: free");
        }
        assert_eq!(items(table).await, 0);
        // What could not be removed again is not written.
        let wrote = proxy.count("PutItem") > before;
        assert_eq!(wrote, action == "PutItem", "{action}");
    }
    // Of the queue alone.
    proxy.plan([Rule::all(Fault::DENIED).key("a/lock.tfwrap/line")]);
    let said = Said::of(&mut with_lock(dir.path(), table, proxy.url()));
    said.expect("permissions", "fail", "`dynamodb:GetItem`");
}

#[tokio::test]
async fn a_table_that_may_not_be_described_fails_nothing() {
    let table = "doctor-undescribed";
    let (dir, proxy) = stage(table).await;
    proxy.plan([Rule::on("DescribeTable", Fault::DENIED)]);
    let said = Said::of(&mut with_lock(dir.path(), table, proxy.url()));
    assert_eq!(said.code, 0, "{}", said.text);
    said.expect("table", "skip", "could not be checked: access denied: `dynamodb:DescribeTable`");
    said.expect("conditions", "pass", "refused as they should be");
}

#[tokio::test]
async fn what_a_lost_reply_leaves_is_removed() {
    let table = "doctor-lost";
    let (dir, proxy) = stage(table).await;
    for (n, fault) in
        [Fault::DropReply, Fault::FailAfter, Fault::EmptyReply].into_iter().enumerate()
    {
        for skip in [0, 2] {
            proxy.plan([Rule::on("PutItem", fault.clone()).after(skip).times(1)]);
            let said = Said::of(&mut with_lock(dir.path(), table, proxy.url()));
            said.expect("permissions", "fail", "");
            assert_eq!(items(table).await, 0, "{n} {skip}: {}", said.text);
        }
    }
}

#[tokio::test]
async fn an_interrupt_leaves_nothing() {
    let table = "doctor-stopped";
    let (dir, proxy) = stage(table).await;
    // Whatever comes of it is not told: what is heard first is the signal.
    proxy.plan([Rule::on("PutItem", Fault::HoldReply)]);
    let running = Running::start(with_lock(dir.path(), table, proxy.url()).args(["doctor"]));
    proxy.arrived("PutItem", 1).await;
    running.signal(Signal::SIGINT);
    let done = running.finish().expect_code(130);
    assert_eq!(done.stdout, "");
    assert_eq!((proxy.count("PutItem"), items(table).await), (1, 0));
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_by_the_servers_own() {
    let table = "doctor-clock";
    let (dir, proxy) = stage(table).await;
    let ahead = wall() + SignedDuration::from_mins(2);
    let date = ahead.to_zoned(TimeZone::UTC).strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n");
    proxy.plan([Rule::on("DescribeTable", Fault::Headed(date.to_string()))]);
    let said = Said::of(&mut with_lock(dir.path(), table, proxy.url()));
    said.expect("clock", "warn", "slow\nfix: set it right");
    proxy.plan([Rule::all(Fault::Clock(SignedDuration::from_hours(1)))]);
    let said = Said::of(&mut with_lock(dir.path(), table, proxy.url()));
    said.expect("clock", "fail", "slow: AWS refuses what it signs");
    said.expect("table", "fail", "this machine's clock is off");
}

#[tokio::test]
async fn what_may_no_longer_be_removed_is_named_with_the_command() {
    let table = "doctor-stays";
    let (dir, proxy) = stage(table).await;
    proxy.plan([Rule::on("DeleteItem", Fault::DENIED).after(1)]);
    let said = Said::of(&mut with_lock(dir.path(), table, proxy.url()));
    said.expect("permissions", "fail", "`dynamodb:DeleteItem`");
    said.expect("probe", "fail", "may be left behind: access denied");
    said.expect("probe", "fail", "fix: aws dynamodb delete-item --table-name doctor-stays --key");
    assert_eq!(items(table).await, 1);
}
