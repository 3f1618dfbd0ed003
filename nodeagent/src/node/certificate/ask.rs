//! One request for a certificate: a new key, and the operator's signature under it.

use std::time::Duration;

use anyhow::{Context, Result};
use lamina_proto::lamina::v1::SignRequest;
use lamina_proto::lamina::v1::certificates_client::CertificatesClient;
use rcgen::{CertificateParams, KeyPair};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

/// Name in the operator's certificate.
const OPERATOR: &str = "operator.lamina.internal";
/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// Of it, until there is a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const ANSWER_MAX: usize = 64 << 10;

/// A certificate and its key, PEM.
pub(super) struct Signed {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Makes a key and has the operator at `address` sign it for who `token` says we are.
pub(super) async fn sign(address: &str, token: &str, ca: &str) -> Result<Signed> {
    // P-256, which everybody can verify. The names are the operator's to say.
    let key = KeyPair::generate().context("make a key")?;
    let request = CertificateParams::default().serialize_request(&key);
    let request = request.context("make a request")?.der().to_vec();
    let asked = tokio::time::timeout(DEADLINE, call(address, token, ca, request));
    let asked = asked.await.context("no answer in time");
    let certificate = asked
        .and_then(|answer| answer)
        .with_context(|| format!("ask the operator at {address}"))?;
    Ok(Signed {
        certificate,
        key: key.serialize_pem(),
    })
}

async fn call(address: &str, token: &str, ca: &str, request: Vec<u8>) -> Result<String> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .domain_name(OPERATOR);
    let channel = Endpoint::from_shared(format!("https://{address}"))?
        .tls_config(tls)?
        .connect_timeout(CONNECT)
        .connect()
        .await?;
    let mut request = Request::new(SignRequest { request });
    let mut header: MetadataValue<_> =
        format!("Bearer {token}").parse().context("use the token")?;
    header.set_sensitive(true);
    request.metadata_mut().insert("authorization", header);
    let mut client = CertificatesClient::new(channel).max_decoding_message_size(ANSWER_MAX);
    let answer = client.sign(request).await;
    let answer =
        answer.map_err(|status| anyhow::anyhow!("{}: {}", status.code(), status.message()))?;
    Ok(answer.into_inner().certificate)
}
