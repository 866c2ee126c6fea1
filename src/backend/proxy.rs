//! Which request goes through which proxy, by the rules of Go's `golang.org/x/net/http/httpproxy`,
//! which Terraform follows. Pure; what a proxy then does is for `http`.

use std::net::IpAddr;

use super::ProxySettings;

/// A proxy that Go would use.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// In lower case.
    pub(crate) scheme: String,
    /// Percent-encoded as it was given: `name` or `name:password`.
    pub(crate) user: Option<String>,
    /// A name or an address, an IPv6 address in brackets.
    pub(crate) host: String,
    pub(crate) port: String,
}

impl Proxy {
    /// For messages: without the password.
    pub(crate) fn shown(&self) -> String {
        let colon = if self.port.is_empty() { "" } else { ":" };
        format!("{}://{}{colon}{}", self.scheme, self.host, self.port)
    }

    /// With everything, for the client.
    pub(crate) fn url(&self) -> String {
        // Whatever is no TLS and no SOCKS is HTTP for Go, and no host is this one.
        let scheme = if self.scheme == "https" { "https" } else { "http" };
        let user = self.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
        let host = match self.host.as_str() {
            "" => "127.0.0.1".to_owned(),
            host if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
            host => host.to_owned(),
        };
        let colon = if self.port.is_empty() { "" } else { ":" };
        format!("{scheme}://{user}{host}{colon}{}", self.port)
    }

    fn host_and_port_are_empty(&self) -> bool {
        self.host.is_empty() && self.port.is_empty()
    }

    /// Whether it is spoken to in HTTP.
    pub(crate) fn is_http(&self) -> bool {
        !matches!(self.scheme.as_str(), "" | "socks5" | "socks5h")
    }
}

// Written by hand: a derived form would print the password.
impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

/// How a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Direct,
    Through(&'a Proxy),
    /// `HTTP_PROXY` below a CGI server may come from a request header: Go refuses it.
    Refused,
}

/// The proxies and who is exempt from them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    pub(crate) http: Option<Proxy>,
    pub(crate) https: Option<Proxy>,
    exempt: Vec<Exempt>,
    is_cgi: bool,
}

impl Proxies {
    /// Reads the settings. What Go cannot read is ignored, as Go does.
    pub(crate) fn of(settings: &ProxySettings) -> Self {
        let proxy = |url: &Option<String>| url.as_deref().and_then(proxy);
        let no_proxy = settings.no_proxy.as_deref().unwrap_or_default();
        Self {
            http: proxy(&settings.http),
            https: proxy(&settings.https),
            exempt: no_proxy.split(',').filter_map(Exempt::of).collect(),
            is_cgi: settings.is_cgi,
        }
    }

    /// How a request to this URL goes.
    pub(crate) fn way(&self, url: &str) -> Route<'_> {
        let Some(target) = parse(url) else { return Route::Direct };
        let (proxy, usual_port, may_be_forged) = match target.scheme.as_str() {
            "http" => (&self.http, "80", self.is_cgi),
            "https" => (&self.https, "443", false),
            _ => return Route::Direct,
        };
        let Some(proxy) = proxy else { return Route::Direct };
        if may_be_forged {
            return Route::Refused;
        }
        let port = if target.port.is_empty() { usual_port } else { &target.port };
        if self.is_exempt(&target.host, port) { Route::Direct } else { Route::Through(proxy) }
    }

    fn is_exempt(&self, host: &str, port: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = address(host);
        // Go compares this name as it stands, before it looks at anything in lower case.
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        let host = host.trim().to_ascii_lowercase();
        self.exempt.iter().any(|exempt| exempt.covers(&host, address, port))
    }
}

/// An entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exempt {
    All,
    Net {
        base: IpAddr,
        bits: u8,
    },
    Address {
        address: IpAddr,
        port: String,
    },
    /// `suffix` begins with a dot; the domain itself is covered, too, or only what is below it.
    Domain {
        suffix: String,
        itself: bool,
        port: String,
    },
}

impl Exempt {
    fn of(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_lowercase();
        if entry.is_empty() {
            return None;
        }
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some(net) = net(&entry) {
            return Some(net);
        }
        let (host, port) = host_and_port(&entry).unwrap_or((&entry, ""));
        let port = port.to_owned();
        if let Some(address) = address(host) {
            return Some(Self::Address { address, port });
        }
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        if host.is_empty() {
            return None;
        }
        let itself = !host.starts_with('.');
        let suffix = if itself { format!(".{host}") } else { host.to_owned() };
        Some(Self::Domain { suffix: ascii(&suffix), itself, port })
    }

    fn covers(&self, host: &str, of_host: Option<IpAddr>, of_port: &str) -> bool {
        let same_port = |port: &str| port.is_empty() || port == of_port;
        match self {
            Self::All => true,
            Self::Net { base, bits } => of_host.is_some_and(|ip| is_within(ip, *base, *bits)),
            Self::Address { address, port } => of_host == Some(*address) && same_port(port),
            Self::Domain { suffix, itself, port } => {
                (host.ends_with(suffix) || (*itself && host == &suffix[1..])) && same_port(port)
            }
        }
    }
}

