//! One half of a pair without the other: lost while it is held, left behind, or not to be had.

use std::time::Duration;

use super::*;
use crate::aftermath::{Receipt, kill_dead};
use crate::wrapped::uptime;

/// The record of a dead holder.
fn dead(lease: &str) -> String {
    format!(
        r#"{{"ID":"1-2-3","Operation":"apply","Info":"","Who":"them@there","Version":"1","Created":"2026-01-02T03:04:05Z","Path":""{lease}}}"#
    )
}

/// As a holder that is fenced by each half: the older one counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_whose_heartbeats_are_not_answered_ends_the_child() {
    let mut running = Vec::new();
    for name in ["beat-file", "beat-item"] {
        let stage = Stage::new(name).await;
        let holder = stage.held(&["--lease", "15s"], "exec sleep 60");
        let (rule, lost) = if name == "beat-file" {
            (Rule::on("PUT", Fault::Refuse).key(&stage.path()), "s3://")
        } else {
            (Rule::on("PutItem", Fault::Refuse).key(&stage.lock_id()), "dynamodb://")
        };
        let proxy = if name == "beat-file" { &stage.s3 } else { &stage.items };
        proxy.plan([rule]);
        running.push((stage, holder, lost, uptime()));
    }
    for (stage, holder, lost, since) in running {
        let done = holder.finish().expect_code(76);
        assert!(uptime().since(since) < Duration::from_secs(15), "{}", done.stderr);
        let says = format!("over half of the lease of `{lost}");
        assert!(done.stderr.contains(&says), "{}", done.stderr);
        stage.expect_free().await;
    }
}

/// By stock Terraform, which removes both, or the one that is there; and by hand.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_named_half_by_half_and_the_rest_is_given_back() {
    let stage = Stage::initialised("lost").await;
    let urls = ["s3://", "dynamodb://"];
    let lost = |done: &Finished| {
        urls.map(|url| {
            done.stderr.contains(&format!("the lock `{url}")) && done.stderr.contains("lost")
        })
    };
    let gate = Gate::new(stage.dir.path(), "forced");
    let held = stage.held(&[], &gate.command());
    let id = stage.in_file().expect("held").id.0;
    stock(&stage.dir, &["force-unlock", "-force", "other"]).expect_code(1);
    assert_eq!(stage.in_file().expect("held").id.0, id);
    stock(&stage.dir, &["force-unlock", "-force", &id]).expect_code(0);
    stage.expect_free().await;
    gate.open();
    let done = held.finish().expect_code(76);
    assert_eq!(lost(&done), [true, true], "{}", done.stderr);
    // The half that is left is removed, and Terraform fails all the same.
    std::fs::remove_file(stage.dir.path().join("ready")).unwrap();
    let gate = Gate::new(stage.dir.path(), "half");
    let held = stage.held(&[], &gate.command());
    let id = stage.in_file().expect("held").id.0;
    stage.remove_item().await;
    let forced = stock(&stage.dir, &["force-unlock", "-force", &id]).expect_code(1);
    assert!(forced.stderr.contains("failed to unlock DynamoDB"), "{}", forced.stderr);
    stage.expect_free().await;
    gate.open();
    held.finish().expect_code(76);
    // One is gone: the other is ours still, and is given back.
    std::fs::remove_file(stage.dir.path().join("ready")).unwrap();
    let gate = Gate::new(stage.dir.path(), "one");
    let held = stage.held(&[], &gate.command());
    stage.remove_item().await;
    gate.open();
    let done = held.finish().expect_code(76);
    assert!(
        done.stderr.contains("the lock `dynamodb://") && !done.stderr.contains("the lock `s3://"),
        "{}",
        done.stderr
    );
    stage.expect_free().await;
}

