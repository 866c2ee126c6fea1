use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::*;

/// Made by Terraform 1.11.4 in the workspace `blue` of an S3 backend, an emulator's.
const S3_PLAN: &[u8] = include_bytes!("../testdata/s3.tfplan");

fn open_bytes(bytes: &[u8]) -> Result<PlanFile, BackendError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    open(file.path())
}

fn plan_of(file: Result<PlanFile, BackendError>) -> SavedPlan {
    match file.unwrap() {
        PlanFile::Plan(plan) => plan,
        PlanFile::NotAPlan(why) => panic!("not a plan: {why}"),
        PlanFile::Encrypted => panic!("encrypted"),
    }
}

fn archive(entry: &str, bytes: &[u8]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file(entry, zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap().into_inner()
}

fn message(version: u64, msgpack: &[u8]) -> Vec<u8> {
    let config = Some(DynamicValue { msgpack: msgpack.to_vec() });
    let backend = BackendMessage { kind: "s3".to_owned(), config, workspace: String::new() };
    PlanMessage { version, backend: Some(backend), terraform_version: String::new() }
        .encode_to_vec()
}

#[test]
fn a_plan_of_the_s3_backend_names_its_backend() {
    let plan = plan_of(open_bytes(S3_PLAN));
    assert_eq!(plan.workspace, "blue");
    assert_eq!(plan.terraform_version, "1.11.4");
    assert_eq!(plan.backend.describe(), "s3 `fixture-states/network/terraform.tfstate`");
    let recorded: Value = serde_json::from_str(include_str!("../testdata/s3-record.json")).unwrap();
    assert_eq!(Value::Object(plan.backend.attributes), recorded["backend"]["config"]);
}

/// Runs the Terraform on `PATH` in `dir`.
fn terraform(dir: &Path, args: &[&str]) {
    let mut command = Command::new("terraform");
    for variable in ["TF_CLI_CONFIG_FILE", "TF_CLI_ARGS", "TF_DATA_DIR", "TF_WORKSPACE"] {
        command.env_remove(variable);
    }
    let output = command
        .args(args)
        .current_dir(dir)
        .env("CHECKPOINT_DISABLE", "1")
        .output()
        .expect("these tests need `terraform` on PATH");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_plan_of_the_local_backend_names_its_backend() {
    let dir = tempfile::tempdir().unwrap();
    let config = r#"terraform {
        backend "local" { path = "p/x.tfstate" }
    }
    resource "terraform_data" "x" {}"#;
    std::fs::write(dir.path().join("main.tf"), config).unwrap();
    terraform(dir.path(), &["init"]);
    terraform(dir.path(), &["workspace", "new", "green"]);
    terraform(dir.path(), &["plan", "-out=p.bin"]);
    let plan = plan_of(open(&dir.path().join("p.bin")));
    assert_eq!(plan.workspace, "green");
    assert_eq!(plan.backend.kind, "local");
    let attributes = Value::Object(plan.backend.attributes);
    assert_eq!(attributes, json!({"path": "p/x.tfstate", "workspace_dir": null}));
}

#[test]
fn a_plan_without_a_backend_block_is_one_of_the_local_backend() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("main.tf"), r#"resource "terraform_data" "x" {}"#).unwrap();
    terraform(dir.path(), &["plan", "-out=p.bin"]);
    let plan = plan_of(open(&dir.path().join("p.bin")));
    assert_eq!((plan.backend.kind.as_str(), plan.workspace.as_str()), ("local", "default"));
    assert!(plan.backend.attributes.values().all(Value::is_null));
}

/// Terraform applies such a file.
#[test]
fn text_before_the_archive_does_not_hide_the_plan() {
    let plan = plan_of(open_bytes(&[b"junk", S3_PLAN].concat()));
    assert_eq!(plan.backend.describe(), "s3 `fixture-states/network/terraform.tfstate`");
}

#[test]
fn two_plans_in_one_archive_are_refused() {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for entry in ["tfplan", "tfplaM"] {
        writer.start_file(entry, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(&message(3, b"\x81\xa6bucket\xa1b")).unwrap();
    }
    let mut bytes = writer.finish().unwrap().into_inner();
    assert!(matches!(open_bytes(&bytes), Ok(PlanFile::Plan(_))), "the control");
    while let Some(at) = bytes.windows(6).position(|name| name == b"tfplaM") {
        bytes[at + 5] = b'n';
    }
    let error = open_bytes(&bytes).unwrap_err().to_string();
    assert!(error.contains("2 entries `tfplan`"), "{error}");
}

#[test]
fn what_is_no_archive_is_no_plan() {
    for bytes in [&b""[..], b"PK", b"{\"remote_plan_format\": 1}", b"PK\x05\x06"] {
        let file = open_bytes(bytes).unwrap();
        assert!(matches!(file, PlanFile::NotAPlan("it is not a zip archive")), "{file:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(open(dir.path()).unwrap(), PlanFile::NotAPlan("it is not a file")));
    let missing = open(&dir.path().join("x")).unwrap();
    assert!(matches!(missing, PlanFile::NotAPlan("it does not exist")));
}

#[test]
fn a_broken_plan_is_an_error_that_names_the_file() {
    let cut = &S3_PLAN[..S3_PLAN.len() / 2];
    let mut flipped = S3_PLAN.to_vec();
    flipped[100] ^= 0xff;
    let not_an_object = archive("tfplan", &message(3, &[0xc0]));
    let binary = archive("tfplan", &message(3, &[0x81, 0xa1, b'k', 0xc4, 0x01, 0x00]));
    let deep = archive("tfplan", &message(3, &[0x91; 1000]));
    let backendless = archive("tfplan", &[0x08, 3]);
    for (bytes, reason) in [
        (cut, "cannot be read: it is cut short"),
        (&flipped, ""),
        (&archive("other", b""), "it has no entry `tfplan`"),
        (&archive("tfplan", b"\xff\xff\xff"), ""),
        (&archive("tfplan", &message(4, &[0x80])), "its format version is 4, not 3"),
        (&backendless, "it names no backend"),
        (&archive("tfplan", &message(3, b"")), "its backend: "),
        (&not_an_object, "not an object of plain values"),
        (&binary, "not an object of plain values"),
        (&deep, "its backend: "),
    ] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let error = open(file.path()).unwrap_err();
        let expected: PathBuf = file.path().to_owned();
        assert!(
            matches!(&error, BackendError::CorruptPlan { path, .. } if *path == expected),
            "{error}"
        );
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn an_archive_made_to_burst_is_stopped() {
    // A thousand times its size once it is unpacked; what the archive says of it does not count.
    let bomb = archive("tfplan", &vec![0; 2 << 20]);
    assert!(bomb.len() < 4096, "{}", bomb.len());
    let read = |bytes: &[u8]| {
        let archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        read_archive(archive, Path::new("p"), 1 << 20)
    };
    assert_eq!(read(&bomb).unwrap_err(), "its entry `tfplan` is larger than 1 MiB");
    assert!(read(S3_PLAN).is_ok());
}
