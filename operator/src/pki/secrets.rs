//! Which Secrets have to be written so that every certificate is good for a while. No I/O.
//!
//! A CA that is new is published at once and signs ten minutes later: by then every pod has been given it. One that was
//! replaced is trusted for two days more: by then every certificate that it signed has been replaced or has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use serde_json::json;

use super::authority::{self, Ca, PkiError, Subject, later, text, validity};
use super::{
    AFSLET_NAME, AFSLET_SECRET, AUTHORITY_SECRET, CA_SECRET, CLIENT_NAME, CLIENT_SECRET,
    DISCOVERY_NAME, DISCOVERY_SECRET, OPERATOR_NAME, OPERATOR_SECRET, PEER_NAME, PROXY_NAME,
    PROXY_SECRET, USER_NAME, USER_SECRET,
};

/// Secret whose CA signs.
const SIGNER: &str = "lamina.dev/signer";
/// Since when it is published.
const PUBLISHED: &str = "lamina.dev/published";
/// From when on it signs.
const SIGNS_FROM: &str = "lamina.dev/signs-from";
/// Digest of the CA that signed a certificate.
const ISSUED_BY: &str = "lamina.dev/issued-by";

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_LIFE: Duration = DAY.saturating_mul(3650);
const CA_RENEWED_BEFORE: Duration = DAY.saturating_mul(365);
const LEAF_LIFE: Duration = DAY.saturating_mul(90);
/// Kubelet brings a changed Secret to its pods within two minutes, and programs look every ten seconds.
const SPREADS: Duration = Duration::from_secs(600);
/// Twice the life of a node's certificate.
const RETIRES: Duration = DAY.saturating_mul(2);
/// Trusted at once, whatever happens to the CA.
const TRUSTED_MAX: usize = 8;

/// A certificate in a Secret.
struct Leaf {
    secret: &'static str,
    /// The first one is its common name, too.
    names: &'static [&'static str],
    usages: &'static [ExtendedKeyUsagePurpose],
}

const SERVES: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ServerAuth];
const ASKS: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ClientAuth];
const BOTH: &[ExtendedKeyUsagePurpose] = &[
    ExtendedKeyUsagePurpose::ServerAuth,
    ExtendedKeyUsagePurpose::ClientAuth,
];

const LEAVES: [Leaf; 6] = [
    Leaf {
        secret: OPERATOR_SECRET,
        names: &[OPERATOR_NAME],
        usages: SERVES,
    },
    Leaf {
        secret: DISCOVERY_SECRET,
        names: &[DISCOVERY_NAME],
        usages: SERVES,
    },
    Leaf {
        secret: CLIENT_SECRET,
        names: &[CLIENT_NAME],
        usages: ASKS,
    },
    Leaf {
        secret: AFSLET_SECRET,
        names: &[AFSLET_NAME],
        usages: SERVES,
    },
    Leaf {
        secret: PROXY_SECRET,
        // To nodes it is one that may have layers pulled and read.
        names: &[PROXY_NAME, PEER_NAME],
        usages: BOTH,
    },
    Leaf {
        secret: USER_SECRET,
        names: &[USER_NAME],
        usages: ASKS,
    },
];

/// Secrets as they are found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Name of the Secret whose CA somebody else makes and renews.
    pub(crate) given: Option<String>,
    /// Every Secret of ours that there is, and the given one.
    pub(crate) secrets: Vec<Secret>,
}

impl Found {
    fn named(&self, name: &str) -> Option<&Secret> {
        let mut all = self.secrets.iter();
        all.find(|secret| secret.metadata.name.as_deref() == Some(name))
    }
}

/// Secrets to write so that every certificate is good for a while; none if all are.
pub(crate) fn renewed(found: &Found, now: Timestamp) -> Result<Vec<Secret>, PkiError> {
    let mut written = Vec::new();
    let (ca, made) = signer(found, now)?;
    let signer = found.given.as_deref().unwrap_or(CA_SECRET);
    written.extend(made);
    let old = found.named(AUTHORITY_SECRET);
    let published = published(old, signer, &ca, now);
    let trusted = text(&published, "ca.crt").unwrap_or_default().to_owned();
    let waits = time(&published, SIGNS_FROM).is_some_and(|from| from > now);
    if old.is_none_or(|old| differs(old, &published)) {
        written.push(published);
    }
    for leaf in &LEAVES {
        let old = found.named(leaf.secret);
        let new = kept(leaf, &ca, &trusted, waits, old, now)?;
        if old.is_none_or(|old| differs(old, &new)) {
            written.push(new);
        }
    }
    Ok(written)
}

/// From when on the CA that was published last signs; none if none was.
pub(super) fn signs_from(authority: &Secret) -> Option<Timestamp> {
    time(authority, SIGNS_FROM)
}

/// The Secret whose CA signs.
pub(super) fn signer_of(authority: &Secret) -> Option<&str> {
    annotation(authority, SIGNER)
}

