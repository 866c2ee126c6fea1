//! The workspace trap: Terraform creates a missing workspace under the state's lock, tries that
//! once, and ignores both `-lock=false` and `-lock-timeout` (hashicorp/terraform#36088). Under our
//! lock it would fail. So the workspace is created beforehand, by Terraform itself.
//!
//! Its rules: `docs/protocol.md#c4-a-workspace-that-does-not-exist`.

use super::context::Context;
use super::event_loop::EventLoop;
use super::request::{StoreReply, StoreRequest};
use super::store_requests::LockRegister;
use super::{store_requests, supervise};
use crate::backend::S3Backend;
use crate::error::Error;
use crate::job::WorkspaceBootstrap;
use crate::report::{Notice, clean};
use crate::store::{StateObject, StoreError};
use crate::target::LockTarget;

/// How often a creation that succeeded may leave the workspace unseen.
const TRIES: u32 = 3;

/// Terraform's words for a workspace that cannot be one, on whichever stream.
const UNNAMED: &str = "Invalid workspace name";

/// Whether the lock can be held for Terraform.
pub(super) enum Ready {
    /// It can: the workspace is there.
    Go,
    /// Not yet: the workspace is missing, and Terraform did not get the lock under which it would
    /// create it. What to say if it never does.
    Held(Notice),
    /// It cannot: Terraform has to lock for itself. Says why.
    Native(Notice),
}

fn native(why: &str) -> Ready {
    Ready::Native(not_held(why))
}

fn not_held(why: &str) -> Notice {
    Notice::warning(format!("Terraform locks for itself: {why}"))
}

/// Sees to it that the workspace is there.
pub(super) async fn ensure(
    event_loop: &mut EventLoop,
    bootstrap: &WorkspaceBootstrap,
    lock: Option<&LockTarget>,
    context: &Context,
) -> Result<Ready, Error> {
    let workspace = &bootstrap.backend.workspace;
    if let Some(why) = bootstrap.backend.never_listed() {
        return Ok(native(&format!(
            "Terraform never finds the workspace `{}` in its listing, because {why}, and locks for \
             itself in every command",
            clean(workspace)
        )));
    }
    let (mut asked, mut created) = (false, 0);
    loop {
        match state(event_loop, bootstrap).await? {
            Ok(StateObject::Exists) => return Ok(Ready::Go),
            Ok(StateObject::Missing) if let Some(why) = bootstrap.cannot_create => {
                return Ok(native(&format!(
                    "the workspace `{workspace}` does not exist yet, and {why}"
                )));
            }
            Ok(StateObject::Missing) if created == TRIES => {
                return Ok(native(&format!(
                    "the workspace `{workspace}` was created and is still not listed"
                )));
            }
            Ok(StateObject::Missing) => {}
            Err(StoreError::Denied(what)) => {
                return Ok(native(&format!(
                    "access denied: {what}; without it, Terraform takes the lock itself in every \
                     command outside the workspace `default`"
                )));
            }
            Err(source) => {
                let lock =
                    format!("s3://{}/{}", bootstrap.backend.bucket, bootstrap.backend.state_key());
                return Err(Error::Store { lock, source });
            }
        }
        if let Some(lock) = lock.filter(|_| !asked) {
            expect_an_answer(event_loop, lock).await?;
        }
        if !asked && is_refused(event_loop, bootstrap, context).await? {
            return Ok(Ready::Native(Notice::Detail {
                message: format!(
                    "the workspace `{workspace}` does not exist, and Terraform refuses the command \
                     before it would create it"
                ),
            }));
        }
        asked = true;
        event_loop.say(Notice::Detail {
            message: format!("the workspace `{workspace}` does not exist yet: creating it"),
        });
        let attempt = supervise::quietly(event_loop, &bootstrap.create, context).await?;
        if attempt.succeeded {
            created += 1;
            continue;
        }
        let said = not_held(&format!(
            "the workspace `{workspace}` could not be created: {}",
            first_line(&attempt.said)
        ));
        let is_held = is_about_the_lock(&attempt.said);
        return Ok(if is_held { Ready::Held(said) } else { Ready::Native(said) });
    }
}

/// Where nobody answers who has the lock, Terraform would ask for it far longer than we do, and say
/// nothing meanwhile. Whatever else is wrong it says itself.
async fn expect_an_answer(event_loop: &mut EventLoop, target: &LockTarget) -> Result<(), Error> {
    let register = LockRegister::open(target).await?;
    match store_requests::read(event_loop, &register, store_requests::PATIENCE).await {
        Err(error) if is_silence(&error) || !matches!(error, Error::Store { .. }) => Err(error),
        _ => Ok(()),
    }
}

fn is_silence(error: &Error) -> bool {
    matches!(error, Error::Store { source, .. } if source.is_worth_another_try())
}

/// Whether Terraform ends before it would come to the workspace, for its arguments or the like: a
/// name that was mistyped must not make a workspace where the command fails anyway.
async fn is_refused(
    event_loop: &mut EventLoop,
    bootstrap: &WorkspaceBootstrap,
    context: &Context,
) -> Result<bool, Error> {
    match &bootstrap.probe {
        _ if bootstrap.is_refused => Ok(true),
        Some(probe) => {
            Ok(!supervise::quietly(event_loop, probe, context).await?.said.contains(UNNAMED))
        }
        None => Ok(false),
    }
}

/// Asks whether the state is there, through a short outage.
pub(super) async fn state(
    event_loop: &mut EventLoop,
    bootstrap: &WorkspaceBootstrap,
) -> Result<Result<StateObject, StoreError>, Error> {
    let request = || StoreRequest::State(Box::new(bootstrap.backend.clone()));
    let answer = |reply| match reply {
        StoreReply::State(answer) => Some(answer),
        _ => None,
    };
    let S3Backend { bucket, .. } = &bootstrap.backend;
    let url = format!("s3://{bucket}/{}", bootstrap.backend.state_key());
    store_requests::ask(event_loop, &url, store_requests::PATIENCE, request, answer).await
}

/// Terraform's words (1.x and OpenTofu) for a lock that someone else has.
fn is_about_the_lock(said: &str) -> bool {
    ["state lock", "failed to lock", "lock s3 state"].iter().any(|words| said.contains(words))
}

fn first_line(said: &str) -> String {
    let plain = anstream::adapter::strip_str(said).to_string();
    let line = plain
        .lines()
        .map(|line| line.trim_matches(|c: char| c.is_whitespace() || "╷│╵".contains(c)))
        .find(|line| line.contains("Error"))
        .unwrap_or("Terraform did not say why");
    clean(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terraforms_lock_errors_are_told_from_others() {
        let held = "\nError: error loading state: failed to lock s3 state: operation error\n";
        assert!(is_about_the_lock(held));
        assert!(is_about_the_lock("Error: Error acquiring the state lock"));
        assert!(!is_about_the_lock("Error: No valid credential sources found"));
    }

    #[test]
    fn the_error_is_found_in_its_box() {
        let boxed = "╷\n│ Warning: x\n│ \n│ Error: No valid \u{1b}[1mcredential\n│ sources\n╵\n";
        let line = first_line(boxed);
        assert!(line.starts_with("Error: No valid") && !line.contains('\u{1b}'), "{line:?}");
    }
}
