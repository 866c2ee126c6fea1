//! Cases by dice: sources of credentials, files, endpoints and proxies that are at odds with each
//! other. Left out is what takes Terraform long to fail, and what is declared in `exceptions`.

use std::fmt::Write as _;

use crate::case::Case;
use crate::dice::Dice;

/// The case of this number.
pub(crate) fn case(seed: u64, number: usize) -> Case {
    let number_64 = u64::try_from(number).expect("not so many");
    let mut of = Fields { dice: Dice::new(seed.wrapping_mul(1_000_003) ^ number_64), all: vec![] };
    of.environment();
    of.backend();
    of.files();
    of.services();
    of.network();
    of.call();
    let case = Case { name: format!("random-{seed}-{number}"), fields: of.all };
    if number.is_multiple_of(2) { case } else { case.with_lock_file() }
}

struct Fields {
    dice: Dice,
    all: Vec<String>,
}

impl Fields {
    /// One of these, in so many of a hundred cases. Further fields follow after ` | `.
    fn maybe(&mut self, chance: u64, of: &[&str]) {
        if self.dice.percent(chance) {
            let field = self.dice.one(of);
            self.all.extend(field.split(" | ").map(str::to_owned));
        }
    }

    fn environment(&mut self) {
        self.maybe(
            30,
            &[
                "keys E",
                "keys E+t",
                "AWS_ACCESS_KEY=AKIAE | AWS_SECRET_KEY=secretE",
                "AWS_ACCESS_KEY_ID= | AWS_SECRET_ACCESS_KEY=",
                "AWS_ACCESS_KEY_ID=AKIAE",
                "AWS_ACCESS_KEY_ID=AKIAE | AWS_SECRET_KEY=secretE | AWS_SESSION_TOKEN=",
            ],
        );
        let names = ["p", "p", "q", "default", "", "r"];
        if self.dice.percent(35) {
            let name = self.dice.one(&names);
            self.all.push(format!("AWS_PROFILE={name}"));
        }
        if self.dice.percent(12) {
            let name = self.dice.one(&names);
            self.all.push(format!("AWS_DEFAULT_PROFILE={name}"));
        }
        self.maybe(
            12,
            &[
                "web",
                "web",
                "web | AWS_ROLE_SESSION_NAME=me",
                "AWS_ROLE_ARN=role:env",
                "AWS_WEB_IDENTITY_TOKEN_FILE={home}/token",
                "AWS_WEB_IDENTITY_TOKEN_FILE= | AWS_ROLE_ARN=",
            ],
        );
        self.maybe(
            18,
            &[
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/creds/x",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:8000/creds",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23/v1/credentials | \
                 AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE={home}/ctoken",
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI= | AWS_CONTAINER_CREDENTIALS_FULL_URI=",
            ],
        );
        self.maybe(
            20,
            &[
                "AWS_EC2_METADATA_DISABLED=true",
                "AWS_EC2_METADATA_DISABLED=false",
                "AWS_EC2_METADATA_DISABLED=",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:8000",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT=",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6",
                "AWS_METADATA_URL=http://127.0.0.1:8000",
            ],
        );
    }

    fn backend(&mut self) {
        self.maybe(18, &["tf profile=p", "tf profile=q", "tf profile=default", "tf profile="]);
        self.maybe(
            8,
            &[
                "tf access_key=AKIAB | tf secret_key=secretB",
                "tf access_key=AKIAB | tf secret_key=secretB | tf token=token-AKIAB",
                "tf access_key= | tf secret_key=",
            ],
        );
        self.maybe(
            14,
            &[
                r#"tf assume_role={"role_arn":"role:block"}"#,
                r#"tf assume_role={"role_arn":"role:block","duration":"20m","session_name":"me"}"#,
                r#"tf assume_role={"role_arn":"role:block","external_id":"xy","tags":{"A":"b"}}"#,
            ],
        );
        self.maybe(
            6,
            &[
                r#"tf assume_role_with_web_identity={"role_arn":"role:web","web_identity_token":"given"}"#,
                r#"tf assume_role_with_web_identity={"role_arn":"role:web","web_identity_token_file":"~/token"}"#,
            ],
        );
        self.maybe(10, &["tf skip_metadata_api_check=true", "tf skip_metadata_api_check=false"]);
        self.maybe(6, &["tf ec2_metadata_service_endpoint=http://127.0.0.1:8000"]);
        self.maybe(8, &["tf sts_region=us-west-2"]);
        self.maybe(
            10,
            &[
                "tf region=us-east-1",
                "tf region=us-gov-west-1",
                "tf region=cn-north-1",
                "tf region=null | AWS_REGION=us-east-1",
                "tf region=null | AWS_REGION= | AWS_DEFAULT_REGION=us-west-2",
                "tf region=null",
            ],
        );
        self.maybe(
            15,
            &["tf skip_credentials_validation=null", "tf skip_requesting_account_id=null"],
        );
    }

