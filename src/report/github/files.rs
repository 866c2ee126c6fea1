//! Appends to the files through which a step speaks to the runner.
//!
//! The paths come from the environment. They are opened without following a link, and only a
//! regular file is written: a pipe would block, a link could lead anywhere.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;

use super::step_summary::cut_to;
use super::{
    Summary, final_outputs, is_actions, lock_id_output, outputs_but_the_code, step_summary,
};
use crate::env::Env;
use crate::opened;

/// When a step summary is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SummaryMode {
    /// On GitHub Actions.
    Auto,
    /// Wherever there is a file for it.
    Always,
    /// Never.
    Never,
}

impl SummaryMode {
    pub(crate) const WORDS: [(&str, Self); 3] =
        [("auto", Self::Auto), ("always", Self::Always), ("never", Self::Never)];

    /// The word that was typed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// The files of this step.
#[derive(Debug)]
pub struct GithubFiles {
    output: Option<PathBuf>,
    summary: Option<PathBuf>,
    /// How long the file of the outputs was when we began.
    before: u64,
    /// Whether it was said that the outputs cannot be written: once is enough.
    told: AtomicBool,
}

/// Why something could not be handed to the runner; worth a warning, never a failure.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to `{}` (from `{variable}`): {source}", path.display())]
pub struct FilesError {
    variable: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FilesError {
    /// What to do about it, and what is missing until then.
    #[must_use]
    pub fn hint(&self) -> String {
        let Self { variable, source, .. } = self;
        let missing = match *variable {
            SUMMARY => "the job's summary does not mention this run",
            _ => "later steps do not get tfwrap's outputs",
        };
        if source.kind() == io::ErrorKind::FileTooLarge {
            return format!(
                "write less to `{variable}` in this step: GitHub takes 1 MiB for all that a step \
                 writes there; until then {missing}"
            );
        }
        if source.kind() == io::ErrorKind::StorageFull {
            return format!("free space on that disk; until then {missing}");
        }
        format!(
            "leave `{variable}` as the runner sets it, and in a container, mount that file; until \
             then {missing}"
        )
    }
}

/// How much of what others said is read.
const MOST_SAID: u64 = 1024 * 1024;

/// What GitHub takes of a step's summary, whoever wrote it; of a larger one nothing.
const MOST_SUMMARY: u64 = 1024 * 1024;

const OUTPUT: &str = "GITHUB_OUTPUT";
const SUMMARY: &str = "GITHUB_STEP_SUMMARY";

impl GithubFiles {
    /// The files that the environment names; `None` if there are none for this run. Outside GitHub Actions
    /// that can only be the summary.
    #[must_use]
    pub fn from_env(env: &Env, mode: SummaryMode) -> Option<Self> {
        let path = |name| env.get_os(name).map(PathBuf::from);
        let is_actions = is_actions(env);
        let output = path(OUTPUT).filter(|_| is_actions);
        let is_wanted = match mode {
            SummaryMode::Auto => is_actions,
            SummaryMode::Always => true,
            SummaryMode::Never => false,
        };
        let summary = path(SUMMARY).filter(|_| is_wanted);
        if output.is_none() && summary.is_none() {
            return None;
        }
        let before = output.as_ref().and_then(|path| Some(path.metadata().ok()?.len()));
        let before = before.unwrap_or_default();
        Some(Self { output, summary, before, told: AtomicBool::new(false) })
    }

    /// Sets `lock-id`; called before the child starts, so that a later step has it whatever
    /// happens.
    pub fn write_lock_id(&self, id: &str) -> Result<(), FilesError> {
        let written = write(OUTPUT, self.output.as_deref(), &lock_id_output(id));
        self.told.fetch_or(written.is_err(), Ordering::Relaxed);
        written
    }

    /// Sets the other outputs and appends the step summary; tries both and returns what failed, but
    /// for what [`Self::write_lock_id`] has returned before.
    #[must_use]
    pub fn write_end(&self, summary: &Summary) -> Vec<FilesError> {
        // The wrapper of `setup-terraform` ends with 0 where Terraform ends with 2, and says it here alone.
        let outputs = if summary.exit_code == 0 && self.wrapper_said_changes() {
            outputs_but_the_code(summary)
        } else {
            final_outputs(summary)
        };
        [
            write(OUTPUT, self.output.as_deref(), &outputs),
            self.write_summary(&step_summary(summary)),
        ]
        .into_iter()
        .filter_map(Result::err)
        .filter(|error| error.variable != OUTPUT || !self.told.load(Ordering::Relaxed))
        .collect()
    }
}

impl GithubFiles {
    /// Appends our part of the summary, cut to what the others of this step have left: of a file that is
    /// larger than it may be, GitHub shows nothing.
    fn write_summary(&self, text: &str) -> Result<(), FilesError> {
        let Some(path) = &self.summary else { return Ok(()) };
        let fitted = || {
            let mut file = open(path)?;
            let mut room = MOST_SUMMARY.saturating_sub(file.metadata()?.len());
            // `append` ends a line that was left open.
            room = room.saturating_sub(u64::from(!ends_in_line_end(&mut file)?));
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            cut_to(text, room).ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))
        };
        let text = fitted().map_err(|source| {
            let path = path.clone();
            FilesError { variable: SUMMARY, path, source }
        })?;
        write(SUMMARY, Some(path), &text)
    }

