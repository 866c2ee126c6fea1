use std::fs;
use std::path::PathBuf;

use super::*;
use crate::env::Env;
use crate::terraform::StateFlag;

const RECORD: &str = include_str!("../testdata/s3-record.json");
const S3_PLAN: &[u8] = include_bytes!("../testdata/s3.tfplan");
const BLOCK: &str = r#"terraform {
  backend "s3" {
    bucket = "b"
    key    = "k"
    region = "eu-west-1"
  }
}
"#;

struct Dir(tempfile::TempDir);

impl Dir {
    fn with(files: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> Backend {
        Backend::Local { state_path: self.path().join(name) }
    }
}

fn env() -> Env {
    Env::default()
}

fn s3(resolved: &Resolved) -> &crate::backend::S3Backend {
    match &resolved.backend {
        Backend::S3(backend) => backend,
        other => panic!("{other:?}"),
    }
}

fn state_flag(path: &str, any_backend: bool) -> StateFlag {
    StateFlag { path: path.into(), any_backend }
}

#[test]
fn a_directory_without_a_backend_has_a_local_state() {
    let dir = Dir::with(&[("main.tf", b"locals {}")]);
    let env = env();
    let resolved = resolve(&BackendQuery::new(dir.path(), &env)).unwrap();
    assert_eq!(resolved.backend, dir.file("terraform.tfstate"));
    assert_eq!((resolved.origin.as_str(), resolved.notes.len()), (NO_BACKEND, 0));
    let state_flag = Some(state_flag("x/y", false));
    let request = BackendQuery { state_flag, ..BackendQuery::new(dir.path(), &env) };
    assert_eq!(resolve(&request).unwrap().backend, dir.file("x/y"));
}

#[test]
fn the_recorded_backend_counts_whatever_the_configuration_says() {
    for main in [&b""[..], BLOCK.as_bytes(), b"terraform {\n backend \"gcs\" {\n"] {
        let dir =
            Dir::with(&[("main.tf", main), (".terraform/terraform.tfstate", RECORD.as_bytes())]);
        let env = env();
        let resolved = resolve(&BackendQuery::new(dir.path(), &env)).unwrap();
        assert_eq!(s3(&resolved).lock_key().0, "fixture-states/network/terraform.tfstate");
        assert!(resolved.origin.ends_with("/.terraform/terraform.tfstate`"), "{}", resolved.origin);
    }
}

#[test]
fn the_workspace_is_the_selected_or_the_named_one() {
    let files: [(&str, &[u8]); 2] =
        [("d/terraform.tfstate", RECORD.as_bytes()), ("d/environment", b"blue")];
    let dir = Dir::with(&files);
    let env = Env::from_iter([("TF_DATA_DIR", "d")]);
    let resolved = resolve(&BackendQuery::new(dir.path(), &env)).unwrap();
    assert_eq!(s3(&resolved).state_key(), "ws/blue/network/terraform.tfstate");
    assert_eq!(resolved.workspace.name, "blue");
    let request = BackendQuery {
        workspace_override: Some("red".into()),
        ..BackendQuery::new(dir.path(), &env)
    };
    let resolved = resolve(&request).unwrap();
    assert_eq!(s3(&resolved).state_key(), "ws/red/network/terraform.tfstate");
    assert!(!resolved.locks_alone);
    let selected = BackendQuery { workspace_override: Some("blue".into()), ..request };
    assert!(resolve(&selected).unwrap().locks_alone, "it is not deleted");
}

#[test]
fn a_state_flag_replaces_every_backend_for_state_commands_only() {
    let dir = Dir::with(&[(".terraform/terraform.tfstate", RECORD.as_bytes())]);
    let env = env();
    for (any_backend, is_local) in [(true, true), (false, false)] {
        let state_flag = Some(state_flag("x.tfstate", any_backend));
        let request = BackendQuery { state_flag, ..BackendQuery::new(dir.path(), &env) };
        let resolved = resolve(&request).unwrap();
        assert_eq!(resolved.backend == dir.file("x.tfstate"), is_local, "{resolved:?}");
    }
    let dir = Dir::with(&[("main.tf", BLOCK.as_bytes()), (".terraform/terraform.tfstate", b"{")]);
    let env = Env::from_iter([("TF_WORKSPACE", "a/b")]);
    let state_flag = Some(state_flag("x", true));
    let request = BackendQuery { state_flag, ..BackendQuery::new(dir.path(), &env) };
    assert_eq!(resolve(&request).unwrap().backend, dir.file("x"), "nothing else is looked at");
}

#[test]
fn a_backend_that_is_only_declared_needs_init() {
    let cloud = "terraform {\n cloud {}\n}";
    let local = "terraform {\n backend \"local\" {}\n}";
    for (text, kind, place) in [(BLOCK, "s3", 2), (local, "local", 2), (cloud, "cloud", 2)] {
        let dir = Dir::with(&[("main.tf", text.as_bytes())]);
        let env = env();
        let chdir = Path::new("a b");
        let request = BackendQuery { chdir: Some(chdir), ..BackendQuery::new(dir.path(), &env) };
        let error = resolve(&request).unwrap_err();
        let expected = format!(
            "`{}/main.tf:{place}` declares the backend `{kind}`, but the directory is not \
             initialised",
            dir.path().display()
        );
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.hint(), "run `terraform -chdir='a b' init` first");
        let request =
            BackendQuery { dialect: Dialect::OpenTofu, ..BackendQuery::new(dir.path(), &env) };
        assert_eq!(resolve(&request).unwrap_err().hint(), "run `tofu init` first");
    }
}

