//! Who calls: the names in the certificate of the other side.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tonic::transport::CertificateDer;
use tonic::{Request, Status};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::random::hash;

/// What names end with that many certificates have, and that say what they are for: nobody's id.
const SHARED: &str = ".lamina.internal";

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
                let is_own = names.iter().any(|name| name == node_id);
                if is_own && !node_id.ends_with(SHARED) {
                    return Ok(());
                }
                let wanted = node_id.chars().take(253).collect();
                Err(Forged::OtherNode { wanted, names })
            }
        }
    }
}

/// The alternative names of a certificate for hosts; none if it cannot be read.
fn alternative_names(der: &[u8]) -> Option<Vec<String>> {
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

/// Lets a caller through whose certificate has one of the `wanted` names: what it may do is in the names that its authority
/// gave it.
///
/// # Errors
/// `UNAUTHENTICATED` without a certificate, or with one that cannot be read; `PERMISSION_DENIED` with one for others, which says
/// what it is for and what is wanted.
pub fn admit<T>(request: &Request<T>, wanted: &[&str]) -> Result<(), Status> {
    admit_names(caller_names(request), wanted)
}

fn admit_names(names: Option<Vec<String>>, wanted: &[&str]) -> Result<(), Status> {
    let names = names.ok_or_else(|| Status::unauthenticated("a caller must show a certificate"))?;
    if names.iter().any(|name| wanted.contains(&name.as_str())) {
        return Ok(());
    }
    let shown = match names.is_empty() {
        true => "nobody".to_owned(),
        false => names.join(", "),
    };
    let wanted = wanted.join(" or ");
    let why = format!("the certificate is for {shown}; this needs the name {wanted}");
    Err(Status::permission_denied(why))
}

/// The alternative names in the caller's certificate; `None` for a caller without one, or with one that cannot be read.
fn caller_names<T>(request: &Request<T>) -> Option<Vec<String>> {
    let certificates = request.peer_certs()?;
    alternative_names(certificates.first()?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn a_caller_is_let_through_by_one_of_the_wanted_names_and_told_what_is_missing() {
        let wanted = ["proxy.lamina.internal", "client.lamina.internal"];
        let denied = "; this needs the name proxy.lamina.internal or client.lamina.internal";
        for (names, expected) in [
            (Some(&["client.lamina.internal"][..]), None),
            (Some(&["n1", "proxy.lamina.internal"]), None),
            (Some(&["n1"]), Some((Code::PermissionDenied, "n1"))),
            (Some(&[]), Some((Code::PermissionDenied, "nobody"))),
            // A name that only ends, begins or is written like one.
            (
                Some(&["not-a-client.lamina.internal"]),
                Some((Code::PermissionDenied, "not-a-client.lamina.internal")),
            ),
            (
                Some(&["client.lamina.internal.evil", "*.lamina.internal"]),
                Some((
                    Code::PermissionDenied,
                    "client.lamina.internal.evil, *.lamina.internal",
                )),
            ),
            (None, Some((Code::Unauthenticated, ""))),
        ] {
            let names = names.map(|names| names.iter().map(ToString::to_string).collect());
            let admitted = admit_names(names, &wanted).map_err(|status| {
                let said = status.message().to_owned();
                (status.code(), said)
            });
            let expected = match expected {
                None => Ok(()),
                Some((code @ Code::Unauthenticated, _)) => {
                    Err((code, "a caller must show a certificate".to_owned()))
                }
                Some((code, shown)) => {
                    Err((code, format!("the certificate is for {shown}{denied}")))
                }
            };
            assert_eq!(admitted, expected);
        }
    }

    #[test]
    fn a_caller_without_tls_is_nobody() {
        let refused = admit(&Request::new(()), &["client.lamina.internal"]).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
}
