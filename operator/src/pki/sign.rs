//! A node's certificate from its request. No I/O: of the request only the key counts.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose};

use super::authority::{Ca, PkiError, Subject};
use super::{PEER_NAME, SERVER_NAME};

/// Long enough for an operator that is away for half a day, short enough that nobody needs revocation.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Most bytes of a request.
pub(super) const REQUEST_MAX: usize = 8 << 10;

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsigned {
    /// It is too big.
    #[error("request: {0} bytes are more than {REQUEST_MAX}")]
    TooBig(usize),
    /// It is none, or its signature is wrong.
    #[error("request: not a PKCS #10 request with a right signature: {0}")]
    NotOne(rcgen::Error),
    /// A key that others cannot use.
    #[error("request: the key has to be P-256, P-384 or Ed25519")]
    OtherKey,
    /// The authority could not sign.
    #[error(transparent)]
    Failed(#[from] PkiError),
}

/// Signs for `node`.
pub(super) fn sign(
    ca: &Ca,
    node: &str,
    request: &[u8],
    now: Timestamp,
) -> Result<String, Unsigned> {
    if request.len() > REQUEST_MAX {
        return Err(Unsigned::TooBig(request.len()));
    }
    let asked = CertificateSigningRequestParams::from_der(&request.into());
    let key = asked.map_err(Unsigned::NotOne)?.public_key;
    let usable = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ];
    if !usable.contains(&key.algorithm()) {
        return Err(Unsigned::OtherKey);
    }
    let subject = Subject {
        common: node,
        names: &[SERVER_NAME, PEER_NAME, node],
        usages: &[
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
    };
    Ok(ca.issue(&subject, &key, LIFE, now)?)
}
