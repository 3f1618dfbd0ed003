//! Connections to other nodes' layerstores, with the certificates as they are on disk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lamina_discovery::choose::Outcome;
use lamina_discovery::client::ClientTls;
use lamina_discovery::tls::{Certificates, TlsError};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A node that lives answers a connection within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that is silent for this long is asked whether it lives, and given up after as long again.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Connections kept.
const CHANNELS_MAX: usize = 256;
/// Between two looks whether our certificates changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Bytes under way to us: of one answer, and of a connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of one frame of an answer: each costs the reader a turn.
const FRAME: u32 = 256 << 10;

/// Why a peer did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct PeerError {
    /// What that makes of it.
    pub(super) outcome: Outcome,
    /// The registry refuses our caller: another peer would say the same.
    pub(super) refused: bool,
    text: String,
}

impl PeerError {
    pub(super) fn new(outcome: Outcome, text: impl Into<String>) -> Self {
        Self {
            outcome,
            refused: false,
            text: text.into(),
        }
    }

    /// Bytes that are not what was asked for.
    pub(super) fn wrong(error: &dyn std::error::Error) -> Self {
        Self::new(Outcome::Wrong, crate::chain(error))
    }

    /// Nothing came in time.
    pub(super) fn late(wait: Duration) -> Self {
        Self::new(Outcome::Failed, format!("nothing came within {wait:?}"))
    }
}

impl From<Status> for PeerError {
    fn from(status: Status) -> Self {
        let outcome = match status.code() {
            Code::ResourceExhausted => Outcome::Busy,
            // It had it, and evicted it since.
            Code::NotFound | Code::PermissionDenied => Outcome::Dropped,
            Code::DataLoss => Outcome::Wrong,
            _ => Outcome::Failed,
        };
        Self {
            outcome,
            refused: status.code() == Code::PermissionDenied,
            text: format!("{:?}: {}", status.code(), status.message()),
        }
    }
}

/// Every peer that was spoken to lately.
pub(super) struct Peers {
    tls: Option<ClientTls>,
    state: Mutex<State>,
}

struct State {
    certificates: Option<Certificates>,
    looked: Instant,
    turn: u64,
    channels: HashMap<String, (u64, Channel)>,
}

impl Peers {
    pub(super) fn new(tls: Option<ClientTls>) -> Result<Self, TlsError> {
        let certificates = tls.as_ref().map(|tls| Certificates::read_made(&tls.dir));
        Ok(Self {
            state: Mutex::new(State {
                certificates: certificates.transpose()?.flatten(),
                looked: Instant::now(),
                turn: 0,
                channels: HashMap::new(),
            }),
            tls,
        })
    }

    /// Whether nobody else hears what is said to peers.
    pub(super) fn is_private(&self) -> bool {
        self.tls.is_some()
    }

    /// A connection to host:port, made when it is used.
    pub(super) fn channel(&self, endpoint: &str) -> Result<Channel, PeerError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        self.look(state);
        if self.tls.is_some() && state.certificates.is_none() {
            let why = "this node has no certificate yet to show to others";
            return Err(PeerError::new(Outcome::Failed, why));
        }
        state.turn += 1;
        let turn = state.turn;
        if let Some((used, channel)) = state.channels.get_mut(endpoint) {
            *used = turn;
            return Ok(channel.clone());
        }
        let failed = |error| PeerError::new(Outcome::Failed, crate::chain(&error));
        let channel = self
            .dial(endpoint, state.certificates.as_ref())
            .map_err(failed)?;
        if state.channels.len() >= CHANNELS_MAX {
            let oldest = state.channels.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(endpoint, _)| endpoint.clone()) {
                state.channels.remove(&oldest);
            }
        }
        state
            .channels
            .insert(endpoint.to_owned(), (turn, channel.clone()));
        Ok(channel)
    }

    /// Other certificates are for other connections.
    fn look(&self, state: &mut State) {
        let Some(tls) = &self.tls else {
            return;
        };
        if state.looked.elapsed() < LOOK_EVERY && state.certificates.is_some() {
            return;
        }
        state.looked = Instant::now();
        match Certificates::read_made(&tls.dir) {
            Ok(Some(found)) if state.certificates.as_ref() != Some(&found) => {
                state.certificates = Some(found);
                state.channels.clear();
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "look for other certificates"),
        }
    }

    fn dial(
        &self,
        endpoint: &str,
        certificates: Option<&Certificates>,
    ) -> Result<Channel, tonic::transport::Error> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{endpoint}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .tcp_nodelay(true);
        if let (Some(tls), Some(certificates)) = (&self.tls, certificates) {
            endpoint = endpoint.tls_config(certificates.client(&tls.server_name))?;
        }
        Ok(endpoint.connect_lazy())
    }
}
