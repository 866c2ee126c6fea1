//! File work off the loop, and what its errors mean.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use super::StoreError;

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

/// The error as a fragment of a message.
pub(super) fn reason(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) => errno.desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// Says what an error of the file system means for a store. `applied` tells whether a change may
/// already be visible to others.
pub(super) fn io_error(doing: &str, path: &Path, error: &io::Error, applied: bool) -> StoreError {
    let message = format!("cannot {doing} `{}`: {}", path.display(), reason(error));
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) => StoreError::Denied(message),
        Some(Errno::ENOENT) => StoreError::Missing(message),
        Some(
            Errno::ENOTDIR
            | Errno::EISDIR
            | Errno::ELOOP
            | Errno::EROFS
            | Errno::ENAMETOOLONG
            | Errno::EINVAL
            | Errno::ENOLCK
            | Errno::EOPNOTSUPP,
        ) => StoreError::Misconfigured(message),
        _ => StoreError::Unavailable { detail: message, sent: applied },
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
        let full = of(Errno::ENOSPC);
        assert_eq!(full.to_string(), "cannot write `/d/x`: no space left on device");
        assert!(full.is_transient() && !full.outcome_is_unknown());
    }
}
