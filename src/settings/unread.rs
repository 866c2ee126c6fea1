//! What was probably meant as a setting, and is none.

use std::path::Path;

use super::file::{self, KEYS};
use super::source::variable;
use crate::env::Env;
use crate::nearest::slip_of;
use crate::report::shell_quote;

const PREFIX: &str = "TFWRAP_";

/// Keys of the file that have no variable.
const WITHOUT: [&str; 4] = ["quiet", "verbose", "color", "unlocked"];

/// The variables of ours that are no options. Those of `run` and `hold` are not for people to set.
const OTHERS: [&str; 5] = ["RUN_URL", "ACTOR", "STATE_DIR", "DOTENV", "ANNOTATIONS"];
const OF_RUN_AND_HOLD: [&str; 6] =
    ["HELD", "HOLD", "NAMED_LOCKS", "PASSED_ON", "DEPTH", "CHILD_OF"];

/// Those of the action and the GitLab component, which install tfwrap.
const OF_INSTALLERS: [&str; 5] = ["SUMS", "SHA256", "DOWNLOAD_URL", "RELEASES_URL", "RECOVER_WAIT"];

/// What an earlier job's dotenv report sets.
const OUTPUTS: [&str; 7] =
    ["LOCK_ID", "EXITCODE", "OUTCOME", "WAITED_SECONDS", "HELD_SECONDS", "HOLDER", "REPLANNED"];

/// What people put behind a name that says enough.
const ENDS: [&str; 9] =
    ["_FILE", "_PATH", "_URL", "_NAME", "_BIN", "_BINARY", "_PERIOD", "_SECONDS", "_DURATION"];

/// A variable or a file that counts for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Which, and that it does.
    pub message: String,
    /// What was meant.
    pub hint: String,
}

/// All of them; no value is shown. `dir` is where Terraform works, if a file is searched from there.
pub(super) fn all(env: &Env, dir: Option<&Path>) -> Vec<Unread> {
    let options = KEYS.into_iter().chain(["config"]).filter(|key| !WITHOUT.contains(key));
    let known: Vec<_> =
        options.map(variable).chain(OTHERS.map(|it| format!("{PREFIX}{it}"))).collect();
    let names = env.all().filter_map(|(name, _)| name.to_str()?.strip_prefix(PREFIX));
    let variables = names.filter_map(|name| of_variable(name, &known));
    variables.chain(dir.and_then(of_file)).collect()
}

/// Of one by its name without the prefix.
fn of_variable(name: &str, known: &[String]) -> Option<Unread> {
    let is_known = OF_RUN_AND_HOLD.contains(&name)
        || OF_INSTALLERS.contains(&name)
        || name.ends_with("_VERSION")
        || OUTPUTS.contains(&name)
        || known.iter().any(|it| it.strip_prefix(PREFIX) == Some(name));
    if is_known {
        return None;
    }
    let key = WITHOUT.into_iter().find(|key| variable(key).strip_prefix(PREFIX) == Some(name));
    let hint = if let Some(key) = key {
        format!("`{key}` is a key of `.tfwrap.yaml`; there is no variable for it")
    } else {
        format!("did you mean `{PREFIX}{}`?", meant(name, known)?)
    };
    Some(Unread {
        message: format!("`{PREFIX}{name}` is no variable of tfwrap: it is ignored"),
        hint,
    })
}

/// Which one was meant. A prefix of its own invites others: what CI keeps in `TFWRAP_CACHE` or
/// `TFWRAP_TOKEN` is none of ours, and nobody should be warned of it in each run.
fn meant<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let words = || known.iter().filter_map(|it| it.strip_prefix(PREFIX));
    let short = ENDS.iter().find_map(|end| name.strip_suffix(end));
    let any_timeout = || name.ends_with("TIMEOUT").then_some("LOCK_TIMEOUT");
    slip_of(name, words()).or_else(|| slip_of(short?, words())).or_else(any_timeout)
}

