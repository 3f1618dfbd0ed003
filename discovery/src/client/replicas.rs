//! The replicas' addresses and connections to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::{ClientConfig, ClientTls};
use crate::random::Random;
use crate::tls::{Certificates, TlsError};

/// A replica that does not accept within this time is as good as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent connection is asked whether it lives: a black hole is noticed within twice this.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// For the resolver of names.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);

/// Every known replica.
pub(super) struct Replicas {
    names: Vec<String>,
    tls: Option<ClientTls>,
    state: Mutex<State>,
}

struct State {
    certificates: Option<Certificates>,
    /// What each name stands for; kept while it cannot be resolved.
    found: BTreeMap<String, BTreeSet<SocketAddr>>,
    channels: BTreeMap<SocketAddr, Channel>,
    preferred: Option<SocketAddr>,
    random: Random,
}

impl Replicas {
    pub(super) fn new(config: &ClientConfig) -> Result<Self, TlsError> {
        let tls = config.tls.as_ref();
        let certificates = tls.map(|tls| Certificates::read_made(&tls.dir));
        let certificates = certificates.transpose()?.flatten();
        Ok(Self {
            names: config.replicas.clone(),
            tls: config.tls.clone(),
            state: Mutex::new(State {
                certificates,
                found: BTreeMap::new(),
                channels: BTreeMap::new(),
                preferred: None,
                random: Random::new(),
            }),
        })
    }

    /// Resolves every name again and reads the certificates again.
    pub(super) async fn look(&self) {
        let mut found = BTreeMap::new();
        for name in &self.names {
            let looking = tokio::net::lookup_host(name.clone());
            match tokio::time::timeout(LOOK_DEADLINE, looking).await {
                Ok(Ok(addresses)) => {
                    found.insert(name.clone(), addresses.collect::<BTreeSet<_>>());
                }
                Ok(Err(error)) => tracing::warn!(%name, %error, "look for replicas of discovery"),
                Err(_) => tracing::warn!(%name, "looking for replicas of discovery takes too long"),
            }
        }
        let tls = self.tls.as_ref();
        let certificates = tls.map(|tls| Certificates::read_made(&tls.dir));
        let mut state = self.state();
        match certificates.transpose().map(Option::flatten) {
            Ok(Some(found)) if state.certificates.as_ref() != Some(&found) => {
                // Connections that there are end with their last call.
                state.certificates = Some(found);
                state.channels.clear();
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "look for other certificates"),
        }
        state.found.extend(found);
        self.connect(&mut state);
    }

    /// A connection for each address; those that are no longer named go.
    fn connect(&self, state: &mut State) {
        if self.tls.is_some() && state.certificates.is_none() {
            tracing::debug!("no certificate to show to discovery yet");
            return;
        }
        let addresses: BTreeSet<SocketAddr> = state.found.values().flatten().copied().collect();
        state.channels.retain(|at, _| addresses.contains(at));
        for address in addresses {
            if state.channels.contains_key(&address) {
                continue;
            }
            match self.channel(address, state.certificates.as_ref()) {
                Ok(channel) => {
                    state.channels.insert(address, channel);
                }
                Err(error) => tracing::warn!(%address, %error, "dial a replica of discovery"),
            }
        }
    }

    fn channel(
        &self,
        address: SocketAddr,
        certificates: Option<&Certificates>,
    ) -> Result<Channel, tonic::transport::Error> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        if let (Some(tls), Some(certificates)) = (&self.tls, certificates) {
            endpoint = endpoint.tls_config(certificates.client(&tls.server_name))?;
        }
        Ok(endpoint.connect_lazy())
    }

    /// Every replica that is known now.
    pub(super) fn all(&self) -> BTreeMap<SocketAddr, Channel> {
        self.state().channels.clone()
    }

    /// Whom to ask first, and then: the one that answered last; at first any, so that nodes spread over them.
    pub(super) async fn in_order(&self) -> Vec<(SocketAddr, Channel)> {
        if self.state().channels.is_empty() {
            self.look().await;
        }
        let mut state = self.state();
        let mut order: Vec<_> = state.channels.clone().into_iter().collect();
        if order.is_empty() {
            return order;
        }
        let preferred = state.preferred;
        let known = order.iter().position(|(at, _)| Some(*at) == preferred);
        let first = known.unwrap_or_else(|| state.random.below(order.len()));
        order.rotate_left(first);
        order
    }

    /// This one answers.
    pub(super) fn prefer(&self, address: SocketAddr) {
        self.state().preferred = Some(address);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
