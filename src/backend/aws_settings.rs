//! How to reach AWS, from the S3 backend's attributes and the environment, in Terraform's order: an
//! attribute beats the environment.
//!
//! What Terraform leaves to Go's SDK goes along as it is, in [`AwsSettings::env`]: credentials in
//! the environment, `AWS_PROFILE`, `AWS_ENDPOINT_URL` for all services; `store::aws` reads it in
//! Go's order. A region in a profile alone is not accepted, as with Terraform.
//!
//! Relative files are made absolute here: Terraform opens them after `-chdir`, we before.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Uid, User};

use super::aws_endpoints::{endpoints, region, sts_region, switch};
use super::config::{BackendConfig, Section};
use super::{
    AccountBy, AssumeRole, AwsSettings, BackendError, ProxySettings, WebIdentity, aws_variables,
    go_path, proxy,
};
use crate::duration;
use crate::env::Env;
use crate::version;

const ACCOUNT_MODE: &str = "AWS_ACCOUNT_ID_ENDPOINT_MODE";
/// Where a container's credentials are, as a whole address.
pub(crate) const FULL_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
/// The same, as a path on the container's own host.
pub(crate) const RELATIVE_URI: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";

/// What a configuration is read with. Not printable: the environment holds keys and tokens.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The environment.
    pub(super) env: &'a Env,
    /// What relative paths are relative to: the directory after `-chdir`.
    pub(super) dir: &'a Path,
    /// Whose rules count, where they differ from version to version; none are as for AWS' own
    /// command line.
    pub(super) program: Option<&'a Path>,
}

impl Surroundings<'_> {
    pub(super) fn var(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.env.get(name)).map(str::to_owned)
    }

    /// Expands `$VAR`, `${VAR}` and a leading `~/`, as Terraform does with paths of AWS files.
    fn path(&self, text: &str) -> Result<PathBuf, BackendError> {
        let text = self.with_variables(text);
        Ok(match text.strip_prefix('~') {
            Some("") => self.home(),
            Some(rest) if rest.starts_with('/') => {
                go_path::join([self.home().as_os_str(), OsStr::new(rest)])
            }
            // `go-homedir`, by which Terraform does it, gives up here.
            Some(_) => return Err(BackendError::OthersHome { path: text }),
            None => self.dir.join(text),
        })
    }

    /// `HOME`, else what the system knows of the user, as Go has it; services have no `HOME`.
    fn home(&self) -> PathBuf {
        let known = || User::from_uid(Uid::current()).ok().flatten().map(|user| user.dir);
        let home = self.env.get_os("HOME").map(PathBuf::from).or_else(known);
        self.dir.join(home.unwrap_or_default())
    }

    fn with_variables(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (name, behind) = braced.unwrap_or_else(|| {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                after.split_at(after.find(|c| !is_part(c)).unwrap_or(after.len()))
            });
            if name.is_empty() {
                out.push('$');
            } else {
                out.push_str(self.env.get(name).unwrap_or_default());
            }
            rest = behind;
        }
        out.push_str(rest);
        out
    }
}

/// What the environment alone says, for a lock that belongs to no backend; `region` where it was
/// given beside it.
///
/// # Errors
/// When there is no region, or a variable that Go's SDK refuses.
pub fn aws_from_env(
    env: &Env,
    dir: &Path,
    region: Option<&str>,
) -> Result<AwsSettings, BackendError> {
    let mut attributes = serde_json::Map::new();
    // There is no list of regions but Terraform's.
    attributes.insert("skip_region_validation".to_owned(), true.into());
    if let Some(region) = region {
        attributes.insert("region".to_owned(), region.into());
    }
    let place = "the environment".to_owned();
    let config = BackendConfig { kind: "s3".to_owned(), attributes, place };
    from_config(config.section(), &Surroundings { env, dir, program: None })
}

