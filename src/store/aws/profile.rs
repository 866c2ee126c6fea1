//! Profiles as Go's SDK finds them in the shared files. Text in, profiles out; files are read
//! elsewhere.
//!
//! After `config/shared_config.go` of aws-sdk-go-v2 as of config 1.29 (Terraform 1.11): config files
//! in their order, then credentials files, of which each overrides what was before. Only a section
//! that is whole in one file may have keys of any name; where a second file has the section, too,
//! the keys of [`MERGED`] and a whole pair of access keys go over.

mod in_use;
mod ini;
mod linked;

use ini::{ProfileSection, Sections, Value};

pub(super) use in_use::InUse;
pub(super) use linked::{Linked, Sso, StaticKeys};

const KEY_ID: &str = "aws_access_key_id";
const SECRET: &str = "aws_secret_access_key";
const TOKEN: &str = "aws_session_token";

/// What a section in a later file adds to, or overrides in, the same section of an earlier one.
const MERGED: [&str; 27] = [
    "role_arn",
    "source_profile",
    "credential_source",
    "external_id",
    "mfa_serial",
    "role_session_name",
    "region",
    "endpoint_discovery_enabled",
    "credential_process",
    "web_identity_token_file",
    "s3_use_arn_region",
    "s3_disable_multiregion_access_points",
    "ec2_metadata_service_endpoint_mode",
    "ec2_metadata_service_endpoint",
    "ec2_metadata_v1_disabled",
    "use_dualstack_endpoint",
    "use_fips_endpoint",
    "defaults_mode",
    "retry_mode",
    "ca_bundle",
    "duration_seconds",
    "max_attempts",
    "sso_session",
    "sso_account_id",
    "sso_region",
    "sso_role_name",
    "sso_start_url",
];

/// All profiles of the shared files, and what belongs to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Profiles(Sections);

/// One profile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Profile<'a> {
    name: &'a str,
    all: &'a Profiles,
    section: &'a ProfileSection,
}

impl Profiles {
    /// Reads the texts of the config files and of the credentials files, each in their order.
    pub(super) fn new<C, S>(configs: C, credentials: S) -> Self
    where
        C: IntoIterator<Item: AsRef<str>>,
        S: IntoIterator<Item: AsRef<str>>,
    {
        let mut sections = of_configs(merged(configs));
        let mut others = merged(credentials);
        others.retain(|name, _| !name.starts_with("profile "));
        merge(&mut sections, others);
        Self(sections)
    }

    /// The profile of this name.
    pub(super) fn get<'a>(&'a self, name: &'a str) -> Option<Profile<'a>> {
        let section = self.0.get(name)?;
        Some(Profile { name, all: self, section })
    }
}

impl<'a> Profile<'a> {
    /// A text; an empty one counts as not set.
    pub(super) fn text(self, key: &str) -> Option<&'a str> {
        self.text_or_empty(key).filter(|text| !text.is_empty())
    }

    fn text_or_empty(self, key: &str) -> Option<&'a str> {
        text(self.section, key)
    }

    /// A switch: `true` in any case is on, any other value is off.
    pub(super) fn switch(self, key: &str) -> Option<bool> {
        self.text_or_empty(key).map(|text| text.eq_ignore_ascii_case("true"))
    }

    /// The endpoint of a service, such as `dynamodb`, in the `services` section that the profile
    /// names.
    pub(super) fn endpoint_of(self, service: &str) -> Option<&'a str> {
        let section = self.all.0.get(&format!("services {}", self.text("services")?))?;
        match section.get(service)? {
            Value::Map(map) => map.get("endpoint_url").map(String::as_str),
            Value::Text(_) => None,
        }
    }
}

fn text<'a>(section: &'a ProfileSection, key: &str) -> Option<&'a str> {
    match section.get(key)? {
        Value::Text(text) => Some(text),
        Value::Map(_) => Some(""),
    }
}

fn merged(texts: impl IntoIterator<Item: AsRef<str>>) -> Sections {
    let mut sections = Sections::new();
    for text in texts {
        merge(&mut sections, ini::parse(text.as_ref()));
    }
    sections
}

