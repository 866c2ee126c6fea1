//! A case, as it is written in `cases`: a name and fields, with ` | ` between them.
//!
//! | field | means |
//! | --- | --- |
//! | `NAME=value`, `-NAME` | a variable that is set (to nothing, too), or is not |
//! | `conf LINES`, `cred LINES` | `~/.aws/config`, `~/.aws/credentials` |
//! | `file PATH LINES` | another file |
//! | `tf name=value` | an attribute of the backend, as JSON or else as text; `null` for none |
//! | `sso session` or `sso legacy`, `valid`, `expired` or `refresh` | a login's token in its cache |
//! | `net WORDS` | how the servers behave: see `services` |
//! | `how WORDS` | how both are called: see `play` |
//! | `says TEXT` | what tfwrap has to say |
//! | `stock NAME=value`, `ours NAME=value` | a variable of the one alone, for a control |
//!
//! `keys X` and `keys X+t` are a pair of keys in the environment, `web` is a web identity there.
//!
//! A line of a file ends with `;`. `@X` stands for the lines of a pair of keys, `@X+t` for one with
//! a token; `&sso`, `&session`, `&legacy`, `&web`, `&process X` for those of other sources; `role:x` for a role's name; `{home}`, `{work}`, `{passwd}`, `{ca}`, `{ca-dir}` for paths; `{ca-text}`
//! for what is in that bundle. `\n`, `\t`,
//! `\s` (a blank), `\;`, `\\` and `\xFF` are as usual.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::play::Player;
use crate::seen::token_of;

/// What the name of a case with the lock file ends with.
const WITH_LOCK_FILE: &str = "+file";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) fields: Vec<String>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} | {}", self.name, self.fields.join(" | "))
    }
}

/// Where a case is played.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) work: PathBuf,
    pub(crate) home: PathBuf,
    /// The home that the system knows.
    pub(crate) passwd: PathBuf,
    /// The bundle with the private authority.
    pub(crate) ca: PathBuf,
}

/// What a case comes to.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    pub(crate) env: BTreeMap<String, Vec<u8>>,
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
    pub(crate) backend: Map<String, Value>,
    pub(crate) manners: Vec<String>,
    pub(crate) how: Vec<String>,
    /// What tfwrap has to say.
    pub(crate) says: Vec<String>,
    /// Of the one player alone.
    pub(crate) more: Vec<(Player, String, Vec<u8>)>,
}

impl Setup {
    /// Whether the lock is the lock file, in the place of the item.
    pub(crate) fn is_file(&self) -> bool {
        self.how.iter().any(|it| it == "file")
    }
}

/// All cases of a text: one a line, and its further lines indented.
pub(crate) fn read(text: &str) -> Vec<Case> {
    let mut whole: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        match whole.last_mut() {
            Some(last) if line.starts_with(' ') => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => whole.push(line.trim().to_owned()),
        }
    }
    whole.iter().map(|line| Case::of(line)).collect()
}

impl Case {
    pub(crate) fn of(line: &str) -> Self {
        let mut parts = line.split(" | ").map(|part| part.trim().to_owned());
        let name = parts.next().expect("a name");
        assert!(!name.contains(' '), "a name first: {line}");
        Self { name, fields: parts.filter(|part| !part.is_empty()).collect() }
    }

    /// The same with the lock file in the place of the item.
    pub(crate) fn with_lock_file(mut self) -> Self {
        self.name.push_str(WITH_LOCK_FILE);
        self.fields.push("how file".to_owned());
        self
    }

    /// Its name, whichever the lock.
    pub(crate) fn plain_name(&self) -> &str {
        self.name.strip_suffix(WITH_LOCK_FILE).unwrap_or(&self.name)
    }

    /// Without its part of this number: a field, or a line of a file.
    pub(crate) fn without(&self, number: usize) -> Option<Self> {
        let mut without = self.clone();
        if number < self.fields.len() {
            without.fields.remove(number);
            return Some(without);
        }
        let mut number = number - self.fields.len();
        for field in &mut without.fields {
            let mut lines: Vec<&str> = field.split("; ").collect();
            if number + 1 < lines.len() {
                lines.remove(number + 1);
                *field = lines.join("; ");
                return Some(without);
            }
            number -= lines.len() - 1;
        }
        None
    }

    /// Whether this stands in one of its fields.
    pub(crate) fn has(&self, text: &str) -> bool {
        self.fields.iter().any(|field| field.contains(text))
    }

