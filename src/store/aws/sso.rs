//! Logins by IAM Identity Center: the token that `aws sso login` leaves below the home directory,
//! and the credentials that it is good for.
//!
//! Not the SDK's own provider: that finds the home directory and the endpoints past us, and goes on
//! with an old token where a new one was refused.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value};
use sha1::{Digest as _, Sha1};

use super::super::blocking::{self, reason};
use super::super::{FlawKind, StoreError};
use super::chain::SettingPlace;
use super::error::{Asked, classify, unsent};
use super::go_json;
use super::profile::{Sso, StaticKeys};
use super::session::{Session, unsendable};
use crate::clock::wall;
use crate::opened;

/// The clients, in the region of the login.
pub(super) struct Clients {
    /// Gives credentials for a token.
    pub(super) portal: aws_sdk_sso::Client,
    /// Gives tokens.
    pub(super) oidc: aws_sdk_ssooidc::Client,
}

/// Gets the credentials of a login.
pub(super) async fn session(
    sso: &Sso,
    place: &SettingPlace,
    home: &Path,
    clients: &Clients,
) -> Result<Session, StoreError> {
    let login = Login { place, file: cache_file(sso, home) };
    let token = login.token(sso, clients).await?;
    let answer = clients
        .portal
        .get_role_credentials()
        .access_token(token)
        .account_id(&sso.account_id)
        .role_name(&sso.role_name)
        .send()
        .await
        .map_err(|error| {
            let object = format!("role `{}` of account `{}`", sso.role_name, sso.account_id);
            let asked = Asked { action: "sso:GetRoleCredentials", object: &object, must: None };
            let status = error.raw_response().map(|answer| answer.status().as_u16());
            if status == Some(401) {
                login.again("is not accepted")
            } else {
                unsent(classify(asked, &error))
            }
        })?;
    let keys = answer.role_credentials.and_then(|it| {
        let ends = Timestamp::from_millisecond(it.expiration).ok().filter(|_| it.expiration > 0);
        let keys = StaticKeys {
            id: it.access_key_id?,
            secret: it.secret_access_key?,
            token: it.session_token,
        };
        let account = Some(sso.account_id.clone()).filter(|account| !account.is_empty());
        Some(Session { keys, ends, account })
    });
    keys.ok_or_else(|| login.failed("returned an answer without credentials"))
}

struct Login<'a> {
    place: &'a SettingPlace,
    file: PathBuf,
}

impl Login<'_> {
    fn failed(&self, why: &str) -> StoreError {
        StoreError::Credentials(self.text(why).into())
    }

    fn text(&self, why: &str) -> String {
        format!("the SSO login of {} {why}", self.place)
    }

    fn again(&self, why: &str) -> StoreError {
        let command = match self.place {
            SettingPlace::Profile(name) => {
                format!("aws sso login --profile {}", shell_words::quote(name))
            }
            SettingPlace::Backend | SettingPlace::Environment => "aws sso login".to_owned(),
        };
        let text = self.text(&format!("{why}: `{command}`"));
        StoreError::Credentials(FlawKind::LoggedOut.flaw(text))
    }

    /// What lies there must go before a login helps.
    fn in_the_way(&self, why: &str) -> StoreError {
        let file = self.file.display();
        self.again(&format!(
            "cannot be read (`{file}`: {why}); move that file away and log in again"
        ))
    }

    async fn token(&self, sso: &Sso, clients: &Clients) -> Result<String, StoreError> {
        let cached = self.cached().await?;
        if wall() < cached.ends {
            return Ok(cached.token);
        }
        if sso.session.is_none() {
            return Err(self.again("has expired"));
        }
        let renewed = self.renewed(cached, clients).await;
        if renewed.as_ref().is_err_and(|error| !error.is_transient()) {
            // Somebody else, such as a Terraform of this very run, may have renewed it before us.
            if let Ok(theirs) = self.cached().await
                && wall() < theirs.ends
            {
                return Ok(theirs.token);
            }
        }
        renewed
    }

    async fn cached(&self) -> Result<Cached, StoreError> {
        let file = self.file.clone();
        let read = blocking::run(move || Ok(super::file::read(&file))).await?;
        let bytes = read.map_err(|error| {
            let (file, why) = (self.file.display(), reason(&error));
            match error.kind() {
                ErrorKind::NotFound => self.again(&format!("does not exist (`{file}`: {why})")),
                // Where it lies nobody chooses.
                ErrorKind::InvalidInput => self.in_the_way("it is a pipe"),
                _ => self.in_the_way(&why),
            }
        })?;
        Cached::parse(&bytes).map_err(|why| {
            self.again(&format!("cannot be read from `{}`, which {why}", self.file.display()))
        })
    }

    /// A new token for the old one. It is written down first, for the old one is no longer good.
    async fn renewed(&self, cached: Cached, clients: &Clients) -> Result<String, StoreError> {
        let field = |name| cached.text(name).filter(|text| !text.is_empty());
        let (Some(id), Some(secret), Some(refresh)) =
            (field("clientId"), field("clientSecret"), field("refreshToken"))
        else {
            return Err(self.again("has expired"));
        };
        let asked = clients
            .oidc
            .create_token()
            .grant_type("refresh_token")
            .client_id(id)
            .client_secret(secret)
            .refresh_token(refresh)
            .send()
            .await;
        let answer = asked.map_err(|error| {
            let object = "the SSO login";
            let asked = Asked { action: "sso-oauth:CreateToken", object, must: None };
            match unsent(classify(asked, &error)) {
                error if error.is_transient() => error,
                _ => self.again("has expired and is not renewed"),
            }
        })?;
        let Some(token) = answer.access_token else {
            return Err(self.again("has expired and is not renewed"));
        };
        let lasts = std::time::Duration::from_secs(u64::try_from(answer.expires_in).unwrap_or(0));
        let mut fields = cached.fields;
        fields.insert("accessToken".to_owned(), token.clone().into());
        let ends = (wall() + lasts).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        fields.insert("expiresAt".to_owned(), ends.into());
        if let Some(refresh) = answer.refresh_token {
            fields.insert("refreshToken".to_owned(), refresh.into());
        }
        let (file, text) = (self.file.clone(), Value::Object(fields).to_string());
        let written = blocking::run(move || Ok(replace(&file, &text))).await?;
        written.map_err(|error| {
            let file = self.file.display();
            self.failed(&format!("was renewed, but `{file}` cannot be written: {}", reason(&error)))
        })?;
        Ok(token)
    }
}

