//! Whose certificate is taken, beside what Go's `crypto/x509` takes: below us Terraform only logs
//! that it refuses one, and writes the state without its digest.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use tfwrap::backend::AwsSettings;
use tfwrap::store::StoreError;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::aws_settings::read;
use crate::support::recorder::Recorder;
use crate::support::servers::{aws_settings, serve};
use crate::wrapped::uptime;

type Change = fn(&mut CertificateParams);

const CA: Change = |it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
const NONE: Change = |_| {};
const ENDED: Change = |it| it.not_after = date_time_ymd(2020, 1, 1);
const FOR_CLIENTS: Change = |it| {
    it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
};

/// What is in the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bundle {
    Authority,
    Leaf,
    Both,
    Another,
    Namesake,
}

fn params(name: &str, changes: &[Change]) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    for change in changes {
        change(&mut params);
    }
    params
}

fn serving(leaf: &Certificate, key: &KeyPair) -> Recorder {
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // `with_single_cert` would look through the certificate, too.
    let private = any_supported_type(&private).unwrap();
    let certified = CertifiedKey::new(vec![leaf.der().clone()], private);
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    Recorder::with_tls(TlsAcceptor::from(Arc::new(config)))
}

/// What comes of asking a server with this leaf with a bundle of these.
async fn asked(leaf: &Certificate, key: &KeyPair, bundle: &str) -> Result<(), String> {
    let server = serving(leaf, key);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, bundle).unwrap();
    let settings = AwsSettings { ca_bundle: Some(path), ..aws_settings(&server.url) };
    match read(&settings).await {
        Ok(None) => Ok(()),
        Err(StoreError::Misconfigured(flaw)) => {
            assert!(flaw.text.contains(" is not trusted: its certificate"), "{flaw}");
            assert!(flaw.text.len() < 500 && !flaw.text.contains('\n'), "{flaw}");
            assert!(server.requests().is_empty());
            Err(flaw.text)
        }
        other => panic!("{other:?}"),
    }
}

/// Terraform 1.11 takes and refuses the same.
#[tokio::test]
async fn a_certificate_of_the_bundle_is_trusted_by_itself() {
    for (changes, says) in [
        (&[CA][..], None),
        (&[NONE], None),
        (&[|it: &mut CertificateParams| it.is_ca = IsCa::ExplicitNoCa], None),
        (&[CA, ENDED], Some("has expired")),
        (&[ENDED], Some("has expired")),
        (&[CA, |it| it.not_before = date_time_ymd(4000, 1, 1)], Some("is not valid yet")),
        (&[CA, FOR_CLIENTS], Some("is not for servers (`extendedKeyUsage`)")),
    ] {
        let key = KeyPair::generate().unwrap();
        let leaf = params("localhost", changes).self_signed(&key).unwrap();
        let result = asked(&leaf, &key, &leaf.pem()).await;
        let told = result.as_ref().err();
        assert_eq!(told.is_some(), says.is_some(), "{told:?}");
        assert!(says.is_none_or(|says| told.unwrap().ends_with(says)), "{says:?}: {told:?}");
    }
    let key = KeyPair::generate().unwrap();
    let other = params("other.test", &[CA]).self_signed(&key).unwrap();
    let told = asked(&other, &key, &other.pem()).await.unwrap_err();
    assert!(told.ends_with("is not for `localhost`, but for `other.test`"), "{told}");
}

#[tokio::test]
async fn an_authority_of_the_bundle_is_one_by_its_own_word() {
    const NOBODY: Option<&str> = Some("nor signed by an authority in there");
    for (authority, leaf, bundle, says) in [
        (&[CA][..], NONE, Bundle::Authority, None),
        (&[CA], NONE, Bundle::Both, None),
        (&[CA], NONE, Bundle::Leaf, None),
        (&[CA], NONE, Bundle::Another, NOBODY),
        (&[CA], NONE, Bundle::Namesake, Some("not signed by the authority of that name in the CA")),
        // Without `basicConstraints`, or with another word in it.
        (&[NONE], NONE, Bundle::Authority, NOBODY),
        (
            &[|it: &mut CertificateParams| it.is_ca = IsCa::ExplicitNoCa],
            NONE,
            Bundle::Authority,
            NOBODY,
        ),
        (
            &[CA, |it| it.key_usages = vec![KeyUsagePurpose::DigitalSignature]],
            NONE,
            Bundle::Authority,
            NOBODY,
        ),
        (
            &[CA, |it| it.key_usages = vec![KeyUsagePurpose::KeyCertSign]],
            NONE,
            Bundle::Authority,
            None,
        ),
        (&[CA, ENDED], NONE, Bundle::Authority, NOBODY),
        (&[CA, FOR_CLIENTS], NONE, Bundle::Authority, NOBODY),
        (&[CA], ENDED, Bundle::Authority, Some("has expired")),
        // Terraform takes it.
        (&[CA], CA, Bundle::Authority, Some("is an authority's (`CA:TRUE`) and signed by another")),
        (&[CA], CA, Bundle::Both, None),
        (&[CA], CA, Bundle::Leaf, None),
    ] {
        let issuer = |name, changes| {
            let key = KeyPair::generate().unwrap();
            CertifiedIssuer::self_signed(params(name, changes), key).unwrap()
        };
        let ours = issuer("authority", authority);
        let key = KeyPair::generate().unwrap();
        let leaf = params("localhost", &[leaf]).signed_by(&key, &ours).unwrap();
        let text = match bundle {
            Bundle::Authority => ours.pem(),
            Bundle::Leaf => leaf.pem(),
            Bundle::Both => ours.pem() + &leaf.pem(),
            Bundle::Another => issuer("another", &[CA]).pem(),
            Bundle::Namesake => issuer("authority", &[CA]).pem(),
        };
        let result = asked(&leaf, &key, &text).await;
        let told = result.as_ref().err();
        assert_eq!(told.is_some(), says.is_some(), "{bundle:?} {told:?}");
        assert!(says.is_none_or(|says| told.unwrap().contains(says)), "{says:?}: {told:?}");
    }
}

