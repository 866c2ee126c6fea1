//! Looks whether something in Terraform's place leads it elsewhere: a script that changes directory, or sets
//! what names the state.
//!
//! Its rules: `docs/protocol.md#c2-watched-until-terraform-has-read-it`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;

use super::context::Context;
use super::planner::{Planner, working_dir};
use crate::clock::uptime;
use crate::env::Env;
use crate::file_id::FileId;
use crate::job::{LockedJob, is_chdir_first};
use crate::lock::Uptime;
use crate::opened::{self, Opened};
use crate::report::{Notice, clean};
use crate::supervise::{
    Child, Descendants, FoundTerraform, ProcessId, RunningTerraform, are_among,
};
use crate::target::LockTarget;
use crate::terraform::{Dialect, Invocation};

/// How often what the child may have started is looked for, while anything is started: first of a script.
/// Terraform takes 40 ms at least for anything.
const OFTEN: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(25)];

/// The same while nothing is started. A program that is no script is Terraform, or a version manager that
/// passes on what it has.
const SELDOM: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(100)];

/// When it is at rest: that long after the last time that something was started, or ended.
const SETTLES: Duration = Duration::from_secs(1);

/// Looks at each Terraform that is started with our flag.
pub(super) struct StartWatch<'a> {
    planner: &'a Planner,
    job: &'a LockedJob,
    env: &'a Env,
    command: Vec<&'static str>,
    /// Those that were looked at, as they were: each may execute another program, and enters a directory.
    known: HashMap<ProcessId, RunningTerraform>,
    /// What they execute whom the child has started.
    files: HashSet<FileId>,
    /// Whether the child is a script.
    is_script: bool,
    /// All that was there the last time, and since when.
    all: Vec<Pid>,
    changed: Uptime,
    next: Option<Uptime>,
}

/// Where a Terraform works.
enum Whereto {
    /// On a state whose lock is held.
    Held,
    /// On that or on another one, until it has entered the directory of its `-chdir`.
    Unsettled,
    Elsewhere(LedElsewhere),
}

/// A Terraform that works on another state than the one whose lock is held.
pub(super) struct LedElsewhere {
    /// The lock of that state, in words.
    lock: String,
    held: String,
    program: String,
    /// What the program in Terraform's place does.
    how: String,
}

impl LedElsewhere {
    /// That the child is interrupted for it.
    pub(super) fn notice(&self, has_lock: bool) -> Notice {
        let Self { lock, held, program, how } = self;
        let held = if has_lock {
            format!("the lock that is held is `{held}`")
        } else {
            format!("tfwrap watches `{held}`")
        };
        Notice::warning(format!(
            "`{program}` {how} before it runs Terraform, so the lock to hold would be {lock}, but {held}: \
             interrupting Terraform"
        ))
        .with_hint(
            "check that state with `terraform plan`; then set the same for tfwrap instead \
             (`TF_WORKSPACE=prod tfwrap apply`, `tfwrap -chdir=DIR apply`), or let the script call `tfwrap` \
             in the place of Terraform"
                .to_owned(),
        )
    }
}

impl<'a> StartWatch<'a> {
    pub(super) fn over(job: &'a LockedJob, context: &'a Context) -> Self {
        let is_script = is_script(&job.child.program);
        Self {
            planner: &context.planner,
            job,
            env: &context.env,
            command: words_of(&job.child.args),
            known: HashMap::new(),
            files: HashSet::new(),
            is_script,
            all: Vec::new(),
            changed: uptime(),
            next: Some(uptime().plus(OFTEN[usize::from(!is_script)])),
        }
    }

    /// When to look next.
    pub(super) fn deadline(&self) -> Option<Uptime> {
        self.next
    }

    /// Looks at what was started since the last time.
    pub(super) fn look(&mut self, child: &Child) -> Option<LedElsewhere> {
        self.next?;
        let is_terraform =
            |args: &[OsString]| !self.command.is_empty() && words_of(args) == self.command;
        let descendants = Descendants::below_us(child.pid(), is_terraform);
        let now = uptime();
        if descendants.all != self.all {
            (self.all, self.changed) = (descendants.all, now);
        }
        self.files.extend(
            descendants.terraforms.iter().filter(|it| !it.is_stray).filter_map(|it| it.file),
        );
        for found in descendants.terraforms {
            // It may have ended since, or executed another program.
            let running =
                RunningTerraform::of(found.process).filter(|_| self.is_the_childs(&found));
            let Some(running) = running else { continue };
            if self.known.get(&found.process) == Some(&running) {
                continue;
            }
            if let Whereto::Elsewhere(elsewhere) = self.whereto(&running) {
                self.next = None;
                return Some(elsewhere);
            }
            self.known.insert(found.process, running);
        }
        let is_busy = now.since(self.changed) < SETTLES;
        let pause = if is_busy { OFTEN } else { SELDOM };
        self.next = Some(now.plus(pause[usize::from(!self.is_script)]));
        None
    }

