//! AWS' services as far as a lock needs them. Whatever gives credentials gives such as say what
//! they were given for.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::seen::{Mint, Request, session_name, token_of};
use crate::server::Authority;

/// An answer of a service.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// Who answers everything, and keeps what was asked.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Those that the machine trusts, and those of a private bundle.
    public: Authority,
    private: Authority,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// How the servers behave in this case.
    manners: BTreeSet<String>,
    items: HashMap<String, Value>,
    /// Lock files, each with the number of its write.
    files: HashMap<String, (u32, String)>,
    writes: u32,
    mint: Mint,
    log: Log,
}

/// What one player asked.
#[derive(Debug, Default, Clone)]
pub(crate) struct Log {
    /// Of the lock table, and of lock files.
    pub(crate) table: Vec<Asked>,
    /// For credentials: each distinct request, in the order of the first.
    pub(crate) roles: Vec<String>,
    /// Everything, for people.
    pub(crate) all: Vec<String>,
}

/// A request to the lock table, or about a lock file.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) operation: String,
    pub(crate) item: String,
    /// Endpoint, route, and who signed it.
    pub(crate) how: String,
    pub(crate) granted: bool,
}

const FAR_AWAY: &str = "2099-01-01T00:00:00Z";
const ACCOUNT: &str = "123456789012";

impl Desk {
    pub(crate) fn new(public: Authority, private: Authority) -> Self {
        Self { public, private, books: Mutex::default() }
    }

    /// Forgets everything, and behaves like this from now on.
    pub(crate) fn open(&self, manners: &[String]) {
        *self.books.lock().unwrap() =
            Books { manners: manners.iter().cloned().collect(), ..Books::default() };
    }

    pub(crate) fn log(&self) -> Log {
        self.books.lock().unwrap().log.clone()
    }

    pub(crate) fn authority(&self) -> &Authority {
        let is_private = self.books.lock().unwrap().manners.contains("private-ca");
        if is_private { &self.private } else { &self.public }
    }

    pub(crate) fn saw_tunnel(&self, request: &Request) {
        let line = format!("CONNECT {} at {:?}", request.path, request.way.proxy);
        self.books.lock().unwrap().log.all.push(line);
    }

    /// Nothing: the connection is closed.
    pub(crate) fn answer(&self, request: &Request) -> Option<Answer> {
        let (answer, patience) = {
            let mut books = self.books.lock().unwrap();
            let line = format!("{} {} {}", request.method, request.route(), request.path);
            books.log.all.push(line);
            books.answer(request)
        };
        #[expect(clippy::disallowed_methods, reason = "a slow server is what is tested")]
        std::thread::sleep(patience);
        answer
    }
}

fn ok(body: &(impl ToString + ?Sized)) -> Answer {
    Answer { status: 200, headers: Vec::new(), body: body.to_string() }
}

fn no(status: u16, body: &(impl ToString + ?Sized)) -> Answer {
    Answer { status, headers: Vec::new(), body: body.to_string() }
}

impl Books {
    fn is(&self, manner: &str) -> bool {
        self.manners.contains(manner)
    }

    fn answer(&mut self, request: &Request) -> (Option<Answer>, Duration) {
        let path = request.path.split('?').next().unwrap_or_default();
        let local = request.way.local.to_string();
        let mut patience = Duration::ZERO;
        let answer = if let Some(target) = request.header("x-amz-target") {
            Some(self.table(request, target))
        } else if local == "169.254.169.254" || path.contains("/latest/") {
            self.instance(request, path)
        } else if local.starts_with("169.254.170.") || path.starts_with("/creds") {
            if self.is("container-slow") {
                patience = Duration::from_secs(6);
            }
            Some(self.container(request))
        } else if path.ends_with("/federation/credentials") {
            if self.is("sso-slow") {
                patience = Duration::from_secs(15);
            }
            Some(self.portal(request))
        } else if path.ends_with("/token") && request.method == "POST" {
            Some(self.refresh(request))
        } else if request.body.contains("Action=") {
            self.roles(request)
        } else {
            Some(if path.ends_with(".tflock") {
                self.lock_file(request, path)
            } else {
                bucket(request, path)
            })
        };
        (answer, patience)
    }

