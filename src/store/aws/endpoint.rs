//! Where a service is asked: the one place that decides, so that no SDK looks for itself.
//!
//! Terraform knows two ways. What its backend finds (an attribute, or a variable of the one
//! service) it hands to a client as it is, and the switches for FIPS and dual-stack count for
//! nothing there. What it leaves to Go's SDK (`AWS_ENDPOINT_URL`, a profile) goes through the rules
//! of AWS, which refuse it beside those switches. After aws-sdk-go-base v2.0.0-beta.62 and
//! aws-sdk-go-v2 as of config 1.29 (Terraform 1.11).

use std::borrow::Cow;

use aws_config::SdkConfig;
use aws_types::endpoint_config::AccountIdEndpointMode;
use aws_types::region::Region;

use super::super::StoreError;
use super::as_go::AsGo;
use super::go_url::{GoUrl, unreadable_query};
use super::profile::InUse;
use crate::backend::{AwsSettings, not_a_url, split_zone};
use crate::shown_url::shown_url;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    DynamoDb,
    S3,
    Sts,
    Sso,
    SsoOidc,
}

/// For whom it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// The backend: its table, its bucket, its own roles.
    Backend,
    /// The chain of credentials: the roles and logins of profiles and the environment. Go's SDK asks
    /// for them before it knows `AWS_ENDPOINT_URL` and a profile's `endpoint_url`.
    Chain,
}

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Endpoint {
    service: Service,
    /// `None`: AWS' own.
    url: Option<Url>,
    /// Whose host it is.
    region: String,
    /// For which it is signed, where that is another.
    signed_for: Option<String>,
    fips: bool,
    dual_stack: bool,
    accounts: AccountIdEndpointMode,
}

/// An endpoint that somebody has set.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Url {
    text: String,
    /// Who, for messages.
    set_by: String,
    way: Way,
}

impl Url {
    /// As it is sent: Go asks without the zone of an address, too, and only connects with it.
    fn without_zone(&self) -> Cow<'_, str> {
        split_zone(&self.text).0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the client as it is.
    Given,
    /// Through AWS' rules.
    Rules,
}

impl Service {
    /// As people call it.
    fn name(self) -> &'static str {
        match self {
            Self::DynamoDb => "DynamoDB",
            Self::S3 => "S3",
            Self::Sts => "STS",
            Self::Sso => "SSO",
            Self::SsoOidc => "SSO OIDC",
        }
    }

    /// As a `services` section does.
    fn key(self) -> &'static str {
        match self {
            Self::DynamoDb => "dynamodb",
            Self::S3 => "s3",
            Self::Sts => "sts",
            Self::Sso => "sso",
            Self::SsoOidc => "sso_oidc",
        }
    }

    /// The variables that Terraform's backend reads itself.
    fn variables(self) -> &'static [&'static str] {
        match self {
            Self::DynamoDb => &["AWS_ENDPOINT_URL_DYNAMODB", "AWS_DYNAMODB_ENDPOINT"],
            Self::S3 => &["AWS_ENDPOINT_URL_S3", "AWS_S3_ENDPOINT"],
            Self::Sts => &["AWS_ENDPOINT_URL_STS", "AWS_STS_ENDPOINT"],
            Self::Sso => &["AWS_ENDPOINT_URL_SSO"],
            Self::SsoOidc => &[],
        }
    }
}