/// In a config file, every profile but the default one has the word `profile` before its name; what
/// has neither that nor another known word is none. `[profile default]` beats `[default]`.
fn of_configs(mut sections: Sections) -> Sections {
    let mut kept = Sections::new();
    let mut named = Sections::new();
    while let Some((name, section)) = sections.pop_first() {
        if let Some(name) = name.strip_prefix("profile ") {
            named.insert(name.to_owned(), section);
        } else if name.starts_with("sso-session ")
            || name.starts_with("services ")
            || name.eq_ignore_ascii_case("default")
        {
            kept.insert(name, section);
        }
    }
    kept.extend(named);
    kept
}

/// Says of a section whose pair of access keys is not whole that it is unusable.
const PARTIAL: &str = "\0partial";

fn merge(into: &mut Sections, from: Sections) {
    for (name, mut section) in from {
        let pair = [KEY_ID, SECRET].map(|key| section.contains_key(key));
        if pair[0] != pair[1] {
            section.insert(PARTIAL.to_owned(), Value::Text(String::new()));
        }
        let Some(target) = into.get_mut(&name) else {
            into.insert(name, section);
            continue;
        };
        target.remove(PARTIAL);
        let keys = if pair == [true, true] { &[KEY_ID, SECRET, TOKEN][..] } else { &[] };
        for key in [PARTIAL].iter().chain(keys).chain(&MERGED) {
            if let Some(value) = text(&section, key) {
                target.insert((*key).to_owned(), Value::Text(value.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(configs: &[&str], credentials: &[&str], profile: &str, key: &str) -> Option<String> {
        let profiles = Profiles::new(configs, credentials);
        Some(profiles.get(profile)?.text(key)?.to_owned())
    }

    #[test]
    fn a_profile_is_named_by_its_word_in_one_file_and_without_it_in_the_other() {
        for (config, credentials, found) in [
            ("[profile p]\nregion=r", "", true),
            ("[p]\nregion=r", "", false),
            ("", "[p]\nregion=r", true),
            ("", "[profile p]\nregion=r", false),
            ("[profile p]\nregion=r\n[p]\nregion=s", "", true),
        ] {
            let expected = found.then(|| "r".to_owned());
            assert_eq!(value(&[config], &[credentials], "p", "region"), expected, "{config}");
        }
        let both = "[default]\nregion=r\n[profile default]\nrole_arn=a";
        assert_eq!(value(&[both], &[], "default", "region"), None, "the other one's");
        assert_eq!(value(&[both], &[], "default", "role_arn").as_deref(), Some("a"));
    }

    #[test]
    fn later_files_override_and_credentials_files_are_the_last() {
        let [first, second] = ["1", "2"].map(|n| format!("[profile p]\nregion={n}\nx={n}"));
        let of = |key| value(&[&first, &second], &[], "p", key);
        assert_eq!(of("region").as_deref(), Some("2"));
        assert_eq!(of("x").as_deref(), Some("1"), "only some keys go over");
        let of = |key| value(&[&first, &second], &["[p]\nregion=3", "[p]\nregion=4"], "p", key);
        assert_eq!(of("region").as_deref(), Some("4"));
    }

    #[test]
    fn access_keys_go_over_as_a_pair_with_the_token_of_either() {
        let config = "[default]\naws_access_key_id=A\naws_secret_access_key=s\naws_session_token=t";
        let other = "[default]\naws_access_key_id=B\naws_secret_access_key=t";
        let of = |key| value(&[config], &[other], "default", key);
        assert_eq!(of(KEY_ID).as_deref(), Some("B"));
        assert_eq!(of(TOKEN).as_deref(), Some("t"));
    }

    #[test]
    fn a_services_section_of_either_file_is_found() {
        let profile = "[profile p]\nservices = s\n";
        let services = "[services s]\ndynamodb =\n  endpoint_url = http://d\ns3 = x\n";
        for (configs, credentials) in
            [([profile, services], ""), ([profile, ""], services), ([profile, services], services)]
        {
            let profiles = Profiles::new(configs, [credentials]);
            let profile = profiles.get("p").unwrap();
            assert_eq!(profile.endpoint_of("dynamodb"), Some("http://d"));
            assert_eq!(profile.endpoint_of("s3"), None);
        }
    }
}
