//! File work off the loop, and what its errors mean.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{FlawKind, StoreError};

/// Runs short blocking work where it cannot hold up beats and signals. A panic in it goes on in
/// the caller.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Unavailable {
                detail: "the program is shutting down".to_owned(),
                sent: true,
            }),
        },
    }
}

/// How long a request to a store of files may take: as long as one to AWS. A mount whose server is
/// gone answers nothing.
const TIME_OUT: Duration = Duration::from_secs(10);

/// How many requests of one store may hang; each has a thread, which nobody can end.
const MOST_HANGING: usize = 4;

/// The threads of one store of files; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Workers(Arc<Semaphore>);

impl Workers {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST_HANGING)))
    }

    /// [`run`], for as long as not too many requests before it hang.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Ok(place) = self.0.clone().try_acquire_owned() else {
            let detail = "the file system does not answer".to_owned();
            return Err(StoreError::Unavailable { detail, sent: false });
        };
        run(move || {
            let done = work();
            drop(place);
            done
        })
        .await
    }
}

/// One request to a store of files, as long as it may take. What hangs may be done later.
pub(super) async fn request<T>(
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    answered_within(TIME_OUT, request).await
}

async fn answered_within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(limit, request).await.unwrap_or_else(|_| {
        let detail = format!("the file system has not answered within {} s", limit.as_secs());
        Err(StoreError::Unavailable { detail, sent: true })
    })
}

/// The error as a fragment of a message.
pub(super) fn reason(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) => errno.desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// Says what an error of the file system means for a store. `applied` tells whether a change may
/// already be visible to others: then nothing else counts.
pub(super) fn io_error(doing: &str, path: &Path, error: &io::Error, applied: bool) -> StoreError {
    let message = format!("cannot {doing} `{}`: {}", path.display(), reason(error));
    match error.raw_os_error().map(Errno::from_raw) {
        _ if applied => StoreError::Unavailable { detail: message, sent: true },
        Some(Errno::EACCES | Errno::EPERM) => StoreError::Denied(message.into()),
        Some(Errno::ENOENT) => StoreError::Missing(message),
        Some(Errno::ENOSPC | Errno::EDQUOT) => StoreError::Full(message),
        // Nobody raises it for us.
        Some(Errno::EFBIG) => StoreError::Misconfigured(
            format!("{message}; raise the limit on the size of files (`ulimit -f`)").into(),
        ),
        Some(
            Errno::ENOTDIR
            | Errno::EISDIR
            | Errno::ELOOP
            | Errno::EROFS
            | Errno::ENAMETOOLONG
            | Errno::EINVAL
            | Errno::ENOLCK
            | Errno::EOPNOTSUPP,
        ) => StoreError::Misconfigured(FlawKind::InTheWay.flaw(message)),
        _ => StoreError::Unavailable { detail: message, sent: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_file_system_name_the_path_and_their_kind() {
        let of =
            |errno: Errno| io_error("write", Path::new("/d/x"), &io::Error::from(errno), false);
        assert!(matches!(of(Errno::EACCES), StoreError::Denied(_)));
        assert!(matches!(of(Errno::ENOENT), StoreError::Missing(_)));
        assert!(matches!(of(Errno::EROFS), StoreError::Misconfigured(_)));
        assert!(matches!(of(Errno::ENOTDIR), StoreError::Misconfigured(_)));
        let StoreError::Misconfigured(limit) = of(Errno::EFBIG) else { panic!("another kind") };
        assert!(limit.text.ends_with("(`ulimit -f`)"), "{limit}");
        assert_eq!(limit.kind, FlawKind::Named, "no file is in the way");
        let full = of(Errno::ENOSPC);
        assert_eq!(full.to_string(), "cannot write `/d/x`: no space left on device");
        assert!(full.is_transient() && !full.outcome_is_unknown());
    }

    #[test]
    fn what_may_have_been_applied_is_unknown_whatever_the_error() {
        for errno in [Errno::EINVAL, Errno::EROFS, Errno::EACCES, Errno::ENOENT, Errno::EIO] {
            let error = io_error("write", Path::new("/d/x"), &io::Error::from(errno), true);
            assert!(error.outcome_is_unknown() && error.is_transient(), "{errno}: {error:?}");
        }
    }

    /// As on a mount whose server is gone, and comes back.
    #[tokio::test]
    async fn a_file_system_that_does_not_answer_is_not_waited_for_without_end() {
        let workers = Workers::new();
        let mut hang = Vec::new();
        for _ in 0..MOST_HANGING {
            let (gone, server) = std::sync::mpsc::channel::<()>();
            hang.push(gone);
            let hanging = workers.run(move || {
                let _until_it_is_back = server.recv();
                Ok(())
            });
            let error = answered_within(Duration::from_millis(20), hanging).await.unwrap_err();
            assert!(error.outcome_is_unknown(), "{error:?}");
        }
        // Nothing more is begun: each would hang, too.
        let error = workers.run(|| Ok(())).await.unwrap_err();
        assert!(error.is_transient() && !error.outcome_is_unknown(), "{error:?}");
        drop(hang.pop());
        let back = async {
            while workers.run(|| Ok(())).await.is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), back).await.expect("it is asked again");
    }
}