/// Reads the settings.
pub(super) fn from_config(
    section: Section<'_>,
    around: &Surroundings<'_>,
) -> Result<AwsSettings, BackendError> {
    let env = sdk_env(around);
    aws_variables::check(&env)?;
    let or_var = |name, vars: &[&str]| -> Result<Option<String>, BackendError> {
        Ok(section.text(name)?.or_else(|| around.var(vars)))
    };
    // Where Terraform has no file, Go's SDK looks for its own variable, which it does not expand.
    let files = |set: Option<Vec<String>>,
                 var: &str,
                 sdk_var: &str,
                 default: &str|
     -> Result<_, BackendError> {
        let set = set.or_else(|| Some(vec![around.var(&[var])?])).unwrap_or_default();
        if !set.is_empty() {
            // An empty name is no file, and not the default one either.
            let named = set.iter().filter(|file| !file.is_empty());
            return named.map(|file| around.path(file)).collect();
        }
        let default = || around.home().join(default);
        Ok(vec![around.env.get_os(sdk_var).map_or_else(default, |file| around.dir.join(file))])
    };
    let config_files = sorted(section.texts("shared_config_files")?);
    let old_file = section.text_or_empty("shared_credentials_file")?.map(|file| vec![file]);
    let credentials_var = "AWS_SHARED_CREDENTIALS_FILE";
    let credentials_files = sorted(section.texts("shared_credentials_files")?)
        .or_else(|| Some(vec![around.var(&[credentials_var])?]))
        .or(old_file);
    let metadata_vars = ["AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_METADATA_URL"];
    let path_style = section.bool("use_path_style")?.or(section.bool("force_path_style")?);
    Ok(AwsSettings {
        region: Some(region(section, around)?),
        access_key: section.text("access_key")?,
        secret_key: section.text("secret_key")?,
        token: section.text("token")?,
        profile: profile(section, around)?,
        shared_config_files: files(
            config_files,
            "AWS_SHARED_CONFIG_FILE",
            "AWS_CONFIG_FILE",
            ".aws/config",
        )?,
        shared_credentials_files: files(
            credentials_files,
            credentials_var,
            credentials_var,
            ".aws/credentials",
        )?,
        home: around.home(),
        dir: around.dir.to_owned(),
        endpoints: endpoints(section, around)?,
        assume_role: assume_role(section)?,
        web_identity: web_identity(section, around)?,
        sts_region: sts_region(section)?,
        use_fips: switch(section, around, "use_fips_endpoint", "AWS_USE_FIPS_ENDPOINT")?,
        use_dualstack: switch(
            section,
            around,
            "use_dualstack_endpoint",
            "AWS_USE_DUALSTACK_ENDPOINT",
        )?,
        ca_bundle: or_var("custom_ca_bundle", &["AWS_CA_BUNDLE"])?
            .map(|file| around.path(&file))
            .transpose()?,
        insecure: section.bool("insecure")?.unwrap_or(false),
        proxies: proxies(section, around)?,
        environment_proxies: ProxySettings::of_environment(around.env),
        skip_metadata_api_check: section.bool("skip_metadata_api_check")?,
        metadata_endpoint: or_var("ec2_metadata_service_endpoint", &metadata_vars)?,
        metadata_endpoint_mode: or_var(
            "ec2_metadata_service_endpoint_mode",
            &["AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"],
        )?,
        allowed_account_ids: section.texts("allowed_account_ids")?.unwrap_or_default(),
        forbidden_account_ids: section.texts("forbidden_account_ids")?.unwrap_or_default(),
        account_by: account_by(section)?,
        use_path_style: path_style.unwrap_or(false),
        session_ends: session_ends(around.env),
        env,
    })
}