    pub(crate) fn set_up(&self, at: &Places) -> Setup {
        let mut setup = Setup { backend: backend(), ..Setup::default() };
        let path = |path: &Path| path.to_str().expect("a plain path").as_bytes().to_vec();
        setup.env.insert("HOME".to_owned(), path(&at.home));
        for (name, text) in PROGRAMS {
            setup.files.push((at.home.join(name), text.into()));
        }
        for field in &self.fields {
            let (word, rest) = field.split_once(' ').unwrap_or((field, ""));
            let rest = rest.trim();
            match word {
                "conf" => setup.files.push((at.home.join(".aws/config"), lines(rest, at))),
                "cred" => setup.files.push((at.home.join(".aws/credentials"), lines(rest, at))),
                "file" => {
                    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                    let name = String::from_utf8(text(name, at)).expect("a plain path");
                    setup.files.push((name.into(), lines(rest, at)));
                }
                "tf" => {
                    let (name, value) = rest.split_once('=').expect("`name=value`");
                    let value = String::from_utf8(text(value, at)).expect("UTF-8");
                    let value =
                        serde_json::from_str(&value).unwrap_or_else(|_| Value::String(value));
                    setup.backend.insert(name.to_owned(), value);
                }
                "sso" => setup.files.push(login(rest, at)),
                "says" => {
                    let text = String::from_utf8(text(rest, at)).expect("UTF-8");
                    setup.says.push(text);
                }
                "keys" => {
                    for (name, value) in pair(rest) {
                        setup.env.insert(name.to_ascii_uppercase(), value.into_bytes());
                    }
                }
                "web" => {
                    let token = text("{home}/token", at);
                    setup.env.insert("AWS_WEB_IDENTITY_TOKEN_FILE".to_owned(), token);
                    setup.env.insert("AWS_ROLE_ARN".to_owned(), text("role:env", at));
                }
                "net" => setup.manners.extend(rest.split(' ').map(str::to_owned)),
                "how" => setup.how.extend(rest.split(' ').map(str::to_owned)),
                "stock" | "ours" => {
                    let player = if word == "ours" { Player::Tfwrap } else { Player::Stock };
                    let (name, value) = rest.split_once('=').expect("`name=value`");
                    setup.more.push((player, name.to_owned(), text(value, at)));
                }
                _ if field.starts_with('-') => {
                    setup.env.remove(&field[1..]);
                }
                _ => {
                    let (name, value) =
                        field.split_once('=').unwrap_or_else(|| panic!("{field:?} in {self}"));
                    setup.env.insert(name.to_owned(), text(value, at));
                }
            }
        }
        setup.backend.retain(|_, value| !value.is_null());
        if setup.is_file() && setup.backend.remove("dynamodb_table").is_some() {
            setup.backend.insert("use_lockfile".to_owned(), true.into());
        }
        setup
    }
}

/// What every backend has: nothing is asked before the lock that a case does not want asked.
fn backend() -> Map<String, Value> {
    let Value::Object(backend) = json!({
        "bucket": "b", "key": "k", "region": "eu-west-1", "dynamodb_table": "locks",
        "skip_credentials_validation": true, "skip_requesting_account_id": true,
    }) else {
        unreachable!("an object was written")
    };
    backend
}

/// Of every home: tokens, and programs that give credentials.
const PROGRAMS: [(&str, &str); 7] = [
    ("token", "web-token"),
    ("token-nl", "web-token\n"),
    ("ctoken", "container-token"),
    (
        "proc-P",
        "echo ran >>\"$0.runs\"\n\
         echo '{\"Version\":1,\"AccessKeyId\":\"AKIAP\",\"SecretAccessKey\":\"secretP\"}'\n",
    ),
    (
        "proc-T",
        "echo '{\"Version\":1,\"AccessKeyId\":\"AKIAT\",\"SecretAccessKey\":\"secretT\",\
         \"SessionToken\":\"token-AKIAT\",\"Expiration\":\"2099-01-01T00:00:00Z\"}'\n",
    ),
    (
        "proc-S",
        "sleep 12\n\
         echo '{\"Version\":1,\"AccessKeyId\":\"AKIAS\",\"SecretAccessKey\":\"secretS\"}'\n",
    ),
    ("proc-F", "echo ran >>\"$0.runs\"\necho 'no login' >&2\nexit 3\n"),
];

