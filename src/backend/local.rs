//! The local backend: the very file that Terraform locks.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::config::BackendConfig;
use super::workspace::DEFAULT;
use super::{BackendError, go_path};

const FILE: &str = "terraform.tfstate";

/// Finds the state file, absolute. A `flag` and the backend's `path` are opened as they are, so
/// their `..` and links are the kernel's; the path in a workspace is joined as text.
///
/// A `flag` (`-state-out`, else `-state`) counts in every workspace. The backend's `path` counts in
/// the default one only, its `workspace_dir` in all the others.
pub(super) fn state_path(
    config: Option<&BackendConfig>,
    workspace: &str,
    flag: Option<&Path>,
    dir: &Path,
) -> Result<PathBuf, BackendError> {
    if let Some(flag) = flag {
        return Ok(dir.join(flag));
    }
    let attribute = |name| -> Result<Option<String>, BackendError> {
        let section = config.map(BackendConfig::section);
        match section.map(|section| (section, section.text_or_empty(name))) {
            Some((section, Ok(Some(text)))) if text.is_empty() => {
                Err(section.bad(name, "it must not be empty"))
            }
            Some((_, text)) => text,
            None => Ok(None),
        }
    };
    let (path, workspace_dir) = (attribute("path")?, attribute("workspace_dir")?);
    if workspace == DEFAULT {
        return Ok(dir.join(path.as_deref().unwrap_or(FILE)));
    }
    let workspaces = workspace_dir.as_deref().unwrap_or("terraform.tfstate.d");
    Ok(dir.join(go_path::join([workspaces, workspace, FILE].map(OsStr::new))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(attributes: &serde_json::Value) -> BackendConfig {
        BackendConfig {
            kind: "local".to_owned(),
            attributes: attributes.as_object().unwrap().clone(),
            place: "`x`".to_owned(),
        }
    }

    /// Each row is what `strace` saw Terraform 1.11.4 lock.
    #[test]
    fn the_file_is_the_one_that_terraform_locks() {
        let none = json!({});
        let unset = json!({"path": null, "workspace_dir": null});
        let path = json!({"path": "p/x.tfstate", "workspace_dir": null});
        let dir = json!({"path": null, "workspace_dir": "wsd"});
        let both = json!({"path": "p/x.tfstate", "workspace_dir": "wsd"});
        let linked = json!({"workspace_dir": "lnk/../wsd"});
        let absolute = json!({"workspace_dir": "/lnk/../wsd"});
        let through = json!({"path": "lnk/../x.tfstate"});
        for (attributes, workspace, flag, expected) in [
            (&none, "default", None, "/w/terraform.tfstate"),
            (&none, "default", Some("other.tfstate"), "/w/other.tfstate"),
            (&none, "default", Some("../x1.tfstate"), "/w/../x1.tfstate"),
            (&none, "default", Some("/abs/x"), "/abs/x"),
            (&none, "w1", None, "/w/terraform.tfstate.d/w1/terraform.tfstate"),
            (&none, "w1", Some("wso.tfstate"), "/w/wso.tfstate"),
            (&unset, "default", None, "/w/terraform.tfstate"),
            (&unset, "w1", None, "/w/terraform.tfstate.d/w1/terraform.tfstate"),
            (&path, "default", None, "/w/p/x.tfstate"),
            (&path, "default", Some("zz.tfstate"), "/w/zz.tfstate"),
            (&path, "w1", None, "/w/terraform.tfstate.d/w1/terraform.tfstate"),
            (&path, "w1", Some("wzz.tfstate"), "/w/wzz.tfstate"),
            (&dir, "default", None, "/w/terraform.tfstate"),
            (&dir, "w1", None, "/w/wsd/w1/terraform.tfstate"),
            (&both, "default", None, "/w/p/x.tfstate"),
            (&both, "w1", None, "/w/wsd/w1/terraform.tfstate"),
            (&none, "..", None, "/w/terraform.tfstate"),
            (&none, "/abs", None, "/w/terraform.tfstate.d/abs/terraform.tfstate"),
            (&none, "a/../../b", None, "/w/b/terraform.tfstate"),
            (&linked, "w1", None, "/w/wsd/w1/terraform.tfstate"),
            (&absolute, "w1", None, "/wsd/w1/terraform.tfstate"),
            (&through, "default", None, "/w/lnk/../x.tfstate"),
        ] {
            let config = config(attributes);
            let found =
                state_path(Some(&config), workspace, flag.map(Path::new), Path::new("/w")).unwrap();
            assert_eq!(found, Path::new(expected), "{attributes} {workspace} {flag:?}");
        }
        let implicit = state_path(None, "default", None, Path::new("/w")).unwrap();
        assert_eq!(implicit, Path::new("/w/terraform.tfstate"));
    }

    #[test]
    fn an_empty_path_is_refused_as_terraform_does() {
        for name in ["path", "workspace_dir"] {
            let config = config(&json!({ name: "" }));
            let error = state_path(Some(&config), "default", None, Path::new("/w")).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
