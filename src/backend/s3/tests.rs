use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::backend::{AssumeRole, AwsEndpoints, ProxySettings, WebIdentity};
use crate::env::Env;

mod releases;

const REGION: (&str, &str) = ("AWS_REGION", "eu-west-1");

fn read_in(
    attributes: &Value,
    workspace: &str,
    env: &[(&str, &str)],
) -> Result<S3Backend, BackendError> {
    let mut all = json!({"bucket": "tfb", "key": "a/b/terraform.tfstate"});
    let merged = all.as_object_mut().unwrap();
    merged.extend(attributes.as_object().unwrap().clone());
    let config = BackendConfig {
        kind: "s3".to_owned(),
        attributes: merged.clone(),
        place: "`x`".to_owned(),
    };
    let env: Env = env.iter().copied().collect();
    from_config(
        &config,
        workspace,
        &Surroundings { env: &env, dir: Path::new("/w"), program: None },
    )
}

fn read(attributes: &Value) -> S3Backend {
    read_in(attributes, "default", &[REGION]).unwrap()
}

fn aws(attributes: &Value, env: &[(&str, &str)]) -> AwsSettings {
    let env = [&[REGION][..], env].concat();
    read_in(attributes, "default", &env).unwrap().aws
}

fn error(attributes: &Value) -> String {
    read_in(attributes, "default", &[REGION]).unwrap_err().to_string()
}

/// Keys that Terraform 1.11.4 was seen to use.
#[test]
fn keys_are_those_of_terraform() {
    for (attributes, workspace, state_key) in [
        (json!({}), "default", "a/b/terraform.tfstate"),
        (json!({"workspace_key_prefix": null}), "dev", "env:/dev/a/b/terraform.tfstate"),
        (json!({"workspace_key_prefix": ""}), "dev", "dev/a/b/terraform.tfstate"),
        (json!({"workspace_key_prefix": "p/q"}), "dev", "p/q/dev/a/b/terraform.tfstate"),
        (json!({"key": "./odd/k"}), "default", "./odd/k"),
        (json!({"key": "./odd/k", "workspace_key_prefix": ""}), "w1", "w1/odd/k"),
    ] {
        let backend = read_in(&attributes, workspace, &[REGION]).unwrap();
        assert_eq!(backend.state_key(), state_key, "{attributes}");
        assert_eq!(backend.lock_key(), LockKey(format!("tfb/{state_key}")), "{attributes}");
    }
}

#[test]
fn a_workspace_that_the_listing_cannot_show_is_known() {
    let key = |key: &str| Some(format!("the key `{key}` is not in its shortest form"));
    let name = || Some("that is not a single path element".to_owned());
    for (attributes, workspace, prefix, why) in [
        (json!({}), "default", "env:/", None),
        (json!({}), "dev", "env:/", None),
        (json!({"workspace_key_prefix": ""}), "dev", "", None),
        (json!({"workspace_key_prefix": "p"}), "dev", "p/", None),
        (json!({"key": "./k"}), "default", "env:/", None),
        (json!({"key": "./k"}), "dev", "env:/", key("./k")),
        (json!({"key": "a/../k"}), "dev", "env:/", key("a/../k")),
        (
            json!({"workspace_key_prefix": "./p"}),
            "dev",
            "./p/",
            Some("the workspace_key_prefix `./p` is not in its shortest form".to_owned()),
        ),
        (json!({}), "a/b", "env:/", name()),
        (json!({}), "..", "env:/", name()),
        (json!({}), "ev il/..", "env:/", name()),
    ] {
        let backend = read_in(&attributes, workspace, &[REGION]).unwrap();
        assert_eq!(backend.listing_prefix(), prefix, "{attributes} {workspace}");
        assert_eq!(backend.never_listed(), why, "{attributes} {workspace}");
        assert_eq!(backend.is_default_workspace(), workspace == "default");
    }
}

