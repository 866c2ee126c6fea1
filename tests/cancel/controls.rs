//! What each part is good for: the same with that part switched off must go wrong, or the other
//! cases prove nothing. Only test builds can switch parts off.

use std::time::Duration;

use rustix::process::Signal;

use crate::runners::{GITHUB, GITLAB, JENKINS, POD, Played, github_alone, github_exec, jenkins};
use crate::stage::{Stage, Work, orphan_grace};
use crate::support::procs::Process;

const OFF: &str = "TFWRAP_TEST_OFF";

fn without(part: &str, name: &str, work: Work, job: &[(&'static str, &'static str)]) -> Stage {
    let mut stage = Stage::new(name, work, job);
    stage.set(OFF, part);
    stage
}

#[test]
fn without_the_guardian_githubs_kill_leaves_the_lock() {
    let mut stage = without("guardian", "no-guardian", Work::Never, GITHUB);
    let Played { watch, .. } = github_alone(&mut stage);
    stage.left_after(orphan_grace() + Duration::from_secs(3));
    assert!(watch.freed_within(Duration::ZERO).is_none(), "{}", stage.said());
    // Whoever would look after it is not there.
    assert!(stage.lock().is_held());
}

#[test]
fn without_receipts_recover_knows_nothing() {
    for (part, name) in [("receipts", "no-receipts"), ("", "receipts")] {
        let stage = without(part, name, Work::Never, POD);
        let mut step = stage.start_plainly();
        let _watch = stage.at_work();
        // All at once, as when a container ends; first none of them may do anything more.
        for signal in [Signal::STOP, Signal::KILL] {
            for process in stage.processes() {
                process.signal(signal);
            }
        }
        step.ends_within(Duration::from_secs(10));
        assert_eq!(stage.left_after(Duration::from_secs(10)), Vec::<String>::new());
        assert!(stage.lock().is_held(), "{}", stage.said());
        assert_eq!(stage.recover(&[], &[]), Some(0), "{}", stage.said());
        assert_eq!(stage.lock().is_held(), part == "receipts", "{part}: {}", stage.said());
    }
}

#[test]
fn without_the_canary_jenkins_case_is_two_interrupts() {
    let mut stage = without("canary", "no-canary", Work::Ends(6.0), JENKINS);
    let Played { direct, .. } = jenkins(&mut stage);
    let got = stage.interrupts();
    assert!(got > direct.max(1), "{got} interrupts, {direct} by Jenkins: {}", stage.said());
}

/// Not a control: on GitHub, a Terraform that takes twice as long as the runner's patience is left
/// to the guardian.
#[test]
fn a_terraform_that_outlives_its_step_saves_its_state() {
    let mut stage = Stage::new("outlives", Work::Terraform(20.0), GITHUB);
    let Played { watch, recover, .. } = github_exec(&mut stage);
    assert_eq!(recover, Some(0), "{}", stage.said());
    let freed = watch.freed_within(Duration::from_secs(2));
    assert!(freed.is_some_and(|freed| freed.under.is_empty()), "{}", stage.said());
    assert_eq!((stage.interrupts(), stage.state_is_saved()), (1, Some(true)), "{}", stage.said());
}

/// Nor is this: with the guardian gone first, the step that always runs has to end the child.
#[test]
fn with_tfwrap_and_its_guardian_gone_recover_ends_the_child() {
    let stage = Stage::new("orphan", Work::Never, GITLAB);
    let mut step = stage.start_plainly();
    let watch = stage.at_work();
    let guardian = |process: &Process| process.describe().contains("lock-guardian");
    let guardian = stage.processes().into_iter().find(guardian).expect("there is a guardian");
    guardian.signal(Signal::KILL);
    step.signal(Signal::KILL);
    assert!(step.ends_within(Duration::from_secs(10)));
    // Without time to wait it leaves both as they are, and says so.
    assert_eq!(stage.recover(&[], &[]), Some(74), "{}", stage.said());
    assert!(watch.child.iter().all(Process::is_alive) && stage.lock().is_held());
    assert_eq!(stage.recover_waiting(), Some(0), "{}", stage.said());
    assert_eq!(stage.left_after(Duration::from_secs(2)), Vec::<String>::new());
    let freed = watch.freed_within(Duration::from_secs(2));
    assert!(freed.is_some_and(|freed| freed.under.is_empty()), "{}", stage.said());
    assert_eq!(stage.interrupts(), 1, "{}", stage.said());
}
