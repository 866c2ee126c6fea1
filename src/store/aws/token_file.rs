//! Tokens in files, which whoever writes them renews: read each time.

use std::path::Path;

use super::super::blocking::{self, reason};
use super::super::{FlawKind, StoreError};
use super::file;

/// The whole text, newline and all, as Go's SDK sends it. `what` is what stands there.
///
/// # Errors
/// When it cannot be read as text.
pub(super) async fn read(path: &Path, what: &'static str) -> Result<String, StoreError> {
    let path = path.to_owned();
    blocking::run(move || {
        let fail = |why: &str| {
            let text = format!("cannot read {what} `{}`: {why}", path.display());
            StoreError::Credentials(FlawKind::Unreadable.flaw(text))
        };
        let bytes = file::read(&path).map_err(|error| fail(&reason(&error)))?;
        String::from_utf8(bytes).map_err(|_| fail("it is not UTF-8"))
    })
    .await
}
