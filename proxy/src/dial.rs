//! Connections to other services, with certificates that may change at any time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lamina_discovery::tls::{Certificates, TlsError};
use tonic::transport::{Channel, Endpoint};

use crate::config::Security;

/// Name in the certificates of afslets.
pub(crate) const AFSLET: &str = "afslet.lamina.internal";
/// In those of nodes, which serve layerstores.
pub(crate) const NODE: &str = "node.lamina.internal";

/// An afslet that does not accept a connection within this time is as good as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent connection is asked whether it lives: a black hole is noticed within twice this.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Answers of one run that wait here for a slow client.
const STREAM_WINDOW: u32 = 128 << 10;
/// Of all runs of a connection: those whose clients do not read must not stop the others. A thousand of them fit.
const CONNECTION_WINDOW: u32 = 128 << 20;

/// Dials as one caller.
#[derive(Clone)]
pub(crate) struct Dialer {
    security: Security,
    certificates: Arc<Mutex<Option<Certificates>>>,
}

/// Why nobody can be dialled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("there is no certificate to show yet")]
    NoCertificate,
    #[error("it is no address that can be dialled")]
    Address(#[from] tonic::transport::Error),
}

impl Dialer {
    pub(crate) fn new(security: Security) -> Result<Self, TlsError> {
        let read = security.dir().map(|dir| Certificates::read_made(dir));
        let certificates = Arc::new(Mutex::new(read.transpose()?.flatten()));
        Ok(Self {
            security,
            certificates,
        })
    }

    /// Reads the certificates again; whether they are others, so that connections should be made anew.
    pub(crate) fn look(&self) -> bool {
        let Some(dir) = self.security.dir() else {
            return false;
        };
        let mut known = self
            .certificates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match Certificates::read_made(dir) {
            Ok(Some(found)) if known.as_ref() != Some(&found) => {
                *known = Some(found);
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "look for other certificates");
                false
            }
        }
    }

    /// A connection that is made when it is used.
    pub(crate) fn dial(&self, address: &str, name: &str) -> Result<Channel, DialError> {
        let scheme = match self.security {
            Security::Mutual(_) => "https",
            Security::None => "http",
        };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .tcp_nodelay(true);
        if self.security.dir().is_some() {
            let known = self
                .certificates
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let own = known.as_ref().ok_or(DialError::NoCertificate)?;
            endpoint = endpoint.tls_config(own.client(name))?;
        }
        Ok(endpoint.connect_lazy())
    }
}
