//! Whether a server is who it says, as Go's `crypto/x509` finds it where rustls finds something
//! else. All that is checked beyond that is rustls's.
//!
//! Terraform's client of the table must take what ours takes: below us it only logs that it does
//! not, and the state is written without its digest.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Version};
use x509_parser::public_key::PublicKey;

use super::go_certificate::{unhandled, unreadable};

/// Verifies the certificates of servers.
#[derive(Debug)]
pub(super) struct Verifier {
    /// Each is trusted by itself, whatever it says of authorities.
    trusted: Vec<CertificateDer<'static>>,
    /// The name and the key of each that can be one of an authority, and which of the trusted it is. All else
    /// is read of those few that may have signed what a server shows: a system has 150, and that takes a
    /// millisecond.
    anchors: Vec<(TrustAnchor<'static>, usize)>,
    algorithms: WebPkiSupportedAlgorithms,
    /// What names the bundle, if it is one.
    bundle: Option<String>,
}

/// From and to, in Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity(i64, i64);

impl Validity {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self(validity.not_before.timestamp(), validity.not_after.timestamp())
    }

    fn check(self, now: UnixTime) -> Result<(), CertificateError> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        match self {
            Self(from, _) if now < from => Err(CertificateError::NotValidYet),
            Self(_, to) if now > to => Err(CertificateError::Expired),
            Self(..) => Ok(()),
        }
    }
}

impl Verifier {
    pub(super) fn new(
        certificates: &[CertificateDer<'static>],
        bundle: Option<String>,
        provider: &CryptoProvider,
    ) -> Self {
        let trusted = certificates.to_vec();
        let anchors = trusted.iter().enumerate().filter_map(|(index, certificate)| {
            let mut store = RootCertStore::empty();
            store.add(certificate.clone()).ok()?;
            Some((store.roots.pop()?, index))
        });
        let anchors = anchors.collect();
        let algorithms = provider.signature_verification_algorithms;
        Self { trusted, anchors, algorithms, bundle }
    }

    /// The authorities that may have signed any of these now.
    fn issuers_of<'a>(
        &self,
        signed: impl Iterator<Item = &'a CertificateDer<'a>>,
        now: UnixTime,
    ) -> RootCertStore {
        let name = |it| read(it).map(|certificate| certificate.issuer().as_raw().to_vec());
        let names: HashSet<_> = signed.filter_map(name).collect();
        let may_have = |(anchor, index): &&(TrustAnchor<'static>, usize)| {
            names.contains(DistinguishedName::in_sequence(&anchor.subject).as_ref())
                && as_issuer(&self.trusted[*index]).is_some_and(|it| it.check(now).is_ok())
        };
        let issuers = self.anchors.iter().filter(may_have);
        RootCertStore { roots: issuers.map(|(anchor, _)| anchor.clone()).collect() }
    }