    /// DynamoDB.
    fn table(&mut self, request: &Request, target: &str) -> Answer {
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body: Value = serde_json::from_str(&request.body).unwrap_or_default();
        let id = body.pointer("/Item/LockID/S").or_else(|| body.pointer("/Key/LockID/S"));
        let item = id.and_then(Value::as_str).unwrap_or_default().to_owned();
        let how =
            format!("{} {} signed by {}", request.route(), request.path, self.mint.signed(request));
        let condition = body["ConditionExpression"].as_str().unwrap_or_default();
        let is_taken = condition.contains("attribute_not_exists") && self.items.contains_key(&item);
        let answer = match operation.as_str() {
            _ if self.is("table-denied") => no(
                400,
                &json!({"__type": "com.amazon.coral.service#AccessDeniedException", "message": "no"}),
            ),
            "PutItem" if is_taken => no(
                400,
                &json!({"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
                       "message": "the condition is not met", "Item": self.items[&item]}),
            ),
            "PutItem" => {
                self.items.insert(item.clone(), body["Item"].clone());
                ok("{}")
            }
            "GetItem" => match self.items.get(&item) {
                Some(item) => ok(&json!({ "Item": item })),
                None => ok("{}"),
            },
            "DeleteItem" => {
                self.items.remove(&item);
                ok("{}")
            }
            _ => no(400, &json!({"__type": "UnknownOperationException", "message": "what?"})),
        };
        let granted = answer.status == 200;
        self.log.table.push(Asked { operation, item, how, granted });
        let mut answer = answer;
        answer.headers.push(("content-type".to_owned(), "application/x-amz-json-1.0".to_owned()));
        let sum = crc32(answer.body.as_bytes());
        answer.headers.push(("x-amz-crc32".to_owned(), sum.to_string()));
        answer
    }

    /// S3, about a lock file.
    fn lock_file(&mut self, request: &Request, path: &str) -> Answer {
        let (style, key) = match path.strip_prefix("/b/") {
            Some(key) => ("/b/", key),
            None => ("/", path.trim_start_matches('/')),
        };
        let item = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
        let signed = self.mint.signed(request);
        let how = format!("{} {style} signed by {signed}", request.route());
        let etag = |number: u32| format!("\"{number}\"");
        let there = self.files.get(&item).map(|(number, _)| etag(*number));
        let is_met = request.header("if-none-match").is_none_or(|_| there.is_none())
            && request.header("if-match").is_none_or(|it| Some(it) == there.as_deref());
        let mut headers = Vec::new();
        let answer = match (request.method.as_str(), &there) {
            _ if self.is("table-denied") => {
                no(403, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
            }
            ("GET" | "HEAD", Some(etag)) => {
                headers.push(("etag".to_owned(), etag.clone()));
                ok(&self.files[&item].1)
            }
            ("GET" | "HEAD", None) => {
                no(404, "<Error><Code>NoSuchKey</Code><Message>no</Message></Error>")
            }
            _ if !is_met => {
                no(412, "<Error><Code>PreconditionFailed</Code><Message>no</Message></Error>")
            }
            ("PUT", _) => {
                self.writes += 1;
                headers.push(("etag".to_owned(), etag(self.writes)));
                self.files.insert(item.clone(), (self.writes, content(request)));
                ok("")
            }
            _ => {
                self.files.remove(&item);
                no(204, "")
            }
        };
        let granted = answer.status < 300;
        self.log.table.push(Asked { operation: request.method.clone(), item, how, granted });
        Answer { headers, ..answer }
    }

    fn gave(&mut self, what: &str) -> String {
        if !self.log.roles.iter().any(|it| it == what) {
            self.log.roles.push(what.to_owned());
        }
        self.mint.key(what.to_owned())
    }

    /// STS.
    fn roles(&mut self, request: &Request) -> Option<Answer> {
        let mut form = request.form();
        let field = |form: &[(String, String)], name: &str| {
            form.iter().find(|(it, _)| it == name).map(|(_, value)| value.clone())
        };
        let action = field(&form, "Action")?;
        if action == "GetCallerIdentity" && !self.is("identity-denied") {
            return Some(ok(&format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <GetCallerIdentityResult><Arn>arn:aws:iam::{ACCOUNT}:user/u</Arn>\
                 <UserId>U</UserId><Account>{ACCOUNT}</Account></GetCallerIdentityResult>\
                 <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>\
                 </GetCallerIdentityResponse>"
            )));
        }
        if self.is("sts-denied") || action == "GetCallerIdentity" || action.contains("User") {
            return Some(no(
                403,
                "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>\
                 <Message>no</Message></Error><RequestId>1</RequestId></ErrorResponse>",
            ));
        }
        form.retain(|(name, _)| name != "Version" && name != "Action");
        number_tags_by_key(&mut form);
        for (name, value) in &mut form {
            if name == "RoleSessionName" {
                *value = session_name(value).to_owned();
            }
        }
        let fields: Vec<String> =
            form.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        let what = format!(
            "{action} {} at {} by {}",
            fields.join(" "),
            request.route(),
            self.mint.signed(request)
        );
        let key = self.gave(&what);
        Some(ok(&format!(
            "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
             <AssumedRoleUser><Arn>arn:aws:sts::{ACCOUNT}:assumed-role/r/s</Arn>\
             <AssumedRoleId>R:s</AssumedRoleId></AssumedRoleUser>\
             <Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
             <SessionToken>{}</SessionToken><Expiration>{FAR_AWAY}</Expiration></Credentials>\
             </{action}Result><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>\
             </{action}Response>",
            token_of(&key)
        )))
    }

