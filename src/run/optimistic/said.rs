//! What is said of a plan that was made without the lock.

use std::path::Path;

use crate::lock::Holder;
use crate::report::{Notice, shell_quote};
use crate::run::messages::describe;
use crate::store::StoreError;

/// That a plan is worth nothing, and whose doing that is.
pub(super) fn replanned(lock: &str, writer: Option<&Holder>, last: Option<&str>) -> Notice {
    let why = match (writer, last) {
        (Some(writer), _) => {
            format!(
                "while Terraform planned, the lock `{lock}` was taken: it is {}",
                describe(writer)
            )
        }
        (None, Some(last)) => format!("while Terraform planned, the state changed: {last}"),
        (None, None) => "while Terraform planned, somebody changed the state".to_owned(),
    };
    let writer = writer.and_then(Holder::info).cloned().map(Box::new);
    Notice::Replanned { lock: lock.to_owned(), writer, why }
}

/// The same of one of which nobody can tell what it is worth.
pub(super) fn unproven(lock: &str, error: &StoreError) -> Notice {
    let why =
        format!("whether the state changed while Terraform planned cannot be looked at: {error}");
    Notice::Replanned { lock: lock.to_owned(), writer: None, why }
}

/// What is dropped of a plan that was not looked at afterwards; nothing where nothing is.
pub(super) fn dropped(is_output: bool, plan_file: Option<&Path>) -> Option<Notice> {
    let file = plan_file.map(|path| format!("the plan `{}`", path.display()));
    let what = match (is_output, file) {
        (false, None) => return None,
        (true, None) => "Terraform's output is".to_owned(),
        (false, Some(file)) => format!("{file} is"),
        (true, Some(file)) => format!("Terraform's output and {file} are"),
    };
    let message =
        format!("{what} dropped, because the state may have changed while it was planned");
    Some(Notice::warning(message))
}

/// That a plan which is worth nothing cannot be removed.
pub(super) fn plan_stays(path: &Path, error: &std::io::Error) -> Notice {
    let path = path.display().to_string();
    Notice::warning(format!(
        "the plan `{path}` may be of half an apply, and cannot be removed: {error}"
    ))
    .with_hint(format!("do not apply it: rm -- {}", shell_quote(&path)))
}
