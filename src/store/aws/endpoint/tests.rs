use super::super::profile::Profiles;
use super::*;
use crate::backend::AwsEndpoints;
use crate::env::Env;

/// Everything that decides, in words: `NAME=value` of the environment, `tf name=value` of the
/// backend, a line of the profile.
fn ask(words: &[&str], service: Service, asker: Asker) -> Result<Endpoint, String> {
    let mut settings = AwsSettings { region: Some("eu-west-1".to_owned()), ..Default::default() };
    let mut env = Vec::new();
    let mut config = "[default]\n".to_owned();
    for word in words {
        if let Some(line) = word.strip_prefix("conf ") {
            config.push_str(line);
            config.push('\n');
            continue;
        }
        let (name, value) = word.split_once('=').unwrap();
        let text = || Some(value.to_owned());
        let of = |endpoints: &mut AwsEndpoints| match service {
            Service::DynamoDb => endpoints.dynamodb = text(),
            Service::S3 => endpoints.s3 = text(),
            Service::Sts => endpoints.sts = text(),
            _ => endpoints.sso = text(),
        };
        match name {
            "tf endpoint" => of(&mut settings.endpoints),
            "tf fips" => settings.use_fips = value.parse().ok(),
            "tf dual_stack" => settings.use_dualstack = value.parse().ok(),
            "tf region" => settings.region = text(),
            "tf sts_region" => settings.sts_region = text(),
            _ => env.push((name.to_owned(), value.to_owned())),
        }
    }
    settings.env = env.into_iter().collect::<Env>();
    let profile = InUse::of(&settings, Profiles::new([config], [""])).unwrap();
    find(&settings, &profile, service, asker, None).map_err(|error| error.to_string())
}

/// What it comes to, shortly.
fn told(found: &Result<Endpoint, String>) -> String {
    match found {
        Ok(it) => {
            let url = it.url.as_ref().map_or("own", |url| url.text.as_str());
            let mut text = format!("{url} {}", it.region);
            if it.url.is_none() && it.fips {
                text.push_str(" fips");
            }
            if it.url.is_none() && it.dual_stack {
                text.push_str(" dual");
            }
            if let Some(region) = &it.signed_for {
                text.push_str(" for ");
                text.push_str(region);
            }
            text
        }
        Err(_) => "refused".to_owned(),
    }
}

const SERVICES: &str =
    "conf services=s\nendpoint_url=http://six\n[services s]\ndynamodb=\n  endpoint_url=http://five";
const STS: &str = "conf services=s\n[services s]\nsts=\n  endpoint_url=http://five";