    fn files(&mut self) {
        let (mut config, mut credentials) = (String::new(), String::new());
        for name in ["default", "p", "q"] {
            if self.dice.percent(55) {
                let section =
                    if name == "default" { name.to_owned() } else { format!("profile {name}") };
                let lines = self.profile(&format!("C{name}"));
                let _ = write!(config, "[{section}]; {lines}");
            }
            if self.dice.percent(40) {
                let lines = self.profile(&format!("K{name}"));
                let _ = write!(credentials, "[{name}]; {lines}");
            }
        }
        if config.contains("services=s") {
            config.push_str("[services s]; ");
            for service in ["dynamodb", "sts"] {
                if self.dice.percent(60) {
                    config.push_str(service);
                    config.push_str(" =; \\s\\sendpoint_url=http://services.test:8000; ");
                }
            }
        }
        if config.contains("&sso") || credentials.contains("&sso") {
            config.push_str("&session; ");
            self.maybe(90, &["sso session valid", "sso session refresh", "sso session expired"]);
        }
        if config.contains("&legacy") || credentials.contains("&legacy") {
            self.maybe(90, &["sso legacy valid", "sso legacy valid", "sso legacy expired"]);
        }
        let home = self.dice.one(&["{home}", "{home}", "{home}", "{home}", "{home}", "{passwd}"]);
        if home == "{passwd}" {
            self.maybe(100, &["-HOME", "HOME="]);
        }
        let places: [(&str, &[&str]); 2] = [
            ("config", &["AWS_CONFIG_FILE=", "AWS_SHARED_CONFIG_FILE=", "tf shared_config_files="]),
            ("credentials", &["AWS_SHARED_CREDENTIALS_FILE=", "tf shared_credentials_files="]),
        ];
        for (text, (place, ways)) in [config, credentials].into_iter().zip(places) {
            let text = text.trim_end_matches([' ', ';']);
            if self.dice.percent(20) {
                let way = self.dice.one(ways);
                let file = format!("{{home}}/{place}.named");
                let is_set = way.starts_with("tf");
                let value = if is_set { format!("[\"{file}\"]") } else { file.clone() };
                self.all.push(format!("{way}{value}"));
                self.all.push(format!("file {file} {text}"));
                self.maybe(40, &[&format!("file {home}/.aws/{place} [p]; @Xp; [default]; @Xd")]);
            } else if !text.is_empty() {
                self.all.push(format!("file {home}/.aws/{place} {text}"));
            }
        }
    }

    /// The lines of a profile, each with its end.
    fn profile(&mut self, keys: &str) -> String {
        let keys = format!("@{keys}");
        let lines: [(u64, &[&str]); 13] = [
            (45, &[&keys, &keys, &format!("{keys}+t"), "aws_access_key_id = AKIAH"]),
            (
                25,
                &[
                    "role_arn=role:r1; source_profile=q",
                    "role_arn=role:r2; source_profile=p",
                    "role_arn=role:r3; source_profile=default",
                    "role_arn=role:r4; credential_source=Environment",
                    "role_arn=role:r5; credential_source=Ec2InstanceMetadata",
                    "role_arn=role:r6; credential_source=EcsContainer",
                    "role_arn=role:r7",
                    "source_profile=q",
                ],
            ),
            (8, &["&process T", "&process P", "&process F"]),
            (8, &["&sso"]),
            (6, &["&legacy"]),
            (6, &["&web", "web_identity_token_file={home}/token"]),
            (12, &["region=us-west-2", "region="]),
            (8, &["endpoint_url=http://profile.test:8000", "endpoint_url="]),
            (6, &["services=s"]),
            (4, &["use_fips_endpoint=true", "use_dualstack_endpoint=true"]),
            (6, &["duration_seconds=1800", "external_id=xy", "role_session_name=me"]),
            (3, &["mfa_serial=arn:aws:iam::1:mfa/me", "ignore_configured_endpoint_urls=true"]),
            (6, &["nonsense", "# a comment", "s3 =; \\s\\sa = b", "x: y", "output = json"]),
        ];
        let mut text = String::new();
        for (chance, of) in lines {
            if self.dice.percent(chance) {
                text.push_str(self.dice.one(of));
                text.push_str("; ");
            }
        }
        text
    }

