//! GitHub Actions: annotations, step outputs, step summary. Pure functions make the text; a thin
//! [`GithubFiles`] appends it where the runner reads it.

mod files;
mod step_summary;

pub(super) use files::append;
pub(crate) use files::append_environment;
pub use files::{FilesError, GithubFiles, SummaryMode};
pub use step_summary::step_summary;

use super::clean::{clean, clean_line};
use super::text::{hint_lines, human, operation_words};
use super::{Annotations, Notice, RunOutcome, Summary};
use crate::env::Env;

/// Whether this is a GitHub Actions job (or one that looks the same, as Gitea's do).
#[must_use]
pub fn is_actions(env: &Env) -> bool {
    env.get("GITHUB_ACTIONS") == Some("true")
}

/// Names the file that gets the annotations instead of stderr.
const ANNOTATIONS: &str = "TFWRAP_ANNOTATIONS";

/// Where the annotations of this job go.
#[must_use]
pub fn annotations(env: &Env) -> Annotations {
    if !is_actions(env) {
        return Annotations::Off;
    }
    let file = env.get_os(ANNOTATIONS).filter(|path| !path.is_empty());
    file.map_or(Annotations::Stderr, |path| Annotations::File(path.into()))
}

/// The annotation for a warning or an error, a whole line; `None` for other notices.
#[must_use]
pub fn annotation(notice: &Notice) -> Option<String> {
    let (level, message, hint) = match notice {
        Notice::Warning { message, hint } => ("warning", message, hint),
        Notice::Error { message, hint, .. } => ("error", message, hint),
        _ => return None,
    };
    let mut text = clean_line(message);
    if let Some(hint) = hint {
        text.push_str("\nhint: ");
        text.push_str(&hint_lines(hint).collect::<Vec<_>>().join("\n"));
    }
    Some(format!("::{level} title={}::{}\n", escape_property("tfwrap"), escape_data(&text)))
}

/// Escapes the message of a workflow command, as the runner unescapes it.
#[must_use]
pub fn escape_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes the value of a property of a workflow command.
#[must_use]
pub fn escape_property(text: &str) -> String {
    escape_data(text).replace(':', "%3A").replace(',', "%2C")
}

/// The output that is known before the child starts: what a later step needs to clean up.
#[must_use]
pub fn lock_id_output(id: &str) -> String {
    output("lock-id", id)
}

/// The outputs of a finished run, `lock-id` apart.
#[must_use]
pub fn final_outputs(summary: &Summary) -> String {
    output("exitcode", &summary.exit_code.to_string()) + &outputs_but_the_code(summary)
}

/// The same where another has set `exitcode`.
fn outputs_but_the_code(summary: &Summary) -> String {
    let holder = summary.holder.as_deref();
    let holder =
        holder.map(|it| holder_output(&it.who, &it.operation, &it.info)).unwrap_or_default();
    [
        output("outcome", summary.outcome.as_str()),
        output("waited-seconds", &whole_seconds(summary.waited)),
        output("held-seconds", &whole_seconds(summary.held)),
        output("holder", &holder),
        output("replanned", if summary.replanned { "true" } else { "false" }),
    ]
    .concat()
}

/// One `name=value` line. A cleaned value has no line end, so the many-line form and its delimiter
/// are not needed; and after `name=` the runner no longer looks for that form's `<<`.
fn output(name: &str, value: &str) -> String {
    format!("{name}={}\n", clean(value))
}

/// Rounded, for a shell's integer comparison.
fn whole_seconds(time: std::time::Duration) -> String {
    (time.as_secs() + u64::from(time.subsec_millis() >= 500)).to_string()
}