/// The CA that signs, and its Secret if that has to be written.
fn signer(found: &Found, now: Timestamp) -> Result<(Ca, Option<Secret>), PkiError> {
    if let Some(name) = &found.given {
        let secret = found.named(name);
        let ca = Ca::read(secret.ok_or_else(|| PkiError::NoAuthority(name.clone()))?)?;
        if ca.not_after <= now {
            let what = "it has ended: who makes it has to renew it".to_owned();
            let secret = name.clone();
            return Err(PkiError::NotACa { secret, what });
        }
        return Ok((ca, None));
    }
    let own = found.named(CA_SECRET).and_then(|own| Ca::read(own).ok());
    if let Some(ca) = own
        && ca.not_after > later(now, CA_RENEWED_BEFORE)
    {
        return Ok((ca, None));
    }
    let (cert, key) = authority::new(CA_LIFE, now)?;
    let data = [
        ("tls.crt", cert.as_str()),
        ("tls.key", &key),
        ("ca.crt", &cert),
    ];
    let secret = secret(CA_SECRET, TLS, &data, &BTreeMap::new());
    Ok((Ca::read(&secret)?, Some(secret)))
}

/// Whom everybody trusts: the CA that signs, and for a while the ones before.
fn published(old: Option<&Secret>, signer: &str, ca: &Ca, now: Timestamp) -> Secret {
    let known = old.and_then(|old| text(old, "ca.crt")).unwrap_or_default();
    let known = authority::each(known);
    let signs = known.first() == Some(&ca.pem);
    let since = |key| old.and_then(|old| time(old, key)).unwrap_or(now);
    let (published, from) = match (signs, known.contains(&ca.pem), known.is_empty()) {
        (true, ..) => (since(PUBLISHED), since(SIGNS_FROM)),
        // One that was replaced is back.
        (_, true, _) => (now, since(SIGNS_FROM).max(now)),
        (_, _, true) => (now, now),
        _ => (now, later(now, SPREADS)),
    };
    let mut trusted = vec![ca.pem.clone()];
    if now <= later(published, RETIRES) {
        let others = known.into_iter().filter(|pem| *pem != ca.pem);
        let lasting = |pem: &String| validity(pem).is_some_and(|(_, end)| end > now);
        trusted.extend(others.filter(lasting).take(TRUSTED_MAX - 1));
    }
    let annotations = BTreeMap::from([
        (SIGNER.to_owned(), signer.to_owned()),
        (PUBLISHED.to_owned(), published.to_string()),
        (SIGNS_FROM.to_owned(), from.to_string()),
    ]);
    let data = [("ca.crt", trusted.concat())];
    let data = data.each_ref().map(|(key, text)| (*key, text.as_str()));
    secret(AUTHORITY_SECRET, "Opaque", &data, &annotations)
}

const TLS: &str = "kubernetes.io/tls";

/// A certificate's Secret as it shall be: the one there is while it is good, with those who are trusted now.
fn kept(
    leaf: &Leaf,
    ca: &Ca,
    trusted: &str,
    waits: bool,
    old: Option<&Secret>,
    now: Timestamp,
) -> Result<Secret, PkiError> {
    let issuer = blake3::hash(ca.pem.as_bytes()).to_hex();
    if let Some(old) = old
        && let (Some(cert), Some(key)) = (text(old, "tls.crt"), text(old, "tls.key"))
        && let Some(by) = annotation(old, ISSUED_BY)
        && let Some(left) = left(cert, now)
        && ((left.is_long && by == issuer.as_str()) || (left.is_some && waits))
    {
        return Ok(whole(leaf, cert, key, trusted, by));
    }
    let key = KeyPair::generate()?;
    let subject = Subject {
        common: leaf.names[0],
        names: leaf.names,
        usages: leaf.usages,
    };
    let cert = ca.issue(&subject, &key, LEAF_LIFE, now)?;
    Ok(whole(leaf, &cert, &key.serialize_pem(), trusted, &issuer))
}

/// What is left of a certificate.
struct Left {
    /// A third of its life, or more.
    is_long: bool,
    /// Anything.
    is_some: bool,
}

fn left(cert: &str, now: Timestamp) -> Option<Left> {
    let (begin, end) = validity(cert)?;
    let (life, rest) = (
        end.as_second() - begin.as_second(),
        end.as_second() - now.as_second(),
    );
    Some(Left {
        is_long: rest > life / 3,
        is_some: rest > 0,
    })
}

fn whole(leaf: &Leaf, cert: &str, key: &str, trusted: &str, by: &str) -> Secret {
    let data = [("tls.crt", cert), ("tls.key", key), ("ca.crt", trusted)];
    let annotations = BTreeMap::from([(ISSUED_BY.to_owned(), by.to_owned())]);
    secret(leaf.secret, TLS, &data, &annotations)
}

/// Whether `new` says anything that `old` does not.
fn differs(old: &Secret, new: &Secret) -> bool {
    let noted = |(key, value): (&String, &String)| annotation(old, key) == Some(value);
    old.data != new.data || !new.annotations().iter().all(noted)
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret.annotations().get(key).map(String::as_str)
}

fn time(secret: &Secret, key: &str) -> Option<Timestamp> {
    annotation(secret, key)?.parse().ok()
}

fn secret(
    name: &str,
    kind: &str,
    data: &[(&str, &str)],
    annotations: &BTreeMap<String, String>,
) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let mut secret: Secret = serde_json::from_value(json!({
        "metadata": { "name": name, "annotations": annotations },
        "type": kind,
    }))
    .expect("a Secret");
    let data = data
        .iter()
        .map(|(key, text)| ((*key).to_owned(), bytes(text)));
    secret.data = Some(data.collect());
    secret
}