    fn services(&mut self) {
        self.maybe(
            12,
            &[
                "AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:8000",
                "AWS_ENDPOINT_URL_DYNAMODB=https://dynamo.test",
                "AWS_ENDPOINT_URL_DYNAMODB=",
                "AWS_DYNAMODB_ENDPOINT=http://dynamo.test:8000",
                r#"tf endpoints={"dynamodb":"http://attribute.test:8000"}"#,
                r#"tf endpoints={"dynamodb":"http://localhost:8000","sts":"http://localhost:8000"}"#,
                r#"tf endpoints={"sts":"http://sts.test:8000","sso":"http://sso.test:8000"}"#,
                "tf dynamodb_endpoint=http://old.test:8000",
            ],
        );
        self.maybe(
            10,
            &[
                "AWS_ENDPOINT_URL=http://all.test:8000",
                "AWS_ENDPOINT_URL=http://localhost:8000",
                "AWS_ENDPOINT_URL=",
                "AWS_ENDPOINT_URL=http://all.test:8000 | AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true",
            ],
        );
        self.maybe(
            8,
            &[
                "AWS_ENDPOINT_URL_STS=http://127.0.0.1:8000",
                "AWS_ENDPOINT_URL_STS=",
                "AWS_STS_ENDPOINT=http://sts.test:8000",
                "AWS_ENDPOINT_URL_SSO=http://sso.test:8000",
            ],
        );
        self.maybe(
            8,
            &[
                "AWS_USE_FIPS_ENDPOINT=true",
                "AWS_USE_FIPS_ENDPOINT=",
                "AWS_USE_FIPS_ENDPOINT=false",
                "AWS_USE_DUALSTACK_ENDPOINT=true",
                "tf use_fips_endpoint=true",
                "tf use_dualstack_endpoint=true",
                "tf use_fips_endpoint=false",
            ],
        );
    }

    fn network(&mut self) {
        self.maybe(
            18,
            &[
                "HTTPS_PROXY=http://proxy.test:3128",
                "https_proxy=proxy.test:3129",
                "HTTPS_PROXY=http://jane:pw@proxy.test:3128",
                "HTTPS_PROXY= | https_proxy=https://proxy.test:3129",
                "tf https_proxy=http://proxy.test:3128",
                "tf http_proxy=http://proxy.test:3128",
                "tf https_proxy=",
            ],
        );
        self.maybe(12, &["HTTP_PROXY=http://proxy.test:3128", "http_proxy=proxy.test:3129"]);
        self.maybe(
            12,
            &[
                "NO_PROXY=*",
                "NO_PROXY=*.amazonaws.com",
                "NO_PROXY=.amazonaws.com",
                "NO_PROXY=dynamodb.eu-west-1.amazonaws.com:443,sts.eu-west-1.amazonaws.com",
                "no_proxy=test,169.254.0.0/16",
                "NO_PROXY= | no_proxy=amazonaws.com",
                "tf no_proxy=amazonaws.com",
            ],
        );
        self.maybe(
            6,
            &[
                "net private-ca | AWS_CA_BUNDLE={ca}",
                "net private-ca | tf custom_ca_bundle={ca}",
                "net private-ca | SSL_CERT_FILE={ca}",
                "AWS_CA_BUNDLE=",
            ],
        );
    }

    fn call(&mut self) {
        self.maybe(16, &["how plan", "how ws", "how chdir", "how hcl", "how json"]);
    }
}