/// An extension with this content, which must be understood.
fn critical(it: &mut CertificateParams, id: &[u64], content: &[u8]) {
    let mut extension = CustomExtension::from_oid_content(id, content.to_vec());
    extension.set_criticality(true);
    it.custom_extensions.push(extension);
}

/// In the authority each was seen to be refused by Terraform 1.11, and the URI in the leaf.
#[tokio::test]
async fn what_go_does_not_handle_is_not_trusted() {
    const UNKNOWN: Change = |it| critical(it, &[1, 2, 3, 4], &[5, 0]);
    const INHIBITS: Change = |it| critical(it, &[2, 5, 29, 54], &[2, 1, 0]);
    const POLICIES: Change = |it| critical(it, &[2, 5, 29, 36], &[0x30, 3, 0x80, 1, 0]);
    // Of the kind `registeredID`.
    const REGISTERED: Change = |it| {
        critical(it, &[2, 5, 29, 30], &[0x30, 8, 0xa0, 6, 0x30, 4, 0x88, 2, 0x2a, 3]);
    };
    const URI: Change = |it| {
        it.subject_alt_names.push(SanType::URI("http://a b/%".try_into().unwrap()));
    };
    const SPIFFE: Change = |it| {
        it.subject_alt_names.push(SanType::URI("spiffe://a.test/ns/b".try_into().unwrap()));
    };
    const NOT_CRITICAL: Change = |it| {
        it.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]));
    };
    for (change, of_leaf_too, says) in [
        (UNKNOWN, true, Some("`1.2.3.4`")),
        (INHIBITS, true, Some("`2.5.29.54`")),
        (POLICIES, true, Some("`2.5.29.36`")),
        (REGISTERED, false, Some("`2.5.29.30`")),
        (URI, true, Some("not plain")),
        (SPIFFE, true, None),
        (NOT_CRITICAL, true, None),
    ] {
        for in_leaf in [false, true] {
            if in_leaf && !of_leaf_too {
                continue;
            }
            let (of_authority, of_leaf) = if in_leaf { (NONE, change) } else { (change, NONE) };
            let authority = params("authority", &[CA, of_authority]);
            let key = KeyPair::generate().unwrap();
            let authority = CertifiedIssuer::self_signed(authority, key).unwrap();
            let key = KeyPair::generate().unwrap();
            let leaf = params("localhost", &[of_leaf]).signed_by(&key, &authority).unwrap();
            let result = asked(&leaf, &key, &authority.pem()).await;
            let told = result.as_ref().err();
            assert_eq!(told.is_some(), says.is_some(), "{in_leaf} {says:?}: {told:?}");
            assert!(says.is_none_or(|says| told.unwrap().contains(says)), "{says:?}: {told:?}");
            // By itself it is not trusted either.
            let result = asked(&leaf, &key, &leaf.pem()).await;
            assert_eq!(result.is_err(), in_leaf && says.is_some(), "{says:?}: {result:?}");
        }
    }
}

/// A server that has nothing in common with us says so, and it does no good to ask it again.
#[tokio::test]
async fn a_server_of_other_ciphers_is_told_at_once() {
    // An alert: fatal, handshake failure.
    let server: SocketAddr = serve(|listener| async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            drop(connection.write_all(&[21, 3, 3, 0, 2, 2, 40]).await);
        }
    });
    let begun = uptime();
    let url = format!("https://localhost:{}", server.port());
    let error = read(&aws_settings(&url)).await.unwrap_err();
    let StoreError::Misconfigured(flaw) = &error else { panic!("{error:?}") };
    assert!(flaw.text.contains("no TLS parameters in common"), "{flaw}");
    assert!(uptime().since(begun) < Duration::from_secs(5));
}
