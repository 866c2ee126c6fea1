//! The workspace trap: what must be there before a lock can be held for Terraform.

use std::ffi::OsString;
use std::path::Path;

use super::ChildCommand;
use crate::backend::S3Backend;
use crate::terraform::Invocation;

/// A workspace whose state does not exist yet is created by Terraform under the very lock that we
/// would hold (hashicorp/terraform#36088); so it must be created before.
#[derive(Debug)]
pub struct Trap {
    /// The state to look for.
    pub backend: S3Backend,
    /// Creates it when run: `terraform state pull`.
    pub create: ChildCommand,
    /// The call that locks for itself, where there is no way to hold the lock for it; `None`
    /// under `run`, where each call below decides for itself.
    pub native: Option<Invocation>,
    /// Why the workspace cannot be created here, if so.
    pub cannot_create: Option<&'static str>,
}

/// `state pull` creates a workspace that is missing, and changes nothing of one that is there.
pub(super) fn create_workspace(
    program: &Path,
    workspace: &str,
    invocation: &Invocation,
) -> ChildCommand {
    let chdir = invocation.chdir().map(|dir| {
        let mut flag = OsString::from("-chdir=");
        flag.push(dir);
        flag
    });
    create_workspace_in(program, workspace, chdir.as_slice())
}

pub(super) fn create_workspace_in(
    program: &Path,
    workspace: &str,
    before: &[OsString],
) -> ChildCommand {
    let words = ["state", "pull"].map(OsString::from);
    ChildCommand {
        program: program.to_owned(),
        args: before.iter().cloned().chain(words).collect(),
        env: vec![
            ("TF_WORKSPACE", OsString::from(workspace)),
            // Flags meant for the user's own command.
            ("TF_CLI_ARGS", OsString::new()),
            ("TF_CLI_ARGS_state_pull", OsString::new()),
        ],
    }
}
