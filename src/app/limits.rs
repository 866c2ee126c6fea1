//! What the machine must give before anything is begun: a stack, descriptors, threads. Where it does
//! not, that is said, and nothing was run.

use std::io;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};
use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, MORE_PROCESSES};
use crate::report::{Reporter, ReporterOptions};
use crate::supervise::with_blocked;

/// How many descriptors a run opens, with some room.
const DESCRIPTORS: usize = 24;

/// The highest number that a descriptor may get without the kernel's table having to grow: far above those
/// that are lent (`run::custody::lent`).
const ROOM: i32 = 255;

/// How large the stack of the main thread may have to become, in kB: twice what a request to AWS has
/// been seen to take.
const STACK_KB: u64 = 1024;

/// Whoever runs out of it is ended on the spot, whatever it holds.
pub(super) fn expect_stack() -> Result<(), Error> {
    let limit = getrlimit(Resource::Stack).current.map(|bytes| bytes / 1024);
    let Some(limit) = limit.filter(|kb| *kb < STACK_KB) else { return Ok(()) };
    Err(Error::Config {
        message: format!("too small a stack (`ulimit -s` is {limit}): {STACK_KB} kB may be needed"),
        hint: Some(
            "nothing was run and no lock was asked for; raise the limit: `ulimit -s 8192`"
                .to_owned(),
        ),
    })
}

/// Whether what is written to a file may be cut off, also to one in memory.
pub(super) fn files_are_limited() -> bool {
    getrlimit(Resource::Fsize).current.is_some()
}

/// The runtime panics for want of one, and what comes later would fail half-way.
pub(super) fn expect_descriptors() -> Result<(), Error> {
    let taken: Result<Vec<_>, _> =
        (0..DESCRIPTORS).map(|_| nix::unistd::dup(io::stdin())).collect();
    let Err(error) = taken else {
        make_room();
        return Ok(());
    };
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    Err(Error::Machine {
        message: format!(
            "too few file descriptors (`ulimit -n` is {limit}): {DESCRIPTORS} more are needed: {}",
            error.desc().to_lowercase()
        ),
        hint: Some("nothing was run and no lock was asked for; raise the limit".to_owned()),
    })
}

/// Lets the table of descriptors grow before there are threads, which share it. After that, the kernel first
/// waits for its readers (`synchronize_rcu` in `expand_files`). That takes 5 to 15 ms, with the lock held and
/// nothing started under it.
fn make_room() {
    // With few descriptors allowed, the table stays small.
    drop(fcntl_dupfd_cloexec(io::stdin(), ROOM));
}

/// Every thread that a run cannot do without, begun before it asks for anything: what writes messages,
/// and the runtime with one for what blocks. More are welcome later, and done without where there are
/// none.
pub(super) fn threads(options: ReporterOptions) -> Result<(Arc<Reporter>, Runtime), Error> {
    // The signals are for the thread that calls this: two threads would take them in any order.
    // First the reporter: it can tell why it has no thread.
    let reporter = with_blocked(&SigSet::all(), || Reporter::to_stderr(options))
        .map_err(|error| Error::Internal(format!("signals cannot be blocked: {error}")))?
        .map_err(|error| no_thread("messages", &error))?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_start(|| {
            // It cannot fail with a valid set, and a thread that takes signals works, too.
            let _blocked = SigSet::all().thread_set_mask();
        })
        // A thread that has ended for lack of work may not be had again when there is some: Terraform
        // itself may have used the limit up since.
        .thread_keep_alive(Duration::MAX)
        .build()
        .map_err(|error| Error::Internal(format!("the runtime cannot be started: {error}")))?;
    begin_to_block(&runtime).map_err(|error| no_thread("file work", &error))?;
    Ok((Arc::new(reporter), runtime))
}

/// Starts the first of the runtime's threads for what blocks. Where there is one, work waits for it
/// if another cannot be had; where there is none, the runtime panics.
fn begin_to_block(runtime: &Runtime) -> io::Result<()> {
    let said = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let begun = catch_unwind(AssertUnwindSafe(|| runtime.spawn_blocking(|| ())));
    panic::set_hook(said);
    // What else may be wrong with threads the reporter's has shown.
    begun.map(drop).map_err(|_| Errno::EAGAIN.into())
}

/// The error of a thread that cannot be started.
pub(super) fn no_thread(what: &str, error: &io::Error) -> Error {
    let way = match error.raw_os_error().map(Errno::from_raw) {
        // A limit is never EPERM (pthread_create(3)): a filter answers so that does not know clone3,
        // and the C library takes no other answer than ENOSYS for leave to use clone.
        Some(Errno::EPERM) => {
            "the sandbox refuses `clone3`: let it answer with ENOSYS, as those of newer container \
             runtimes do (Docker 20.10.10), or use a build for musl"
        }
        _ => MORE_PROCESSES,
    };
    Error::Config {
        message: format!("no thread can be started for {what}: {error}"),
        hint: Some(format!("nothing was run and no lock was asked for; {way}")),
    }
}
