//! Who calls: the names in the certificate of the other side.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tonic::Request;
use tonic::transport::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::random::hash;

/// Whom heartbeats are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// A node reports itself alone: its id is a name in its certificate.
    Certificate,
    /// Anybody may report anybody. Only by explicit choice, where there is no TLS.
    Anyone,
}

/// Why a heartbeat is not taken from a caller.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Forged {
    /// A connection without TLS, or a client without a certificate.
    #[error("a node must show a certificate to report itself")]
    NoCertificate,
    /// A certificate of somebody else.
    #[error("node_id: the certificate is for {}, not for {wanted:?}", .names.join(", "))]
    OtherNode {
        /// What it says.
        wanted: String,
        /// Names in the certificate.
        names: Vec<String>,
    },
    /// A certificate that cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
}

impl Identity {
    /// Whether the caller may report `node_id`.
    pub(crate) fn check<T>(self, request: &Request<T>, node_id: &str) -> Result<(), Forged> {
        match self {
            Self::Anyone => Ok(()),
            Self::Certificate => {
                let certificates = request.peer_certs().ok_or(Forged::NoCertificate)?;
                let own = certificates.first().ok_or(Forged::NoCertificate)?;
                let names = names(own)?;
                if names.iter().any(|name| name == node_id) {
                    return Ok(());
                }
                let wanted = node_id.chars().take(253).collect();
                Err(Forged::OtherNode { wanted, names })
            }
        }
    }
}

/// The alternative names of a certificate for hosts; none if it cannot be read.
pub fn alternative_names(der: &[u8]) -> Option<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let alternative = certificate.subject_alternative_name().ok()?;
    let all = alternative
        .iter()
        .flat_map(|names| &names.value.general_names);
    let names = all.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    Some(names.collect())
}

/// When the first certificate of a PEM file ends; none if it cannot be read.
pub fn not_after(pem: &str) -> Option<SystemTime> {
    let first = Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&first.contents).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds.try_into().ok()?))
}

/// The alternative names of a certificate for hosts, and its common names.
fn names(der: &CertificateDer<'_>) -> Result<Vec<String>, Forged> {
    let mut names = alternative_names(der).ok_or(Forged::Unreadable)?;
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Forged::Unreadable)?;
    let common = certificate.subject().iter_common_name();
    names.extend(common.filter_map(|name| name.as_str().ok().map(str::to_owned)));
    Ok(names)
}

/// A number for the caller, the same at every call: its certificate, else its address.
pub(crate) fn asker<T>(request: &Request<T>) -> u64 {
    let certificates: Option<Arc<_>> = request.peer_certs();
    if let Some(own) = certificates.as_ref().and_then(|list| list.first()) {
        return hash(own);
    }
    let address = request.remote_addr().map(|at| at.ip().to_string());
    hash(address.unwrap_or_default().as_bytes())
}
