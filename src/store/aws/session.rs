//! Credentials as sources give them: keys, and when they end.

use std::fmt;

use aws_credential_types::Credentials;
use jiff::Timestamp;
use serde_json::Value;

use super::super::{FlawKind, StoreError};
use super::go_json;
use super::profile::StaticKeys;

/// Credentials of which it is known when they end.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Session {
    /// What requests are signed with.
    pub(super) keys: StaticKeys,
    /// When they end, or are to be looked at again; `None` where neither.
    pub(super) ends: Option<Timestamp>,
    /// Whose they are, where whoever gave them said so: DynamoDB has a host for each account.
    pub(super) account: Option<String>,
}

/// A time as Go's decoder takes it: RFC 3339 to the letter, and not an empty text either.
fn go_time(text: &str) -> Option<Timestamp> {
    let is_strict = text.contains('T') && !text.contains(['t', 'z', ' ']);
    is_strict.then(|| text.parse().ok()).flatten()
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl Session {
    /// Credentials without an end.
    pub(super) fn lasting(keys: StaticKeys, account: Option<String>) -> Self {
        Self { keys, ends: None, account }
    }

    /// Reads what a program or an HTTP endpoint answers: an object whose keys' case does not count,
    /// the session's token under `token`.
    ///
    /// # Errors
    /// In words, without any of the values.
    pub(super) fn parse(text: &[u8], token: &str) -> Result<Self, String> {
        let Some(fields) = go_json::object(text) else {
            return Err("the answer is not a JSON object".to_owned());
        };
        let field = |name: &str| {
            // Of several the last one, as Go's decoder has it.
            let value = fields.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name))?.1;
            Some(value).filter(|value| !value.is_null())
        };
        let text = |name: &str| match field(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(format!("the answer's `{name}` is not a string")),
        };
        let needed = |name: &str| text(name)?.ok_or(format!("the answer has no `{name}`"));
        let ends = match field("Expiration") {
            None => None,
            Some(Value::String(text)) => {
                Some(go_time(text).ok_or("the answer's `Expiration` is not a time")?)
            }
            Some(_) => return Err("the answer's `Expiration` is not a string".to_owned()),
        };
        Ok(Self {
            keys: StaticKeys {
                id: needed("AccessKeyId")?,
                secret: needed("SecretAccessKey")?,
                token: text(token)?,
            },
            ends,
            account: text("AccountId")?,
        })
    }

    /// Refuses keys that cannot stand in a header of a request: the SDK would panic on them, and Go
    /// refuses the same. The secret stands in none. Bytes that are no text are refused in all: they
    /// have become another sign on the way here.
    ///
    /// # Errors
    /// When there is a control character in them, as of one that was stored with its newline.
    pub(super) fn checked(self, of: &str) -> Result<Self, StoreError> {
        let StaticKeys { id, secret, token } = &self.keys;
        let keys = [
            ("access key ID", Some(id), true),
            ("secret access key", Some(secret), false),
            ("session token", token.as_ref(), true),
        ];
        for (what, text, is_sent) in keys {
            let Some(text) = text else { continue };
            let odd = unsendable(text).filter(|_| is_sent);
            let odd = odd.or(text.contains('\u{fffd}').then_some(Odd::NotText));
            let Some(odd) = odd else { continue };
            let message = format!("the {what} has {odd} in it (credentials: {of})");
            return Err(StoreError::Credentials(odd.kind().flaw(message)));
        }
        Ok(self)
    }

    /// As the SDK has it. It is not told of the end: the renewing is ours.
    pub(super) fn credentials(&self) -> Credentials {
        let StaticKeys { id, secret, token } = &self.keys;
        let mut credentials = Credentials::builder()
            .access_key_id(id)
            .secret_access_key(secret)
            .provider_name("tfwrap");
        credentials.set_session_token(token.clone());
        if let Some(account) = &self.account {
            credentials = credentials.account_id(account.as_str());
        }
        credentials.build()
    }
}

/// What a key or a token has in it that cannot be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Odd {
    LineBreak,
    Control,
    NotText,
}

impl Odd {
    pub(super) fn kind(self) -> FlawKind {
        match self {
            Self::LineBreak => FlawKind::LineBreak,
            Self::Control | Self::NotText => FlawKind::Named,
        }
    }
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LineBreak => "a line break",
            Self::Control => "a control character",
            Self::NotText => "a byte that is not UTF-8",
        })
    }
}

/// What in the text cannot stand in a header of a request.
pub(super) fn unsendable(text: &str) -> Option<Odd> {
    match text.chars().find(|c| c.is_ascii_control() && *c != '\t')? {
        '\n' | '\r' => Some(Odd::LineBreak),
        _ => Some(Odd::Control),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whatever_the_case_of_their_keys() {
        let parse = |text: &str| Session::parse(text.as_bytes(), "Token");
        let whole = r#"{"AccessKeyId": "b", "accesskeyid": "a", "SecretAccessKey": "s", "TOKEN": "t", "More": [], "AccountId": "7",
            "Expiration": "2026-01-02T03:04:05+01:00"}"#;
        let session = parse(whole).unwrap();
        assert_eq!((session.keys.id.as_str(), session.keys.token.as_deref()), ("a", Some("t")));
        assert_eq!(session.account.as_deref(), Some("7"));
        assert_eq!(session.ends, "2026-01-02T02:04:05Z".parse().ok());
        let lasting = r#"{"AccessKeyId": "a", "SecretAccessKey": "s", "Expiration": null}"#;
        assert_eq!(parse(lasting).unwrap().ends, None);
        for (text, expected) in [
            ("", "the answer is not a JSON object"),
            ("[]", "the answer is not a JSON object"),
            (r#"{"AccessKeyId": "hunter2"}"#, "the answer has no `SecretAccessKey`"),
            (
                r#"{"AccessKeyId": 7, "More": "\ud800"}"#,
                "the answer's `AccessKeyId` is not a string",
            ),
            (
                r#"{"AccessKeyId": "a", "SecretAccessKey": "s", "Expiration": 7}"#,
                "the answer's `Expiration` is not a string",
            ),
            (
                r#"{"AccessKeyId": "a", "SecretAccessKey": "s", "Expiration": "soon"}"#,
                "the answer's `Expiration` is not a time",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn keys_that_cannot_be_sent_are_refused_without_being_shown() {
        let keys = |id: &str, token: Option<&str>| StaticKeys {
            id: id.to_owned(),
            secret: if id == "bytes" { "hunter2\u{fffd}" } else { "s\n" }.to_owned(),
            token: token.map(ToOwned::to_owned),
        };
        for (id, token) in [("AKIA", "t+/="), ("hünter2", "a\tb ")] {
            assert!(Session::lasting(keys(id, Some(token)), None).checked("x").is_ok(), "{id}");
        }
        for (keys, expected) in [
            (keys("hunter2\n", None), "the access key ID has a line break in it"),
            (keys("hunter2\u{1}", None), "the access key ID has a control character in it"),
            (keys("a", Some("hunter2\r\n")), "the session token has a line break in it"),
            (keys("bytes", None), "the secret access key has a byte that is not UTF-8 in it"),
            (keys("hunter2\u{fffd}", None), "the access key ID has a byte that is not UTF-8 in it"),
            (keys("hunter2\u{7f}", None), "the access key ID has a control character in it"),
        ] {
            let error =
                Session::lasting(keys, None).checked("keys of the environment").unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{expected} (credentials: keys of the environment)")
            );
        }
    }
}
