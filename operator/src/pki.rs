//! The internal authority: one CA, one certificate of the node servers, one of their clients.
//!
//! Node servers all have the same name, because clients dial pods by address. Who holds the client
//! certificate may ask nodes for anything, so only the operator and the provisioner mount it. A new CA is
//! made long before the old one ends, and both are trusted meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// The CA and its key: only the operator reads it.
pub(crate) const CA_SECRET: &str = "lamina-ca";
/// The node servers' certificate.
pub(crate) const NODE_SECRET: &str = "lamina-node-tls";
/// Their clients' certificate.
pub(crate) const CLIENT_SECRET: &str = "lamina-client-tls";
/// Name in the node servers' certificate.
pub(crate) const SERVER_NAME: &str = "node.lamina.internal";

const NOT_AFTER: &str = "lamina.dev/not-after";
const ISSUED_BY: &str = "lamina.dev/issued-by";
const DAY: u64 = 24 * 3600;
const CA_DAYS: u64 = 3650;
const CA_RENEW_DAYS: u64 = 365;
const LEAF_DAYS: u64 = 90;
const LEAF_RENEW_DAYS: u64 = 30;

/// Certificates as they are found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) ca: Option<Secret>,
    pub(crate) node: Option<Secret>,
    pub(crate) client: Option<Secret>,
}

/// Secrets to write so that every certificate is good for a while; none if all are.
pub(crate) fn renewed(found: &Found, now: Timestamp) -> Result<Vec<Secret>, rcgen::Error> {
    let mut written = Vec::new();
    let ca = match &found.ca {
        Some(ca) if good_for(ca, CA_RENEW_DAYS, now) => ca.clone(),
        old => {
            let ca = authority(old.as_ref(), now)?;
            written.push(ca.clone());
            ca
        }
    };
    let leaves = [
        (
            NODE_SECRET,
            &found.node,
            ExtendedKeyUsagePurpose::ServerAuth,
        ),
        (
            CLIENT_SECRET,
            &found.client,
            ExtendedKeyUsagePurpose::ClientAuth,
        ),
    ];
    for (name, old, usage) in leaves {
        let good = old.as_ref().is_some_and(|leaf| {
            good_for(leaf, LEAF_RENEW_DAYS, now)
                && annotation(leaf, ISSUED_BY) == annotation(&ca, NOT_AFTER)
        });
        if !good {
            written.push(leaf(name, &ca, usage, now)?);
        }
    }
    Ok(written)
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret
        .metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

fn good_for(secret: &Secret, days: u64, now: Timestamp) -> bool {
    let whole = ["tls.crt", "tls.key", "ca.crt"]
        .iter()
        .all(|key| text(secret, key).is_some());
    let end = annotation(secret, NOT_AFTER).and_then(|end| end.parse::<Timestamp>().ok());
    whole && end.is_some_and(|end| end > later(now, days))
}

fn later(now: Timestamp, days: u64) -> Timestamp {
    now.checked_add(Duration::from_secs(days * DAY))
        .unwrap_or(Timestamp::MAX)
}

fn text<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    std::str::from_utf8(&secret.data.as_ref()?.get(key)?.0).ok()
}

fn params(
    name: &str,
    names: Vec<String>,
    days: u64,
    now: Timestamp,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = now.as_second().max(0).unsigned_abs();
    // Clocks of nodes may be behind.
    params.not_before = epoch + Duration::from_secs(seconds.saturating_sub(3600));
    params.not_after = epoch + Duration::from_secs(seconds + days * DAY);
    Ok(params)
}

