//! The workspace trap: what must be there before a lock can be held for Terraform.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::ChildCommand;
use crate::backend::S3Backend;
use crate::terraform::Invocation;

/// A workspace whose state does not exist yet is created by Terraform under the very lock that we
/// would hold (hashicorp/terraform#36088); so it must be created before.
#[derive(Debug)]
pub struct WorkspaceBootstrap {
    /// The state to look for.
    pub backend: S3Backend,
    /// Creates it when run: `terraform state pull`.
    pub create: ChildCommand,
    /// The command itself in a workspace that cannot be: complains of just that when it has no
    /// fault beside it. `None` under `run`, where the commands are not known.
    pub probe: Option<ChildCommand>,
    /// Whether the command will be refused for another reason.
    pub is_refused: bool,
    /// The call that locks for itself, where there is no way to hold the lock for it; `None`
    /// under `run`, where each call below decides for itself.
    pub native: Option<Invocation>,
    /// Why the workspace cannot be created here, if so.
    pub cannot_create: Option<&'static str>,
}

/// See [`WorkspaceBootstrap::probe`]. Terraform looks at the name of the workspace after all else that needs no
/// state, in every command, and before it does anything.
fn probe(program: &Path, args: &[OsString]) -> ChildCommand {
    ChildCommand {
        program: program.to_owned(),
        args: args.to_vec(),
        env: vec![("TF_WORKSPACE".into(), OsString::from("/")), ("TF_LOG".into(), OsString::new())],
    }
}

/// That of a call with these arguments; whether they name a saved plan.
pub(super) fn of(
    program: &Path,
    args: &[OsString],
    backend: &S3Backend,
    invocation: Invocation,
    dir: &Path,
    is_saved: bool,
) -> WorkspaceBootstrap {
    WorkspaceBootstrap {
        backend: backend.clone(),
        create: create_workspace(program, &backend.workspace, &invocation),
        probe: Some(probe(program, args)),
        is_refused: has_unusable_variables(&invocation, dir),
        native: Some(invocation),
        // The plan's backend need not be the one that `state pull` would use.
        cannot_create: is_saved.then_some(
            "only the saved plan knows its backend for certain, so Terraform creates it and locks for \
             that",
        ),
    }
}

/// What Terraform looks at after the name of the workspace and before the state.
fn has_unusable_variables(invocation: &Invocation, dir: &Path) -> bool {
    let exists = |name: &OsStr| dir.join(name).exists();
    invocation.values("var-file").any(|name| !exists(name))
        || invocation.values("var").any(|pair| !pair.as_encoded_bytes().contains(&b'='))
}

/// `state pull` creates a workspace that is missing, and changes nothing of one that is there.
fn create_workspace(program: &Path, workspace: &str, invocation: &Invocation) -> ChildCommand {
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
            ("TF_WORKSPACE".into(), OsString::from(workspace)),
            // Flags meant for the user's own command.
            ("TF_CLI_ARGS".into(), OsString::new()),
            ("TF_CLI_ARGS_state_pull".into(), OsString::new()),
        ],
    }
}
