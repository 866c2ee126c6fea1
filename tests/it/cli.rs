//! The command line as people meet it: mistakes, codes, streams. What is said of wrong usage is in
//! `tests/snapshots`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::harness::{self, Finished, run, tfwrap};
use crate::support::json_log;
use crate::support::servers::{self, dynamodb, local_backend_dir, s3_backend_dir};

/// Fails unless the run ended with this code, said each of these words on stderr and nothing on
/// stdout.
#[track_caller]
fn mistake(command: &mut Command, code: i32, words: &[&str]) -> Finished {
    let done = run(command).expect_code(code);
    for word in words {
        assert!(done.stderr.contains(word), "{word:?} in: {}", done.stderr);
    }
    assert!(done.stderr.lines().all(|line| line.starts_with("tfwrap: ")), "{}", done.stderr);
    assert_eq!(done.stdout, "");
    done
}

fn empty() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn an_uninitialised_directory_says_which_command_to_run() {
    let dir = s3_backend_dir("cli/uninitialised", "none");
    mistake(tfwrap(dir.path()).arg("plan"), 78, &["terraform init"]);
    let name = dir.path().file_name().unwrap().to_str().unwrap();
    let mut above = tfwrap(dir.path().parent().unwrap());
    let chdir = format!("-chdir={name}");
    mistake(above.args([&chdir, "plan"]), 78, &[&format!("terraform -chdir={name} init")]);
}

#[test]
fn a_missing_or_broken_terraform_is_127_or_126() {
    let dir = local_backend_dir();
    mistake(
        tfwrap(dir.path()).arg("plan").env("PATH", "/nowhere"),
        127,
        &["terraform", "--terraform"],
    );
    let file = dir.path().join("not-executable");
    fs::write(&file, "x").unwrap();
    let path = file.to_str().unwrap();
    mistake(tfwrap(dir.path()).args(["--terraform", path, "plan"]), 126, &["not-executable"]);
    // Found and executable for the look of it, but not for the kernel: the lock is taken, and
    // given back.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&file, "#!/no/such/interpreter\n").unwrap();
    mistake(tfwrap(dir.path()).args(["--terraform", path, "plan"]), 126, &["not-executable"]);
    assert!(!dir.path().join(".terraform.tfstate.lock.info").exists(), "the lock is not kept");
    mistake(tfwrap(dir.path()).args(["run", "--", "no-such-command"]), 127, &["no-such-command"]);
    assert!(!dir.path().join(".terraform.tfstate.lock.info").exists(), "the lock is not kept");
}

/// Changes what `init` recorded.
fn record(dir: &Path, from: &str, to: &str) {
    let path = dir.join(".terraform/terraform.tfstate");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).unwrap();
}

#[tokio::test]
async fn a_backend_without_locking_says_what_to_add() {
    let dir = harness::s3_dir("cli/nolock").await;
    record(dir.path(), "\"dynamodb_table\": \"cli-nolock\"", "\"dynamodb_table\": null");
    mistake(
        tfwrap(dir.path()).arg("plan"),
        78,
        &["no locking", "dynamodb_table", "--no-backend-lock"],
    );
    let unlocked = run(tfwrap(dir.path()).args(["--no-backend-lock", "version"])).expect_code(0);
    assert_eq!(unlocked.stderr, "");
    let mut command = tfwrap(dir.path());
    let unlocked = run(command.args(["--no-backend-lock", "plan", "-no-color"]));
    assert!(unlocked.stderr.contains("locks nothing"), "{}", unlocked.stderr);
}

#[tokio::test]
async fn a_wrong_table_is_69_and_named() {
    let dir = harness::s3_dir("cli/table").await;
    record(dir.path(), "\"dynamodb_table\": \"cli-table\"", "\"dynamodb_table\": \"cli-other\"");
    mistake(tfwrap(dir.path()).arg("plan"), 69, &["cli-other", servers::REGION]);
}

#[tokio::test]
async fn a_table_with_another_key_is_78() {
    let dir = harness::s3_dir("cli/schema").await;
    dynamodb().create_table("cli-badkey", "Id").await;
    record(dir.path(), "\"dynamodb_table\": \"cli-schema\"", "\"dynamodb_table\": \"cli-badkey\"");
    mistake(tfwrap(dir.path()).arg("plan"), 78, &["LockID", "cli-badkey"]);
}