    /// The instance metadata service.
    fn instance(&mut self, request: &Request, path: &str) -> Option<Answer> {
        if self.is("imds-none") {
            return None;
        }
        let (base, path) = path.split_once("/latest/")?;
        if path == "api/token" {
            return Some(match () {
                () if self.is("imds-v1") => no(404, "no"),
                () if self.is("imds-v1-403") => no(403, "no"),
                () if self.is("imds-403") => no(403, "no"),
                () => Answer {
                    headers: vec![(
                        "x-aws-ec2-metadata-token-ttl-seconds".to_owned(),
                        "21600".to_owned(),
                    )],
                    ..ok("the-token")
                },
            });
        }
        let is_v1 = self.is("imds-v1") || self.is("imds-v1-403");
        if !is_v1 && request.header("x-aws-ec2-metadata-token").is_none() {
            return Some(no(401, "no"));
        }
        Some(match path {
            "meta-data/iam/security-credentials/" | "meta-data/iam/security-credentials" => {
                ok("instance-role")
            }
            "meta-data/iam/security-credentials/instance-role" => {
                let key = self.gave(&format!("instance at {}{base}", request.route()));
                ok(&json!({
                    "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2020-01-01T00:00:00Z",
                    "AccessKeyId": key, "SecretAccessKey": "secret", "Token": token_of(&key),
                    "Expiration": FAR_AWAY,
                }))
            }
            "meta-data/iam/info" => ok(&json!({
                "Code": "Success", "LastUpdated": "2020-01-01T00:00:00Z", "InstanceProfileId": "I",
                "InstanceProfileArn": format!("arn:aws:iam::{ACCOUNT}:instance-profile/p"),
            })),
            _ => no(404, "no"),
        })
    }

    /// What gives credentials to a container.
    fn container(&mut self, request: &Request) -> Answer {
        let bearer = request.header("authorization").unwrap_or("nobody");
        let what = format!("container at {}{} for {bearer}", request.route(), request.path);
        let key = self.gave(&what);
        ok(&json!({
            "AccessKeyId": key, "SecretAccessKey": "secret", "Token": token_of(&key),
            "Expiration": FAR_AWAY, "RoleArn": "arn:aws:iam::1:role/task",
        }))
    }

