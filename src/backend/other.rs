//! The backends whose lock only Terraform can take.

use serde_json::Value;

use super::config::BackendConfig;
use crate::env::Env;
use crate::shown_url::shown_url;

/// A backend that tfwrap has no lock for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherBackend {
    /// Terraform's name for it (`gcs`, `http`, `cloud`, …).
    pub kind: String,
    /// A name for a lock in its lock's place: the same on all machines, and nothing secret in it.
    pub lock_name: String,
    /// Whether it locks nothing, as it is configured.
    pub is_lockless: bool,
}

/// What tells one state of a backend from another.
static NAMED_BY: &[(&str, &[&str])] = &[
    ("azurerm", &["storage_account_name", "container_name", "key"]),
    ("cloud", &["organization", "workspaces"]),
    ("consul", &["address", "path"]),
    ("cos", &["bucket", "prefix", "key"]),
    ("gcs", &["bucket", "prefix"]),
    ("http", &["address"]),
    ("kubernetes", &["namespace", "secret_suffix"]),
    ("oci", &["namespace", "bucket", "key"]),
    ("oss", &["bucket", "prefix", "key"]),
    ("pg", &["schema_name"]),
    ("remote", &["organization", "workspaces"]),
];

/// No name of a lock that we propose is longer.
const LONGEST: usize = 120;

impl OtherBackend {
    pub(super) fn from_config(config: &BackendConfig, initialised: bool, env: &Env) -> Self {
        Self {
            kind: config.kind.clone(),
            lock_name: lock_name(config),
            is_lockless: initialised && locks_nothing(config, env),
        }
    }
}

fn lock_name(config: &BackendConfig) -> String {
    let known = NAMED_BY.iter().find(|(kind, _)| *kind == config.kind);
    let values = known.iter().flat_map(|(_, names)| names.iter()).filter_map(|name| {
        let value = match config.attributes.get(*name)? {
            Value::Array(blocks) => blocks.first()?,
            value => value,
        };
        let text = value.as_str().or_else(|| value.get("name")?.as_str());
        let text = text.or_else(|| value.get("prefix")?.as_str())?;
        let is_address = *name == "address";
        Some(if is_address { without_secrets(text) } else { text.trim_matches('/').to_owned() })
    });
    let mut name = config.kind.clone();
    for value in values.filter(|value| !value.is_empty()) {
        name.push('-');
        name.push_str(&value);
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.chars().map(plain).take(LONGEST).collect()
}

/// Of a URL its host and path: it may have a password before, and a token behind them. Nothing of one that is
/// not well-formed.
fn without_secrets(text: &str) -> String {
    let shown = shown_url(text);
    let shown = shown.split_once("://").map_or(shown.as_str(), |(_, rest)| rest);
    let shown = shown.split(['?', '#', '…']).next().unwrap_or_default();
    shown.trim_matches('/').to_owned()
}

/// Of the backends that lock only if they are told so.
fn locks_nothing(config: &BackendConfig, env: &Env) -> bool {
    let is_unset = |name: &str, variable: &str| {
        config.attributes.get(name).is_none_or(|value| value.is_null() || value == "")
            && env.get_os(variable).is_none()
    };
    match config.kind.as_str() {
        "http" => is_unset("lock_address", "TF_HTTP_LOCK_ADDRESS"),
        "oss" => is_unset("tablestore_table", "TABLESTORE_TABLE"),
        "consul" => config.attributes.get("lock").is_some_and(|value| value == false),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposed_name_tells_states_apart_and_holds_no_secret() {
        for (kind, attributes, name) in [
            ("gcs", r#"{"bucket": "acme-tf", "prefix": "prod/net"}"#, "gcs-acme-tf-prod-net"),
            ("gcs", r#"{"bucket": null}"#, "gcs"),
            (
                "http",
                r#"{"address": "https://u:hunter2@git.example:8/api/v4/state/prod?t=hunter2"}"#,
                "http-git.example-8-api-v4-state-prod",
            ),
            ("http", r#"{"address": "https://u:hunter2%40h/state"}"#, "http"),
            ("http", r#"{"address": "https://u:hu?nter2@h/state"}"#, "http"),
            ("http", r#"{"address": "https//u:hunter2@h/state"}"#, "http"),
            ("http", r#"{"address": "http://CORP/alice:hunter2@h/state"}"#, "http"),
            ("consul", r#"{"address": "https://h:8501/u@x", "path": "p"}"#, "consul-p"),
            (
                "consul",
                r#"{"address": "https://u:hunter2@consul.acme:8501", "path": "tf/prod"}"#,
                "consul-consul.acme-8501-tf-prod",
            ),
            ("consul", r#"{"address": "u:hunter2@h:1?t=hunter2", "path": "p"}"#, "consul-h-1-p"),
            ("pg", r#"{"conn_str": "postgres://u:hunter2@h/d", "schema_name": "s"}"#, "pg-s"),
            ("remote", r#"{"organization": "o", "workspaces": [{"prefix": "w-"}]}"#, "remote-o-w-"),
            ("cloud", r#"{"organization": "o", "workspaces": {"name": "w"}}"#, "cloud-o-w"),
            ("etcdv3", r#"{"prefix": "p", "password": "hunter2"}"#, "etcdv3"),
        ] {
            let attributes = serde_json::from_str(attributes).unwrap();
            let (kind, place) = (kind.to_owned(), String::new());
            assert_eq!(lock_name(&BackendConfig { kind, attributes, place }), name);
        }
    }
}