/// What the SDK of the program below reads. The program is asked for its release only where that
/// matters, since its answer takes as long as tfwrap itself.
fn sdk_env(around: &Surroundings<'_>) -> Env {
    let env = around.env.only(&["AWS_", "SSL_CERT_"]);
    let has_older_sdk = || around.program.is_some_and(version::has_older_aws_sdk);
    let env = match env.get(ACCOUNT_MODE) {
        Some(_) if has_older_sdk() => env.without(ACCOUNT_MODE),
        _ => env,
    };
    let has_both = [RELATIVE_URI, FULL_URI].iter().all(|name| env.get(name).is_some());
    if has_both && has_older_sdk() { env.without(RELATIVE_URI) } else { env }
}

/// The profile that the configuration names, where it counts: by `getCredentialsProvider` of
/// aws-sdk-go-base 2.0.0-beta.36 (Terraform 1.6), keys of the environment come before it.
fn profile(
    section: Section<'_>,
    around: &Surroundings<'_>,
) -> Result<Option<String>, BackendError> {
    let profile = section.text("profile")?;
    // The older names of these do not count here.
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    let has_keys = keys.iter().all(|name| around.env.get(name).is_some());
    if profile.is_none() || !has_keys {
        return Ok(profile);
    }
    let is_legacy = section
        .bool("use_legacy_workflow")?
        .unwrap_or_else(|| around.program.is_some_and(version::prefers_keys_of_environment));
    Ok(profile.filter(|_| !is_legacy))
}

/// Who is asked for the account.
fn account_by(section: Section<'_>) -> Result<AccountBy, BackendError> {
    let skips = |name: &str| Ok::<_, BackendError>(section.bool(name)?.unwrap_or(false));
    let skipped = (skips("skip_credentials_validation")?, skips("skip_requesting_account_id")?);
    Ok(match skipped {
        (false, _) => AccountBy::Sts,
        (true, false) => AccountBy::InstanceOrSts,
        (true, true) => AccountBy::Nobody,
    })
}

/// A set has no order of its own: Terraform takes it in that of its values.
fn sorted(set: Option<Vec<String>>) -> Option<Vec<String>> {
    set.map(|mut set| {
        set.sort_unstable();
        set.dedup();
        set
    })
}

/// The same of a map.
fn by_key(mut map: Vec<(String, String)>) -> Vec<(String, String)> {
    map.sort_unstable();
    map
}

/// When the session in the environment ends. No SDK needs to know; whoever exports a session may
/// say it, under the one name (AWS' own command line, and most) or the other.
fn session_ends(env: &Env) -> Option<jiff::Timestamp> {
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    if keys.iter().any(|key| env.get(key).is_none()) {
        return None;
    }
    let names = ["AWS_CREDENTIAL_EXPIRATION", "AWS_SESSION_EXPIRATION"];
    names.iter().find_map(|name| env.get(name)?.trim().parse().ok())
}