    /// Whether the child has started it, as far as can be told of one whose parent has ended: a provisioner may
    /// leave a Terraform, too, which executes the same file as ours.
    fn is_the_childs(&self, found: &FoundTerraform) -> bool {
        let given = &self.job.child.args;
        let given = &given[usize::from(is_chdir_first(given))..];
        let is_known = || found.file.is_some_and(|file| self.files.contains(&file));
        !found.is_stray || (are_among(given, &found.args) && (self.is_script || !is_known()))
    }

    /// No other Terraform will follow.
    pub(super) fn stop(&mut self) {
        self.next = None;
    }

    fn whereto(&self, one: &RunningTerraform) -> Whereto {
        let how = self.what_differs(one);
        if how.is_empty() {
            return Whereto::Held;
        }
        let states = self.planner.states_of(one);
        let others = |held: &[LockTarget]| -> Vec<String> {
            states.iter().filter_map(|state| state.not_among(held)).collect()
        };
        let held = of_backend(&self.job.targets);
        let mut found = others(&held);
        if !found.is_empty()
            && let Ok(job) = self.planner.again()
        {
            // By its name of today: the directory may have been renamed.
            found = others(&[held.clone(), of_backend(&job.targets)].concat());
        }
        match found.pop() {
            None => Whereto::Held,
            Some(_) if found.len() + 1 < states.len() => Whereto::Unsettled,
            Some(lock) => Whereto::Elsewhere(LedElsewhere {
                lock,
                held: held.iter().map(LockTarget::url).collect::<Vec<_>>().join(" "),
                program: self.job.child.program.display().to_string(),
                how,
            }),
        }
    }

    /// What is not as we gave it, in words; nothing where nothing matters.
    fn what_differs(&self, one: &RunningTerraform) -> String {
        let mut differs = Vec::from_iter(variables_set(self.env, one));
        let given = &self.job.child.args;
        let has_our_chdir = chdir(given) == chdir(&one.args);
        if !has_our_chdir {
            differs.push("passes another `-chdir`".to_owned());
        } else if *given != one.args {
            differs.push("passes other arguments".to_owned());
        }
        // Terraform itself enters the one of its `-chdir`.
        let is_here = working_dir().is_ok_and(|dir| dir == one.dir) || self.job.dir == one.dir;
        if has_our_chdir && !is_here {
            differs.push("changes directory".to_owned());
        }
        differs.join(" and ")
    }
}

/// Which variables are others than before, in words; nothing where that is none.
fn variables_set(before: &Env, started: &RunningTerraform) -> Option<String> {
    let matters = |name: &OsStr| {
        let name = name.to_string_lossy();
        !name.starts_with("TFWRAP_") && !["_", "SHLVL", "PWD", "OLDPWD"].contains(&&*name)
    };
    let all = |env: &Env| -> BTreeSet<(OsString, OsString)> {
        let all = env.all().filter(|(name, _)| matters(name));
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let differ: BTreeSet<_> = all(before)
        .symmetric_difference(&all(&started.env))
        .map(|(name, _)| clean(&name.to_string_lossy()))
        .collect();
    let names_state = |name: &&String| {
        ["TF_WORKSPACE", "TF_DATA_DIR", "TF_CLI_ARGS", "AWS_"].iter().any(|it| name.starts_with(it))
    };
    let listed: Vec<_> =
        differ.iter().filter(names_state).map(|name| format!("`{name}`")).collect();
    match listed.as_slice() {
        [] => (!differ.is_empty()).then(|| "sets other variables".to_owned()),
        listed => Some(format!("sets {}", listed.join(", "))),
    }
}

fn chdir(args: &[OsString]) -> Option<PathBuf> {
    parsed(args)?.chdir().cloned()
}

/// Whether the kernel has another program run it.
fn is_script(program: &Path) -> bool {
    let file = opened::to_read(program).and_then(Opened::regular);
    let mut start = [0; 2];
    file.is_ok_and(|mut file| file.read_exact(&mut start).is_ok() && start == *b"#!")
}

fn of_backend(targets: &[LockTarget]) -> Vec<LockTarget> {
    targets.iter().filter(|it| it.of_backend).cloned().collect()
}

fn parsed(args: &[OsString]) -> Option<Invocation> {
    Invocation::parse(args, &Env::default(), Dialect::Terraform).ok()
}

/// The words of Terraform's command; none where it is none that locks.
fn words_of(args: &[OsString]) -> Vec<&'static str> {
    parsed(args)
        .and_then(|call| call.command())
        .map(|command| command.words().to_vec())
        .unwrap_or_default()
}
