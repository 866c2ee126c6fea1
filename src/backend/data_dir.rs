//! Terraform's data directory and the backend that `terraform init` recorded there.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::BackendConfig;
use super::go_json::Node;
use super::{BackendError, go_path, read};
use crate::env::Env;

/// The data directory: `TF_DATA_DIR`, else `.terraform`, cleaned as text; a relative one is inside
/// `dir`, the directory after `-chdir`.
pub(super) fn path(dir: &Path, env: &Env) -> PathBuf {
    let named = env.get_os("TF_DATA_DIR").unwrap_or_else(|| ".terraform".as_ref());
    dir.join(go_path::clean(Path::new(named)))
}

/// The file that names the selected workspace.
pub(super) fn environment(data_dir: &Path) -> PathBuf {
    data_dir.join("environment")
}

/// The file in which `init` records the backend.
pub(super) fn record(data_dir: &Path) -> PathBuf {
    data_dir.join("terraform.tfstate")
}

/// All that Terraform reads there.
pub(super) fn files(data_dir: &Path) -> [PathBuf; 2] {
    [record(data_dir), environment(data_dir)]
}

/// Reads the backend recorded in the data directory; nothing when none is.
pub(super) fn read_backend(data_dir: &Path) -> Result<Option<BackendConfig>, BackendError> {
    let path = record(data_dir);
    match read::optional(&path)? {
        None => Ok(None),
        Some(bytes) => parse(&path, &bytes),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Option<BackendConfig>, BackendError> {
    let bad = |reason: String| BackendError::BadRecord { path: path.to_owned(), reason };
    // Syntax errors name line and column, never the text, which may be secret.
    let record: Node = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    let record = record.into_object();
    match record.value("version").as_ref().and_then(Value::as_u64) {
        Some(3) => {}
        Some(version) => return Err(bad(format!("its version is {version}, not 3"))),
        None => return Err(bad("it has no version".to_owned())),
    }
    let Some(backend) = record.object("backend") else {
        // Later versions record a provider's state store here; there is no lock for it.
        return Ok(record.object("state_store").map(|_| BackendConfig {
            kind: "state_store".to_owned(),
            attributes: serde_json::Map::new(),
            place: place_of(path),
        }));
    };
    let kind = match backend.value("type") {
        Some(Value::String(kind)) if kind.is_empty() => return Ok(None),
        Some(Value::String(kind)) => kind,
        _ => return Err(bad("its backend has no type".to_owned())),
    };
    let attributes = match backend.raw("config") {
        Value::Null => serde_json::Map::new(),
        Value::Object(attributes) => attributes,
        _ => return Err(bad("its backend's `config` is not an object".to_owned())),
    };
    Ok(Some(BackendConfig { kind, attributes, place: place_of(path) }))
}

fn place_of(path: &Path) -> String {
    format!("`{}`", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Terraform 1.11.4 wrote it.
    const RECORDED: &str = include_str!("testdata/s3-record.json");

    fn parse_text(text: &str) -> Result<Option<BackendConfig>, BackendError> {
        parse(Path::new("/w/.terraform/terraform.tfstate"), text.as_bytes())
    }

    #[test]
    fn the_data_directory_is_inside_the_directory_unless_absolute() {
        for (value, expected) in [
            (None, "/w/.terraform"),
            (Some(""), "/w/.terraform"),
            (Some("d/e"), "/w/d/e"),
            (Some("/abs"), "/abs"),
            (Some("no-such/../.terraform"), "/w/.terraform"),
            (Some("lnk/../dd/"), "/w/dd"),
            (Some("../d"), "/w/../d"),
            (Some("/a/../b"), "/b"),
        ] {
            let env = Env::from_iter(value.map(|value| ("TF_DATA_DIR", value)));
            assert_eq!(path(Path::new("/w"), &env), Path::new(expected), "{value:?}");
        }
    }

    #[test]
    fn a_record_of_terraforms_is_read() {
        let config = parse_text(RECORDED).unwrap().unwrap();
        assert_eq!(config.kind, "s3");
        assert_eq!(config.place, "`/w/.terraform/terraform.tfstate`");
        let section = config.section();
        assert_eq!(section.text("bucket").unwrap().as_deref(), Some("fixture-states"));
        assert_eq!(section.bool("use_lockfile").unwrap(), Some(true));
        assert_eq!(section.text("acl").unwrap(), None);
    }

    #[test]
    fn no_record_is_no_backend() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_backend(dir.path()).unwrap().is_none());
        for text in [
            r#"{"version": 3}"#,
            r#"{"version": 3, "backend": null}"#,
            r#"{"version": 3, "backend": {"type": ""}}"#,
        ] {
            assert!(parse_text(text).unwrap().is_none(), "{text}");
        }
    }

    #[test]
    fn names_are_read_as_go_reads_them() {
        for (text, kind) in [
            (r#"{"VERSION": 3, "Backend": {"Type": "s3", "cOnfig": {"bucket": "b"}}}"#, "s3"),
            (r#"{"version": 3, "backend": {"type": "local"}, "Backend": {"type": "s3"}}"#, "s3"),
            (r#"{"version": 3, "Backend": {"type": "local"}, "backend": {"type": "s3"}}"#, "s3"),
            (r#"{"version": 4, "version": 3, "backend": {"type": "a", "Type": "s3"}}"#, "s3"),
            (r#"{"version": 3, "Version": null, "backend": {"type": "s3", "TYPE": null}}"#, "s3"),
            (r#"{"version": 3, "backend": {"type": "s3"}, "Backend": {"config": {}}}"#, "s3"),
            (r#"{"version": 3, "backend": null, "bac\u212aend": {"type": "s3"}}"#, "s3"),
            (r#"{"ver\u017fion": 3, "backend": {"type": "s3"}}"#, "s3"),
            (r#"{"version": 3, "backend": {"type": "s3"}, "back_end": {"type": "a"}}"#, "s3"),
        ] {
            assert_eq!(parse_text(text).unwrap().unwrap().kind, kind, "{text}");
        }
        let none = r#"{"version": 3, "backend": {"type": "s3"}, "Backend": null}"#;
        assert!(parse_text(none).unwrap().is_none());
        // Of what is below `config`, the schema decides, to the letter.
        let text = r#"{"version": 3, "backend": {"type": "s3", "config": {"Key": "k"}}}"#;
        assert_eq!(parse_text(text).unwrap().unwrap().section().text("key").unwrap(), None);
    }

    #[test]
    fn a_state_store_is_a_backend_without_a_lock() {
        let config =
            parse_text(r#"{"version": 3, "state_store": {"type": "x"}}"#).unwrap().unwrap();
        assert_eq!(config.kind, "state_store");
    }

    #[test]
    fn what_is_no_record_is_refused_by_file_and_line() {
        for (text, reason) in [
            ("", "line 1 column 0"),
            ("{\n\"secret_key\": hunter2}", "line 2"),
            ("[]", "it has no version"),
            (r#"{"version": 4}"#, "its version is 4, not 3"),
            (r#"{"version": 3, "backend": {}}"#, "has no type"),
            (r#"{"version": 3, "backend": {"type": "s3", "config": "hunter2"}}"#, "not an object"),
        ] {
            let error = parse_text(text).unwrap_err().to_string();
            assert!(error.starts_with("`/w/.terraform/terraform.tfstate` is not"), "{error}");
            assert!(error.contains(reason) && !error.contains("hunter2"), "{error}");
        }
    }
}