    /// Whether a wrapper around Terraform has said 2 since we began, and nobody anything after it. It is a
    /// program of GitHub's toolkit, which writes in the form of many lines, as neither we nor an inner tfwrap
    /// do.
    fn wrapper_said_changes(&self) -> bool {
        let Some(path) = &self.output else { return false };
        let since = || {
            let (mut file, mut said) = (open(path)?, Vec::new());
            file.seek(SeekFrom::Start(self.before))?;
            file.take(MOST_SAID).read_to_end(&mut said)?;
            Ok::<_, io::Error>(said)
        };
        let said = since().unwrap_or_default();
        let text = String::from_utf8_lossy(&said);
        let (mut lines, mut is_said) = (text.lines(), false);
        while let Some(line) = lines.next() {
            let of_many_lines = line.split_once("<<").filter(|(name, _)| !name.contains('='));
            if let Some((name, delimiter)) = of_many_lines {
                // What is said in between is a value.
                let value: Vec<_> = lines.by_ref().take_while(|line| *line != delimiter).collect();
                is_said = if name == "exitcode" { value == ["2"] } else { is_said };
            } else {
                is_said &= !line.starts_with("exitcode=");
            }
        }
        is_said
    }
}

/// Sets variables, and puts a directory first on `PATH`, for the later steps of the job.
///
/// # Errors
/// In words: outside GitHub Actions, or when one of the files cannot be written.
pub(crate) fn append_environment(
    env: &Env,
    variables: &[(String, String)],
    path: &str,
) -> Result<(), String> {
    let file = |variable: &'static str| {
        let path = env.get_os(variable).map(PathBuf::from);
        path.map(|path| (variable, path))
            .ok_or_else(|| format!("`{variable}` is not set: this is not a GitHub Actions step"))
    };
    let (to_env, to_path) = (file("GITHUB_ENV")?, file("GITHUB_PATH")?);
    let mut text = String::new();
    for (name, value) in variables {
        // None of ours has one; with one, the value would go on as a command to the runner.
        if value.contains(['\r', '\n']) || path.contains(['\r', '\n']) {
            return Err(format!("the value of `{name}` contains a line break"));
        }
        let _infallible = writeln!(text, "{name}={value}");
    }
    for ((variable, path), text) in [(to_env, text), (to_path, format!("{path}\n"))] {
        write(variable, Some(&path), &text).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn write(variable: &'static str, path: Option<&Path>, text: &str) -> Result<(), FilesError> {
    let Some(path) = path else { return Ok(()) };
    append(path, text).map_err(|source| FilesError { variable, path: path.to_owned(), source })
}

/// Appends whole lines to an existing regular file.
pub(in crate::report) fn append(path: &Path, text: &str) -> io::Result<()> {
    let mut file = open(path)?;
    // Something before us may have left a line open; ours must not become its end.
    let separator = if ends_in_line_end(&mut file)? { "" } else { "\n" };
    file.write_all(format!("{separator}{text}").as_bytes())
}

fn open(path: &Path) -> io::Result<File> {
    opened::with(File::options().read(true).append(true), libc::O_NOFOLLOW, path)?.regular()
}

fn ends_in_line_end(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::summary;

    fn files(dir: &Path) -> GithubFiles {
        let env: Env = [
            ("GITHUB_ACTIONS", "true".into()),
            (OUTPUT, dir.join("output").into_os_string()),
            (SUMMARY, dir.join("summary").into_os_string()),
        ]
        .into_iter()
        .collect();
        GithubFiles::from_env(&env, SummaryMode::Auto).unwrap()
    }

    #[test]
    fn outputs_and_summary_are_appended() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("output"), "theirs=1").unwrap();
        std::fs::write(dir.path().join("summary"), "").unwrap();
        let files = files(dir.path());
        files.write_lock_id("28e8a6c8").unwrap();
        assert!(files.write_end(&summary()).is_empty());
        let output = std::fs::read_to_string(dir.path().join("output")).unwrap();
        assert_eq!(output, format!("theirs=1\nlock-id=28e8a6c8\n{}", final_outputs(&summary())));
        let text = std::fs::read_to_string(dir.path().join("summary")).unwrap();
        assert_eq!(text, step_summary(&summary()));
    }

    #[test]
    fn what_a_wrapper_around_terraform_says_of_its_code_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        let wrapped = "exitcode<<ghadelimiter_1\n2\nghadelimiter_1\n";
        let hostile = "stdout<<X\nexitcode<<Y\n2\nX\n";
        for (before, meanwhile, code, ours) in [
            ("", wrapped, 0, false),
            ("", wrapped, 74, true),
            ("", wrapped, 1, true),
            ("", &wrapped.replace("\n2\n", "\n1\n"), 0, true),
            ("", &format!("{wrapped}exitcode=1\n"), 0, true),
            ("", &format!("x=1<<E\n{wrapped}"), 0, false),
            (wrapped, "", 0, true),
            ("", hostile, 0, true),
            ("", "exitcode=2\n", 0, true),
        ] {
            std::fs::write(&path, before).unwrap();
            let files = files(dir.path());
            std::fs::write(&path, format!("{before}{meanwhile}")).unwrap();
            let _summary = files.write_end(&Summary { exit_code: code, ..summary() });
            let text = std::fs::read_to_string(&path).unwrap();
            let said = text.contains(&format!("exitcode={code}\n"));
            assert_eq!(said, ours, "{before:?} {meanwhile:?} {code}: {text}");
            assert!(text.contains("outcome="), "{text}");
        }
    }

    #[test]
    fn links_pipes_directories_and_missing_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        let refused = || files(dir.path()).write_lock_id("x").unwrap_err().to_string();

        assert!(refused().contains("`GITHUB_OUTPUT`"), "{}", refused());
        let target = dir.path().join("target");
        std::fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        refused();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "");
        std::fs::remove_file(&path).unwrap();

        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(refused().contains("not a regular file"));
        std::fs::remove_file(&path).unwrap();

        std::fs::create_dir(&path).unwrap();
        refused();
    }

    #[test]
    fn with_what_others_wrote_the_summary_stays_within_what_github_takes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("summary");
        std::fs::write(dir.path().join("output"), "").unwrap();
        let whole = step_summary(&summary()).len();
        let most = usize::try_from(MOST_SUMMARY).unwrap();
        for (theirs, end, ours) in [
            (most - whole, "\n", "```\n"),
            (most - whole - 1, "x", "```\n"),
            (most - whole, "x", "summary.*\n"),
            (most - whole + 1, "\n", "summary.*\n"),
            (most - 200, "\n", "summary.*\n"),
            (most - 10, "\n", "\n"),
            (most, "x", "x"),
            (most + 10, "x", "x"),
        ] {
            std::fs::write(&path, "x".repeat(theirs - 1) + end).unwrap();
            let errors = files(dir.path()).write_end(&summary());
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.len() <= most.max(theirs), "{theirs}: {}", text.len());
            assert!(text.ends_with(ours), "{theirs}: {}", &text[text.len() - 100..]);
            let is_left_out = text.len() == theirs;
            assert_eq!(errors.len(), usize::from(is_left_out), "{theirs}: {errors:?}");
            for error in errors {
                assert!(error.to_string().contains("`GITHUB_STEP_SUMMARY`"), "{error}");
                assert!(error.hint().contains("1 MiB"), "{}", error.hint());
            }
        }
    }

    #[test]
    fn each_mode_writes_the_summary_where_it_should_and_outputs_are_githubs_alone() {
        use SummaryMode::{Always, Auto, Never};
        for (actions, mode, expected) in [
            ("true", Auto, (true, true)),
            ("true", Always, (true, true)),
            ("true", Never, (true, false)),
            ("false", Auto, (false, false)),
            ("false", Always, (false, true)),
            ("false", Never, (false, false)),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (output, text) = (dir.path().join("output"), dir.path().join("summary"));
            std::fs::write(&output, "").unwrap();
            std::fs::write(&text, "").unwrap();
            let env = [
                ("GITHUB_ACTIONS", actions.into()),
                (OUTPUT, output.clone().into_os_string()),
                (SUMMARY, text.clone().into_os_string()),
            ];
            if let Some(files) = GithubFiles::from_env(&env.into_iter().collect(), mode) {
                files.write_lock_id("x").unwrap();
                assert!(files.write_end(&summary()).is_empty());
            }
            let has = |path: &Path| path.metadata().unwrap().len() > 0;
            assert_eq!((has(&output), has(&text)), expected, "{actions} {mode:?}");
        }
        let none = [("GITHUB_ACTIONS", "true")].into_iter().collect();
        assert!(GithubFiles::from_env(&none, Always).is_none());
    }
}