#[test]
fn the_locks_are_those_that_are_configured() {
    for (attributes, table, file) in [
        (json!({}), None, false),
        (json!({"dynamodb_table": "", "use_lockfile": null}), None, false),
        (json!({"dynamodb_table": "t"}), Some("t"), false),
        (json!({"use_lockfile": true}), None, true),
        (json!({"dynamodb_table": "t", "use_lockfile": true}), Some("t"), true),
    ] {
        let backend = read(&attributes);
        assert_eq!(backend.dynamodb_table.as_deref(), table, "{attributes}");
        assert_eq!(backend.use_lockfile, file, "{attributes}");
    }
}

#[test]
fn what_terraform_refuses_is_refused() {
    for (attributes, attribute) in [
        (json!({"bucket": null}), "bucket"),
        (json!({"bucket": ""}), "bucket"),
        (json!({"key": null}), "key"),
        (json!({"key": ""}), "key"),
        (json!({"key": "/k"}), "key"),
        (json!({"key": "k/"}), "key"),
        (json!({"key": "a//k"}), "key"),
        (json!({"key": ["k"]}), "key"),
        (json!({"workspace_key_prefix": "p/"}), "workspace_key_prefix"),
        (json!({"workspace_key_prefix": "/p"}), "workspace_key_prefix"),
        (json!({"use_lockfile": "maybe"}), "use_lockfile"),
        (json!({"assume_role": {"role_arn": null}}), "assume_role.role_arn"),
        (json!({"assume_role": {"role_arn": "r", "duration": "9"}}), "assume_role.duration"),
    ] {
        let message = error(&attributes);
        let expected = format!("the backend in `x` has no usable `{attribute}`: ");
        assert!(message.starts_with(&expected), "{message}");
    }
}

#[test]
fn a_region_comes_from_the_backend_or_the_environment_only() {
    let region = |attributes, env: &[(&str, &str)]| {
        read_in(attributes, "default", env).map(|backend| backend.aws.region.unwrap())
    };
    let (first, second) = (("AWS_REGION", "r1"), ("AWS_DEFAULT_REGION", "r2"));
    let set = json!({"region": "eu-west-1"});
    let unset = json!({"region": ""});
    assert_eq!(region(&set, &[first, second]).unwrap(), "eu-west-1");
    assert_eq!(region(&unset, &[first, second]).unwrap(), "r1");
    assert_eq!(region(&unset, &[second]).unwrap(), "r2");
    let error = region(&unset, &[("AWS_PROFILE", "p")]).unwrap_err();
    assert!(error.to_string().starts_with("missing region value: the backend in `x`"), "{error}");
    assert!(error.hint().contains("AWS_REGION"), "{}", error.hint());
    for (attributes, env, said) in &[
        (json!({"region": "mars-1"}), "", "has no usable `region`: `mars-1` is not an AWS region"),
        (json!({"region": "eu-west-1\n"}), "", "`eu-west-1\\n` is not an AWS region"),
        (
            json!({"region": "eu west 1", "skip_region_validation": true}),
            "",
            "`eu west 1` is not an AWS region",
        ),
        (json!({}), "eu-west-1 ", "`AWS_REGION` cannot be used: `eu-west-1 ` is not an AWS region"),
    ] {
        let env = [("AWS_REGION", *env)];
        let error = read_in(attributes, "default", &env).unwrap_err();
        assert!(error.to_string().ends_with(said), "{error}");
    }
    let any = json!({"region": "mars-1", "skip_region_validation": true});
    assert_eq!(region(&any, &[]).unwrap(), "mars-1");
}