    /// What one of the trusted has, for which Go does not take it.
    fn left_out(&self) -> Option<String> {
        let mut all = self.trusted.iter().filter_map(read);
        all.find_map(|it| unreadable(&it).or_else(|| unhandled(&it)))
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let certificate = read(leaf).ok_or(CertificateError::BadEncoding)?;
        if let Some(why) = unhandled(&certificate) {
            return Err(distrust(format!("its certificate has {why}")));
        }
        if let Some(bits) = rsa_bits(&certificate).filter(|bits| *bits < RSA_BITS) {
            return Err(distrust(format!(
                "its certificate has an RSA key of {bits} bits; tfwrap accepts no RSA key of less \
                 than {RSA_BITS}"
            )));
        }
        let parsed = ParsedCertificate::try_from(leaf)?;
        // Go reads all that is sent, whether it is of use or not.
        for sent in std::iter::once(leaf).chain(intermediates) {
            let certificate = read(sent).ok_or(CertificateError::BadEncoding)?;
            if let Some(why) = unreadable(&certificate) {
                return Err(distrust(format!(
                    "its certificate, or one beside it, has {why}, which Terraform refuses"
                )));
            }
        }
        if self.trusted.iter().any(|it| it == leaf) {
            Validity::of(&certificate).check(now)?;
            if !is_for_servers(&certificate) {
                return Err(CertificateError::InvalidPurpose.into());
            }
        } else {
            let roots = self.issuers_of(std::iter::once(leaf).chain(intermediates), now);
            let algorithms = self.algorithms.all;
            // WebPKI passes over what the key of an issuer is for.
            let may_sign = intermediates.iter().filter(|it| as_issuer(it).is_some());
            let intermediates = may_sign.cloned().collect::<Vec<_>>();
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &roots,
                &intermediates,
                now,
                algorithms,
            )?;
        }
        verify_server_name(&parsed, name)
    }

    /// The same error with its reason in words.
    fn in_words(&self, error: Error) -> Error {
        match error {
            Error::InvalidCertificate(why) => distrust(self.words(&why)),
            error => error,
        }
    }

    fn words(&self, why: &CertificateError) -> String {
        use CertificateError as It;
        match why {
            It::Other(OtherError(why)) if why.is::<Distrust>() => why.to_string(),
            It::Expired | It::ExpiredContext { .. } => "its certificate has expired".to_owned(),
            It::NotValidYet | It::NotValidYetContext { .. } => {
                "its certificate is not valid yet".to_owned()
            }
            It::UnknownIssuer => match &self.bundle {
                Some(bundle) => {
                    let left_out = self.left_out().map_or_else(String::new, |why| {
                        format!("; one certificate in there has {why}, so it does not count")
                    });
                    format!(
                        "its certificate is neither in {bundle}, nor signed by an authority in \
                         there that is valid and may sign (`CA:TRUE`){left_out}"
                    )
                }
                None => format!(
                    "its certificate is not signed by an authority that the system trusts; \
                     {PRIVATE}"
                ),
            },
            It::BadSignature => {
                let (place, more) = match &self.bundle {
                    Some(bundle) => (bundle.as_str(), String::new()),
                    None => ("what the system trusts", format!("; {PRIVATE}")),
                };
                format!(
                    "its certificate is not signed by the authority of that name in {place}, or is \
                     signed with an RSA key of less than {RSA_BITS} bits, which tfwrap does not \
                     accept{more}"
                )
            }
            It::NotValidForNameContext { expected, presented } => {
                let names = presented.iter().take(NAMES).map(|name| format!("`{}`", plain(name)));
                let names = names.collect::<Vec<_>>().join(", ");
                let for_others =
                    if names.is_empty() { String::new() } else { format!(", but for {names}") };
                format!("its certificate is not for `{}`{for_others}", expected.to_str())
            }
            It::NotValidForName => "its certificate is for another name".to_owned(),
            It::InvalidPurpose | It::InvalidPurposeContext { .. } => {
                "its certificate is not for servers (`extendedKeyUsage`)".to_owned()
            }
            other => {
                let other = format!("{other:?}");
                if other.contains("CaUsedAsEndEntity") {
                    "its certificate is an authority's (`CA:TRUE`) and signed by another \
                     authority; tfwrap accepts such a certificate only if it is itself in \
                     `custom_ca_bundle` or `AWS_CA_BUNDLE`"
                        .to_owned()
                } else if other.starts_with("UnsupportedSignatureAlgorithm") {
                    "its certificate is signed in a way that tfwrap does not accept: with a P-521 \
                     key or by SHA-1, for instance"
                        .to_owned()
                } else if other.contains("NameConstraintViolation") {
                    "its certificate is for a name that an authority above it may not certify \
                     (`nameConstraints`)"
                        .to_owned()
                } else {
                    format!("its certificate cannot be used: `{}`", plain(&other))
                }
            }
        }
    }
}

const PRIVATE: &str = "put a private one into `custom_ca_bundle` or `AWS_CA_BUNDLE`";

/// So many of a certificate's names are shown.
const NAMES: usize = 3;

/// The start of what a server may have written.
fn plain(text: &str) -> String {
    let inner = |begin, end| text.strip_prefix(begin)?.strip_suffix(end);
    let text = inner("DnsName(\"", "\")").or_else(|| inner("IpAddress(", ")")).unwrap_or(text);
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(100).collect()
}

/// Why a server is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Distrust(String);

