//! What the recording server was asked, in words that can be compared.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

/// A request, and the way that it came.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) way: Way,
}

/// How a connection came in.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) tls: bool,
    /// The address that was asked; of a proxy, its own.
    pub(crate) local: IpAddr,
    /// The proxy's port, and who its user is.
    pub(crate) proxy: Option<String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn host(&self) -> &str {
        self.header("host").unwrap_or_default()
    }

    /// Scheme, host and proxy.
    pub(crate) fn route(&self) -> String {
        let scheme = if self.way.tls { "https" } else { "http" };
        let proxy =
            self.way.proxy.as_ref().map_or_else(String::new, |it| format!(" through proxy {it}"));
        format!("{scheme}://{}{proxy}", self.host())
    }

    /// The fields of a form.
    pub(crate) fn form(&self) -> Vec<(String, String)> {
        let mut fields: Vec<(String, String)> =
            url::form_urlencoded::parse(self.body.as_bytes()).into_owned().collect();
        fields.sort();
        fields
    }

    /// Of the signature: the key's ID, the region, the service.
    pub(crate) fn signer(&self) -> Option<(&str, &str, &str)> {
        let (_, scope) = self.header("authorization")?.split_once("Credential=")?;
        let mut parts = scope.split([',', ' ']).next()?.split('/');
        let (key, _date) = (parts.next()?, parts.next()?);
        Some((key, parts.next()?, parts.next()?))
    }
}

/// The sessions that were given out, each with all that it was given for: so the key ID alone says
/// who signs, by whom that one was made, and where each was asked.
#[derive(Debug, Default)]
pub(crate) struct Mint(HashMap<String, String>);

impl Mint {
    /// A key ID for this.
    pub(crate) fn key(&mut self, what: String) -> String {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        let key = format!("ASIA{:016X}", hasher.finish());
        self.0.insert(key.clone(), what);
        key
    }

    /// Who a key ID is.
    pub(crate) fn who(&self, key: &str) -> String {
        self.0.get(key).map_or_else(|| key.to_owned(), |what| format!("<{what}>"))
    }

    /// Who signed it, with which token, for which region and service.
    pub(crate) fn signed(&self, request: &Request) -> String {
        let Some((key, region, service)) = request.signer() else { return "nobody".to_owned() };
        let token = match request.header("x-amz-security-token") {
            None => String::new(),
            Some(token) if token == token_of(key) => " with its token".to_owned(),
            Some(token) => format!(" with token `{token}`"),
        };
        format!("{}{token} for {service} in {region}", self.who(key))
    }
}

/// The session token that belongs to a key.
pub(crate) fn token_of(key: &str) -> String {
    format!("token-{key}")
}

/// A session's name, or that it is one that was made up.
pub(crate) fn session_name(name: &str) -> &str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let of_go = name.strip_prefix("aws-go-sdk-").is_some_and(digits);
    if of_go || digits(name) || name == "tfwrap" { "(made up)" } else { name }
}