#[test]
fn the_table_is_found_where_terraform_finds_it() {
    for (words, expected) in [
        (&[][..], "own eu-west-1"),
        (&["tf endpoint=http://one", "AWS_ENDPOINT_URL=http://four"], "http://one eu-west-1"),
        (&["AWS_ENDPOINT_URL=http://four", SERVICES], "http://four eu-west-1"),
        (&[SERVICES], "http://five eu-west-1"),
        (&["conf endpoint_url=http://six"], "http://six eu-west-1"),
        (&["conf endpoint_url ="], "own eu-west-1"),
        (&["conf services=s\n[services s]\ndynamodb=\n  endpoint_url ="], "refused"),
        (&["conf services=gone"], "own eu-west-1"),
        // Empty and not there are two things to Go here, and only here.
        (&["AWS_ENDPOINT_URL=", SERVICES], "http://six eu-west-1"),
        (&["AWS_ENDPOINT_URL="], "own eu-west-1"),
        (&["AWS_ENDPOINT_URL=", "AWS_ENDPOINT_URL_DYNAMODB=", SERVICES], "http://five eu-west-1"),
        (
            &["AWS_ENDPOINT_URL=http://four", "AWS_ENDPOINT_URL_DYNAMODB=", SERVICES],
            "http://five eu-west-1",
        ),
        (&["AWS_ENDPOINT_URL=http://four", "AWS_ENDPOINT_URL_DYNAMODB="], "http://four eu-west-1"),
        (&["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=TRUE", SERVICES], "own eu-west-1"),
        (
            &["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true", "tf endpoint=http://one"],
            "http://one eu-west-1",
        ),
        (
            &["AWS_ENDPOINT_URL=http://four", "conf ignore_configured_endpoint_urls=true"],
            "own eu-west-1",
        ),
        (
            &[
                "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=false",
                "AWS_ENDPOINT_URL=http://four",
                "conf ignore_configured_endpoint_urls=true",
            ],
            "http://four eu-west-1",
        ),
        // No URLs.
        (&["AWS_ENDPOINT_URL=127.0.0.1:8000"], "refused"),
        (&["tf endpoint=localhost:8000"], "refused"),
        (&["tf endpoint="], "refused"),
        (&["tf endpoint=http://h:99999"], "refused"),
        // With a query, S3's alone.
        (&["AWS_ENDPOINT_URL=http://h/?a=b"], "refused"),
        (&["AWS_ENDPOINT_URL=http://h/#?a=b"], "http://h/#?a=b eu-west-1"),
        (
            &["AWS_ENDPOINT_URL=http://h/?a=b", "AWS_ENDPOINT_URL_S3=http://s3"],
            "http://h/?a=b eu-west-1",
        ),
        (&["AWS_ENDPOINT_URL_DYNAMODB=http://h/?a=b"], "http://h/?a=b eu-west-1"),
        (&["AWS_ENDPOINT_URL_S3=http://h/?a=b"], "refused"),
        (
            &["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true", "AWS_ENDPOINT_URL=http://h?a"],
            "own eu-west-1",
        ),
        (&["tf endpoint=http://h/?a=b"], "http://h/?a=b eu-west-1"),
        // FIPS and dual-stack.
        (&["tf fips=true", "tf dual_stack=true"], "own eu-west-1 fips dual"),
        (&["conf use_fips_endpoint=true"], "own eu-west-1 fips"),
        (&["tf fips=false", "conf use_fips_endpoint=true"], "own eu-west-1"),
        (&["tf fips=true", "tf endpoint=http://one"], "http://one eu-west-1"),
        (&["tf dual_stack=true", "tf endpoint=http://one"], "http://one eu-west-1"),
        (&["tf fips=true", "AWS_ENDPOINT_URL=http://four"], "refused"),
        (&["tf dual_stack=true", "conf endpoint_url=http://six"], "refused"),
        (&["tf fips=true", "tf region=cn-north-1"], "refused"),
        (&["tf dual_stack=true", "tf region=us-iso-east-1"], "refused"),
        (&["tf fips=true", "tf region=us-iso-east-1"], "own us-iso-east-1 fips"),
        (&["tf region=fips-us-east-1"], "own us-east-1 fips for fips-us-east-1"),
        (&["tf region=us-east-1-fips"], "own us-east-1 fips for us-east-1-fips"),
        (
            &["tf region=dynamodb-fips-us-east-1"],
            "own dynamodb-us-east-1 fips for dynamodb-fips-us-east-1",
        ),
        (&["tf region=fips-us-east-1", "AWS_ENDPOINT_URL=http://four"], "refused"),
    ] {
        let found = ask(words, Service::DynamoDb, Asker::Backend);
        assert_eq!(told(&found), expected, "{words:?} {found:?}");
    }
}

#[test]
fn the_chain_knows_less_than_the_backend() {
    for (words, of_backend, of_chain) in [
        (&["tf endpoint=http://one"][..], "http://one eu-west-1", "http://one eu-west-1"),
        (&["AWS_ENDPOINT_URL=http://four"], "http://four eu-west-1", "own eu-west-1"),
        (&["conf endpoint_url=http://six"], "http://six eu-west-1", "own eu-west-1"),
        (&[STS], "http://five eu-west-1", "http://five eu-west-1"),
        (&[STS, "AWS_ENDPOINT_URL="], "own eu-west-1", "own eu-west-1"),
        (&["tf sts_region=us-west-2"], "own us-west-2", "own eu-west-1"),
        (&["tf sts_region=us-west-2", STS], "http://five us-west-2", "http://five eu-west-1"),
        (
            &["tf sts_region=us-west-2", "tf endpoint=http://one"],
            "http://one us-west-2",
            "http://one us-west-2",
        ),
        (&["tf fips=true", STS], "refused", "refused"),
        (
            &["tf fips=true", "tf endpoint=http://one"],
            "http://one eu-west-1",
            "http://one eu-west-1",
        ),
    ] {
        let told = |asker| told(&ask(words, Service::Sts, asker));
        assert_eq!([told(Asker::Backend), told(Asker::Chain)], [of_backend, of_chain], "{words:?}");
    }
}

