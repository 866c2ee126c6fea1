//! The permissions and the conditions of a store, tried on a register that no lock uses:
//! `K.tfwrap/probe/UUID` beside the lock `K`, as its queue is. It is removed whatever happens, and
//! nothing is written that could not be removed again.

use uuid::Uuid;

use super::super::Opened;
use crate::error::Error;
use crate::lock::LockKey;
use crate::lock::line::Slot;
use crate::lock::register::{
    Expect, Record, RecordVersion, RemoveReply, Reply, Request, StoreError, Stored, WriteReply,
};
use crate::report::{Check, Notice};
use crate::run::store_requests::{LockRegister, settle};
use crate::run::{EventLoop, store_requests};
use crate::store::Conditions;
use crate::target::{LockTarget, StoreSpec};

const PERMISSIONS: &str = "permissions";
const CONDITIONS: &str = "conditions";
const PROBE: &str = "probe";

/// How often what is left of it is tried to be removed.
const TRIES: usize = 3;

/// What the three operations of a register need.
struct Needed {
    read: &'static str,
    write: &'static str,
    remove: &'static str,
}

fn needed(target: &LockTarget) -> Needed {
    match target.store {
        StoreSpec::S3 { .. } => {
            Needed { read: "s3:GetObject", write: "s3:PutObject", remove: "s3:DeleteObject" }
        }
        _ => Needed {
            read: "dynamodb:GetItem",
            write: "dynamodb:PutItem",
            remove: "dynamodb:DeleteItem",
        },
    }
}

/// Tries them all.
pub(super) async fn run(
    event_loop: &mut EventLoop,
    lock: &Opened<'_>,
) -> Result<Vec<Check>, Error> {
    let key = LockKey(format!("{}.tfwrap/probe/{}", lock.target.key, Uuid::new_v4()));
    let mut probe = Probe {
        register: LockRegister { key, ..lock.register.clone() },
        lock,
        needed: needed(lock.target),
        allowed: Vec::new(),
        stopped: None,
        is_hidden: false,
        is_written: false,
        last: None,
    };
    let mut checks = match probe.all(event_loop).await {
        Err(Ended::Check(check)) if check.name == PERMISSIONS => vec![check],
        Ok(check) | Err(Ended::Check(check)) => vec![probe.permissions(), check],
        Err(Ended::Stopped) => Vec::new(),
    };
    let left = if probe.is_written { probe.clear(event_loop).await } else { None };
    let Some(stopped) = probe.stopped else {
        checks.extend(left);
        return Ok(checks);
    };
    if let Some(Check { detail, hint, .. }) = left {
        event_loop.reporter.say(Notice::warning(detail).with_hint(hint));
    }
    Err(stopped)
}

/// What ends the tries before their end.
enum Ended {
    Check(Check),
    /// A signal did.
    Stopped,
}

struct Probe<'a> {
    register: LockRegister,
    lock: &'a Opened<'a>,
    needed: Needed,
    /// What was seen to be allowed.
    allowed: Vec<&'static str>,
    stopped: Option<Error>,
    /// Whether what is not there is denied: S3 answers so without `s3:ListBucket`.
    is_hidden: bool,
    /// Whether something may be there.
    is_written: bool,
    /// Under which version.
    last: Option<RecordVersion>,
}

