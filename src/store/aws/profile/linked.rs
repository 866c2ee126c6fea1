//! A profile with the profiles that it takes its credentials from: Go's `SharedConfig`.

use std::time::Duration;

use super::{KEY_ID, PARTIAL, Profile, Profiles, SECRET, TOKEN};

/// Credentials that stand somewhere as they are.
#[derive(Clone, PartialEq, Eq)]
pub(in super::super) struct StaticKeys {
    /// Of the access key.
    pub(in super::super) id: String,
    /// Its secret.
    pub(in super::super) secret: String,
    /// Of a session.
    pub(in super::super) token: Option<String>,
}

// Written by hand: a derived form would print the secret.
impl std::fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticKeys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A login by IAM Identity Center.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Sso {
    /// The `sso-session` section; without one it is the older form, which is never renewed.
    pub(in super::super) session: Option<String>,
    /// Where Identity Center is.
    pub(in super::super) region: String,
    /// Which one.
    pub(in super::super) start_url: String,
    /// Whose credentials.
    pub(in super::super) account_id: String,
    /// Of which role there.
    pub(in super::super) role_name: String,
}

/// A profile as the chain needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Linked {
    /// Its name.
    pub(in super::super) name: String,
    /// Keys of its own.
    pub(in super::super) keys: Option<StaticKeys>,
    /// The profile whose credentials it takes.
    pub(in super::super) source: Option<Box<Self>>,
    /// `credential_source`.
    pub(in super::super) credential_source: Option<String>,
    /// `web_identity_token_file`, as it is written.
    pub(in super::super) web_identity_token_file: Option<String>,
    /// Why its login cannot be used is told when the login is what counts.
    pub(in super::super) sso: Option<Result<Sso, ProfileError>>,
    /// `credential_process`
    pub(in super::super) credential_process: Option<String>,
    /// The role to assume.
    pub(in super::super) role_arn: Option<String>,
    /// `role_session_name`
    pub(in super::super) role_session_name: Option<String>,
    /// `duration_seconds`; what Go leaves out, because it is no number or below 16 minutes, is
    /// left out.
    pub(in super::super) role_duration: Option<Duration>,
    /// `external_id`
    pub(in super::super) external_id: Option<String>,
    /// `mfa_serial`
    pub(in super::super) mfa_serial: Option<String>,
}

/// Why a profile cannot be used. Terraform refuses each of these, too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum ProfileError {
    /// There is no such profile.
    #[error("there is no profile `{0}`")]
    Missing(String),
    /// One of the two keys is missing, in the last file that has any.
    #[error(
        "profile `{0}` has only one of `aws_access_key_id` and `aws_secret_access_key` in one file"
    )]
    PartialKeys(String),
    /// Two ways to credentials.
    #[error(
        "profile `{0}` has more than one of `source_profile`, `credential_source`, \
         `credential_process` and `web_identity_token_file`"
    )]
    TwoSources(String),
    /// A way that leads to a role only.
    #[error("profile `{profile}` has `{key}` and no `role_arn`")]
    NoRole {
        /// Which.
        profile: String,
        /// The way.
        key: &'static str,
    },
    /// The chain breaks.
    #[error("profile `{profile}` names the `source_profile` `{source_profile}`, which {why}")]
    BadSource {
        /// Which.
        profile: String,
        /// The profile that cannot be used.
        source_profile: String,
        /// In words.
        why: &'static str,
    },
    /// A value that Go's SDK refuses.
    #[error("profile `{profile}` has `{key} = {value}`, which is none of {allowed}")]
    BadValue {
        /// Which.
        profile: String,
        /// Its key.
        key: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A session that no section describes.
    #[error("profile `{profile}` names the `sso_session` `{session}`, which no section describes")]
    NoSession {
        /// Which.
        profile: String,
        /// The session's name.
        session: String,
    },
    /// A login that is not described.
    #[error("profile `{profile}` lacks {missing} for an SSO login")]
    PartialSso {
        /// Which.
        profile: String,
        /// The keys, in backticks.
        missing: String,
    },
    /// What the profile says of its session is not what the session says.
    #[error("profile `{profile}` has a different `{key}` than its `sso-session` section")]
    OtherSso {
        /// Which.
        profile: String,
        /// The key.
        key: &'static str,
    },
}

/// Keys whose odd values stop Go's SDK, whatever they are for; what they may be; and whether they
/// are that.
type Check = (&'static str, &'static str, fn(&str) -> bool);