/// The token of a login, in the file whose name is the SHA-1 of the session's name `s` or of the
/// start URL.
fn login(words: &str, at: &Places) -> (PathBuf, Vec<u8>) {
    let (whose, state) = words.split_once(' ').expect("whose login, and how it is");
    let name = match whose {
        "session" => "a0f1490a20d0211c997b44bc357e1972deab8ae3",
        "legacy" => LEGACY,
        _ => panic!("`sso session` or `sso legacy`, not {whose}"),
    };
    let end = if state == "valid" { "2099-01-01T00:00:00Z" } else { "2020-01-01T00:00:00Z" };
    let mut token = json!({
        "startUrl": "https://sso.test/start", "region": "eu-west-1",
        "accessToken": if state == "valid" { "good" } else { "stale" }, "expiresAt": end,
    });
    if state == "refresh" {
        token["clientId"] = "client".into();
        token["clientSecret"] = "secret-of-client".into();
        token["registrationExpiresAt"] = "2099-01-01T00:00:00Z".into();
        token["refreshToken"] = "refresh-token".into();
    }
    (at.home.join(format!(".aws/sso/cache/{name}.json")), token.to_string().into_bytes())
}

const LEGACY: &str = "c2e09b4fac288e7a35fb1a0f7b55446a509137e5";

fn lines(rest: &str, at: &Places) -> Vec<u8> {
    let mut out = Vec::new();
    for line in rest.replace("\\;", "\\x3b").split(';').map(str::trim) {
        if line.is_empty() {
            continue;
        }
        if let Some(keys) = line.strip_prefix('@') {
            for (name, value) in pair(keys) {
                out.extend(format!("{name} = {value}\n").bytes());
            }
            continue;
        }
        if let Some(source) = line.strip_prefix('&') {
            out.extend(lines(&source_lines(source), at));
            continue;
        }
        out.extend(text(line, at));
        out.push(b'\n');
    }
    out
}

/// A pair of keys, with their token if `+t` follows.
fn pair(words: &str) -> Vec<(&'static str, String)> {
    let (name, has_token) = match words.split_once("+t") {
        Some((name, _)) => (name, true),
        None => (words, false),
    };
    let mut pair = vec![
        ("aws_access_key_id", format!("AKIA{name}")),
        ("aws_secret_access_key", format!("secret{name}")),
    ];
    if has_token {
        pair.push(("aws_session_token", token_of(&format!("AKIA{name}"))));
    }
    pair
}

/// Sources of credentials, as a profile has them.
fn source_lines(of: &str) -> String {
    match of {
        "sso" => "sso_session=s; sso_account_id=123456789012; sso_role_name=dev".to_owned(),
        "session" => {
            "[sso-session s]; sso_region=eu-west-1; sso_start_url=https://sso.test/start".to_owned()
        }
        "legacy" => "sso_start_url=https://sso.test/start; sso_region=eu-west-1; \
                     sso_account_id=123456789012; sso_role_name=dev"
            .to_owned(),
        "web" => "role_arn=role:web; web_identity_token_file={home}/token".to_owned(),
        _ => {
            let program = of.strip_prefix("process ").unwrap_or_else(|| panic!("a source: {of}"));
            format!("credential_process=sh {{home}}/proc-{program}")
        }
    }
}

/// With its abbreviations and escapes resolved.
fn text(text: &str, at: &Places) -> Vec<u8> {
    let show = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let text = text
        .replace("role:", "arn:aws:iam::123456789012:role/")
        .replace("{home}", &show(&at.home))
        .replace("{work}", &show(&at.work))
        .replace("{passwd}", &show(&at.passwd))
        .replace("{ca}", &show(&at.ca))
        .replace("{ca-dir}", &show(at.ca.parent().expect("a directory")))
        .replace("{ca-text}", &fs::read_to_string(&at.ca).unwrap_or_default());
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b's') => b' ',
            Some(b'x') => {
                let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                let digits = String::from_utf8(digits).expect("two digits");
                u8::from_str_radix(&digits, 16).expect("two digits")
            }
            Some(other) => other,
            None => b'\\',
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read_as_it_is_written() {
        let [one, two] = &read("# no\nA | X=\n  | -HOME\n\nB | cred [p]\\s; @K+t\n")[..] else {
            panic!()
        };
        assert_eq!(one.to_string(), "A | X= | -HOME");
        let at =
            Places { work: "/w".into(), home: "/h".into(), passwd: "/p".into(), ca: "/ca".into() };
        let setup = one.set_up(&at);
        assert_eq!(setup.env["X"], b"");
        assert!(!setup.env.contains_key("HOME"));
        let (path, bytes) = two.set_up(&at).files.pop().unwrap();
        assert_eq!(path, Path::new("/h/.aws/credentials"));
        let keys = "[p] \naws_access_key_id = AKIAK\naws_secret_access_key = secretK\n\
                    aws_session_token = token-AKIAK\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), keys);
    }
}