/// Killed between the two. Its guardian gives the half back; where that is dead, too, `recover` of the
/// same machine does, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_lock_of_a_killed_run_is_cleared_by_its_owner_alone() {
    for with_guardian in [true, false] {
        let stage = Stage::new(&format!("killed-{with_guardian}")).await;
        stage.items.plan([Rule::on("PutItem", Fault::Hold).key(&stage.lock_id())]);
        let running = Running::start(&mut stage.around(&[], "true"));
        eventually("the item is asked for", || {
            assert!(!running.is_over(), "{}", running.stderr());
            stage.items.count_of("PutItem", &stage.lock_id()) > 0
        });
        assert!(stage.in_file().is_some());
        let receipt = Receipt::all(&stage.dir.path().join(STATE_DIR)).remove(0);
        assert_eq!(receipt.locks(), 2);
        if !with_guardian {
            running.signal(Signal::SIGSTOP);
            kill_dead(receipt.guardian().expect("a guardian"));
        }
        running.signal(Signal::SIGKILL);
        drop(running);
        if !with_guardian {
            let elsewhere = stage.dir_of(Mode::Both);
            run(tfwrap(elsewhere.path()).arg("recover")).expect_code(0);
            assert!(stage.in_file().is_some(), "a stranger's");
            run(tfwrap(stage.dir.path()).arg("recover")).expect_code(0);
            stage.expect_free().await;
        }
        eventually("the half is given back", || stage.in_file().is_none());
        assert!(!stage.is_ready());
    }
}

/// By its lease, if it has one; a half of stock Terraform's by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_lock_of_a_stranger_goes_by_its_lease() {
    let stage = Stage::new("leased").await;
    stage.server.put(&stage.file(), dead("").as_bytes());
    let done = run(&mut stage.around(&["--lock-timeout=0s"], "true")).expect_code(75);
    assert!(done.stderr.contains("`s3://") && done.stderr.contains("1-2-3"), "{}", done.stderr);
    assert!(stage.in_item().await.is_none() && stage.in_file().is_some());
    let lease = r#","tfwrap":{"beat":7,"ttl":15000}"#;
    stage.server.put(&stage.file(), dead(lease).as_bytes());
    // And both of a dead holder, of which one has no lease, or each has one.
    let (whole, mixed) = (Stage::new("leased-both").await, Stage::new("leased-half").await);
    for other in [&whole, &mixed] {
        other.server.put(&other.file(), dead(lease).as_bytes());
    }
    whole.put_raw(&dead(""), Some(r#"{"beat":7,"ttl":15000}"#)).await;
    mixed.put_raw(&dead(""), None).await;
    let since = uptime();
    let waits = |stage: &Stage, limit| Running::start(&mut stage.around(&[limit], "true"));
    let running = [waits(&stage, "--lock-timeout=60s"), waits(&whole, "--lock-timeout=60s")];
    let in_vain = waits(&mixed, "--lock-timeout=18s");
    for running in running {
        let done = running.finish().expect_code(0);
        assert!(uptime().since(since) >= Duration::from_secs(15), "{}", done.stderr);
        assert!(done.stderr.contains("1-2-3"), "{}", done.stderr);
    }
    in_vain.finish().expect_code(75);
    stage.expect_free().await;
    whole.expect_free().await;
    assert!(mixed.in_file().is_some() && mixed.in_item().await.is_some());
}

/// Two that share no lock are said to, for both may write the state; one alone is not.
#[tokio::test(flavor = "multi_thread")]
async fn two_others_that_share_no_lock_are_warned_of() {
    let stage = Stage::new("apart").await;
    stage.put_item("4-5-6").await;
    let wait = || run(&mut stage.around(&["--lock-timeout=3s"], "true")).expect_code(75).stderr;
    let alone = wait();
    assert!(!alone.contains("no lock in common"), "{alone}");
    stage.server.put(&stage.file(), dead("").as_bytes());
    let both = wait();
    assert_eq!(both.matches("no lock in common").count(), 1, "{both}");
}

/// The first is given back where the second cannot be had; and what is not answered is found again.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_item_cannot_be_had_the_lock_file_is_given_back() {
    for (name, fault, times, code) in [
        ("denied", Fault::DENIED, usize::MAX, 77),
        ("throttled", Fault::THROTTLED, 1, 0),
        ("lost", Fault::DropReply, 1, 0),
        ("failed", Fault::FailAfter, 1, 0),
        ("refused", Fault::Refuse, 1, 0),
    ] {
        let stage = Stage::new(&format!("item-{name}")).await;
        stage.items.plan([Rule::on("PutItem", fault).key(&stage.lock_id()).times(times)]);
        let done = run(&mut stage.around(&["--lease", "15s"], "true")).expect_code(code);
        assert_eq!(stage.is_ready(), code == 0, "{name}: {}", done.stderr);
        assert!(stage.in_file().is_none(), "{name}: {}", done.stderr);
        assert!(stage.in_item().await.is_none(), "{name}: {}", done.stderr);
    }
}
