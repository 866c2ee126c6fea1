//! Whom TLS trusts: one bundle, or what the system has, found as Go finds it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use aws_smithy_types::base64;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::super::blocking::reason;
use super::super::{FlawKind, StoreError};
use super::file;
use super::profile::InUse;
use super::verifier::Verifier;
use crate::backend::AwsSettings;
use crate::env::Env;

/// Where systems have all their certificates in one file; the first that can be read counts. This
/// list and the next are those of Go's `crypto/x509` for Linux.
const FILES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where they have files of them; all count.
const DIRECTORIES: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// What is trusted. Read when it is needed, for the system has many.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    from: From,
    read: Arc<Read>,
}

#[derive(Debug, Default)]
struct Read {
    to_proxies: OnceLock<TlsContext>,
    tls: OnceLock<Arc<ClientConfig>>,
}

#[derive(Debug, Clone)]
enum From {
    /// And what it is called.
    Bundle(Arc<Vec<CertificateDer<'static>>>, String),
    System {
        files: Vec<PathBuf>,
        directories: Vec<PathBuf>,
    },
}

impl Trust {
    /// A bundle of the configuration, the environment or the profile replaces what the system has.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(super) fn of(settings: &AwsSettings, profile: &InUse) -> Result<Self, StoreError> {
        let of_profile = || Some(settings.dir.join(profile.profile()?.text("ca_bundle")?));
        let from = match settings.ca_bundle.clone().or_else(of_profile) {
            Some(path) => {
                let shown = shown(&path, &set_by(settings, profile, &path));
                From::Bundle(Arc::new(bundle(&path, &shown)?), shown)
            }
            None => system(&settings.env, &settings.dir),
        };
        Ok(Self { from, read: Arc::default() })
    }

    /// For a client of whoever is asked.
    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        let made = self.read.tls.get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let bundle = match &self.from {
                From::Bundle(_, shown) => Some(shown.clone()),
                From::System { .. } => None,
            };
            let verifier = Verifier::new(&self.certificates(), bundle, &provider);
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider has suites of both")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth();
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Arc::new(config)
        });
        Arc::clone(made)
    }

    /// For the SDK's client of a proxy that is spoken to by TLS and passes on what is not.
    pub(super) fn to_proxies(&self) -> TlsContext {
        let made = self.read.to_proxies.get_or_init(|| {
            let store = store(&self.certificates());
            TlsContext::builder().with_trust_store(store).build().unwrap_or_default()
        });
        made.clone()
    }

    fn certificates(&self) -> Cow<'_, [CertificateDer<'static>]> {
        match &self.from {
            From::Bundle(certificates, _) => Cow::Borrowed(certificates.as_slice()),
            From::System { files, directories } => Cow::Owned(of_system(files, directories)),
        }
    }
}

/// `SSL_CERT_FILE` replaces the files and `SSL_CERT_DIR` the directories, each without the other.
fn system(env: &Env, dir: &Path) -> From {
    let files = match env.get_os("SSL_CERT_FILE") {
        Some(file) => vec![dir.join(file)],
        None => FILES.map(PathBuf::from).to_vec(),
    };
    let directories = match env.get("SSL_CERT_DIR") {
        Some(all) => all.split(':').map(|it| dir.join(it)).collect(),
        None => DIRECTORIES.map(PathBuf::from).to_vec(),
    };
    From::System { files, directories }
}

fn of_system(files: &[PathBuf], directories: &[PathBuf]) -> Vec<CertificateDer<'static>> {
    let mut all = HashSet::new();
    if let Some(text) = files.iter().find_map(|path| file::read(path).ok()) {
        all.extend(usable(&text).0);
    }
    let entries = directories.iter().filter_map(|it| fs::read_dir(it).ok());
    for entry in entries.flatten().filter_map(Result::ok) {
        let path = entry.path();
        // A link beside its target is that once more.
        let is_again = fs::read_link(&path).is_ok_and(|to| to.components().count() == 1);
        if !is_again && let Ok(text) = file::read(&path) {
            all.extend(usable(&text).0);
        }
    }
    all.into_iter().collect()
}

/// What names the bundle, for messages.
fn set_by(settings: &AwsSettings, profile: &InUse, path: &Path) -> String {
    if settings.ca_bundle.is_none() {
        return format!("`ca_bundle` of {}", profile.shown());
    }
    let of_env = settings.env.get_os("AWS_CA_BUNDLE").map(|file| settings.dir.join(file));
    match of_env {
        Some(file) if file == path => "`AWS_CA_BUNDLE`".to_owned(),
        _ => "`custom_ca_bundle` of the backend".to_owned(),
    }
}

