//! One row per rule of Terraform's: what is configured, and whose credentials that means.

use super::*;
use crate::store::aws::profile::{InUse, Profiles};

/// Keys of a profile `p` in one of the files.
const KEYS: &str = "aws_access_key_id = AKIAP\naws_secret_access_key = s\n";
const SSO: &str = "sso_region = r\nsso_start_url = u\nsso_account_id = 1\nsso_role_name = n\n";
const E: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIAE"), ("AWS_SECRET_ACCESS_KEY", "s")];
const W: [(&str, &str); 2] = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn:w")];
const P: (&str, &str) = ("AWS_PROFILE", "p");

/// What is configured; a profile's lines by its name, `p+` for further ones in the credentials file.
#[derive(Default)]
struct Case<'a> {
    profiles: &'a [(&'a str, &'a str)],
    env: &'a [(&'a str, &'a str)],
    backend: AwsSettings,
}

impl Case<'_> {
    fn chain(self) -> Result<Chain, String> {
        let lines = |of_credentials: bool| -> Vec<String> {
            let of_file = self.profiles.iter().filter(|it| it.0.ends_with('+') == of_credentials);
            let section = |name: &str| match name.strip_suffix('+') {
                Some(name) => format!("[{name}]"),
                None => format!("[profile {name}]"),
            };
            of_file
                .map(|(name, lines)| format!("{}\n{}", section(name), lines.replace(';', "\n")))
                .collect()
        };
        let (config, credentials) = (lines(false).join("\n"), lines(true).join("\n"));
        let env = self.env.iter().copied().collect();
        let settings = AwsSettings { env, dir: "/w".into(), ..self.backend };
        let profile = InUse::of(&settings, Profiles::new([config], [credentials]));
        let chain = profile.and_then(|profile| decide(&settings, &profile.linked()));
        chain.map_err(|error| error.to_string())
    }
}

fn of(profiles: &[(&str, &str)], env: &[(&str, &str)]) -> String {
    told(Case { profiles, env, ..Case::default() })
}

fn told(case: Case<'_>) -> String {
    match case.chain() {
        Ok(Chain { source: Source::Keys(keys, place), roles }) => {
            let chain = Chain { source: Source::Keys(keys.clone(), place), roles };
            format!("{} of {chain}", keys.id)
        }
        Ok(chain) => chain.to_string(),
        Err(error) => error,
    }
}

#[test]
fn the_first_that_is_configured_gives_the_credentials() {
    let p = [("p", KEYS)];
    let both = [("p", KEYS), ("default", "aws_access_key_id=AKIAD;aws_secret_access_key=s")];
    for (profiles, env, expected) in [
        // C1, C2: which profile.
        (&both[..], &[][..], "AKIAD of keys of profile `default`"),
        (&both, &[("AWS_DEFAULT_PROFILE", "p")], "AKIAP of keys of profile `p`"),
        (&both, &[("AWS_PROFILE", "")], "AKIAD of keys of profile `default`"),
        (
            &both,
            &[("AWS_PROFILE", ""), ("AWS_DEFAULT_PROFILE", "p")],
            "AKIAP of keys of profile `p`",
        ),
        (
            &p,
            &[("AWS_PROFILE", "default")],
            "there is no profile `default`, which `AWS_PROFILE` names",
        ),
        // Keys of the environment, by whichever name (C4).
        (&p, &[P, E[0], E[1]], "AKIAE of keys of the environment"),
        (
            &p,
            &[P, ("AWS_ACCESS_KEY", "a"), ("AWS_SECRET_KEY", "b")],
            "a of keys of the environment",
        ),
        (&p, &[P, E[0], ("AWS_SECRET_KEY", "b")], "AKIAE of keys of the environment"),
        (&p, &[P, E[0], ("SECRET_ACCESS_KEY", "b")], "AKIAP of keys of profile `p`"),
        (&p, &[P, E[0], ("AWS_SECRET_ACCESS_KEY", " ")], "AKIAE of keys of the environment"),
        (&p, &[P, E[0], ("AWS_SECRET_ACCESS_KEY", "")], "AKIAP of keys of profile `p`"),
        // C0: a web identity of the environment comes before any profile.
        (&p, &[P, W[0], W[1]], "web identity of the environment, as `arn:w`"),
        (
            &[("p", "role_arn=r;credential_source=Environment")],
            &[P, W[0], W[1]],
            "web identity of the environment, as `arn:w`",
        ),
        (&p, &[P, W[0], W[1], E[0], E[1]], "AKIAE of keys of the environment"),
        (&p, &[P, W[0]], "`AWS_WEB_IDENTITY_TOKEN_FILE` is set, and `AWS_ROLE_ARN` is not"),
        (&p, &[P, ("AWS_WEB_IDENTITY_TOKEN_FILE", ""), W[1]], "AKIAP of keys of profile `p`"),
    ] {
        let found = of(profiles, env);
        assert!(found.starts_with(expected), "{profiles:?} {env:?}: {found}");
    }
}