const CHECKED: [Check; 9] = [
    ("ec2_metadata_service_endpoint_mode", "`IPv4`, `IPv6`", |text| {
        text.is_empty() || one_of(text, &["ipv4", "ipv6"])
    }),
    ("defaults_mode", "the SDK's modes", |text| {
        text.is_empty()
            || one_of(text, &["auto", "cross-region", "in-region", "legacy", "mobile", "standard"])
    }),
    ("account_id_endpoint_mode", "`preferred`, `required`, `disabled`", |text| {
        ["preferred", "required", "disabled"].contains(&text)
    }),
    ("max_attempts", "the whole numbers", |text| text.parse::<i64>().is_ok()),
    ("retry_mode", "`standard`, `adaptive`", |text| ["standard", "adaptive"].contains(&text)),
    ("disable_request_compression", "`true`, `false`", |text| ["true", "false"].contains(&text)),
    ("request_min_compression_size_bytes", "the sizes up to 10485760", |text| {
        text.parse::<u32>().is_ok_and(|size| size <= 10_485_760)
    }),
    ("request_checksum_calculation", "`when_supported`, `when_required`", is_checksum_rule),
    ("response_checksum_validation", "`when_supported`, `when_required`", is_checksum_rule),
];

fn is_checksum_rule(text: &str) -> bool {
    one_of(text, &["when_supported", "when_required"])
}

fn one_of(text: &str, known: &[&str]) -> bool {
    known.iter().any(|known| text.eq_ignore_ascii_case(known))
}

impl Profiles {
    /// Follows a profile to where its credentials come from.
    ///
    /// # Errors
    /// For all that Go's SDK refuses when it loads a profile.
    pub(in super::super) fn link(&self, name: &str) -> Result<Linked, ProfileError> {
        self.follow(name, &mut Vec::new())
    }

    /// Go's `setFromIniSections`.
    fn follow(&self, name: &str, seen: &mut Vec<String>) -> Result<Linked, ProfileError> {
        let profile = self.get(name).ok_or_else(|| ProfileError::Missing(name.to_owned()))?;
        profile.check()?;
        let mut linked = profile.linked();
        if seen.iter().any(|other| other == name) {
            // The second time, only what gives credentials counts.
            linked.forget_role();
            linked.source = None;
        } else {
            profile.needs_role()?;
        }
        let source = profile.text("source_profile").filter(|_| !seen.iter().any(|it| it == name));
        if !seen.is_empty() && linked.keys.is_some() {
            return Ok(linked);
        }
        seen.push(name.to_owned());
        profile.has_one_way(source.is_some())?;
        profile.has_its_session()?;
        let Some(source) = source else { return Ok(linked) };
        let refused = |why| ProfileError::BadSource {
            profile: name.to_owned(),
            source_profile: source.to_owned(),
            why,
        };
        let found = self.follow(source, seen).map_err(|error| match error {
            ProfileError::Missing(_) => refused("does not exist"),
            error => error,
        })?;
        if !found.gives_credentials() {
            return Err(refused("has no credentials"));
        }
        linked.source = Some(Box::new(found));
        Ok(linked)
    }
}

impl Linked {
    fn forget_role(&mut self) {
        self.role_arn = None;
        self.role_session_name = None;
        self.external_id = None;
        self.mfa_serial = None;
    }

    fn gives_credentials(&self) -> bool {
        self.source.is_some()
            || self.credential_source.is_some()
            || self.credential_process.is_some()
            || self.web_identity_token_file.is_some()
            || self.sso.is_some()
            || self.keys.is_some()
    }
}