#[tokio::test]
async fn no_credentials_are_77_within_seconds() {
    let dir = harness::s3_dir("cli/credentials").await;
    let mut command = tfwrap(dir.path());
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    mistake(command.arg("plan"), 77, &["credentials", "AWS_PROFILE"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_69() {
    let dir = harness::s3_dir("cli/unreachable").await;
    let closed = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    record(dir.path(), &dynamodb().url, &format!("http://{closed}"));
    mistake(tfwrap(dir.path()).arg("plan"), 69, &["cli-unreachable", &closed.to_string()]);
}

#[tokio::test]
async fn a_missing_region_is_78() {
    let dir = harness::s3_dir("cli/region").await;
    record(dir.path(), &format!("\"region\": \"{}\"", servers::REGION), "\"region\": null");
    mistake(tfwrap(dir.path()).arg("plan"), 78, &["region", "AWS_REGION"]);
}

#[test]
fn a_backend_that_cannot_be_locked_wants_a_lock() {
    let dir = local_backend_dir();
    let data = dir.path().join(".terraform");
    fs::create_dir(&data).unwrap();
    let recorded = r#"{"version":3,"backend":{"type":"gcs","config":{"bucket":"b"},"hash":1}}"#;
    fs::write(data.join("terraform.tfstate"), recorded).unwrap();
    mistake(tfwrap(dir.path()).arg("plan"), 78, &["`gcs`", "--lock"]);
    mistake(tfwrap(dir.path()).arg("hold"), 78, &["`gcs`", "--lock"]);
    // Whatever is below a `run` refuses by itself where it must.
    let script = "terraform plan; test $? = 78";
    mistake(tfwrap(dir.path()).args(["run", "--", "sh", "-c", script]), 0, &["`gcs`", "--lock"]);
    // With a lock of its own it runs, and Terraform locks for itself.
    let lock = format!("file://{}/locks/gcs", dir.path().display());
    fs::create_dir(dir.path().join("locks")).unwrap();
    let script = "echo \"$TFWRAP_HELD\"; ls locks";
    let done = run(tfwrap(dir.path()).args(["--lock", &lock, "run", "--", "sh", "-c", script]));
    let done = done.expect_code(0);
    assert!(done.stdout.contains(&format!("{lock}#")), "{}", done.stdout);
}

#[test]
fn help_and_version_go_to_stdout() {
    let dir = empty();
    for (flag, word) in [("--help", "--lock-timeout"), ("-h", "run --"), ("--version", "tfwrap 0")]
    {
        let done = run(tfwrap(dir.path()).arg(flag)).expect_code(0);
        assert!(done.stdout.contains(word) && done.stderr.is_empty(), "{}", done.stdout);
    }
    let done = run(Command::new("sh")
        .args(["-c", "\"$0\" --help | head -1"])
        .arg(env!("CARGO_BIN_EXE_tfwrap")));
    assert!(done.expect_code(0).stderr.is_empty(), "a closed pipe is no failure");
}

#[test]
fn json_lines_are_objects_with_an_event() {
    let dir = local_backend_dir();
    let mut command = tfwrap(dir.path());
    let done = run(command.args(["--log-format", "json", "apply", "-auto-approve"])).expect_code(0);
    let lines = json_log::lines(&done.stderr);
    let said = done.stderr.lines().filter(|line| !line.is_empty()).count();
    assert_eq!(lines.len(), said, "{}", done.stderr);
    for event in ["acquired", "released"] {
        assert!(lines.iter().any(|it| it["event"] == event), "{event} in {lines:?}");
    }
}

#[test]
fn each_line_begins_as_one_behind_what_the_command_leaves_unfinished() {
    let dir = local_backend_dir();
    // Stopped within a line, it ends within another.
    let script = "trap 'sleep 1; printf more: >&2; exit' INT TERM; printf prompt: >&2; kill -TERM $PPID; \
                  for i in $(seq 600); do sleep 0.1; done";
    for format in ["text", "json"] {
        let mut command = tfwrap(dir.path());
        let done = run(command.args(["-v", "--log-format", format, "run", "sh", "-c", script]));
        for end in ["prompt:", "more:"] {
            assert!(done.stderr.lines().any(|line| line == end), "{}", done.stderr);
        }
        if format == "json" {
            let lines = json_log::lines(&done.stderr);
            for event in ["stopping", "released", "finished"] {
                assert!(lines.iter().any(|it| it["event"] == event), "{event}: {}", done.stderr);
            }
        }
    }
}

#[test]
fn an_object_begins_as_a_line_behind_a_script_that_ends_within_one() {
    let dir = local_backend_dir();
    let mut command = tfwrap(dir.path());
    let script = "printf 'last words' >&2; exit 3";
    let done = run(command.args(["--log-format", "json", "run", "--", "sh", "-c", script]));
    let lines = json_log::lines(&done.expect_code(3).stderr);
    for event in ["released", "finished"] {
        assert!(lines.iter().any(|it| it["event"] == event), "{event}: {lines:?}");
    }
}

#[test]
fn secrets_in_arguments_reach_no_record_and_no_line() {
    let dir = local_backend_dir();
    let mut command = tfwrap(dir.path());
    command.args([
        "-v",
        "apply",
        "-auto-approve",
        "-var",
        "command=cat .terraform.tfstate.lock.info > seen",
    ]);
    command.args(["-var", "undeclared=hunter2"]).env("TF_VAR_x", "hunter2");
    let done = run(&mut command);
    assert!(
        !done.stderr.lines().filter(|l| l.starts_with("tfwrap:")).any(|l| l.contains("hunter2"))
    );
    command = tfwrap(dir.path());
    command.args([
        "apply",
        "-auto-approve",
        "-var",
        "command=cat .terraform.tfstate.lock.info > seen # hunter2",
    ]);
    run(&mut command).expect_code(0);
    let seen = fs::read_to_string(dir.path().join("seen")).unwrap();
    assert!(seen.contains("OperationTypeApply") && !seen.contains("hunter2"), "{seen}");
}

#[tokio::test]
async fn one_hostile_record_reaches_no_terminal_and_no_runner() {
    let dir = harness::s3_dir("cli/hostile").await;
    let hostile = "\u{1b}]0;owned\u{7}\n::set-output name=x::y ##[error]z ##vso[x] \u{202e}$(touch owned) `x`";
    let info = serde_json::json!({
        "ID": hostile, "Operation": hostile, "Info": hostile.repeat(200), "Who": hostile,
        "Version": hostile, "Created": "2026-01-02T03:04:05Z", "Path": hostile
    });
    let lock_id = dir.lock_id();
    let item = [("LockID", lock_id), ("Info", info.to_string())];
    let item = item
        .map(|(name, value)| (name.to_owned(), aws_sdk_dynamodb::types::AttributeValue::S(value)));
    dynamodb().put_raw("cli-hostile", item.into_iter().collect()).await;
    let output = dir.path().join("output");
    fs::write(&output, "").unwrap();
    for format in ["text", "json"] {
        let mut command = tfwrap(dir.path());
        command.env("GITHUB_ACTIONS", "true").env("GITHUB_OUTPUT", &output);
        let done = run(command.args(["--log-format", format, "--lock-timeout=300ms", "plan"]));
        let done = done.expect_code(75);
        let written = fs::read_to_string(&output).unwrap();
        for (text, where_) in [(&done.stderr, "stderr"), (&written, "outputs")] {
            let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(bad), "{where_}: {text:?}");
            for start in ["::set-output", "##[", "##vso["] {
                assert!(!text.contains(start), "{where_}: {start} in {text}");
            }
        }
    }
}

/// Whether stderr has colours where it is no terminal.
#[test]
fn colours_are_as_they_were_asked_for() {
    let dir = local_backend_dir();
    let said = |options: &[&str], variables: &[(&str, &str)], typed: &[&str]| {
        let mut command = tfwrap(dir.path());
        command.args(options).args(typed).envs(variables.iter().copied());
        run(&mut command).stderr
    };
    let (always, never) = (["--color", "always"], ["--color", "never"]);
    let (force, none) = (("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1"));
    // Of a warning and of an error, and of one that comes before the settings are known.
    for typed in [&["plan", "-lock=false"][..], &["run", "--", "no-such-command"]] {
        for (options, variables, is_coloured) in [
            (&[][..], &[][..], false),
            (&always, &[], true),
            (&always, &[none], true),
            (&never, &[force], false),
            (&[], &[force], true),
            (&[], &[force, none], false),
        ] {
            let told = said(options, variables, typed);
            let ours: Vec<_> = told.lines().filter(|line| line.contains("tfwrap")).collect();
            assert!(!ours.is_empty(), "{told}");
            let found = ours.iter().any(|line| line.contains("\u{1b}["));
            assert_eq!(found, is_coloured, "{options:?} {variables:?} {typed:?}: {told}");
        }
    }
    let json =
        said(&["--log-format", "json", "--color", "always"], &[force], &["plan", "-lock=false"]);
    let ours = json.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{json}"));
    assert!(!ours.contains('\u{1b}'), "{ours}");
}

#[test]
fn wrong_usage_is_said_in_the_format_that_was_asked_for() {
    let dir = local_backend_dir();
    for format in [&["--log-format", "json"][..], &["--log-format=json"]] {
        let done = run(tfwrap(dir.path()).args(format).arg("unlock")).expect_code(64);
        let line: serde_json::Value = serde_json::from_str(done.stderr.trim()).expect(&done.stderr);
        assert_eq!(line["code"], 64, "{line}");
    }
    let done = run(tfwrap(dir.path()).args(["--log-format", "text", "unlock"])).expect_code(64);
    assert!(done.stderr.starts_with("tfwrap: error: "), "{}", done.stderr);
}