#[test]
fn a_profile_gives_credentials_by_the_first_of_its_means() {
    let role = "role_arn = arn:r\n";
    let process = "credential_process = x\n";
    let web = "web_identity_token_file = t\nrole_arn = arn:r\n";
    let environment = "credential_source = Environment\nrole_arn = arn:r\n";
    let r = ", then role `arn:r` of profile `p`";
    for (lines, keys, expected) in [
        // C5: its own keys win over all but a source profile, and its role is assumed with them.
        (process, true, "AKIAP of keys of profile `p`".to_owned()),
        (SSO, true, "AKIAP of keys of profile `p`".to_owned()),
        (web, true, format!("AKIAP of keys of profile `p`{r}")),
        (environment, true, format!("AKIAP of keys of profile `p`{r}")),
        (role, true, format!("AKIAP of keys of profile `p`{r}")),
        (process, false, "`credential_process` of profile `p`".to_owned()),
        (SSO, false, "SSO login of profile `p`, as `n` in `1`".to_owned()),
        (web, false, "web identity of profile `p`, as `arn:r`".to_owned()),
        // F5: a role without a source.
        (role, false, format!("instance metadata{r}")),
        // F4, and a profile with empty keys (C12).
        ("region = r", false, "instance metadata".to_owned()),
        ("aws_access_key_id =\naws_secret_access_key =\n", false, "instance metadata".to_owned()),
    ] {
        let profiles = [("p", lines), ("p+", if keys { KEYS } else { "" })];
        // By the environment's name for it, by the backend's, and with the other one beside it.
        assert_eq!(of(&profiles, &[P]), expected, "{lines}");
        let backend = AwsSettings { profile: Some("p".to_owned()), ..AwsSettings::default() };
        let env = [E[0], E[1], ("AWS_PROFILE", "q")];
        assert_eq!(told(Case { profiles: &profiles, env: &env, backend }), expected, "{lines}");
    }
    let sso_and_role = [SSO, role].concat();
    let found = of(&[("p", &sso_and_role)], &[P]);
    assert_eq!(found, format!("SSO login of profile `p`, as `n` in `1`{r}"));
}

#[test]
fn roles_are_assumed_from_the_inside_out() {
    let chain = [
        ("p", "role_arn=arn:1;source_profile=q"),
        ("q", "role_arn=arn:2;source_profile=r"),
        ("r", "aws_access_key_id=AKIAR;aws_secret_access_key=s"),
    ];
    let two = "AKIAR of keys of profile `r`, then role `arn:2` of profile `q`, then role `arn:1` of \
               profile `p`";
    assert_eq!(of(&chain, &[P]), two);
    let role = AssumeRole { role_arn: "arn:b".to_owned(), ..AssumeRole::default() };
    let backend = AwsSettings { assume_role: Some(role), ..AwsSettings::default() };
    let three = told(Case { profiles: &chain, env: &[P], backend });
    assert_eq!(three, format!("{two}, then role `arn:b` of the backend"));
    // C6: keys in the middle.
    let q =
        ("q", "role_arn=arn:2;source_profile=r;aws_access_key_id=AKIAQ;aws_secret_access_key=s");
    assert_eq!(
        of(&[chain[0], q, chain[2]], &[P]),
        "AKIAQ of keys of profile `q`, then role `arn:2` of profile `q`, then role `arn:1` of \
         profile `p`"
    );
}

