//! The table of commands.

use std::ffi::{OsStr, OsString};

use super::Dialect;
use super::flags::Flag::{self, Bool, Duration, Value};
use crate::lock::{APPLY_OPERATION, PLAN_OPERATION};

/// Whether a command can run under a lock that we hold for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockUse {
    /// It takes the state lock and has `-lock` to switch that off.
    Locks,
    /// Everything else: it locks nothing, or only for itself without a way to switch it off, or it
    /// is not understood here.
    HandsOver,
}

/// What the `-state` and `-state-out` of a command do to the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum StateUse {
    /// The command has no such flags.
    None,
    /// They are the local backend's; with any other backend they change nothing, or are an error.
    LocalBackend,
    /// `-state` replaces the backend, whichever it is, by the file it names.
    AnyBackend,
}

/// A command of Terraform's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    words: &'static [&'static str],
    operation: Option<&'static str>,
    lock_use: LockUse,
    pub(super) state_use: StateUse,
    flags: &'static [Group],
}

impl Command {
    /// The words that name it, such as `state`, `mv`.
    #[must_use]
    pub fn words(&self) -> &'static [&'static str] {
        self.words
    }

    /// The words, joined: `state mv`.
    #[must_use]
    pub fn name(&self) -> String {
        self.words.join(" ")
    }

    /// What Terraform writes into the lock's `Operation` for it; nothing where it does not lock.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        self.operation
    }

    /// Whether it reads the files of variables that need not be named.
    #[must_use]
    pub fn reads_variables(&self) -> bool {
        matches!(self.words, ["plan" | "apply" | "destroy" | "refresh" | "import"])
    }

    /// Whether it can run under our lock at all; one invocation of it still may not
    /// ([`super::Invocation::lock_use`]).
    #[must_use]
    pub fn lock_use(&self) -> LockUse {
        self.lock_use
    }

    /// The flags that a binary of this dialect knows for it.
    pub(super) fn flags(&self, dialect: Dialect) -> Vec<Group> {
        let own = match dialect {
            Dialect::Terraform => None,
            Dialect::OpenTofu => Some(TOFU),
        };
        self.flags.iter().copied().chain(own).collect()
    }

    /// The variable whose words Terraform puts behind this command's: `TF_CLI_ARGS_state_mv`.
    pub(super) fn args_variable(&self) -> String {
        format!("TF_CLI_ARGS_{}", self.words.join("_").replace('-', "_"))
    }

    const fn locks(
        words: &'static [&'static str],
        operation: &'static str,
        state_use: StateUse,
        flags: &'static [Group],
    ) -> Self {
        Self { words, operation: Some(operation), lock_use: LockUse::Locks, state_use, flags }
    }

    const fn handed_over(words: &'static [&'static str], operation: Option<&'static str>) -> Self {
        Self {
            words,
            operation,
            lock_use: LockUse::HandsOver,
            state_use: StateUse::None,
            flags: &[],
        }
    }
}

/// Flags that go together.
pub(super) type Group = &'static [(&'static str, Flag)];

const LOCK: Group = &[("lock", Bool), ("lock-timeout", Duration)];
const STATE: Group = &[("state", Value), ("state-out", Value), ("backup", Value)];
const VARS: Group = &[("var", Value), ("var-file", Value)];
// What the help of `plan` calls planning options; `invoke` is Terraform's from 1.14 on.
const OPERATION: Group = &[
    ("destroy", Bool),
    ("refresh", Bool),
    ("refresh-only", Bool),
    ("allow-deferral", Bool),
    ("parallelism", Value),
    ("replace", Value),
    ("target", Value),
    ("invoke", Value),
];
const VIEW: Group = &[("input", Bool), ("json", Bool)];
// `OpenTofu`'s alone, whichever the command. Terraform refuses them, or takes them out before it
// looks at flags (see `flags::is_stripped`).
const TOFU: Group = &[
    ("target-file", Value),
    ("exclude", Value),
    ("exclude-file", Value),
    ("suppress-forget-errors", Bool),
    ("json-into", Value),
    ("no-color", Bool),
    ("compact-warnings", Bool),
    ("consolidate-warnings", Bool),
    ("consolidate-errors", Bool),
    ("concise", Bool),
    ("show-sensitive", Bool),
    ("deprecation", Value),
];
const PLAN: Group = &[("detailed-exitcode", Bool), ("generate-config-out", Value), ("out", Value)];
const APPLY: Group = &[("auto-approve", Bool)];
const IMPORT: Group = &[
    ("config", Value),
    ("parallelism", Value),
    ("target", Value),
    ("ignore-remote-version", Bool),
];
const TAINT: Group = &[("allow-missing", Bool), ("ignore-remote-version", Bool)];
const STATE_MV: Group = &[
    ("state", Value),
    ("state-out", Value),
    ("backup", Value),
    ("backup-out", Value),
    ("dry-run", Bool),
    ("ignore-remote-version", Bool),
];
const STATE_RM: Group =
    &[("state", Value), ("backup", Value), ("dry-run", Bool), ("ignore-remote-version", Bool)];