fn shown(path: &Path, set_by: &str) -> String {
    format!("the CA bundle `{}` of {set_by}", path.display())
}

fn bundle(path: &Path, shown: &str) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let fail =
        |why: String| StoreError::Misconfigured(FlawKind::CaBundle.flaw(format!("{shown} {why}")));
    let text =
        file::read(path).map_err(|error| fail(format!("cannot be read: {}", reason(&error))))?;
    match usable(&text) {
        (certificates, _) if !certificates.is_empty() => Ok(certificates),
        (_, Some(error)) => Err(fail(format!("is not in PEM format: {error}"))),
        (_, None) => Err(fail("has no usable certificate in PEM format".to_owned())),
    }
}

/// The certificates of a text, and why it was read no further. Those that cannot be used are left
/// out, as Go does; the client would panic on them.
fn usable(text: &[u8]) -> (Vec<CertificateDer<'static>>, Option<rustls::pki_types::pem::Error>) {
    let (mut found, mut check) = (Vec::new(), RootCertStore::empty());
    for certificate in CertificateDer::pem_slice_iter(text) {
        match certificate {
            Ok(certificate) if check.add(certificate.clone()).is_ok() => found.push(certificate),
            Ok(_) => {}
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}

fn store(certificates: &[CertificateDer<'static>]) -> TrustStore {
    let mut store = TrustStore::empty();
    for certificate in certificates {
        let body = base64::encode(certificate);
        store.add_pem_certificate(format!(
            "-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
        ));
    }
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_ca_bundle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let settings = AwsSettings { ca_bundle: Some(path.clone()), ..AwsSettings::default() };
        let by_variable = AwsSettings {
            env: [("AWS_CA_BUNDLE", path.clone())].into_iter().collect(),
            ..settings.clone()
        };
        let refused = |why: &str| {
            for (settings, by) in [
                (&settings, "`custom_ca_bundle` of the backend"),
                (&by_variable, "`AWS_CA_BUNDLE`"),
            ] {
                let error = Trust::of(settings, &InUse::default()).unwrap_err();
                let StoreError::Misconfigured(flaw) = error else { panic!("{error:?}") };
                assert_eq!(flaw.kind, FlawKind::CaBundle);
                let start = format!("the CA bundle `{}` of {by} ", path.display());
                assert!(flaw.text.starts_with(&start) && flaw.text.contains(why), "{flaw}");
            }
        };
        refused("no such file");
        fs::write(&path, "garbage").unwrap();
        refused("no usable certificate");
        fs::write(&path, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").unwrap();
        refused("not in PEM form");
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        refused("no usable certificate");
    }

    #[test]
    fn the_systems_certificates_are_those_of_the_first_file_and_of_all_directories() {
        let dir = tempfile::tempdir().unwrap();
        let pem = || {
            let params = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("first", &pem());
        file("second", &[pem(), pem()].concat());
        file("d/one", &[pem(), pem()].concat());
        file("d/bad", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        std::os::unix::fs::symlink("one", dir.path().join("d/again")).unwrap();
        let count = |vars: &[(&str, &str)]| {
            let env = vars.iter().copied().collect();
            let From::System { files, directories } = system(&env, dir.path()) else { panic!() };
            of_system(&files, &directories).len()
        };
        let none = "nowhere";
        for (file, directories, expected) in [
            ("first", none, 1),
            ("second", none, 2),
            (none, none, 0),
            (none, "d", 2),
            ("first", "d", 3),
            ("first", "d:nowhere:d", 3),
        ] {
            let vars = [("SSL_CERT_FILE", file), ("SSL_CERT_DIR", directories)];
            assert_eq!(count(&vars), expected, "{vars:?}");
        }
        // Empty is unset, and the one does not switch the other off.
        let From::System { files, directories } = system(
            &[("SSL_CERT_FILE", ""), ("SSL_CERT_DIR", "/d")].into_iter().collect(),
            dir.path(),
        ) else {
            panic!()
        };
        assert_eq!((files.len(), directories), (FILES.len(), vec![PathBuf::from("/d")]));
        let Trust { from: From::System { .. }, .. } =
            Trust::of(&AwsSettings::default(), &InUse::default()).unwrap()
        else {
            panic!()
        };
    }
}