#[test]
fn a_role_of_a_profile_is_asked_for_as_it_is_written() {
    let lines = "role_arn=arn:r;role_session_name=n;external_id=e;duration_seconds=3600";
    for (seconds, duration) in
        [("3600", Some(3600)), ("900", None), ("x", None), ("960", Some(960))]
    {
        let lines = lines.replace("3600", seconds);
        let profiles = [("p", lines.as_str()), ("p+", KEYS)];
        let chain = Case { profiles: &profiles, env: &[P], ..Case::default() }.chain().unwrap();
        let [Role { role, .. }] = &chain.roles[..] else { panic!("{chain:?}") };
        assert_eq!(role.duration.map(|it| it.as_secs()), duration, "{seconds}");
        assert_eq!(role.session_name.as_deref(), Some("n"));
        assert_eq!(role.external_id.as_deref(), Some("e"));
    }
}

#[test]
fn the_machine_is_asked_where_nothing_else_is_configured() {
    const FULL: (&str, &str) = (FULL_URI, "http://127.0.0.1/full");
    const RELATIVE: (&str, &str) = (RELATIVE_URI, "/rel");
    let ecs = [("p", "role_arn=r;credential_source=EcsContainer")];
    let none: [(&str, &str); 0] = [];
    for (profiles, env, expected) in [
        (&none[..], &[FULL, RELATIVE][..], "http://169.254.170.2/rel"),
        (&none, &[FULL], "http://127.0.0.1/full"),
        (&none, &[RELATIVE], "http://169.254.170.2/rel"),
        (&none, &[(FULL_URI, ""), RELATIVE], "http://169.254.170.2/rel"),
        (&ecs, &[P, FULL, RELATIVE], "http://169.254.170.2/rel"),
        (&ecs, &[P, FULL], "http://127.0.0.1/full"),
    ] {
        let chain = Case { profiles, env, ..Case::default() }.chain().unwrap();
        let Source::Container { url, token: None } = chain.source else { panic!("{chain:?}") };
        assert_eq!(url, expected, "{env:?}");
    }
    let file = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "tok");
    let given = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hunter2");
    for (env, expected) in [
        (&[FULL, file, given][..], ContainerToken::File("/w/tok".into())),
        (&[FULL, (file.0, ""), given], ContainerToken::Given("hunter2".to_owned())),
    ] {
        let chain = Case { env, ..Case::default() }.chain().unwrap();
        assert!(!format!("{chain:?}").contains("hunter2"));
        let Source::Container { token, .. } = chain.source else { panic!("{chain:?}") };
        assert_eq!(token, Some(expected));
    }
}

#[test]
fn the_instance_is_asked_unless_it_is_switched_off() {
    let off = [("AWS_EC2_METADATA_DISABLED", "TRUE")];
    let below = [("p", "role_arn=arn:r;credential_source=Ec2InstanceMetadata")];
    let role = "instance metadata, then role `arn:r` of profile `p`";
    for (skip, profiles, env, expected) in [
        (None, &[][..], &[][..], "instance metadata"),
        (None, &[], &off, "no AWS credentials were found; looked in: environment, web identity"),
        (
            None,
            &[],
            &[off[0], ("AWS_ACCESS_KEY_ID", "AKIA")],
            "no AWS credentials were found; looked in: environment (`AWS_ACCESS_KEY_ID` is set, \
             `AWS_SECRET_ACCESS_KEY` is not), web identity",
        ),
        (None, &[], &[("AWS_EC2_METADATA_DISABLED", "")], "instance metadata"),
        (None, &[], &[("AWS_EC2_METADATA_DISABLED", "yes")], "instance metadata"),
        // F7.
        (Some(false), &[], &off, "instance metadata"),
        (Some(true), &[], &[], "no AWS credentials were found"),
        // C10.
        (None, &below, &[P], role),
        (Some(true), &below, &[P], "no AWS credentials were found; looked in: profile `p`; the"),
        (Some(false), &below, &[P, off[0]], role),
    ] {
        let backend = AwsSettings { skip_metadata_api_check: skip, ..AwsSettings::default() };
        let found = told(Case { profiles, env, backend });
        assert!(found.starts_with(expected), "{skip:?} {profiles:?} {env:?}: {found}");
    }
}