#[test]
fn who_set_an_endpoint_is_said() {
    for (words, service, text) in [
        (
            &["AWS_ENDPOINT_URL=127.0.0.1:8000"][..],
            Service::DynamoDb,
            "the DynamoDB endpoint `127.0.0.1:8000` of `AWS_ENDPOINT_URL` is not an http(s) URL",
        ),
        (
            &["tf endpoint=foo", "AWS_S3_ENDPOINT=foo"],
            Service::S3,
            "the S3 endpoint `foo` of `AWS_S3_ENDPOINT` is not an http(s) URL",
        ),
        (
            &["tf endpoint=foo"],
            Service::Sts,
            "the STS endpoint `foo` of `endpoints.sts` is not an http(s) URL",
        ),
        (
            &["tf endpoint=foo"],
            Service::Sso,
            "the SSO endpoint `foo` of `endpoints.sso` is not an http(s) URL",
        ),
        (
            &["AWS_ENDPOINT_URL_SSO_OIDC=u:secret@foo"],
            Service::SsoOidc,
            "the SSO OIDC endpoint `foo` of `AWS_ENDPOINT_URL_SSO_OIDC` is not an http(s) URL",
        ),
        (
            &["conf endpoint_url=foo"],
            Service::DynamoDb,
            "the DynamoDB endpoint `foo` of `endpoint_url` of profile `default` is not an http(s) URL",
        ),
    ] {
        let error = ask(words, service, Asker::Backend).unwrap_err();
        assert!(error.ends_with(text), "{error}");
    }
}

#[test]
fn an_address_is_gos_to_the_letter() {
    for (words, expected) in [
        (&["tf endpoint=http://h/base"][..], Some("http://h/base/")),
        (&["tf endpoint=http://h/a/../b//c"], Some("http://h/b/c/")),
        (&["AWS_ENDPOINT_URL=http://h"], None),
        (&["AWS_ENDPOINT_URL=http://h/"], Some("http://h/")),
        (&["AWS_ENDPOINT_URL=http://h/base"], Some("http://h/base")),
        (&["AWS_ENDPOINT_URL=http://h/base/"], Some("http://h/base/")),
        (&["AWS_ENDPOINT_URL=http://h/a//b"], Some("http://h/a//b")),
        (&["tf endpoint=http://h?a=b"], Some("http://h/?a=b")),
        (&["tf endpoint=http://h/base?a=b"], Some("http://h/base/?a=b")),
    ] {
        let found = ask(words, Service::DynamoDb, Asker::Backend).unwrap();
        assert_eq!(found.as_go().uri.as_deref(), expected, "{words:?}");
        let sts = ask(words, Service::Sts, Asker::Backend).unwrap();
        assert_eq!(sts.as_go(), found.as_go(), "{words:?}");
        assert_eq!(ask(words, Service::S3, Asker::Backend).map(|it| it.as_go().uri), Ok(None));
    }
}

/// The bucket follows at once, so a slash has to be there.
#[test]
fn a_bucket_is_below_the_path_of_its_endpoint() {
    for (word, service, expected) in [
        ("tf endpoint=http://h/a/../b//c?x#y", Service::S3, "http://h/b/c/"),
        ("AWS_ENDPOINT_URL_S3=http://h/a//b", Service::S3, "http://h/a//b/"),
        ("tf endpoint=http://h/a//é", Service::Sso, "http://h/a//%C3%A9"),
        ("tf endpoint=http://h/a b?x", Service::DynamoDb, "http://h/a%20b"),
    ] {
        let found = ask(&[word], service, Asker::Backend).unwrap();
        let sdk = found.put_into(&SdkConfig::builder().build());
        assert_eq!(sdk.endpoint_url(), Some(expected), "{word}");
    }
}

#[test]
fn a_place_is_told_without_its_password() {
    let found = ask(&["tf endpoint=https://u:secret@h:1/x"], Service::S3, Asker::Backend).unwrap();
    assert_eq!(found.to_string(), "in `eu-west-1` at `https://h:1/x`");
    assert!(found.is_encrypted());
    let found = ask(&["tf endpoint=HTTP://h"], Service::S3, Asker::Backend).unwrap();
    assert!(!found.is_encrypted());
    let found = ask(&["tf region=fips-us-east-1"], Service::S3, Asker::Backend).unwrap();
    assert_eq!(found.to_string(), "in `fips-us-east-1`");
}