/// Finds a service; `region` where it is not the backend's own.
///
/// # Errors
/// When Terraform could not ask there.
pub(super) fn find(
    settings: &AwsSettings,
    profile: &InUse,
    service: Service,
    asker: Asker,
    region: Option<&str>,
) -> Result<Endpoint, StoreError> {
    let url = given(settings, service).or_else(|| found(settings, profile, service, asker));
    let switch =
        |set: Option<bool>, key: &str| set.or_else(|| profile.switch(key)).unwrap_or(false);
    let sts = || {
        let sts = settings.sts_region.as_deref().filter(|_| service == Service::Sts)?;
        // To the chain it is but the region to sign for, at an endpoint of the backend's.
        let is_given = url.as_ref().is_some_and(|url| url.way == Way::Given);
        (asker == Asker::Backend || is_given).then_some(sts)
    };
    let named = region.or_else(sts).or(settings.region.as_deref()).unwrap_or_default();
    let pseudo = without_fips(named);
    let endpoint = Endpoint {
        service,
        fips: switch(settings.use_fips, "use_fips_endpoint") || pseudo.is_some(),
        dual_stack: switch(settings.use_dualstack, "use_dualstack_endpoint"),
        signed_for: pseudo.is_some().then(|| named.to_owned()),
        region: pseudo.unwrap_or_else(|| named.to_owned()),
        accounts: accounts(settings, profile),
        url,
    };
    endpoint.check()?;
    if service == Service::DynamoDb {
        endpoint.check_discovery(settings, profile)?;
    }
    match (asker, service) {
        (Asker::Backend, Service::S3) => check_query(settings, profile)?,
        // Whoever asks for the lock goes on to the state: what Terraform refuses there is refused
        // before the lock is asked for.
        (Asker::Backend, _) => drop(find(settings, profile, Service::S3, asker, None)?),
        (Asker::Chain, _) => {}
    }
    Ok(endpoint)
}

/// Of all services S3 alone refuses a query in what goes through the rules.
fn check_query(settings: &AwsSettings, profile: &InUse) -> Result<(), StoreError> {
    if given(settings, Service::S3).is_some() {
        return Ok(());
    }
    match found(settings, profile, Service::S3, Asker::Backend) {
        Some(Url { text, set_by, .. }) if GoUrl::split(&text).has_query() => {
            Err(StoreError::Misconfigured(format!(
                "the S3 endpoint `{}` of {set_by} has a query, which Terraform refuses: give S3 an \
                 endpoint of its own without one",
                shown_url(&text)
            ).into()))
        }
        _ => Ok(()),
    }
}

/// What the backend found.
fn given(settings: &AwsSettings, service: Service) -> Option<Url> {
    let endpoints = &settings.endpoints;
    let text = match service {
        Service::DynamoDb => &endpoints.dynamodb,
        Service::S3 => &endpoints.s3,
        Service::Sts => &endpoints.sts,
        Service::Sso => &endpoints.sso,
        Service::SsoOidc => &None,
    };
    let text = text.as_ref()?;
    let variable =
        service.variables().iter().find(|name| settings.env.get(name) == Some(text.as_str()));
    let set_by = match variable {
        Some(name) => format!("`{name}`"),
        None => format!("`endpoints.{}`", service.key()),
    };
    Some(Url { text: text.clone(), set_by, way: Way::Given })
}

/// What Go's SDK finds by itself. Where `AWS_ENDPOINT_URL` is there, be it empty, and the service's
/// own variable is not, it looks no further for the service alone.
fn found(settings: &AwsSettings, profile: &InUse, service: Service, asker: Asker) -> Option<Url> {
    let env = &settings.env;
    let ignored = match env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
        Some(value) => value.eq_ignore_ascii_case("true"),
        None => profile.switch("ignore_configured_endpoint_urls").unwrap_or(false),
    };
    if ignored {
        return None;
    }
    let url = |text: &str, set_by: String| Url { text: text.to_owned(), set_by, way: Way::Rules };
    let own = format!("AWS_ENDPOINT_URL_{}", service.key().to_uppercase());
    let for_all = || {
        if asker == Asker::Chain {
            return None;
        }
        let variable = || Some(url(env.get("AWS_ENDPOINT_URL")?, "`AWS_ENDPOINT_URL`".to_owned()));
        let of_profile = || {
            let text = profile.profile()?.text("endpoint_url")?;
            Some(url(text, format!("`endpoint_url` of {}", profile.shown())))
        };
        variable().or_else(of_profile)
    };
    if env.is_there("AWS_ENDPOINT_URL") && !env.is_there(&own) {
        return for_all();
    }
    let variable = || Some(url(env.get(&own)?, format!("`{own}`")));
    let of_services = || {
        let text = profile.profile()?.endpoint_of(service.key())?;
        Some(url(text, format!("the `services` section of {}", profile.shown())))
    };
    variable().or_else(of_services).or_else(for_all)
}