fn distrust(text: String) -> Error {
    CertificateError::Other(OtherError(Arc::new(Distrust(text)))).into()
}

/// The shortest RSA key that TLS for Rust takes.
const RSA_BITS: usize = 2048;

/// How long its key is, if it is one of RSA.
fn rsa_bits(certificate: &X509Certificate<'_>) -> Option<usize> {
    match certificate.public_key().parsed().ok()? {
        PublicKey::RSA(key) => Some(key.key_size()),
        _ => None,
    }
}

fn read<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
    rest.is_empty().then_some(certificate)
}

/// When it may have signed others; `None`: never. rustls takes an anchor's word for nothing but its
/// name and its key; Go checks it like any other.
fn as_issuer(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let certificate = read(certificate)?;
    let may_sign = match certificate.basic_constraints().ok()? {
        Some(constraints) => constraints.value.ca,
        None => certificate.version() != X509Version::V3,
    };
    let key_may = certificate.key_usage().ok()?.is_none_or(|usage| usage.value.key_cert_sign());
    let is_taken = unreadable(&certificate).is_none() && unhandled(&certificate).is_none();
    (may_sign && key_may && is_taken && is_for_servers(&certificate))
        .then(|| Validity::of(&certificate))
}

fn is_for_servers(certificate: &X509Certificate<'_>) -> bool {
    certificate
        .extended_key_usage()
        .is_ok_and(|usage| usage.is_none_or(|usage| usage.value.any || usage.value.server_auth))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.verify(leaf, intermediates, name, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(self.in_words(error)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
            .map_err(|error| self.in_words(error))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
            .map_err(|error| self.in_words(error))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signed by itself for `localhost`, with an RSA key of 1024 bits.
    const SHORT: &str = "MIICGTCCAYKgAwIBAgIUVLu01sIZFwU6uf5CwdyveVrGfLswDQYJKoZIhvcNAQELBQAwFDESMBAGA1UEAwwJbG9jYW\
        xob3N0MCAXDTI2MTEyOTE1MjQwMloYDzIxMjYxMTA1MTUyNDAyWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwgZ8wDQYJ\
        KoZIhvcNAQEBBQADgY0AMIGJAoGBANr5/FdS4o+WVf2qEW8tlfo+FBHrZsRnMeBuNn5CgjGWRqZsEsOUGNoCvHhYxz\
        QaV/wQBUiQOKzMdunCI+fKFSwyK+HobvgC4RxB5WF8jr2QvfsTC9hj0/ARSlz+Zj51gY6jTYSlq74svjnbK2JkzC6Q\
        EOXIQaZjc8op78/RZmUBAgMBAAGjZjBkMB0GA1UdDgQWBBRCRN9Iur0fPlR2gLVyK32ULXN7XjAfBgNVHSMEGDAWgB\
        RCRN9Iur0fPlR2gLVyK32ULXN7XjAUBgNVHREEDTALgglsb2NhbGhvc3QwDAYDVR0TAQH/BAIwADANBgkqhkiG9w0B\
        AQsFAAOBgQDHYzx2nyxgOAtVrQ3Smv7dNlpPsi69+Y+L+gT3m4V0oFagR8f4YSaGilODPXcqmGq0NXQxStHBLPBCE7\
        2zuhpEHGpu2fz7xorks9q6kcSoAvpJQD9XNxdeZaOBilZJWAf+lhq4iP3VDmlS2DWdhnj2nOqae+nUZhkFxRqFzdFP\
        Sw==";

    #[test]
    fn a_short_key_is_not_called_a_wrong_signature() {
        let der = aws_smithy_types::base64::decode(SHORT).unwrap();
        let leaf = CertificateDer::from(der);
        let provider = rustls::crypto::ring::default_provider();
        let name = ServerName::try_from("localhost").unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(2_000_000_000));
        for bundle in [vec![leaf.clone()], Vec::new()] {
            let verifier = Verifier::new(&bundle, None, &provider);
            let error = verifier.verify_server_cert(&leaf, &[], &name, &[], now).unwrap_err();
            let says = "has an RSA key of 1024 bits";
            assert!(format!("{error:?}").contains(says), "{error:?}");
        }
    }
}
