//! A CA that can sign: its certificate and key out of a Secret, checked as a whole.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Clocks of nodes may be behind.
const BEFORE: u64 = 3600;
/// More of a common name no reader has to take (RFC 5280, `ub-common-name`).
const COMMON_NAME_MAX: usize = 64;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    /// The CA that somebody else should have made.
    #[error("there is no Secret {0} yet: spec.authoritySecret names it, and who makes it has to")]
    NoAuthority(String),
    /// A Secret that cannot sign.
    #[error("Secret {secret} is no CA: {what}")]
    NotACa {
        /// Which.
        secret: String,
        /// What is wrong with it.
        what: String,
    },
    /// A certificate could not be made.
    #[error("could not make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// What a certificate says.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    /// Its common name, if that is short enough.
    pub(crate) common: &'a str,
    /// Its alternative names.
    pub(crate) names: &'a [&'a str],
    /// What it is for.
    pub(crate) usages: &'a [ExtendedKeyUsagePurpose],
}

/// A CA that can sign.
pub(crate) struct Ca {
    /// Its certificate alone.
    pub(crate) pem: String,
    /// When it ends.
    pub(crate) not_after: Timestamp,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// Reads `tls.crt` and `tls.key`. Of a chain only the first certificate counts: whoever signed this CA signs others,
    /// too, and is not trusted for it.
    pub(crate) fn read(secret: &Secret) -> Result<Self, PkiError> {
        let wrong = |what: &str| PkiError::NotACa {
            secret: secret.name_any(),
            what: what.to_owned(),
        };
        let cert = text(secret, "tls.crt").ok_or_else(|| wrong("it has no tls.crt"))?;
        let key = text(secret, "tls.key").ok_or_else(|| wrong("it has no tls.key"))?;
        let found = pems(cert).into_iter().next();
        let first = found.ok_or_else(|| wrong("tls.crt is no certificate"))?;
        let (_, parsed) = X509Certificate::from_der(&first.contents)
            .map_err(|_| wrong("tls.crt cannot be read"))?;
        if !parsed.is_ca() {
            return Err(wrong("its certificate may not sign others"));
        }
        let key = KeyPair::from_pem(key).map_err(|_| wrong("tls.key cannot be read"))?;
        if key.public_key_raw() != &*parsed.public_key().subject_public_key.data {
            return Err(wrong("tls.key is not the key of tls.crt"));
        }
        let not_after = end(&parsed);
        let issuer = Issuer::from_ca_cert_der(&first.contents.as_slice().into(), key)?;
        Ok(Self {
            pem: pem_of(&first.contents),
            not_after,
            issuer,
        })
    }

    /// A certificate for `key`: never longer than the CA lasts.
    pub(crate) fn issue(
        &self,
        subject: &Subject<'_>,
        key: &impl PublicKeyData,
        life: Duration,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let mut params = lasting(now, later(now, life).min(self.not_after));
        if subject.common.len() <= COMMON_NAME_MAX {
            let name = &mut params.distinguished_name;
            name.push(DnType::CommonName, subject.common);
        }
        for name in subject.names {
            // As a name also where it looks like an address: readers look for it among the names.
            let name = (*name).to_owned().try_into()?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.extended_key_usages = subject.usages.to_vec();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

/// A new CA's certificate and key.
pub(crate) fn new(life: Duration, now: Timestamp) -> Result<(String, String), PkiError> {
    let mut params = lasting(now, later(now, life));
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "Lamina internal CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn lasting(from: Timestamp, until: Timestamp) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |time: Timestamp| time.as_second().max(0).unsigned_abs();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = epoch + Duration::from_secs(at(from).saturating_sub(BEFORE));
    params.not_after = epoch + Duration::from_secs(at(until));
    params
}

/// When a PEM certificate begins and ends; none if it cannot be read.
pub(crate) fn validity(pem: &str) -> Option<(Timestamp, Timestamp)> {
    let first = pems(pem).into_iter().next()?;
    let (_, parsed) = X509Certificate::from_der(&first.contents).ok()?;
    let begin = Timestamp::from_second(parsed.validity().not_before.timestamp()).ok()?;
    Some((begin, end(&parsed)))
}

fn end(certificate: &X509Certificate<'_>) -> Timestamp {
    let seconds = certificate.validity().not_after.timestamp();
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// Every certificate of a PEM file, each as PEM again.
pub(crate) fn each(bundle: &str) -> Vec<String> {
    let all = pems(bundle);
    all.iter().map(|pem| pem_of(&pem.contents)).collect()
}

fn pems(text: &str) -> Vec<Pem> {
    Pem::iter_from_buffer(text.as_bytes())
        .map_while(Result::ok)
        .filter(|pem| pem.label == "CERTIFICATE")
        .collect()
}

/// PEM as everybody writes it, so that equal certificates are equal texts (RFC 7468).
fn pem_of(der: &[u8]) -> String {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = base64
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("base64 is ASCII"))
        .collect();
    let body = lines.join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

/// `now` and `life`.
pub(crate) fn later(now: Timestamp, life: Duration) -> Timestamp {
    now.checked_add(life).unwrap_or(Timestamp::MAX)
}

/// A key of a Secret that is text.
pub(crate) fn text<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    std::str::from_utf8(&secret.data.as_ref()?.get(key)?.0).ok()
}