const STATE_PUSH: Group = &[("force", Bool), ("ignore-remote-version", Bool)];
const STATE_REPLACE: Group =
    &[("state", Value), ("backup", Value), ("auto-approve", Bool), ("ignore-remote-version", Bool)];
const WORKSPACE_DELETE: Group = &[("force", Bool)];

const INVALID: &str = "OperationTypeInvalid";

/// Every command whose words need telling apart. Of two that match, the longer one is meant.
static COMMANDS: &[Command] = &[
    Command::locks(
        &["plan"],
        PLAN_OPERATION,
        StateUse::LocalBackend,
        &[LOCK, STATE, OPERATION, VARS, VIEW, PLAN],
    ),
    Command::locks(
        &["apply"],
        APPLY_OPERATION,
        StateUse::LocalBackend,
        &[LOCK, STATE, OPERATION, VARS, VIEW, APPLY],
    ),
    Command::locks(
        &["destroy"],
        APPLY_OPERATION,
        StateUse::LocalBackend,
        &[LOCK, STATE, OPERATION, VARS, VIEW, APPLY],
    ),
    Command::locks(
        &["refresh"],
        "OperationTypeRefresh",
        StateUse::LocalBackend,
        &[LOCK, STATE, OPERATION, VARS, VIEW],
    ),
    Command::locks(
        &["import"],
        INVALID,
        StateUse::LocalBackend,
        &[LOCK, STATE, VARS, VIEW, IMPORT],
    ),
    Command::locks(&["taint"], "taint", StateUse::LocalBackend, &[LOCK, STATE, VARS, VIEW, TAINT]),
    Command::locks(
        &["untaint"],
        "untaint",
        StateUse::LocalBackend,
        &[LOCK, STATE, VARS, VIEW, TAINT],
    ),
    Command::locks(
        &["state", "mv"],
        "state-mv",
        StateUse::AnyBackend,
        &[LOCK, VARS, VIEW, STATE_MV],
    ),
    Command::locks(
        &["state", "rm"],
        "state-rm",
        StateUse::AnyBackend,
        &[LOCK, VARS, VIEW, STATE_RM],
    ),
    Command::locks(
        &["state", "push"],
        "state-push",
        StateUse::None,
        &[LOCK, VARS, VIEW, STATE_PUSH],
    ),
    Command::locks(
        &["state", "replace-provider"],
        "state-replace-provider",
        StateUse::AnyBackend,
        &[LOCK, VARS, VIEW, STATE_REPLACE],
    ),
    // Terraform's own slip: the operation is that of `state replace-provider`.
    Command::locks(
        &["workspace", "delete"],
        "state-replace-provider",
        StateUse::None,
        &[LOCK, VARS, VIEW, WORKSPACE_DELETE],
    ),
    Command::locks(
        &["env", "delete"],
        "state-replace-provider",
        StateUse::None,
        &[LOCK, VARS, VIEW, WORKSPACE_DELETE],
    ),
    // These lock, but not in a way that can be switched off while the lock is held here.
    Command::handed_over(&["console"], Some(INVALID)),
    Command::handed_over(&["workspace", "new"], Some("workspace-new")),
    Command::handed_over(&["env", "new"], Some("workspace-new")),
    Command::handed_over(&["init"], None),
];

