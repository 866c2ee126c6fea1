//! What a store that does not open keeps nobody from.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::unistd::{Pid, getpid};

use super::*;
use crate::lock::{LockId, LockKey};
use crate::receipt::Beginning;
use crate::report::{Reporter, ReporterOptions};
use crate::run::custody::Custody;
use crate::supervise::{ProcessId, ProcessTree, Signals};

const AMPLE: Duration = Duration::from_mins(1);

/// The child of a dead tfwrap, which is the test's, so nobody else waits for it.
struct Orphan(Child);

impl Orphan {
    fn of(script: &str) -> Self {
        // A background job of a script ignores SIGINT, and so would this one if the tests were started there.
        let mut shell = Command::new("env");
        shell.args(["--default-signal=INT", "sh", "-c", script]);
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut this = Self(shell.spawn().unwrap());
        // It has said that it is ready.
        let mut byte = [0];
        std::io::Read::read_exact(this.0.stdout.as_mut().unwrap(), &mut byte).unwrap();
        this
    }

    fn head(&self) -> Head {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        Head { child: ProcessTree::of(pid, ProcessId::of(getpid())), ..Head::default() }
    }

    /// The signal that ended it.
    fn ended_by(mut self) -> Option<i32> {
        std::os::unix::process::ExitStatusExt::signal(&self.0.wait().unwrap())
    }
}

fn case() -> Case {
    let mut receipt = Receipt::begin(Beginning {
        job: None,
        dir: std::env::temp_dir(),
        began: String::new(),
        operation: String::new(),
        is_hold: false,
        within: Vec::new(),
        orphan_grace: AMPLE,
    })
    .unwrap();
    receipt.locks.push(Entry {
        target: LockTarget {
            store: StoreSpec::File { dir: std::env::temp_dir() },
            key: LockKey("k".to_owned()),
            of_backend: false,
        },
        id: LockId("1-2".to_owned()),
        inherited: false,
    });
    Case { file: None, receipt, tenures: Vec::new() }
}

async fn end(head: &Head, case: &Case, fence: Option<Uptime>) -> Ended {
    let reporter = Arc::new(Reporter::to_stderr(ReporterOptions::default()).unwrap());
    let mut event_loop = EventLoop::new(Signals::none().unwrap(), reporter, Custody::none());
    let mut openings = Openings::default();
    openings.await_in_vain(&case.receipt.locks[0], fence);
    let ended = child::end(&mut event_loop, head, case, &mut openings, false);
    tokio::time::timeout(AMPLE, ended).await.expect("nobody waits for the store")
}

#[tokio::test]
async fn a_store_that_does_not_open_does_not_delay_the_interrupt() {
    let orphan = Orphan::of("echo; exec sleep 300");
    assert_eq!(end(&orphan.head(), &case(), None).await, Ended::Gone);
    assert_eq!(orphan.ended_by(), Some(2));
}

#[tokio::test]
async fn nor_does_it_keep_the_child_beyond_the_lease_that_was_told_last() {
    let orphan = Orphan::of("trap : INT; echo; for _ in $(seq 3000); do sleep 0.1; done");
    let fence = uptime().plus(Duration::from_millis(300));
    assert_eq!(end(&orphan.head(), &case(), Some(fence)).await, Ended::Gone);
    assert_eq!(orphan.ended_by(), Some(9));
}