#[test]
fn endpoints_are_found_in_terraforms_order() {
    let s3 = |attributes: &Value, env: &[(&str, &str)]| aws(attributes, env).endpoints.s3;
    let new = ("AWS_ENDPOINT_URL_S3", "http://new");
    let old = ("AWS_S3_ENDPOINT", "http://old");
    let block = json!({"endpoints": {"s3": "http://block"}, "endpoint": null});
    let flat = json!({"endpoints": {"s3": null}, "endpoint": "http://flat"});
    let none = json!({"endpoints": null});
    assert_eq!(s3(&block, &[new, old]).as_deref(), Some("http://block"));
    assert_eq!(s3(&flat, &[new, old]).as_deref(), Some("http://flat"));
    assert_eq!(s3(&none, &[new, old]).as_deref(), Some("http://new"));
    assert_eq!(s3(&none, &[old]).as_deref(), Some("http://old"));
    assert_eq!(s3(&none, &[("AWS_ENDPOINT_URL", "http://all")]), None, "the SDK's");
    let legacy = json!({"dynamodb_endpoint": "http://d", "sts_endpoint": "http://t"});
    let expected = AwsEndpoints {
        dynamodb: Some("http://d".to_owned()),
        s3: None,
        sts: Some("http://t".to_owned()),
        sso: None,
    };
    assert_eq!(aws(&legacy, &[]).endpoints, expected);
    let vars = [("AWS_ENDPOINT_URL_DYNAMODB", "http://d"), ("AWS_STS_ENDPOINT", "http://t")];
    assert_eq!(aws(&none, &vars).endpoints, expected);
    let sso = |attributes: &Value, env: &[(&str, &str)]| aws(attributes, env).endpoints.sso;
    let var = [("AWS_ENDPOINT_URL_SSO", "http://var")];
    assert_eq!(sso(&json!({"endpoints": {"sso": "http://s"}}), &var).as_deref(), Some("http://s"));
    assert_eq!(sso(&none, &var).as_deref(), Some("http://var"));
}

#[test]
fn credentials_of_the_environment_go_along_as_they_are() {
    let vars = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_PROFILE", "p")];
    let settings = aws(&json!({}), &vars);
    assert_eq!((settings.access_key, settings.secret_key, settings.profile), (None, None, None));
    assert_eq!(settings.env.get("AWS_PROFILE"), Some("p"));
    assert_eq!(settings.env.get("HOME"), None);
    let own = json!({"access_key": "a", "secret_key": "b", "token": "c", "profile": "q"});
    let settings = aws(&own, &vars);
    assert_eq!(settings.access_key.as_deref(), Some("a"));
    assert_eq!(settings.token.as_deref(), Some("c"));
    assert_eq!(settings.profile.as_deref(), Some("q"));
}

#[test]
fn a_switch_is_its_attributes_or_its_variables_or_left_to_the_profile() {
    for (attribute, value, on) in [
        (None, "", None),
        (None, "true", Some(true)),
        (None, "TRUE", Some(true)),
        // Without a program; Terraform up to 1.14 takes it for `true`.
        (None, "false", Some(false)),
        (Some(true), "false", Some(true)),
        (Some(false), "", None),
        (Some(false), "true", Some(true)),
        (Some(false), "False", Some(false)),
    ] {
        let vars = [("AWS_USE_FIPS_ENDPOINT", value), ("AWS_USE_DUALSTACK_ENDPOINT", value)];
        let own = json!({"use_fips_endpoint": attribute, "use_dualstack_endpoint": attribute});
        let settings = aws(&own, &vars);
        assert_eq!([settings.use_fips, settings.use_dualstack], [on; 2], "{attribute:?} {value}");
    }
    let vars = [("AWS_USE_DUALSTACK_ENDPOINT", "yes")];
    let error = read_in(&json!({"region": "eu-west-1"}), "default", &vars).unwrap_err();
    let said = "`AWS_USE_DUALSTACK_ENDPOINT` cannot be used: `yes` is neither `true` nor `false`";
    assert_eq!(error.to_string(), said);
}

