//! What differs from release to release of the program below.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;

use super::super::*;
use super::REGION;
use crate::env::Env;

/// Of a lock, another identity may be another table: that of Terraform 1.6 (and 1.7, if told so) counts.
#[test]
fn keys_of_the_environment_come_before_a_profile_where_the_program_has_it_so() {
    let top = tempfile::tempdir().unwrap();
    let with = |release: &str, legacy: Option<bool>, env: &[(&str, &str)]| {
        let program = top.path().join("terraform").with_extension(release);
        std::fs::write(&program, format!("#!/bin/sh\necho 'Terraform v{release}'\n")).unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let attributes =
            json!({"profile": "p", "use_legacy_workflow": legacy, "bucket": "b", "key": "k"});
        let config = BackendConfig {
            kind: "s3".to_owned(),
            attributes: attributes.as_object().unwrap().clone(),
            place: "`x`".to_owned(),
        };
        let env: Env = [&[REGION][..], env].concat().into_iter().collect();
        let around = Surroundings { env: &env, dir: Path::new("/w"), program: Some(&program) };
        from_config(&config, "default", &around).unwrap().aws
    };
    let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
    for (release, legacy, env, counts) in [
        ("1.6.6", None, &keys[..], false),
        ("1.6.6", Some(false), &keys, true),
        ("1.6.6", None, &keys[..1], true),
        ("1.7.5", None, &keys, true),
        ("1.7.5", Some(true), &keys, false),
        ("1.8.4", None, &keys, true),
    ] {
        let profile = with(release, legacy, env).profile;
        assert_eq!(profile.is_some(), counts, "{release} {legacy:?} {env:?}");
    }
    let full = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    let relative = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
    let both =
        [(full, "http://127.0.0.1/a"), (relative, "/b"), ("AWS_ACCOUNT_ID_ENDPOINT_MODE", "odd")];
    let old = with("1.9.8", None, &both).env;
    assert_eq!([full, relative].map(|name| old.get(name).is_some()), [true, false]);
    let new = with("1.10.5", None, &both[..2]).env;
    assert_eq!([full, relative].map(|name| new.get(name).is_some()), [true, true]);
}