fn authority(old: Option<&Secret>, now: Timestamp) -> Result<Secret, rcgen::Error> {
    let mut params = params("Lamina internal CA", Vec::new(), CA_DAYS, now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    let previous = old.and_then(|old| text(old, "tls.crt")).unwrap_or_default();
    let trusted = format!("{pem}{previous}");
    let end = later(now, CA_DAYS);
    Ok(secret(
        CA_SECRET,
        &pem,
        &key.serialize_pem(),
        &trusted,
        end,
        None,
    ))
}

fn leaf(
    name: &str,
    ca: &Secret,
    usage: ExtendedKeyUsagePurpose,
    now: Timestamp,
) -> Result<Secret, rcgen::Error> {
    let part = |key| text(ca, key).unwrap_or_default();
    let issuer = Issuer::from_ca_cert_pem(part("tls.crt"), KeyPair::from_pem(part("tls.key"))?)?;
    let names = match usage {
        ExtendedKeyUsagePurpose::ServerAuth => vec![SERVER_NAME.to_owned()],
        _ => vec!["client.lamina.internal".to_owned()],
    };
    let mut params = params(name, names, LEAF_DAYS, now)?;
    params.extended_key_usages = vec![usage];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let pem = params.signed_by(&key, &issuer)?.pem();
    let end = later(now, LEAF_DAYS);
    let by = annotation(ca, NOT_AFTER);
    Ok(secret(
        name,
        &pem,
        &key.serialize_pem(),
        part("ca.crt"),
        end,
        by,
    ))
}

fn secret(
    name: &str,
    cert: &str,
    key: &str,
    trusted: &str,
    end: Timestamp,
    by: Option<&str>,
) -> Secret {
    let mut annotations = BTreeMap::from([(NOT_AFTER.to_owned(), end.to_string())]);
    annotations.extend(by.map(|by| (ISSUED_BY.to_owned(), by.to_owned())));
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let mut secret: Secret = serde_json::from_value(json!({
        "metadata": { "name": name, "annotations": annotations },
        "type": "kubernetes.io/tls",
    }))
    .expect("a Secret");
    secret.data = Some(BTreeMap::from([
        ("tls.crt".to_owned(), bytes(cert)),
        ("tls.key".to_owned(), bytes(key)),
        ("ca.crt".to_owned(), bytes(trusted)),
    ]));
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

    fn named(written: &[Secret], name: &str) -> Option<Secret> {
        written
            .iter()
            .find(|secret| secret.metadata.name.as_deref() == Some(name))
            .cloned()
    }

    fn all(written: &[Secret]) -> Found {
        Found {
            ca: named(written, CA_SECRET),
            node: named(written, NODE_SECRET),
            client: named(written, CLIENT_SECRET),
        }
    }

    #[test]
    fn certificates_are_renewed_before_they_end() {
        let now = Timestamp::now();
        let first = renewed(&Found::default(), now).unwrap();
        assert_eq!(first.len(), 3);
        let found = all(&first);
        assert!(renewed(&found, now).unwrap().is_empty());
        assert!(renewed(&found, later(now, 59)).unwrap().is_empty());
        let names = |secrets: Vec<Secret>| -> Vec<String> {
            secrets
                .into_iter()
                .filter_map(|secret| secret.metadata.name)
                .collect()
        };
        assert_eq!(
            names(renewed(&found, later(now, 61)).unwrap()),
            [NODE_SECRET, CLIENT_SECRET]
        );
        let late = renewed(&found, later(now, 3300)).unwrap();
        assert_eq!(late.len(), 3);
        let trusted = text(&late[0], "ca.crt").unwrap();
        assert_eq!(
            trusted.matches("BEGIN CERTIFICATE").count(),
            2,
            "the old CA is trusted too"
        );
    }

    #[tokio::test]
    async fn a_server_admits_only_clients_of_its_authority() {
        let now = Timestamp::now();
        let ours = all(&renewed(&Found::default(), now).unwrap());
        let theirs = all(&renewed(&Found::default(), now).unwrap());
        let node = ours.node.as_ref().unwrap();
        let part = |secret: &Secret, key: &str| text(secret, key).unwrap().to_owned();
        let identity =
            |secret: &Secret| Identity::from_pem(part(secret, "tls.crt"), part(secret, "tls.key"));
        let root = Certificate::from_pem(part(node, "ca.crt"));
        let server = ServerTlsConfig::new()
            .identity(identity(node))
            .client_ca_root(root.clone());
        let fake = crate::nodes::fake::FakeNode::start_with(Some(server), "a").await;
        for (client, admitted) in [(ours.client, true), (theirs.client, false)] {
            let tls = ClientTlsConfig::new()
                .ca_certificate(root.clone())
                .identity(identity(&client.unwrap()))
                .domain_name(SERVER_NAME);
            let channel =
                tonic::transport::Endpoint::from_shared(format!("https://{}", fake.place.address))
                    .unwrap()
                    .tls_config(tls)
                    .unwrap()
                    .connect_lazy();
            let answer = crate::nodes::NodeClient::new(channel)
                .forget(lamina_proto::lamina::v1::ForgetRequest::default())
                .await;
            assert_eq!(answer.is_ok(), admitted, "{answer:?}");
        }
    }
}