#[test]
fn the_declared_backend_will_do_as_a_fall_back() {
    let fall_back = |text: &str| {
        let dir = Dir::with(&[("main.tf", text.as_bytes())]);
        let env = env();
        let request =
            BackendQuery { allow_hcl_fallback: true, ..BackendQuery::new(dir.path(), &env) };
        resolve(&request).map_err(|error| (error.to_string(), error.hint()))
    };
    let resolved = fall_back(BLOCK).unwrap();
    assert_eq!(s3(&resolved).lock_key().0, "b/k");
    assert!(resolved.origin.ends_with("/main.tf:2`"), "{}", resolved.origin);
    let gcs = fall_back("terraform {\n backend \"gcs\" {\n bucket = var.x\n }\n}").unwrap();
    assert_eq!(other(&gcs), ("gcs", "gcs"));
    let cloud = fall_back("terraform {\n cloud {}\n}").unwrap();
    assert_eq!(other(&cloud), ("cloud", "cloud"));
    let local = fall_back("terraform {\n backend \"local\" {\n path = \"p\"\n }\n}").unwrap();
    assert!(matches!(local.backend, Backend::Local { state_path } if state_path.ends_with("p")));

    for (text, reason, hint) in [
        (
            "terraform {\n backend \"s3\" {\n key = \"k\"\n }\n}",
            "no `bucket`",
            "-backend-config=bucket=",
        ),
        (
            "terraform {\n backend \"s3\" {\n bucket = \"b\"\n }\n}",
            "no `key`",
            "-backend-config=key=",
        ),
        (
            "terraform {\n backend \"s3\" {\n key = var.k\n }\n}",
            "main.tf:3`: the value",
            "terraform init",
        ),
        (
            "terraform {\n backend \"s3\" {\n bucket = \"b\"\n key = \"k\"\n }\n}",
            "missing region",
            "AWS_REGION",
        ),
        ("terraform {\n backend \"s3\" {\n", "main.tf:", "terraform init"),
    ] {
        let (message, hints) = fall_back(text).unwrap_err();
        assert!(message.contains(reason), "{message}");
        assert!(hints.contains(hint), "{hints}");
    }
}

#[test]
fn a_saved_plan_brings_its_own_backend() {
    let apply = |files: &[(&str, &[u8])], workspace: &str| {
        let dir = Dir::with(files);
        let env = Env::from_iter([("TF_WORKSPACE", workspace)]);
        let plan_file = Some(PathBuf::from("p.bin"));
        resolve(&BackendQuery { plan_file, ..BackendQuery::new(dir.path(), &env) }).unwrap()
    };
    let plan = ("p.bin", S3_PLAN);
    let record = ".terraform/terraform.tfstate";

    let resolved = apply(&[plan, (record, RECORD.as_bytes())], "blue");
    assert_eq!(s3(&resolved).state_key(), "ws/blue/network/terraform.tfstate");
    assert!(resolved.origin.starts_with("the saved plan `"), "{}", resolved.origin);
    assert!(resolved.notes.is_empty(), "{:?}", resolved.notes);

    let moved = RECORD.replace("network/terraform.tfstate", "other/terraform.tfstate");
    let resolved = apply(&[plan, (record, moved.as_bytes())], "blue");
    assert_eq!(s3(&resolved).state_key(), "ws/blue/network/terraform.tfstate");
    assert_eq!(
        resolved.notes,
        [
            "the saved plan `p.bin` is for the backend s3 `fixture-states/network/terraform.tfstate`, \
          and the directory's is s3 `fixture-states/other/terraform.tfstate`: the plan's applies"
        ]
    );

    let resolved = apply(&[plan], "red");
    assert_eq!(s3(&resolved).state_key(), "ws/red/network/terraform.tfstate");
    assert!(resolved.notes[0].contains("the directory has none"), "{:?}", resolved.notes);
    assert!(resolved.notes[1].contains("was made in the workspace `blue`"), "{:?}", resolved.notes);

    let resolved = apply(&[plan, (record, b"{")], "blue");
    assert!(resolved.notes[0].contains("unknown"), "{:?}", resolved.notes);

    let resolved = apply(&[("p.bin", b"text"), (record, RECORD.as_bytes())], "blue");
    assert_eq!(s3(&resolved).state_key(), "ws/blue/network/terraform.tfstate");
    assert!(resolved.notes[0].contains("is not a saved plan"), "{:?}", resolved.notes);
}

/// The backend's kind, and the name that is proposed for a lock.
fn other(resolved: &Resolved) -> (&str, &str) {
    let Backend::Other(other) = &resolved.backend else { panic!("{resolved:?}") };
    (&other.kind, &other.lock_name)
}

#[test]
fn other_backends_are_named() {
    let record = r#"{"version": 3, "backend": {"type": "gcs", "config": {"bucket": "b"}}}"#;
    let dir = Dir::with(&[(".terraform/terraform.tfstate", record.as_bytes())]);
    let env = env();
    let resolved = resolve(&BackendQuery::new(dir.path(), &env)).unwrap();
    assert_eq!(other(&resolved), ("gcs", "gcs-b"));
}

#[test]
fn a_missing_directory_is_an_error() {
    let env = env();
    let error = resolve(&BackendQuery::new(Path::new("/nowhere/at/all"), &env)).unwrap_err();
    assert!(error.to_string().starts_with("`/nowhere/at/all` cannot be read: "), "{error}");
}