    /// The portal of IAM Identity Center.
    fn portal(&mut self, request: &Request) -> Answer {
        let bearer = request.header("x-amz-sso_bearer_token").unwrap_or("nobody");
        if self.is("sso-refused") || bearer == "stale" {
            let body = json!({"message": "Session token not found or invalid"});
            return Answer {
                headers: vec![("x-amzn-errortype".to_owned(), "UnauthorizedException".to_owned())],
                ..no(401, &body)
            };
        }
        let query = request.path.split_once('?').map_or("", |(_, query)| query);
        let mut query: Vec<&str> = query.split('&').collect();
        query.sort_unstable();
        let what = format!("sso {} at {} for {bearer}", query.join("&"), request.route());
        let key = self.gave(&what);
        ok(&json!({"roleCredentials": {
            "accessKeyId": key, "secretAccessKey": "secret", "sessionToken": token_of(&key),
            "expiration": 4_070_908_800_000_u64,
        }}))
    }

    /// A new token for an old one.
    fn refresh(&mut self, request: &Request) -> Answer {
        if self.is("refresh-refused") {
            let body = json!({"error": "invalid_grant", "error_description": "no"});
            return Answer {
                headers: vec![("x-amzn-errortype".to_owned(), "InvalidGrantException".to_owned())],
                ..no(400, &body)
            };
        }
        let what = format!("refresh at {}", request.route());
        if !self.log.roles.contains(&what) {
            self.log.roles.push(what);
        }
        ok(&json!({
            "accessToken": "refreshed", "expiresIn": 3600, "refreshToken": "again",
            "tokenType": "Bearer",
        }))
    }
}

/// Terraform keeps tags in a map of Go's, and numbers them in an order that is another each time.
fn number_tags_by_key(form: &mut [(String, String)]) {
    let key_of = |name: &str| {
        let number = name.strip_prefix("Tags.member.")?.strip_suffix(".Key")?;
        Some(number.to_owned())
    };
    let mut keys: Vec<(String, String)> =
        form.iter().filter_map(|(name, value)| Some((value.clone(), key_of(name)?))).collect();
    keys.sort();
    for (name, _) in form.iter_mut() {
        let Some((number, part)) =
            name.strip_prefix("Tags.member.").and_then(|rest| rest.split_once('.'))
        else {
            continue;
        };
        if let Some(place) = keys.iter().position(|(_, its)| its == number) {
            *name = format!("Tags.member.{}.{part}", place + 1);
        }
    }
    form.sort();
}

const STATE: &str = r#"{"version":4,"terraform_version":"1.11.4","serial":1,"lineage":"l","outputs":{},"resources":[],"check_results":null}"#;

/// Of a write, also where it comes in chunks, with a checksum behind them.
fn content(request: &Request) -> String {
    let is_chunked =
        request.header("x-amz-content-sha256").is_some_and(|it| it.starts_with("STREAMING"));
    if !is_chunked {
        return request.body.clone();
    }
    let (mut rest, mut whole) = (request.body.as_str(), String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = size.split(';').next().and_then(|it| usize::from_str_radix(it, 16).ok());
        let Some(chunk) = size.filter(|it| *it > 0).and_then(|size| after.get(..size)) else {
            break;
        };
        whole.push_str(chunk);
        rest = after[chunk.len()..].trim_start_matches("\r\n");
    }
    whole
}

/// A bucket with the state of workspace `w` alone.
fn bucket(request: &Request, path: &str) -> Answer {
    if request.path.contains("list-type=2") || request.path.contains("prefix=") {
        return ok("<ListBucketResult><Name>b</Name><Prefix>env:/</Prefix><KeyCount>1</KeyCount>\
             <MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>\
             <Contents><Key>env:/w/k</Key><Size>9</Size></Contents></ListBucketResult>");
    }
    let is_there = path.ends_with("/w/k");
    match request.method.as_str() {
        "GET" | "HEAD" if is_there => ok(STATE),
        "GET" => no(404, "<Error><Code>NoSuchKey</Code><Message>no</Message></Error>"),
        "HEAD" => no(404, ""),
        _ => ok(""),
    }
}

/// DynamoDB's clients compare it where it is there.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(!0, step)
}