/// The `console` of a release that has the flags of other commands.
pub(super) static LOCKED_CONSOLE: Command = Command::locks(
    &["console"],
    INVALID,
    StateUse::LocalBackend,
    &[LOCK, &[("state", Value), ("plan", Bool)], VARS],
);

/// Other first words that Terraform or `OpenTofu` know; none of them locks what it could leave
/// unlocked.
static OTHER_WORDS: &[&str] = &[
    "cloud",
    "debug",
    "env",
    "fmt",
    "force-unlock",
    "get",
    "graph",
    "internal-plugin",
    "lint",
    "login",
    "logout",
    "metadata",
    "modules",
    "output",
    "providers",
    "push",
    "query",
    "rpcapi",
    "show",
    "stacks",
    "state",
    "test",
    "validate",
    "version",
    "workspace",
];

/// Whether Terraform or `OpenTofu` have a command that begins with this word.
#[must_use]
pub fn is_known_word(word: &OsStr) -> bool {
    OTHER_WORDS.iter().any(|known| word == OsStr::new(known))
        || COMMANDS.iter().any(|command| word == OsStr::new(command.words[0]))
}

/// All of them.
#[cfg(test)]
pub(super) fn all() -> &'static [Command] {
    COMMANDS
}

/// Finds the command that `args` begins with.
pub(super) fn find(args: &[OsString]) -> Option<&'static Command> {
    COMMANDS
        .iter()
        .filter(|command| {
            args.len() >= command.words.len()
                && command.words.iter().zip(args).all(|(word, arg)| arg == OsStr::new(word))
        })
        .max_by_key(|command| command.words.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(line: &str) -> Option<String> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        find(&args).map(Command::name)
    }

    #[test]
    fn a_command_is_known_by_all_its_words() {
        let cases = [
            ("plan", Some("plan")),
            ("apply p.bin", Some("apply")),
            ("state mv a b", Some("state mv")),
            ("state replace-provider a b", Some("state replace-provider")),
            ("workspace delete x", Some("workspace delete")),
            ("env delete x", Some("env delete")),
            ("workspace new x", Some("workspace new")),
            ("state", None),
            ("state list", None),
            ("state mvx", None),
            ("state -lock=false mv", None),
            ("planx", None),
            ("Plan", None),
            ("version", None),
        ];
        for (line, name) in cases {
            assert_eq!(name_of(line).as_deref(), name, "{line}");
        }
    }

    #[test]
    fn every_locking_command_has_both_lock_flags_and_an_operation() {
        for command in COMMANDS.iter().filter(|command| command.lock_use == LockUse::Locks) {
            let names: Vec<_> = command.flags.iter().copied().flatten().collect();
            assert!(names.contains(&&("lock", Bool)), "{}", command.name());
            assert!(names.contains(&&("lock-timeout", Duration)), "{}", command.name());
            assert!(command.operation.is_some(), "{}", command.name());
            let has_state = names.contains(&&("state", Value));
            assert_eq!(has_state, command.state_use != StateUse::None, "{}", command.name());
        }
    }

    #[test]
    fn no_command_says_two_things_about_one_flag() {
        for command in COMMANDS {
            let all: Vec<_> = command.flags(Dialect::OpenTofu).into_iter().flatten().collect();
            for (name, kind) in &all {
                let clash =
                    all.iter().any(|(other, other_kind)| other == name && other_kind != kind);
                assert!(!clash, "{} -{name}", command.name());
            }
        }
    }

    #[test]
    fn the_variable_of_a_command_is_named_as_terraform_names_it() {
        for (line, variable) in [
            ("plan", "TF_CLI_ARGS_plan"),
            ("state replace-provider", "TF_CLI_ARGS_state_replace_provider"),
            ("workspace delete", "TF_CLI_ARGS_workspace_delete"),
        ] {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(find(&args).unwrap().args_variable(), variable);
        }
    }

    #[test]
    fn known_words_are_those_of_both_binaries() {
        for word in ["plan", "state", "console", "fmt", "output", "init", "env"] {
            assert!(is_known_word(OsStr::new(word)), "{word}");
        }
        for word in ["", "run", "hold", "-version", "applyy"] {
            assert!(!is_known_word(OsStr::new(word)), "{word}");
        }
    }
}