fn of_file(dir: &Path) -> Option<Unread> {
    let path = file::misnamed(dir)?;
    let right = path.with_file_name(file::NAME);
    let [from, to] = [&path, &right].map(|it| shell_quote(&it.to_string_lossy()));
    Some(Unread {
        message: format!(
            "`{}` is not read: the configuration file is `{}`",
            path.display(),
            file::NAME
        ),
        hint: format!("mv {from} {to}"),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Options;

    fn hints(names: &[&str]) -> Vec<String> {
        let env = names.iter().map(|name| (*name, "hunter2")).collect();
        let said = all(&env, None);
        assert!(said.iter().all(|it| !format!("{it:?}").contains("hunter2")));
        said.into_iter().map(|it| it.hint).collect()
    }

    #[test]
    fn what_is_like_a_variable_is_said_to_be_none() {
        for (name, meant) in [
            ("TFWRAP_LOCKTIMEOUT", "TFWRAP_LOCK_TIMEOUT"),
            ("TFWRAP_TIMEOUT", "TFWRAP_LOCK_TIMEOUT"),
            ("TFWRAP_LOCKS", "TFWRAP_LOCK"),
            ("TFWRAP_STATEDIR", "TFWRAP_STATE_DIR"),
            ("TFWRAP_CONFIG_FILE", "TFWRAP_CONFIG"),
            ("TFWRAP_LOCK_URL", "TFWRAP_LOCK"),
            ("TFWRAP_TERRAFORM_BIN", "TFWRAP_TERRAFORM"),
            ("TFWRAP_TERAFORM", "TFWRAP_TERRAFORM"),
            ("TFWRAP_Lock_Timeout", "TFWRAP_LOCK_TIMEOUT"),
            ("TFWRAP_lease", "TFWRAP_LEASE"),
            ("TFWRAP__LOCK", "TFWRAP_LOCK"),
        ] {
            assert_eq!(hints(&[name]), [format!("did you mean `{meant}`?")], "{name}");
        }
        assert!(hints(&["TFWRAP_COLOR"])[0].starts_with("`color` is a key of"));
        let others = [&OUTPUTS[..], &OF_RUN_AND_HOLD, &OF_INSTALLERS].concat();
        for name in others {
            assert_eq!(hints(&[&format!("{PREFIX}{name}")]), [""; 0], "{name}");
        }
        // Somebody's own.
        for name in [
            "CACHE",
            "CACHE_DIR",
            "TOKEN",
            "OS",
            "ARCH",
            "ACTION",
            "RELEASE",
            "INSTALL_DIR",
            "BRANCH",
            "WORKSPACE",
            "RUNNER",
            "RUN_ID",
            "STAGE",
            "PLAN",
            "PLAN_FILE",
            "LOCK_TABLE",
            "BIN",
            "PATH",
            "TEST_OFF",
            "CRASH_POINT",
        ] {
            assert_eq!(hints(&[&format!("{PREFIX}{name}")]), [""; 0], "{name}");
        }
        // An installer's, perhaps.
        assert_eq!(hints(&["TFWRAP_TERRAFORM_VERSION"]), [""; 0]);
        assert_eq!(hints(&["TFWRAP_VERSION", "TFWRAP_SHA256", "MY_TFWRAP_LOCKS"]), [""; 0]);
    }

    /// Those of the options are known; that there are no others is held beside the reference's tables.
    #[test]
    fn each_variable_of_an_option_is_known() {
        for argument in Options::command().get_arguments() {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let Some((_, rest)) = help.split_once("[env: ") else { continue };
            for name in rest.split(']').next().unwrap().split(", ") {
                assert_eq!(hints(&[name]), [""; 0], "{name}");
            }
        }
        let ours = OTHERS.iter().chain(&OF_RUN_AND_HOLD).map(|it| format!("{PREFIX}{it}"));
        assert_eq!(
            hints(&ours.collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>()),
            [""; 0]
        );
    }
}