/// The region that such as `fips-us-east-1` and `us-east-1-fips` stand for.
fn without_fips(region: &str) -> Option<String> {
    let real = region.replace("-fips-", "-").replace("fips-", "").replace("-fips", "");
    (real != region).then_some(real)
}

/// Whether an account's own host of DynamoDB is asked.
fn accounts(settings: &AwsSettings, profile: &InUse) -> AccountIdEndpointMode {
    let of_profile = || profile.profile()?.text("account_id_endpoint_mode");
    match settings.env.get("AWS_ACCOUNT_ID_ENDPOINT_MODE").or_else(of_profile) {
        Some("disabled") => AccountIdEndpointMode::Disabled,
        Some("required") => AccountIdEndpointMode::Required,
        _ => AccountIdEndpointMode::Preferred,
    }
}

/// Of a part of AWS: what AWS' rules for it say.
struct Partition {
    has_fips: bool,
    has_dual_stack: bool,
    has_accounts: bool,
}

fn partition(region: &str) -> Partition {
    let is = |prefixes: &[&str]| prefixes.iter().any(|it| region.starts_with(it));
    Partition {
        has_fips: !is(&["cn-"]),
        has_dual_stack: !is(&["us-iso", "eu-iso"]),
        has_accounts: !is(&["cn-", "us-gov-", "us-iso", "eu-iso", "eusc-"]),
    }
}

impl Endpoint {
    fn check(&self) -> Result<(), StoreError> {
        let refused = |why: String| Err(StoreError::Misconfigured(why.into()));
        let service = self.service.name();
        let switched = [(self.fips, "FIPS"), (self.dual_stack, "dual-stack")];
        let mut switched = switched.iter().filter(|(on, _)| *on).map(|(_, name)| *name);
        let Some(Url { text, set_by, way }) = &self.url else {
            let has = partition(&self.region);
            let lacks = switched.find(|it| match *it {
                "FIPS" => !has.has_fips,
                // S3's rules make up a name there.
                _ => !has.has_dual_stack && self.service != Service::S3,
            });
            return match lacks {
                Some(what) => {
                    refused(format!("there are no {what} endpoints in `{}`", self.region))
                }
                None => Ok(()),
            };
        };
        let shown = shown_url(text);
        if let Some(why) = not_a_url(text) {
            return refused(format!("the {service} endpoint `{shown}` of {set_by} {why}"));
        }
        if *way == Way::Given {
            // Through the rules the query is dropped before it is read.
            let why = GoUrl::split(text).query().and_then(unreadable_query);
            return why.map_or(Ok(()), |why| {
                refused(format!(
                    "the {service} endpoint `{shown}` of {set_by} has a query that cannot be read: {why}"
                ))
            });
        }
        if let Some(what) = switched.next() {
            return refused(format!(
                "{what} endpoints are asked for, and {set_by} sets the {service} endpoint \
                 `{shown}`, which Terraform refuses: switch one of them off, or name the endpoint \
                 by the service's own attribute or variable"
            ));
        }
        Ok(())
    }

    /// Terraform's client of the table refuses an endpoint that the backend found where it is to ask
    /// AWS for one; `auto` asks where a service has no other way, and DynamoDB has.
    fn check_discovery(&self, settings: &AwsSettings, profile: &InUse) -> Result<(), StoreError> {
        const VARIABLE: &str = "AWS_ENABLE_ENDPOINT_DISCOVERY";
        const KEY: &str = "endpoint_discovery_enabled";
        let Some(Url { text, set_by, way: Way::Given }) = &self.url else { return Ok(()) };
        let (is_on, by) = match settings.env.get(VARIABLE) {
            Some(value) => (value.eq_ignore_ascii_case("true"), format!("`{VARIABLE}`")),
            None => {
                (profile.switch(KEY).unwrap_or(false), format!("`{KEY}` of {}", profile.shown()))
            }
        };
        if !is_on {
            return Ok(());
        }
        Err(StoreError::Misconfigured(format!(
            "{by} turns endpoint discovery on, and {set_by} sets the DynamoDB endpoint `{}`, which \
             Terraform refuses (`endpoint discovery is enabled, but a custom endpoint is \
             provided`): switch one of them off",
            shown_url(text)
        ).into()))
    }