#[test]
fn an_endpoint_of_the_backend_is_a_url_and_stands_there_once() {
    for (attributes, said) in [
        (
            json!({"endpoints": {"dynamodb": "foo"}, "dynamodb_table": "t"}),
            "`endpoints.dynamodb`: `foo` is not an http(s) URL",
        ),
        (json!({"endpoints": {"s3": ""}}), "`endpoints.s3`: `` is not an http(s) URL"),
        (json!({"sts_endpoint": "u:secret@h:1"}), "`sts_endpoint`: `h:1` is not an http(s) URL"),
        (
            json!({"endpoints": {"dynamodb": "http://h"}, "dynamodb_endpoint": "http://h"}),
            "`dynamodb_endpoint`: `endpoints.dynamodb` is set, too",
        ),
    ] {
        let error = read_in(&attributes, "default", &[("AWS_REGION", "r")]).unwrap_err();
        assert!(error.to_string().ends_with(said), "{error}");
    }
    let empty = json!({"endpoints": {"sts": ""}});
    assert_eq!(aws(&empty, &[("AWS_STS_ENDPOINT", "http://old")]).endpoints.sts, None);
}

#[test]
fn a_variable_that_is_not_utf_8_is_refused_by_its_name() {
    let odd = std::ffi::OsString::from_vec(b"p\xff".to_vec());
    let env: Env = [("AWS_REGION".into(), "r".into()), ("AWS_PROFILE".into(), odd)]
        .into_iter()
        .collect::<Vec<(std::ffi::OsString, std::ffi::OsString)>>()
        .into_iter()
        .collect();
    let error = crate::backend::aws_from_env(&env, Path::new("/"), None).unwrap_err();
    assert!(error.to_string().contains("`AWS_PROFILE`"), "{error}");
    assert!(error.to_string().ends_with("it is not UTF-8"), "{error}");
}

#[test]
fn proxies_follow_terraforms_order() {
    let proxies = |attributes: &Value, env: &[(&str, &str)]| {
        let settings = aws(attributes, env);
        let ProxySettings { http, https, no_proxy, .. } = settings.proxies;
        [http, https, no_proxy].map(Option::unwrap_or_default)
    };
    let upper = [("HTTP_PROXY", "h"), ("HTTPS_PROXY", "s"), ("NO_PROXY", "n")];
    let lower = [("http_proxy", "lh"), ("https_proxy", "ls"), ("no_proxy", "ln")];
    assert_eq!(proxies(&json!({}), &[]), ["", "", ""]);
    assert_eq!(proxies(&json!({}), &lower), ["lh", "ls", "ln"]);
    assert_eq!(proxies(&json!({}), &[upper, lower].concat()), ["h", "s", "n"]);
    assert_eq!(proxies(&json!({"http_proxy": "a"}), &[]), ["a", "a", ""]);
    assert_eq!(proxies(&json!({"http_proxy": "a"}), &upper), ["a", "s", "n"]);
    assert_eq!(proxies(&json!({"https_proxy": "", "no_proxy": "x"}), &upper), ["h", "", "x"]);
}

#[test]
fn files_are_expanded_and_stand_in_the_directory_of_the_run() {
    let home = ("HOME", "/home/u");
    let env = [home, ("DIR", "/d")];
    let all = json!({
        "shared_config_files": ["~/c", "rel/c"],
        "shared_credentials_files": ["a$", "$DIR/c", "${DIR}/e", "/abs", "a$"],
        "custom_ca_bundle": "ca.pem",
    });
    let settings = aws(&all, &env);
    let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    // Sets: in the order of their values, each once.
    assert_eq!(settings.shared_config_files, paths(&["/w/rel/c", "/home/u/c"]));
    assert_eq!(settings.shared_credentials_files, paths(&["/d/c", "/d/e", "/abs", "/w/a$"]));
    assert_eq!(settings.ca_bundle, Some("/w/ca.pem".into()));
    for (name, file) in
        [("shared_credentials_files", json!(["~other/x"])), ("custom_ca_bundle", json!("~other/x"))]
    {
        assert!(error(&json!({ name: file })).contains("`~other/x`"), "{name}");
    }

    let (config, credentials) = ("/home/u/.aws/config", "/home/u/.aws/credentials");
    let shared = ("AWS_SHARED_CONFIG_FILE", "~/conf");
    let sdk = ("AWS_CONFIG_FILE", "~/$c");
    let vars = [("AWS_SHARED_CREDENTIALS_FILE", "~/cred"), ("AWS_CA_BUNDLE", "/ca"), shared, sdk];
    let unset = [("AWS_SHARED_CREDENTIALS_FILE", ""), ("AWS_CONFIG_FILE", "")];
    let old = json!({"shared_credentials_file": "old"});
    let empty = json!({"shared_config_files": [], "shared_credentials_files": []});
    for (attributes, env, configs, credentials) in [
        (&json!({}), &[][..], config, credentials),
        (&json!({}), &unset, config, credentials),
        (&json!({}), &vars, "/home/u/conf", "/home/u/cred"),
        (&json!({}), &[sdk], "/w/~/$c", credentials),
        (&old, &vars, "/home/u/conf", "/home/u/cred"),
        (&old, &[], config, "/w/old"),
        // The SDK's own variables, not expanded.
        (&empty, &vars, "/w/~/$c", "/w/~/cred"),
    ] {
        let settings = aws(attributes, &[&[home][..], env].concat());
        assert_eq!(settings.shared_config_files, paths(&[configs]), "{attributes} {env:?}");
        assert_eq!(settings.shared_credentials_files, paths(&[credentials]), "{attributes}");
    }
    assert_eq!(aws(&json!({}), &vars).ca_bundle, Some("/ca".into()));
    assert_eq!(aws(&json!({}), &[home]).home, Path::new("/home/u"));
}

