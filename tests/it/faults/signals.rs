//! A signal while a request is on its way: whatever becomes of the request, the child is not
//! started, and the lock is not kept.

use nix::sys::signal::Signal;

use super::{Stage, says};
use crate::support::harness::{Running, eventually};
use crate::support::proxy::Fault;

const SIGNALS: [(Signal, i32); 4] =
    [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGQUIT, 131)];

fn held(then: Fault) -> Fault {
    Fault::HoldThen(Box::new(then))
}

/// The signal comes while the create is on its way (or its reply, when it was done before).
#[tokio::test]
async fn a_signal_during_the_create_gives_the_lock_back_and_starts_nothing() {
    let stage = Stage::new("signals/create").await;
    let fates = [
        (held(Fault::Pass), "nothing is left behind"),
        (Fault::HoldReply, "nothing is left behind"),
        (held(Fault::DropReply), "nothing is left behind"),
        (held(Fault::FailAfter), "nothing is left behind"),
        // Never answered, and not found: it may be on its way still.
        (held(Fault::Refuse), "may still appear"),
        (held(Fault::THROTTLED), "nothing is left behind"),
    ];
    for (signal, code) in SIGNALS {
        for (fate, words) in &fates {
            let before = stage.requests("PutItem");
            stage.plan(&[("PutItem", fate.clone(), 1)]);
            let ours = Running::start(&mut stage.around("touch started"));
            stage.arrived("PutItem", before + 1).await;
            ours.signal(signal);
            stage.proxy.release();
            let done = ours.finish();
            assert_eq!(done.status.code(), Some(code), "{signal} {fate:?}: {}", done.stderr);
            says(&done, &[words, "nothing was run"]);
            assert_eq!(stage.runs(), 0, "{signal} {fate:?}: no child");
            assert_eq!(stage.info().await, None, "{signal} {fate:?}: given back");
        }
    }
    // The control: without a signal the same requests start the child.
    for (fate, _) in fates {
        let before = stage.requests("PutItem");
        stage.plan(&[("PutItem", fate.clone(), 1)]);
        let ours = Running::start(&mut stage.around("true"));
        stage.arrived("PutItem", before + 1).await;
        stage.proxy.release();
        stage.went_well(ours.finish(), &format!("{fate:?}")).await;
    }
}

#[tokio::test]
async fn a_stop_that_cannot_give_the_lock_back_does_not_say_that_nothing_is_left() {
    let stage = Stage::new("signals/denied").await;
    stage.plan(&[("PutItem", Fault::HoldReply, 1), ("DeleteItem", Fault::DENIED, 1)]);
    let ours = Running::start(&mut stage.around("true"));
    stage.arrived("PutItem", 1).await;
    ours.signal(Signal::SIGTERM);
    stage.proxy.release();
    let done = ours.finish().expect_code(143);
    assert!(!done.stderr.contains("nothing is left"), "{}", done.stderr);
    says(&done, &["a lock is left behind", "finish with: "]);
    let command = super::release::Command::printed_in(&done.stderr);
    assert!(command.apply().await);
    assert_eq!((stage.runs(), stage.info().await), (0, None));
}

#[tokio::test]
async fn a_signal_during_a_look_ends_the_wait_and_leaves_the_holder_alone() {
    let stage = Stage::new("signals/look").await;
    let theirs = stage.taken_by_a_stranger().await;
    for (signal, code) in SIGNALS {
        for fate in [held(Fault::Pass), Fault::HoldReply, held(Fault::DropReply)] {
            let before = stage.requests("GetItem");
            stage.plan(&[("GetItem", fate.clone(), 1)]);
            let ours = Running::start(&mut stage.around("true"));
            stage.arrived("GetItem", before + 1).await;
            ours.signal(signal);
            stage.proxy.release();
            let done = ours.finish();
            assert_eq!(done.status.code(), Some(code), "{signal} {fate:?}: {}", done.stderr);
            says(&done, &["nothing is left behind"]);
            assert_eq!(stage.runs(), 0);
            assert_eq!(stage.info().await.as_ref(), Some(&theirs), "{signal} {fate:?}");
        }
    }
}

/// The holder goes just when the look is on its way, and then the signal comes: what the look
/// shows is a free lock, which must not be taken any more.
#[tokio::test]
async fn a_lock_that_comes_free_after_the_signal_is_not_taken() {
    let stage = Stage::new("signals/free").await;
    stage.taken_by_a_stranger().await;
    stage.plan(&[("GetItem", held(Fault::Pass), 1)]);
    let ours = Running::start(&mut stage.around("true"));
    stage.arrived("GetItem", 1).await;
    ours.signal(Signal::SIGTERM);
    stage.cleared().await;
    stage.proxy.release();
    ours.finish().expect_code(143);
    assert_eq!((stage.runs(), stage.info().await), (0, None));
    assert_eq!(stage.requests("PutItem"), 1, "only the one that was refused");
}

#[tokio::test]
async fn signals_during_the_release_change_nothing() {
    let stage = Stage::new("signals/release").await;
    let fates =
        [held(Fault::Pass), Fault::HoldReply, held(Fault::DropReply), held(Fault::SERVER_ERROR)];
    for fate in fates {
        let before = stage.requests("DeleteItem");
        stage.plan(&[("DeleteItem", fate.clone(), 1)]);
        let ours = Running::start(&mut stage.around("exit 3"));
        stage.arrived("DeleteItem", before + 1).await;
        for (signal, _) in SIGNALS {
            ours.signal(signal);
            ours.says(&format!("got {signal}: the lock"));
        }
        stage.proxy.release();
        let done = ours.finish();
        assert_eq!(done.status.code(), Some(3), "{fate:?}: {}", done.stderr);
        assert_eq!(stage.info().await, None, "{fate:?}");
    }
}

/// A stop after which the child ends badly: what it says stands, and the lock is given back only
/// when it has gone.
#[tokio::test]
async fn a_signal_to_a_running_child_releases_after_its_end() {
    let stage = Stage::new("signals/running").await;
    for (signal, _) in SIGNALS {
        let before = stage.requests("DeleteItem");
        stage.plan(&[("DeleteItem", Fault::Hold, 1)]);
        let script = "trap 'echo end > ended; exit 7' INT QUIT; touch in; \
                      for i in $(seq 600); do sleep 0.1; done";
        let ours = Running::start(&mut stage.around(script));
        eventually("the child runs", || stage.path().join("in").exists());
        ours.signal(signal);
        stage.arrived("DeleteItem", before + 1).await;
        let ended = std::fs::read_to_string(stage.path().join("ended"));
        assert_eq!(ended.unwrap(), "end\n", "{signal}: the child is gone before the release");
        stage.proxy.release();
        ours.finish().expect_code(7);
        assert_eq!(stage.info().await, None);
        for file in ["in", "ended"] {
            std::fs::remove_file(stage.path().join(file)).unwrap();
        }
    }
}