impl Probe<'_> {
    async fn all(&mut self, event_loop: &mut EventLoop) -> Result<Check, Ended> {
        let (url, none) = (&self.lock.register.lock, self.register.store.no_version());
        // The lock's own key and the queue's, which may stand in a policy one by one, are only read.
        let read = self.needed.read;
        for key in [Slot::Lock, Slot::Line].map(|slot| slot.key(&self.lock.target.key)) {
            let register = LockRegister { key, ..self.register.clone() };
            match self.ask_of(event_loop, &register, Request::Read).await? {
                Reply::Read(Ok(_)) => {}
                reply if self.may_hide(&reply) => self.is_hidden = true,
                reply => return Err(self.refused(read, reply)),
            }
        }
        if self.register.store.conditions() == Conditions::OfCreates {
            // They were tried, as far as that goes, to find that out.
            self.allowed.extend([read, self.needed.write]);
            let detail = "the store looks at the condition of a create only: no lease, no queue";
            let hint = "use a store that looks at all conditions, as AWS' own does \
                        (docs/aws.md#the-lock-file-in-s3)";
            return Ok(Check::warn(CONDITIONS, detail, hint));
        }
        self.expect_absent(event_loop).await?;
        // What may not be removed is not written.
        let removed = self.ask(event_loop, Request::Remove(none.clone())).await?;
        match removed {
            Reply::Removed(Ok(RemoveReply::Conflict(_))) => {}
            // It may be allowed, and is not told of what is not there.
            Reply::Removed(Err(StoreError::Denied(_))) if self.is_hidden => {}
            Reply::Removed(Ok(RemoveReply::Removed)) => {
                return Err(broken(url, "removes whatever is there, on any condition"));
            }
            reply => return Err(self.refused(self.needed.remove, reply)),
        }
        self.conditions(event_loop, &none).await
    }

    async fn conditions(
        &mut self,
        event_loop: &mut EventLoop,
        none: &RecordVersion,
    ) -> Result<Check, Ended> {
        let url = &self.lock.register.lock;
        self.is_written = true;
        let Some(first) = self.write(event_loop, 1, Expect::Absent).await? else {
            return Err(broken(url, "refuses to create what is not there"));
        };
        self.allowed.push(self.needed.write);
        if self.write(event_loop, 2, Expect::Absent).await?.is_some() {
            return Err(broken(url, "creates over what is there"));
        }
        match self.read(event_loop).await? {
            Some(stored) if stored.version == first && stored.record == record(1) => {}
            _ => return Err(broken(url, "does not give back what was just written")),
        }
        self.allowed.push(self.needed.read);
        if self.write(event_loop, 3, Expect::Version(none.clone())).await?.is_some() {
            return Err(broken(url, "replaces whatever is there, on any condition"));
        }
        let Some(second) = self.write(event_loop, 4, Expect::Version(first.clone())).await? else {
            return Err(broken(url, "refuses to replace the version that is there"));
        };
        if self.remove(event_loop, first).await? {
            return Err(broken(url, "removes another version than the one that it was asked to"));
        }
        if !self.remove(event_loop, second).await? {
            return Err(broken(url, "refuses to remove the version that is there"));
        }
        self.allowed.push(self.needed.remove);
        self.is_written = false;
        self.expect_absent(event_loop).await?;
        Ok(Check::pass(
            CONDITIONS,
            "creates, replacements and removals are refused as they should be",
        ))
    }

    async fn expect_absent(&mut self, event_loop: &mut EventLoop) -> Result<(), Ended> {
        match self.ask(event_loop, Request::Read).await? {
            Reply::Read(Ok(None)) => Ok(()),
            Reply::Read(Ok(Some(_))) => {
                Err(broken(&self.lock.register.lock, "shows what is not there"))
            }
            reply if self.may_hide(&reply) => {
                self.is_hidden = true;
                Ok(())
            }
            reply => Err(self.refused(self.needed.read, reply)),
        }
    }

    fn may_hide(&self, reply: &Reply) -> bool {
        matches!(self.lock.target.store, StoreSpec::S3 { .. })
            && matches!(reply, Reply::Read(Err(StoreError::Denied(_))))
    }

    async fn read(&mut self, event_loop: &mut EventLoop) -> Result<Option<Stored>, Ended> {
        match self.ask(event_loop, Request::Read).await? {
            Reply::Read(Ok(stored)) => Ok(stored),
            reply => Err(self.refused(self.needed.read, reply)),
        }
    }

    /// The version, if it was applied.
    async fn write(
        &mut self,
        event_loop: &mut EventLoop,
        number: u8,
        expect: Expect,
    ) -> Result<Option<RecordVersion>, Ended> {
        match self.ask(event_loop, Request::Write(record(number), expect)).await? {
            Reply::Wrote(Ok(WriteReply::Applied(version))) => {
                self.last = Some(version.clone());
                Ok(Some(version))
            }
            Reply::Wrote(Ok(WriteReply::Conflict(_))) => Ok(None),
            reply => Err(self.refused(self.needed.write, reply)),
        }
    }

    /// Whether it was removed.
    async fn remove(
        &mut self,
        event_loop: &mut EventLoop,
        version: RecordVersion,
    ) -> Result<bool, Ended> {
        match self.ask(event_loop, Request::Remove(version)).await? {
            Reply::Removed(Ok(reply)) => Ok(reply == RemoveReply::Removed),
            reply => Err(self.refused(self.needed.remove, reply)),
        }
    }

    async fn ask(&mut self, event_loop: &mut EventLoop, request: Request) -> Result<Reply, Ended> {
        let register = self.register.clone();
        self.ask_of(event_loop, &register, request).await
    }

    /// Nothing more is asked after a signal.
    async fn ask_of(
        &mut self,
        event_loop: &mut EventLoop,
        register: &LockRegister,
        request: Request,
    ) -> Result<Reply, Ended> {
        let reply = settle(event_loop, register, request, &mut self.stopped).await;
        if self.stopped.is_some() { Err(Ended::Stopped) } else { Ok(reply) }
    }

    /// What is known to be allowed, and where.
    fn permissions(&self) -> Check {
        let key = &self.lock.target.key;
        let detail = format!("{} on `{key}.tfwrap/*`, where the queue is", self.allowed.join(", "));
        if !self.is_hidden {
            return Check::pass(PERMISSIONS, detail);
        }
        Check::warn(
            PERMISSIONS,
            format!("{detail}; a lock that is free is not told from one that may not be read"),
            "allow `s3:ListBucket` on the bucket, as Terraform's S3 backend needs it",
        )
    }

    fn refused(&self, action: &str, reply: Reply) -> Ended {
        let error = match reply {
            Reply::Read(Err(error)) | Reply::Wrote(Err(error)) | Reply::Removed(Err(error)) => {
                error
            }
            // An answer to another question: a bug, and no reason to end in another way.
            _ => StoreError::Failed("an answer to something else".to_owned()),
        };
        let hint = match &error {
            StoreError::Denied(_) => Some(format!(
                "allow `{action}` on the lock and on what lies beside it; `tfwrap table policy` prints \
                 the whole policy"
            )),
            error => {
                let lock = self.lock.register.lock.clone();
                Error::Store { lock, source: error.clone() }.hint()
            }
        };
        Ended::Check(Check::fail(PERMISSIONS, error.to_string(), hint))
    }

    /// Removes what is left, however it got there. No signal keeps it from that.
    async fn clear(&mut self, event_loop: &mut EventLoop) -> Option<Check> {
        let mut why = String::new();
        let mut found = None;
        for _ in 0..TRIES {
            if let Some(version) = self.last.clone() {
                let request = Request::Remove(version);
                match settle(event_loop, &self.register, request, &mut self.stopped).await {
                    Reply::Removed(Ok(
                        RemoveReply::Removed | RemoveReply::Conflict(Some(None)),
                    )) => {
                        return None;
                    }
                    Reply::Removed(Err(error)) => why = error.to_string(),
                    _ => {}
                }
            }
            match settle(event_loop, &self.register, Request::Read, &mut self.stopped).await {
                Reply::Read(Ok(None)) => return None,
                Reply::Read(Ok(Some(stored))) => {
                    self.last = Some(stored.version.clone());
                    found = Some(stored);
                }
                Reply::Read(Err(error)) => why = error.to_string(),
                _ => {}
            }
        }
        let target = LockTarget { key: self.register.key.clone(), ..self.lock.target.clone() };
        let command = found.and_then(|stored| target.nameless_removal(&stored));
        let detail = format!("`{}` may be left behind: {why}", target.url());
        Some(Check::fail(PROBE, detail, command.or(Some("call `tfwrap doctor` again".to_owned()))))
    }
}

/// No two are alike, and none is a lock's.
fn record(number: u8) -> Record {
    Record { info: None, lease: Some(format!("{{\"probe\":{number}}}")) }
}

fn broken(url: &str, what: &str) -> Ended {
    let hint = "nothing there keeps two runs apart: take another store, such as \
                `--lock dynamodb://TABLE/NAME`";
    Ended::Check(Check::fail(
        CONDITIONS,
        format!("`{url}`: its store {what}"),
        Some(hint.to_owned()),
    ))
}

/// Finds out which conditions a store looks at, where nobody knows; a check where it holds no lock.
pub(super) async fn try_conditions(
    event_loop: &mut EventLoop,
    lock: &Opened<'_>,
) -> Result<Option<Check>, Error> {
    let done = store_requests::prepare(event_loop, &lock.register.store, true).await?;
    Ok(done.err().map(|source| {
        let name =
            if matches!(source, StoreError::Misconfigured(_)) { CONDITIONS } else { PERMISSIONS };
        let error = Error::Store { lock: lock.register.lock.clone(), source };
        Check::fail(name, error.to_string(), error.hint())
    }))
}
