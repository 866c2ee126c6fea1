//! Tokens in files, which whoever writes them renews: read each time.

use std::path::Path;

use super::super::StoreError;
use super::super::blocking::{self, reason};

/// The whole text, newline and all, as Go's SDK sends it. `what` is what stands there.
///
/// # Errors
/// When it cannot be read as text.
pub(super) async fn read(path: &Path, what: &'static str) -> Result<String, StoreError> {
    let path = path.to_owned();
    blocking::run(move || {
        std::fs::read_to_string(&path).map_err(|error| {
            let (path, why) = (path.display(), reason(&error));
            StoreError::Credentials(format!("cannot read {what} `{path}`: {why}"))
        })
    })
    .await
}