#[test]
fn the_backend_comes_first() {
    let text = |text: &str| Some(text.to_owned());
    let default = AwsSettings::default;
    let identity = || WebIdentity {
        role_arn: text("arn:b"),
        token: text("hunter2"),
        ..WebIdentity::default()
    };
    let keys = AwsSettings {
        access_key: text("AKIAB"),
        secret_key: text("hunter2"),
        web_identity: Some(identity()),
        ..default()
    };
    let no_role = WebIdentity { role_arn: None, ..identity() };
    let no_token = WebIdentity { token: None, ..identity() };
    let env = [E[0], E[1], W[0], W[1]];
    let gone = [("AWS_PROFILE", "gone")];
    for (backend, env, expected) in [
        (keys.clone(), &env[..], "AKIAB of keys of the backend"),
        // A profile that must be there is missed whatever counts in the end.
        (keys.clone(), &gone, "there is no profile `gone`, which `AWS_PROFILE` names"),
        (
            AwsSettings { web_identity: Some(identity()), ..default() },
            &env,
            "web identity of the backend, as `arn:b`",
        ),
        (
            AwsSettings { web_identity: Some(identity()), ..default() },
            &gone,
            "there is no profile `gone`, which `AWS_PROFILE` names",
        ),
        // M2: a block is not completed.
        (
            AwsSettings {
                web_identity: Some(identity()),
                skip_metadata_api_check: Some(true),
                ..default()
            },
            &[],
            "web identity of the backend, as `arn:b`",
        ),
        (
            AwsSettings { web_identity: Some(identity()), ..default() },
            &[W[0]],
            "`AWS_WEB_IDENTITY_TOKEN_FILE` is set, and `AWS_ROLE_ARN` is not",
        ),
        (
            AwsSettings { web_identity: Some(no_role), ..default() },
            &env,
            "`assume_role_with_web_identity` has no `role_arn`",
        ),
        (
            AwsSettings { web_identity: Some(no_token), ..default() },
            &env,
            "`assume_role_with_web_identity` has no `web_identity_token`",
        ),
        (
            AwsSettings { secret_key: None, ..keys },
            &env,
            "the backend has only one of `access_key` and `secret_key`",
        ),
        (
            AwsSettings { token: text("hunter2"), ..default() },
            &env,
            "the backend has a `token` and no keys",
        ),
    ] {
        let found = told(Case { profiles: &[], env, backend });
        assert!(found.starts_with(expected), "{env:?}: {found}");
        assert!(!found.contains("hunter2"));
    }
}

#[test]
fn what_cannot_be_followed_is_refused_by_name() {
    for (lines, expected) in [
        ("role_arn=r;mfa_serial=arn:mfa", "profile `p` asks for a one-time password"),
        ("role_arn=r;credential_source=Moon", "profile `p` has `credential_source = Moon`"),
        (
            "role_arn=r;credential_source=Environment",
            "profile `p` takes the keys of the environment, which has none",
        ),
        (
            "role_arn=r;credential_source=EcsContainer",
            "profile `p` takes the credentials of the container, and neither",
        ),
        ("sso_region=r", "profile `p` lacks `sso_start_url`, `sso_account_id`, `sso_role_name`"),
    ] {
        let found = of(&[("p", lines)], &[P]);
        assert!(found.starts_with(expected), "{lines}: {found}");
    }
}