impl Profile<'_> {
    fn owned(self, key: &str) -> Option<String> {
        self.text(key).map(ToOwned::to_owned)
    }

    fn check(self) -> Result<(), ProfileError> {
        if self.section.contains_key(PARTIAL) {
            return Err(ProfileError::PartialKeys(self.name.to_owned()));
        }
        for (key, allowed, is_good) in CHECKED {
            if let Some(value) = self.text_or_empty(key).filter(|value| !is_good(value)) {
                let (profile, value) = (self.name.to_owned(), value.to_owned());
                return Err(ProfileError::BadValue { profile, key, value, allowed });
            }
        }
        Ok(())
    }

    fn has_its_session(self) -> Result<(), ProfileError> {
        match self.text("sso_session") {
            Some(session) if self.session(session).is_none() => {
                let (profile, session) = (self.name.to_owned(), session.to_owned());
                Err(ProfileError::NoSession { profile, session })
            }
            _ => Ok(()),
        }
    }

    fn needs_role(self) -> Result<(), ProfileError> {
        let ways = ["source_profile", "credential_source", "web_identity_token_file"];
        match ways.into_iter().find(|key| self.text(key).is_some()) {
            Some(key) if self.text("role_arn").is_none() => {
                Err(ProfileError::NoRole { profile: self.name.to_owned(), key })
            }
            _ => Ok(()),
        }
    }

    fn has_one_way(self, has_source: bool) -> Result<(), ProfileError> {
        let ways = ["credential_source", "credential_process", "web_identity_token_file"];
        let ways = ways.into_iter().filter(|key| self.text(key).is_some()).count();
        if ways + usize::from(has_source) > 1 {
            return Err(ProfileError::TwoSources(self.name.to_owned()));
        }
        Ok(())
    }

    /// Without its source.
    fn linked(self) -> Linked {
        // Go reads a whole number in its own notations; those of others are none.
        let seconds = self.text("duration_seconds").and_then(|text| text.parse().ok());
        let keys = self.owned(KEY_ID).zip(self.owned(SECRET));
        Linked {
            name: self.name.to_owned(),
            keys: keys.map(|(id, secret)| StaticKeys { id, secret, token: self.owned(TOKEN) }),
            source: None,
            credential_source: self.owned("credential_source"),
            web_identity_token_file: self.owned("web_identity_token_file"),
            sso: self.sso(),
            credential_process: self.owned("credential_process"),
            role_arn: self.owned("role_arn"),
            role_session_name: self.owned("role_session_name"),
            role_duration: seconds
                .map(Duration::from_secs)
                .filter(|duration| *duration >= Duration::from_mins(16)),
            external_id: self.owned("external_id"),
            mfa_serial: self.owned("mfa_serial"),
        }
    }

    fn session(self, name: &str) -> Option<Self> {
        let section = self.all.0.get(&format!("sso-session {}", name.trim()))?;
        Some(Self { section, ..self })
    }

    fn sso(self) -> Option<Result<Sso, ProfileError>> {
        let name = self.text("sso_session");
        let keys = ["sso_region", "sso_start_url", "sso_account_id", "sso_role_name"];
        if name.is_none() && keys.iter().all(|key| self.text(key).is_none()) {
            return None;
        }
        // Where no section describes it, that is told before this.
        let described = name.and_then(|name| self.session(name)).unwrap_or(self);
        Some(self.sso_of(name, described))
    }

    fn sso_of(self, name: Option<&str>, described: Self) -> Result<Sso, ProfileError> {
        let needed = |of: Self, key| of.owned(key).ok_or(format!("`{key}`"));
        // Without an account and a role Identity Center refuses, whatever Go's SDK thinks of it.
        let found = [
            needed(described, "sso_region"),
            needed(described, "sso_start_url"),
            needed(self, "sso_account_id"),
            needed(self, "sso_role_name"),
        ];
        let missing: Vec<_> = found.iter().filter_map(|it| it.clone().err()).collect();
        let [Ok(region), Ok(start_url), Ok(account_id), Ok(role_name)] = found else {
            let (profile, missing) = (self.name.to_owned(), missing.join(", "));
            return Err(ProfileError::PartialSso { profile, missing });
        };
        for (key, value) in [("sso_region", &region), ("sso_start_url", &start_url)] {
            if self.text(key).is_some_and(|own| own != value) {
                return Err(ProfileError::OtherSso { profile: self.name.to_owned(), key });
            }
        }
        let session = name.map(ToOwned::to_owned);
        Ok(Sso { session, region, start_url, account_id, role_name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(text: &str) -> Result<Linked, String> {
        let profiles = Profiles::new([text], [""]);
        profiles.link("p").map_err(|error| error.to_string())
    }

    /// `one<two<keys` for the roles to be assumed and what is below them.
    fn way(linked: &Linked) -> String {
        let below = match (&linked.source, &linked.keys) {
            (Some(source), _) => way(source),
            (None, Some(keys)) => keys.id.clone(),
            (None, None) => "-".to_owned(),
        };
        match &linked.role_arn {
            Some(role) => format!("{role}<{below}"),
            None => below,
        }
    }

    const KEYS: &str = "aws_access_key_id=K\naws_secret_access_key=s\n";

    #[test]
    fn roles_are_assumed_one_over_the_other_down_to_the_first_keys() {
        for (text, expected) in [
            ("[profile p]\nKEYS", "K"),
            ("[profile p]\nrole_arn=1\nKEYS", "1<K"),
            ("[profile p]\nrole_arn=1\nsource_profile=q\n[profile q]\nKEYS", "1<K"),
            // Keys in the middle end the chain, below the role that stands beside them.
            (
                "[profile p]\nrole_arn=1\nsource_profile=q\n[profile q]\nrole_arn=2\nKEYS\
                 source_profile=r\n[profile r]\nrole_arn=3\n",
                "1<2<K",
            ),
            ("[profile p]\nrole_arn=1\nsource_profile=p\nKEYS", "1<K"),
            (
                "[profile p]\nrole_arn=1\nsource_profile=q\nKEYS[profile q]\nrole_arn=2\n\
                 source_profile=p",
                "1<2<K",
            ),
            (
                "[profile p]\nrole_arn=1\nsource_profile=q\n\
                 [profile q]\nrole_arn=2\ncredential_source=Environment",
                "1<2<-",
            ),
            ("[profile p]\nrole_arn=1\n", "1<-"),
        ] {
            let text = text.replace("KEYS", KEYS);
            assert_eq!(link(&text).map(|linked| way(&linked)).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused_by_name() {
        for (text, expected) in [
            ("[profile q]\n", "there is no profile `p`"),
            ("[profile p]\naws_access_key_id=a", "profile `p` has only one of `aws_access_key_id`"),
            ("[profile p]\nsource_profile=q", "profile `p` has `source_profile` and no `role_arn`"),
            (
                "[profile p]\nrole_arn=1\nsource_profile=q",
                "profile `p` names the `source_profile` `q`, which does not exist",
            ),
            (
                "[profile p]\nrole_arn=1\nsource_profile=q\n[profile q]\nregion=r",
                "profile `p` names the `source_profile` `q`, which has no credentials",
            ),
            (
                "[profile p]\nrole_arn=1\nsource_profile=q\n[profile q]\nrole_arn=2\n\
                 source_profile=p",
                "profile `q` names the `source_profile` `p`, which has no credentials",
            ),
            (
                "[profile p]\nrole_arn=1\ncredential_source=Environment\ncredential_process=x",
                "profile `p` has more than one of `source_profile`",
            ),
            ("[profile p]\nretry_mode=legacy", "profile `p` has `retry_mode = legacy`"),
            ("[profile p]\nmax_attempts=", "profile `p` has `max_attempts = `"),
            ("[profile p]\nsso_session=s", "profile `p` names the `sso_session` `s`, which no"),
        ] {
            let error = link(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_login_is_described_by_the_profile_or_its_session() {
        let session = "[sso-session s]\nsso_region=r\nsso_start_url=u\n";
        let account = "sso_account_id=1\nsso_role_name=n\n";
        let sso = |text: &str| match link(text).unwrap().sso {
            None => "none".to_owned(),
            Some(Err(error)) => error.to_string(),
            Some(Ok(Sso { session, region, start_url, .. })) => {
                format!("{} {region} {start_url}", session.unwrap_or_default())
            }
        };
        let legacy = "sso_region=r\nsso_start_url=u\n";
        for (text, expected) in [
            (format!("[profile p]\n{legacy}{account}"), " r u"),
            (format!("{session}[profile p]\nsso_session=s\n{account}"), "s r u"),
            // As AWS' command line advises for old tools.
            (format!("{session}[profile p]\nsso_session=s\n{legacy}{account}"), "s r u"),
            (
                format!("{session}[profile p]\nsso_session=s\nsso_region=x\n{account}"),
                "profile `p` has a different `sso_region` than its `sso-session` section",
            ),
            (
                format!("{session}[profile p]\nsso_session=s\n"),
                "profile `p` lacks `sso_account_id`, `sso_role_name` for an SSO login",
            ),
            ("[profile p]\nregion=r".to_owned(), "none"),
        ] {
            assert_eq!(sso(&text), expected, "{text}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let text = "[profile p]\naws_access_key_id=a\naws_secret_access_key=hunter2\n\
                    aws_session_token=hunter2";
        assert!(!format!("{:?}", link(text).unwrap()).contains("hunter2"));
    }
}