#[test]
fn without_a_home_that_of_the_user_is_used() {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::current()).unwrap().unwrap();
    for env in [&[][..], &[("HOME", "")]] {
        let settings = aws(&json!({"custom_ca_bundle": "~/ca"}), env);
        assert_eq!(settings.home, user.dir);
        assert_eq!(settings.ca_bundle, Some(user.dir.join("ca")));
        assert_eq!(settings.shared_config_files, [user.dir.join(".aws/config")]);
    }
}

#[test]
fn a_role_is_read_from_the_block_or_the_old_attributes() {
    let block = json!({"role_arn": "old", "assume_role": {
        "role_arn": "arn", "duration": "1h", "external_id": "e", "policy": " {} ",
        "policy_arns": ["p"], "session_name": "s", "source_identity": "i", "tags": {"k": "v"},
        "transitive_tag_keys": ["k"],
    }});
    let role = AssumeRole {
        role_arn: "arn".to_owned(),
        duration: Some(Duration::from_hours(1)),
        external_id: Some("e".to_owned()),
        policy: Some("{}".to_owned()),
        policy_arns: vec!["p".to_owned()],
        session_name: Some("s".to_owned()),
        source_identity: Some("i".to_owned()),
        tags: vec![("k".to_owned(), "v".to_owned())],
        transitive_tag_keys: vec!["k".to_owned()],
    };
    assert_eq!(aws(&block, &[]).assume_role.as_ref(), Some(&role));
    let flat = json!({
        "assume_role": null, "role_arn": "arn", "assume_role_duration_seconds": 3600,
        "external_id": "e", "assume_role_policy": "{}", "assume_role_policy_arns": ["p"],
        "session_name": "s", "assume_role_tags": {"k": "v"},
        "assume_role_transitive_tag_keys": ["k"],
    });
    let expected = AssumeRole { source_identity: None, ..role };
    assert_eq!(aws(&flat, &[]).assume_role, Some(expected));
    assert_eq!(aws(&json!({"role_arn": "", "session_name": "s"}), &[]).assume_role, None);
}

