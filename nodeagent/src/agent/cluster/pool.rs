//! Connections to other nodes: one each, made when first used, kept while it is.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lamina_discovery::tls::Certificates;
use tonic::transport::{Channel, Endpoint, Error};

/// Who does not accept within this time is asked nothing now.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent connection with requests on it is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Connections kept; the one unused longest is closed.
const CHANNELS_MAX: usize = 256;
/// Bytes on their way that were not taken yet: a stream's fill 10 Gbit/s at 1 ms, and a reader's memory only with what it
/// is about to verify.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Bytes of one frame of an answer: each costs the reader a turn.
const FRAME: u32 = 256 << 10;

/// Every connection of a member.
pub(super) struct Pool {
    tls: Option<(Certificates, String)>,
    channels: Mutex<HashMap<String, (Channel, Instant)>>,
}

impl Pool {
    /// Connections to nodes called `name` in their certificates.
    pub(super) fn new(certificates: Option<Certificates>, name: &str) -> Self {
        Self {
            tls: certificates.map(|certificates| (certificates, name.to_owned())),
            channels: Mutex::default(),
        }
    }

    /// Whether nobody else hears what is said to nodes.
    pub(super) fn is_private(&self) -> bool {
        self.tls.is_some()
    }

    /// The connection to a node.
    pub(super) fn to(&self, endpoint: &str) -> Result<Channel, Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((channel, used)) = channels.get_mut(endpoint) {
            *used = Instant::now();
            return Ok(channel.clone());
        }
        let channel = self.dial(endpoint)?;
        if channels.len() >= CHANNELS_MAX {
            let oldest = channels.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(endpoint, _)| endpoint.clone()) {
                // Requests under way keep it.
                channels.remove(&oldest);
            }
        }
        channels.insert(endpoint.to_owned(), (channel.clone(), Instant::now()));
        Ok(channel)
    }

    fn dial(&self, endpoint: &str) -> Result<Channel, Error> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut dialled = Endpoint::from_shared(format!("{scheme}://{endpoint}"))?
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .tcp_nodelay(true);
        if let Some((certificates, name)) = &self.tls {
            dialled = dialled.tls_config(certificates.client(name))?;
        }
        Ok(settings(dialled).connect_lazy())
    }
}

/// A connection to a Unix socket of this machine.
pub(super) fn to_socket(path: &Path) -> Result<Channel, Error> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))?;
    Ok(settings(endpoint).connect_lazy())
}

fn settings(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
}