/// As Go's `net.ParseIP` reads it: an IPv4 address in IPv6 form is that IPv4 address, and there is
/// no zone.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// As Go's `net.ParseCIDR` reads it.
fn net(text: &str) -> Option<Exempt> {
    let (base, bits) = text.split_once('/')?;
    let written: IpAddr = base.parse().ok()?;
    let (most, base) = (if written.is_ipv4() { 32 } else { 128 }, written.to_canonical());
    let is_number = bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits = bits.parse::<u8>().ok().filter(|bits| is_number && *bits <= most)?;
    // An IPv4 network in IPv6 form has its bits at the end.
    let bits = if base == written { bits } else { bits.checked_sub(96)? };
    Some(Exempt::Net { base, bits })
}

fn is_within(address: IpAddr, base: IpAddr, bits: u8) -> bool {
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            u32::from(address) & mask == u32::from(base) & mask
        }
        (IpAddr::V6(address), IpAddr::V6(base)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            u128::from(address) & mask == u128::from(base) & mask
        }
        _ => false,
    }
}

/// As Go's `net.SplitHostPort` does it; without an answer the whole is a host.
fn host_and_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.contains(['[', ']']) && !port.contains(['[', ']'])).then_some((host, port))
}

/// A name in the form that is asked for.
fn ascii(name: &str) -> String {
    if name.is_ascii() {
        return name.to_owned();
    }
    let dots = name.len() - name.trim_start_matches('.').len();
    let encoded = url::Host::parse(&name[dots..]);
    encoded.map_or_else(|_| name.to_owned(), |encoded| format!("{}{encoded}", &name[..dots]))
}

/// Whether Go's `url.Parse` takes it. It need not have a scheme, nor a host.
pub(super) fn go_parses(text: &str) -> bool {
    parse(text).is_some()
}

/// Reads a proxy as Go does: what is no URL with a scheme and a host may be one after `http://`.
fn proxy(text: &str) -> Option<Proxy> {
    let is_whole = |proxy: &Proxy| !proxy.scheme.is_empty() && !proxy.host_and_port_are_empty();
    let parsed = parse(text);
    match parsed {
        Some(proxy) if is_whole(&proxy) => Some(proxy),
        parsed => parse(&format!("http://{text}")).or(parsed),
    }
}

/// What Go's `url.Parse` takes, as far as it matters for a proxy. `None` is its error.
fn parse(text: &str) -> Option<Proxy> {
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    let text = text.split('#').next().unwrap_or_default();
    let (scheme, rest) =
        match text.find(|char: char| !char.is_ascii_alphanumeric() && !"+-.".contains(char)) {
            Some(0) if text.starts_with(':') => return None,
            Some(at)
                if text[at..].starts_with(':')
                    && text.starts_with(|c: char| c.is_ascii_alphabetic()) =>
            {
                (text[..at].to_ascii_lowercase(), &text[at + 1..])
            }
            _ => (String::new(), text),
        };
    let rest = rest.split('?').next().unwrap_or_default();
    let nothing = |scheme: String| {
        Some(Proxy { scheme, user: None, host: String::new(), port: String::new() })
    };
    let Some(rest) = rest.strip_prefix("//") else {
        let first = rest.split('/').next().unwrap_or_default();
        let is_bad = scheme.is_empty() && first.contains(':') || !escapes_are_whole(rest);
        return if is_bad { None } else { nothing(scheme) };
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if user.is_some_and(|user| !is_user(user)) || !escapes_are_whole(path) {
        return None;
    }
    let end = if host.starts_with('[') { Some(host.rfind(']')? + 1) } else { host.rfind(':') };
    let (host, port) = host.split_at(end.unwrap_or(host.len()));
    let port = match port.strip_prefix(':') {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port,
        None if port.is_empty() => port,
        _ => return None,
    };
    let is_host =
        |byte: u8| !byte.is_ascii() || byte.is_ascii_alphanumeric() || HOST.contains(&byte);
    if !host.bytes().all(is_host) {
        return None;
    }
    let host = if host.starts_with('[') { host.to_owned() } else { ascii(host) };
    Some(Proxy { scheme, user: user.map(str::to_owned), host, port: port.to_owned() })
}

/// What may stand in a host besides letters and digits (`shouldEscape`, `encodeHost`). Escapes are
/// not read: a name with one is none.
const HOST: &[u8] = b"-_.~!$&'()*+,;=:[]<>\"";

fn is_user(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    text.bytes().all(allowed) && escapes_are_whole(text)
}

fn escapes_are_whole(text: &str) -> bool {
    let is_whole = |part: &str| {
        let mut bytes = part.bytes();
        let mut digit = || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
        digit() && digit()
    };
    text.split('%').skip(1).all(is_whole)
}

#[cfg(test)]
mod tests;