impl ProxySettings {
    /// The proxies of the environment. An empty variable is none.
    #[must_use]
    pub fn of_environment(env: &Env) -> Self {
        let set = |name: &str| env.get(name).map(str::to_owned);
        let first = |names: [(&str, &'static str); 2]| {
            names.into_iter().find_map(|(name, by)| Some((set(name)?, by))).unzip()
        };
        let (http, plain_by) = first([
            ("HTTP_PROXY", "the variable `HTTP_PROXY`"),
            ("http_proxy", "the variable `http_proxy`"),
        ]);
        let (https, tls_by) = first([
            ("HTTPS_PROXY", "the variable `HTTPS_PROXY`"),
            ("https_proxy", "the variable `https_proxy`"),
        ]);
        Self {
            http,
            https,
            set_by: [plain_by, tls_by],
            no_proxy: set("NO_PROXY").or_else(|| set("no_proxy")),
            is_cgi: env.get_os("REQUEST_METHOD").is_some(),
        }
    }
}

/// The same with the attributes. One that is an empty string switches the environment's off; one
/// for http serves https too where that has none.
fn proxies(section: Section<'_>, around: &Surroundings<'_>) -> Result<ProxySettings, BackendError> {
    let env = ProxySettings::of_environment(around.env);
    let attribute = |name: &str| match section.text_or_empty(name)? {
        // The URL may hold a password: it is not repeated.
        Some(url) if !proxy::go_parses(&url) => Err(section.bad(name, "it is not a URL")),
        url => Ok(url),
    };
    let (plain, tls) = (attribute("http_proxy")?, attribute("https_proxy")?);
    let plain_by = plain.as_ref().map(|_| "`http_proxy` of the backend");
    let tls_by = tls.as_ref().map(|_| "`https_proxy` of the backend");
    let set_by = [plain_by.or(env.set_by[0]), tls_by.or(env.set_by[1]).or(plain_by)];
    let tls = tls.or(env.https).or_else(|| plain.clone());
    let set = |proxy: Option<String>| proxy.filter(|proxy| !proxy.is_empty());
    Ok(ProxySettings {
        http: set(plain.or(env.http)),
        https: set(tls),
        set_by,
        no_proxy: section.text("no_proxy")?.or(env.no_proxy),
        is_cgi: env.is_cgi,
    })
}

/// The role to assume: the block, else the attributes that stood beside it up to Terraform 1.9 and
/// still do in `OpenTofu`.
fn assume_role(section: Section<'_>) -> Result<Option<AssumeRole>, BackendError> {
    let Some(block) = section.object("assume_role")? else {
        let Some(role_arn) = section.text("role_arn")? else { return Ok(None) };
        let seconds =
            section.number("assume_role_duration_seconds")?.filter(|seconds| *seconds > 0);
        return Ok(Some(AssumeRole {
            role_arn,
            duration: seconds.map(Duration::from_secs),
            external_id: section.text("external_id")?,
            policy: trimmed(section.text("assume_role_policy")?),
            policy_arns: sorted(section.texts("assume_role_policy_arns")?).unwrap_or_default(),
            session_name: section.text("session_name")?,
            source_identity: None,
            tags: by_key(section.pairs("assume_role_tags")?),
            transitive_tag_keys: sorted(section.texts("assume_role_transitive_tag_keys")?)
                .unwrap_or_default(),
        }));
    };
    Ok(Some(AssumeRole {
        role_arn: block.text("role_arn")?.ok_or_else(|| block.bad("role_arn", "it is not set"))?,
        duration: duration_of(block)?,
        external_id: block.text("external_id")?,
        policy: trimmed(block.text("policy")?),
        policy_arns: sorted(block.texts("policy_arns")?).unwrap_or_default(),
        session_name: block.text("session_name")?,
        source_identity: block.text("source_identity")?,
        tags: by_key(block.pairs("tags")?),
        transitive_tag_keys: sorted(block.texts("transitive_tag_keys")?).unwrap_or_default(),
    }))
}

fn web_identity(
    section: Section<'_>,
    around: &Surroundings<'_>,
) -> Result<Option<WebIdentity>, BackendError> {
    let Some(block) = section.object("assume_role_with_web_identity")? else { return Ok(None) };
    let token = block.text("web_identity_token")?;
    let file = block.text("web_identity_token_file")?;
    Ok(Some(WebIdentity {
        role_arn: block.text("role_arn")?,
        duration: duration_of(block)?,
        policy: trimmed(block.text("policy")?),
        policy_arns: sorted(block.texts("policy_arns")?).unwrap_or_default(),
        session_name: block.text("session_name")?,
        token_file: file.filter(|_| token.is_none()).map(|file| around.path(&file)).transpose()?,
        token,
    }))
}

fn duration_of(block: Section<'_>) -> Result<Option<Duration>, BackendError> {
    block
        .text("duration")?
        .map(|text| {
            duration::parse(&text).map_err(|error| block.bad("duration", error.to_string()))
        })
        .transpose()
}

fn trimmed(text: Option<String>) -> Option<String> {
    text.map(|text| text.trim().to_owned())
}