/// `ci@runner for apply, https://…`.
fn holder_output(who: &str, operation: &str, info: &str) -> String {
    let mut out = who.trim().to_owned();
    let operation = operation_words(operation);
    if !operation.is_empty() {
        out.push_str(" for ");
        out.push_str(&operation);
    }
    if !info.trim().is_empty() {
        out.push_str(", ");
        out.push_str(info.trim());
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::hostile;
    use crate::report::tests::{hostile_notices, summary};

    #[test]
    fn an_error_becomes_an_annotation_with_its_hint() {
        let error = Notice::Error {
            message: "50% of `a:b` failed".into(),
            hint: Some("try again".into()),
            code: 69,
        };
        assert_eq!(
            annotation(&error).unwrap(),
            "::error title=tfwrap::50%25 of `a:b` failed%0Ahint: try again\n"
        );
        assert_eq!(annotation(&Notice::Detail { message: "x".into() }), None);
    }

    #[test]
    fn escapes_are_the_runners() {
        assert_eq!(escape_data("%\r\n:,"), "%25%0D%0A:,");
        assert_eq!(escape_property("%\r\n:,"), "%25%0D%0A%3A%2C");
    }

    #[test]
    fn a_hostile_record_is_one_annotation() {
        let annotations: Vec<String> = hostile_notices().iter().filter_map(annotation).collect();
        assert_eq!(annotations.len(), 2);
        for annotation in annotations {
            let body = annotation
                .strip_prefix("::warning title=tfwrap::")
                .or_else(|| annotation.strip_prefix("::error title=tfwrap::"))
                .unwrap();
            hostile::assert_harmless_line(body.strip_suffix('\n').unwrap());
        }
    }

    #[test]
    fn outputs_are_one_line_each() {
        let mut summary = summary();
        summary.waited = Duration::from_millis(12_600);
        assert_eq!(
            final_outputs(&summary),
            "exitcode=0\noutcome=success\nwaited-seconds=13\nheld-seconds=120\n\
             holder=ci@runner for apply, https://ci.example/run/7\nreplanned=false\n"
        );
        assert_eq!(lock_id_output("28e8a6c8"), "lock-id=28e8a6c8\n");
        (summary.holder, summary.replanned) = (None, true);
        assert!(final_outputs(&summary).ends_with("holder=\nreplanned=true\n"));
    }

    #[test]
    fn a_hostile_record_sets_no_output_of_its_own() {
        let mut summary = summary();
        summary.holder = Some(Box::new(hostile::info()));
        let text = final_outputs(&summary) + &lock_id_output(&hostile::text());
        let names: Vec<&str> =
            text.lines().map(|line| line.split_once('=').expect("a name").0).collect();
        assert_eq!(
            names,
            [
                "exitcode",
                "outcome",
                "waited-seconds",
                "held-seconds",
                "holder",
                "replanned",
                "lock-id"
            ]
        );
        text.lines().for_each(hostile::assert_harmless);
    }

    /// The names under a top-level key of `action.yml`.
    fn names_in_action(key: &str) -> Vec<String> {
        let action: serde_yaml::Value =
            serde_yaml::from_str(include_str!("../../action.yml")).unwrap();
        let names = action[key].as_mapping().unwrap().keys();
        names.map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_action_and_the_reference_name_every_output() {
        let text = final_outputs(&summary()) + &lock_id_output("x");
        let mut written: Vec<&str> =
            text.lines().map(|line| line.split_once('=').unwrap().0).collect();
        let reference = include_str!("../../docs/reference.md");
        for name in &written {
            assert!(reference.contains(&format!("\n| `{name}` | ")), "{name}");
        }
        // What it installed, the action itself says.
        written.extend(["version", "path"]);
        let mut declared = names_in_action("outputs");
        declared.sort_unstable();
        written.sort_unstable();
        assert_eq!(declared, written);
    }

    #[test]
    fn the_actions_inputs_are_options_of_the_command_line() {
        use clap::CommandFactory as _;
        let command = crate::cli::Options::command();
        let options: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        for name in names_in_action("inputs") {
            let own = include_str!("../../action/inputs.mjs")
                .lines()
                .find_map(|line| line.strip_prefix("const OWN = "))
                .is_some_and(|names| names.contains(&format!("\"{name}\"")));
            assert_ne!(own, options.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn annotations_go_to_stderr_unless_a_file_is_named() {
        let of = |vars: &[(&str, &str)]| annotations(&vars.iter().copied().collect());
        let (job, file) = (("GITHUB_ACTIONS", "true"), (ANNOTATIONS, "/tmp/said"));
        assert_eq!(of(&[job]), Annotations::Stderr);
        assert_eq!(of(&[job, (ANNOTATIONS, "")]), Annotations::Stderr);
        assert_eq!(of(&[job, file]), Annotations::File("/tmp/said".into()));
        assert_eq!(of(&[file]), Annotations::Off);
    }

    #[test]
    fn only_a_true_actions_job_counts() {
        let is = |value: &str| is_actions(&[("GITHUB_ACTIONS", value)].into_iter().collect());
        assert!(is("true"));
        assert!(!is("false") && !is(""));
    }
}
