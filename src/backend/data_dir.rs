//! Terraform's data directory and the backend that `terraform init` recorded there.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::BackendConfig;
use super::{BackendError, read};
use crate::env::Env;

/// The data directory: `TF_DATA_DIR`, else `.terraform`; a relative one is inside `dir`, the
/// directory after `-chdir`.
pub(super) fn path(dir: &Path, env: &Env) -> PathBuf {
    dir.join(env.get_os("TF_DATA_DIR").unwrap_or_else(|| ".terraform".as_ref()))
}

/// Reads the backend recorded in the data directory; nothing when none is.
pub(super) fn read_backend(data_dir: &Path) -> Result<Option<BackendConfig>, BackendError> {
    let path = data_dir.join("terraform.tfstate");
    match read::optional(&path)? {
        None => Ok(None),
        Some(bytes) => parse(&path, &bytes),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Option<BackendConfig>, BackendError> {
    let bad = |reason: String| BackendError::BadRecord { path: path.to_owned(), reason };
    // Syntax errors of a `Value` name line and column, never the text, which may be secret.
    let record: Value = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    match record.get("version").and_then(Value::as_u64) {
        Some(3) => {}
        Some(version) => return Err(bad(format!("its version is {version}, not 3"))),
        None => return Err(bad("it has no version".to_owned())),
    }
    let set = |name: &str| record.get(name).filter(|value| !value.is_null());
    let Some(backend) = set("backend") else {
        // Later versions record a provider's state store here; there is no lock for it.
        return Ok(set("state_store").map(|_| BackendConfig {
            kind: "state_store".to_owned(),
            attributes: serde_json::Map::new(),
            place: place_of(path),
        }));
    };
    let kind = match backend.get("type") {
        Some(Value::String(kind)) if kind.is_empty() => return Ok(None),
        Some(Value::String(kind)) => kind.clone(),
        _ => return Err(bad("its backend has no type".to_owned())),
    };
    let attributes = match backend.get("config") {
        None | Some(Value::Null) => serde_json::Map::new(),
        Some(Value::Object(attributes)) => attributes.clone(),
        Some(_) => return Err(bad("its backend's `config` is not an object".to_owned())),
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