#[test]
fn a_web_identity_takes_nothing_from_the_environment() {
    let vars = [
        ("AWS_ROLE_ARN", "arn"),
        ("AWS_ROLE_SESSION_NAME", "s"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
    ];
    let unset = json!({"assume_role_with_web_identity": {"role_arn": null}});
    assert_eq!(aws(&unset, &vars).web_identity, Some(WebIdentity::default()));
    let token = json!({"assume_role_with_web_identity": {"web_identity_token": "hunter2"}});
    let settings = aws(&token, &vars);
    let identity = settings.web_identity.as_ref().unwrap();
    assert_eq!((identity.token.as_deref(), &identity.token_file), (Some("hunter2"), &None));
    let file = json!({"assume_role_with_web_identity": {"web_identity_token_file": "t"}});
    let settings = aws(&file, &vars).web_identity.unwrap();
    assert_eq!(settings.token_file.as_deref(), Some(Path::new("/w/t")));
}

#[test]
fn the_rest_is_read() {
    let settings = aws(
        &json!({"use_path_style": null, "force_path_style": true, "insecure": true,
            "skip_metadata_api_check": false, "sts_region": "r",
            "ec2_metadata_service_endpoint_mode": "IPv6"}),
        &[("AWS_METADATA_URL", "http://m")],
    );
    assert!(settings.use_path_style && settings.insecure);
    assert_eq!(settings.skip_metadata_api_check, Some(false));
    assert_eq!(settings.sts_region.as_deref(), Some("r"));
    assert_eq!(settings.metadata_endpoint.as_deref(), Some("http://m"));
    assert_eq!(settings.metadata_endpoint_mode.as_deref(), Some("IPv6"));
}

#[test]
fn encryption_needs_encrypt() {
    let key = "x".repeat(44);
    let var = ("AWS_SSE_CUSTOMER_KEY", key.as_str());
    for (attributes, env, expected) in [
        (json!({"kms_key_id": "k", "sse_customer_key": "c"}), &[var][..], Encryption::None),
        (json!({"encrypt": true}), &[], Encryption::Aes256),
        (json!({"encrypt": true, "kms_key_id": "k"}), &[], Encryption::Kms("k".to_owned())),
        (json!({"encrypt": true}), &[var], Encryption::CustomerKey(key.clone())),
        (
            json!({"encrypt": true, "sse_customer_key": "c"}),
            &[var],
            Encryption::CustomerKey("c".to_owned()),
        ),
    ] {
        let backend = read_in(&attributes, "default", &[&[REGION][..], env].concat()).unwrap();
        assert_eq!(backend.objects.encryption, expected, "{attributes}");
    }
}

#[test]
fn nothing_secret_is_printed() {
    let backend = read(&json!({
        "access_key": "hunter2", "secret_key": "hunter2", "token": "hunter2", "encrypt": true,
        "sse_customer_key": "hunter2", "http_proxy": "http://u:hunter2@p",
        "assume_role_with_web_identity": {"web_identity_token": "hunter2"},
    }));
    assert!(!format!("{backend:?}").contains("hunter2"));
}

#[test]
fn the_end_of_a_session_is_that_of_a_whole_one_in_the_environment() {
    let keys = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let token = ("AWS_SESSION_TOKEN", "t");
    let ends = |token: &[(&str, &str)], env: &[(&str, &str)]| {
        aws(&json!({}), &[&keys[..], token, env].concat()).session_ends
    };
    let time = "2026-01-02T03:04:05+01:00";
    let at = Some(jiff::Timestamp::new(1_767_319_445, 0).unwrap());
    for name in ["AWS_CREDENTIAL_EXPIRATION", "AWS_SESSION_EXPIRATION"] {
        assert_eq!(ends(&[token], &[(name, time)]), at, "{name}");
        assert_eq!(ends(&[], &[(name, time)]), None, "{name} without a session");
        assert_eq!(ends(&[token], &[(name, "soon")]), None, "{name}");
    }
    assert_eq!(ends(&[token], &[]), None);
}

#[test]
fn a_proxy_attribute_that_go_cannot_read_is_refused_without_its_password() {
    for url in [":::", "http://u:secret@h:port", "10.0.0.1:3128", "http://h\n"] {
        let config = json!({"https_proxy": url});
        let error = error(&config);
        assert!(error.contains("`https_proxy`") && !error.contains("secret"), "{error}");
    }
    for url in ["h:3128", "http://u:p@h", "ftp://h", "h", "//h"] {
        assert_eq!(aws(&json!({"https_proxy": url}), &[]).proxies.https.as_deref(), Some(url));
    }
}