/// Where `aws sso login` leaves it.
fn cache_file(sso: &Sso, home: &Path) -> PathBuf {
    let key = sso.session.as_ref().unwrap_or(&sso.start_url);
    let digest = Sha1::digest(key.as_bytes());
    home.join(".aws/sso/cache").join(format!("{digest:x}.json"))
}

/// With the mode that it has.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let mode = fs::metadata(file)?.permissions().mode();
    let next = file.with_extension(format!("tmp-{}", wall().as_nanosecond()));
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&next)?;
    let kept = opened::keep_for_owner(&out);
    let done = kept.and_then(|()| out.write_all(text.as_bytes()));
    let done = done.and_then(|()| fs::rename(&next, file));
    if done.is_err() {
        drop(fs::remove_file(&next));
    }
    done
}

struct Cached {
    token: String,
    ends: Timestamp,
    /// All, also those that nobody here knows.
    fields: Map<String, Value>,
}

impl Cached {
    /// Or what is wrong with it, which shows nothing of it.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let Some(fields) = go_json::object(bytes) else {
            return Err("does not hold a JSON object".to_owned());
        };
        let text = |name: &str| {
            let text = fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
            text.map(ToOwned::to_owned).ok_or_else(|| format!("has no `{name}`"))
        };
        let (token, ends) = (text("accessToken")?, text("expiresAt")?);
        if let Some(odd) = unsendable(&token) {
            return Err(format!("has {odd} in its `accessToken`"));
        }
        let ends = ends.parse().map_err(|_| "has an `expiresAt` that is not a time".to_owned())?;
        Ok(Self { token, ends, fields })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_lies_where_the_command_line_of_aws_leaves_it() {
        let sso = |session: Option<&str>| Sso {
            session: session.map(ToOwned::to_owned),
            region: "r".to_owned(),
            start_url: "https://d-1.awsapps.com/start".to_owned(),
            account_id: "1".to_owned(),
            role_name: "n".to_owned(),
        };
        let file = |session| cache_file(&sso(session), Path::new("/h"));
        let named = "/h/.aws/sso/cache/34c6fceca75e456f25e7e99531e2425c6c1de443.json";
        assert_eq!(
            file(Some("s")),
            Path::new("/h/.aws/sso/cache/a0f1490a20d0211c997b44bc357e1972deab8ae3.json")
        );
        assert_ne!(file(None), Path::new(named));
    }

    #[test]
    fn a_cached_token_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.json");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        replace(&file, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let cached =
            Cached::parse(br#"{"accessToken": "t", "expiresAt": "2026-01-02T03:04:05Z", "x": 1}"#);
        assert_eq!(cached.map(|it| it.fields.len()), Ok(3));
    }

    #[test]
    fn what_is_wrong_with_a_cached_token_is_said_and_nothing_of_it_shown() {
        for (text, expected) in [
            ("", "does not hold a JSON object"),
            ("[]", "does not hold a JSON object"),
            (r#"{"expiresAt": "x"}"#, "has no `accessToken`"),
            (r#"{"accessToken": ""}"#, "has no `accessToken`"),
            (r#"{"accessToken": "hunter2"}"#, "has no `expiresAt`"),
            (
                r#"{"accessToken": "hunter2", "expiresAt": "soon"}"#,
                "has an `expiresAt` that is not a time",
            ),
            (
                r#"{"accessToken": "hunter2\n", "expiresAt": "x"}"#,
                "has a line break in its `accessToken`",
            ),
            (
                r#"{"accessToken": "\u0001hunter2", "expiresAt": "x"}"#,
                "has a control character in its `accessToken`",
            ),
        ] {
            let parsed = Cached::parse(text.as_bytes()).map(|it| it.fields.len());
            assert_eq!(parsed, Err(expected.to_owned()), "{text}");
        }
    }
}
