//! What Terraform's commands are for: for the help and for completion. Nothing here decides about a
//! lock.

use std::ffi::OsString;

use super::command::{self, LockUse};

/// A command that people type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedCommand {
    /// The words that name it, such as `state`, `mv`. A command comes before those below it.
    pub words: &'static [&'static str],
    /// What it does, in one line.
    pub about: &'static str,
}

/// What tfwrap does about the lock of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockCare {
    /// It runs under the lock, which tfwrap takes.
    Holds,
    /// It takes its lock itself.
    LeavesToTerraform,
    /// It takes no state lock.
    NoLock,
}

impl ListedCommand {
    /// What tfwrap does about its lock.
    #[must_use]
    pub fn lock_care(&self) -> LockCare {
        let words: Vec<OsString> = self.words.iter().map(OsString::from).collect();
        match command::find(&words) {
            Some(command) if command.lock_use() == LockUse::Locks => LockCare::Holds,
            Some(command) if command.operation().is_some() || command.words() == ["init"] => {
                LockCare::LeavesToTerraform
            }
            _ => LockCare::NoLock,
        }
    }
}

const fn listed(words: &'static [&'static str], about: &'static str) -> ListedCommand {
    ListedCommand { words, about }
}

/// The commands that `terraform -help` lists, by name; some are of later releases than 1.11.
pub const LISTED_COMMANDS: &[ListedCommand] = &[
    listed(&["apply"], "Create or change infrastructure"),
    listed(&["console"], "Try expressions at a prompt"),
    listed(&["destroy"], "Destroy what the configuration created"),
    listed(&["fmt"], "Format the configuration"),
    listed(&["force-unlock"], "Remove a lock unseen; `tfwrap unlock` does so with care"),
    listed(&["get"], "Install or upgrade modules"),
    listed(&["graph"], "Print the graph of an operation's steps"),
    listed(&["import"], "Bring an existing object under a resource"),
    listed(&["init"], "Prepare the working directory"),
    listed(&["login"], "Obtain and save credentials of a host"),
    listed(&["logout"], "Remove saved credentials of a host"),
    listed(&["metadata"], "Print metadata"),
    listed(&["metadata", "functions"], "Print the signatures of the functions"),
    listed(&["modules"], "List the modules of the configuration"),
    listed(&["output"], "Print the outputs of the root module"),
    listed(&["plan"], "Show what would change"),
    listed(&["providers"], "Show the providers that are required"),
    listed(&["providers", "lock"], "Write the lock file of the providers"),
    listed(&["providers", "mirror"], "Save copies of the providers"),
    listed(&["providers", "schema"], "Print the schemas of the providers"),
    listed(&["query"], "Search for existing infrastructure"),
    listed(&["refresh"], "Update the state from what exists"),
    listed(&["show"], "Show the state or a saved plan"),
    listed(&["stacks"], "Manage stacks of HCP Terraform"),
    listed(&["state"], "Inspect and change the state"),
    listed(&["state", "list"], "List the resources in the state"),
    listed(&["state", "mv"], "Move an item in the state"),
    listed(&["state", "pull"], "Print the state"),
    listed(&["state", "push"], "Replace the state by a file"),
    listed(&["state", "replace-provider"], "Replace a provider in the state"),
    listed(&["state", "rm"], "Remove items from the state"),
    listed(&["state", "show"], "Show a resource of the state"),
    listed(&["taint"], "Mark an object for replacement"),
    listed(&["test"], "Run the tests of a module"),
    listed(&["untaint"], "Take the mark of `taint` back"),
    listed(&["validate"], "Check the configuration"),
    listed(&["version"], "Print the version"),
    listed(&["workspace"], "Manage workspaces"),
    listed(&["workspace", "delete"], "Delete a workspace"),
    listed(&["workspace", "list"], "List the workspaces"),
    listed(&["workspace", "new"], "Create a workspace and select it"),
    listed(&["workspace", "select"], "Select a workspace"),
    listed(&["workspace", "show"], "Print the selected workspace"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_may_take_a_lock_is_listed() {
        for command in command::all() {
            // `env` is the old name of `workspace`, which Terraform does not list either.
            let is_listed = LISTED_COMMANDS.iter().any(|it| it.words == command.words());
            assert_eq!(is_listed, command.words()[0] != "env", "{}", command.name());
        }
    }

    #[test]
    fn a_command_comes_before_those_below_it_and_once() {
        let names: Vec<_> = LISTED_COMMANDS.iter().map(|it| it.words).collect();
        assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
        for words in names.iter().filter(|words| words.len() > 1) {
            assert!(names.contains(&&words[..1]), "{words:?}");
        }
    }

    #[test]
    fn what_locks_for_itself_is_not_said_to_be_held() {
        let of = |words: &[&str]| {
            LISTED_COMMANDS.iter().find(|it| it.words == words).map(ListedCommand::lock_care)
        };
        assert_eq!(of(&["state", "mv"]), Some(LockCare::Holds));
        assert_eq!(of(&["workspace", "new"]), Some(LockCare::LeavesToTerraform));
        assert_eq!(of(&["init"]), Some(LockCare::LeavesToTerraform));
        assert_eq!(of(&["state", "list"]), Some(LockCare::NoLock));
        assert_eq!(of(&["state"]), Some(LockCare::NoLock));
    }
}