    /// The configuration with this endpoint and none other in it.
    pub(super) fn put_into(&self, sdk: &SdkConfig) -> SdkConfig {
        let is_own = self.url.is_none();
        let has_accounts = partition(&self.region).has_accounts && !self.dual_stack;
        let mut config = sdk
            .to_builder()
            .region(Region::new(self.region.clone()))
            .use_fips(is_own && self.fips)
            .use_dual_stack(is_own && self.dual_stack)
            .account_id_endpoint_mode(match &self.accounts {
                AccountIdEndpointMode::Preferred if !has_accounts => {
                    AccountIdEndpointMode::Disabled
                }
                mode => mode.clone(),
            });
        config.set_endpoint_url(self.url.as_ref().map(|url| self.before_the_path(url)));
        config.build()
    }

    /// What comes before the path of a request.
    fn before_the_path(&self, url: &Url) -> String {
        let (text, way) = (url.without_zone(), url.way);
        let url = GoUrl::split(&text);
        match (self.service, way) {
            (Service::S3, Way::Given) => url.of_buckets(),
            (Service::S3, Way::Rules) => url.of_buckets_by_rules(),
            _ => url.as_written(),
        }
    }

    /// What the SDK would do otherwise than Go's.
    pub(super) fn as_go(&self) -> AsGo {
        AsGo { region: self.signed_for.clone(), uri: self.exact_uri(), query: self.added_query() }
    }

    /// Of the services that have one path only: Go keeps a query, cleans the path and adds a slash,
    /// but not where it went through the rules.
    fn exact_uri(&self) -> Option<String> {
        let Url { way, .. } = self.url.as_ref()?;
        if !matches!(self.service, Service::DynamoDb | Service::Sts) {
            return None;
        }
        let text = self.url.as_ref()?.without_zone();
        let url = GoUrl::split(&text);
        match way {
            Way::Given => Some(url.of_one_path()),
            Way::Rules => url.has_path().then(|| url.as_written()),
        }
    }

    /// Of the others: Go keeps a query, but not where it went through the rules.
    fn added_query(&self) -> Option<String> {
        let Url { text, way, .. } = self.url.as_ref()?;
        let has_one_path = matches!(self.service, Service::DynamoDb | Service::Sts);
        let query = GoUrl::split(text).query().filter(|query| !query.is_empty())?;
        (*way == Way::Given && !has_one_path).then(|| query.to_owned())
    }

    /// Whether it is AWS itself, by whatever of its names.
    pub(in super::super) fn is_aws(&self) -> bool {
        const NAMES: [&str; 4] =
            [".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws"];
        self.url.as_ref().is_none_or(|url| {
            let host = url::Url::parse(&url.text).ok();
            let host = host.as_ref().and_then(url::Url::host_str).unwrap_or_default();
            NAMES.iter().any(|name| host.to_ascii_lowercase().ends_with(name))
        })
    }

    /// Whether requests go by TLS.
    pub(super) fn is_encrypted(&self) -> bool {
        let is_plain =
            |url: &Url| url.text.get(..7).is_some_and(|it| it.eq_ignore_ascii_case("http://"));
        !self.url.as_ref().is_some_and(is_plain)
    }
}

/// Where a service is, for messages.
impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "in `{}`", self.signed_for.as_ref().unwrap_or(&self.region))?;
        match &self.url {
            Some(url) => write!(f, " at `{}`", shown_url(&url.text)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
