//! This node among the others: what discovery says, whom to ask, and what it is told of us.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lamina_discovery::choose::{Attempt, ChoiceConfig, Chooser, Offer, Outcome, Provider, Step};
use lamina_discovery::client::{Client, ClientConfig, ClientTls};
use lamina_discovery::tls::TlsError;
use lamina_discovery::{NodeId, Random};
use lamina_flist::Sha256Digest;
use lamina_proto::discovery::v1::HeartbeatRequest;
use tonic::transport::Channel;

use super::peers::{PeerError, Peers};

/// How far every other node is: discovery knows no places.
const ELSEWHERE: u8 = 1;
/// How long peers are asked for one thing, pulls of theirs aside.
const SEEK_DEADLINE: Duration = Duration::from_secs(120);

/// Which homes may be asked to pull a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Homes {
    /// Each in its turn; when it is ours, the registry is read here.
    All,
    /// Others: it was tried here.
    Others,
    /// None: they would mean another registry, or hear who asks.
    Nobody,
}

/// A layer that is looked for.
pub(super) struct Sought {
    pub(super) layer: Sha256Digest,
    /// The others of its image.
    pub(super) beside: Vec<Sha256Digest>,
    pub(super) homes: Homes,
}

/// Who this node is to others, and how it speaks to them.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Its name.
    pub node: String,
    /// host:port at which others reach its layerstore.
    pub endpoint: String,
    /// How to speak to discovery.
    pub discovery: ClientConfig,
    /// How to speak to other nodes; `None`: without TLS.
    pub peers: Option<ClientTls>,
}

/// Why a node cannot be part of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Its name.
    #[error("the node's name {name:?} cannot be used: {why}")]
    Name {
        /// What it is.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Where others reach it.
    #[error("--endpoint {endpoint} cannot be used: {why}")]
    Endpoint {
        /// What it is.
        endpoint: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The cluster, as this node sees it.
pub struct Cluster {
    me: NodeId,
    endpoint: String,
    client: Arc<Client>,
    peers: Peers,
    chooser: Mutex<Chooser>,
    random: Mutex<Random>,
    began: Instant,
}

impl Cluster {
    /// Begins to look for discovery; nothing is reported yet.
    ///
    /// # Errors
    /// When name, endpoint or certificates cannot be used.
    pub fn join(config: ClusterConfig) -> Result<Self, ClusterError> {
        let name = config.node;
        let me = NodeId::parse(&name).map_err(|why| ClusterError::Name { name, why })?;
        let endpoint = config.endpoint;
        if let Err(why) = lamina_discovery::node_id::check_endpoint(&endpoint) {
            return Err(ClusterError::Endpoint { endpoint, why });
        }
        Ok(Self {
            chooser: Mutex::new(Chooser::new(me.clone(), ChoiceConfig::default())),
            me,
            endpoint,
            client: Arc::new(Client::start(config.discovery)?),
            peers: Peers::new(config.peers)?,
            random: Mutex::new(Random::new()),
            began: Instant::now(),
        })
    }

    /// The way to discovery.
    pub(super) fn discovery(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }

    /// Tells every replica of discovery what this node holds.
    pub(super) fn report(&self, holds: HeartbeatRequest) {
        self.client.report(HeartbeatRequest {
            node_id: self.me.to_string(),
            endpoint: self.endpoint.clone(),
            ..holds
        });
    }

    /// Whether nobody else hears what is said to peers.
    pub(super) fn is_private(&self) -> bool {
        self.peers.is_private()
    }

    /// Asks those who hold a layer until one answers. `pull`: has a home pull it. `None`: the registry is to be read
    /// here.
    pub(super) async fn seek<T, A, P>(
        &self,
        sought: &Sought,
        ask: impl Fn(Channel) -> A,
        pull: impl Fn(Channel) -> P,
    ) -> Option<T>
    where
        A: Future<Output = Result<T, PeerError>>,
        P: Future<Output = Result<(), PeerError>>,
    {
        let mut attempt = Attempt::new(self.now());
        let mut endpoints = HashMap::new();
        let mut asking = Duration::ZERO;
        while asking < SEEK_DEADLINE {
            let began = Instant::now();
            let offer = self.offer(sought, &mut endpoints).await;
            match self.next(&mut attempt, &offer) {
                Step::Peer(id) => {
                    match self.ask(&id, &endpoints, &ask).await {
                        Ok(answer) => return Some(answer),
                        Err(error) if error.outcome == Outcome::Busy => attempt.was_busy(&id),
                        Err(_) => {}
                    }
                    asking += began.elapsed();
                }
                Step::Wait(wait) => {
                    tokio::time::sleep(wait).await;
                    asking += began.elapsed();
                }
                Step::Pull(id) => match self.pull(&id, &endpoints, &pull).await {
                    Ok(()) => attempt.has_pulled(&id),
                    Err(error) if error.refused => return None,
                    Err(_) => {}
                },
                Step::Registry => return None,
            }
        }
        None
    }

    /// What discovery says of a layer; of what it does not answer, nothing.
    async fn offer(&self, sought: &Sought, endpoints: &mut HashMap<NodeId, String>) -> Offer {
        let Sought {
            layer,
            beside,
            homes,
        } = sought;
        let mut offer = Offer::default();
        match self.client.find_provider(layer).await {
            Ok(found) => {
                for service in found {
                    if let Ok(id) = NodeId::parse(&service.node_id) {
                        endpoints.insert(id.clone(), service.endpoint);
                        let distance = ELSEWHERE;
                        offer.providers.push(Provider { id, distance });
                    }
                }
            }
            Err(error) => {
                offer.rationed = error.is_rationed();
                tracing::debug!(%layer, %error, "ask who holds a layer");
            }
        }
        if *homes == Homes::Nobody {
            return offer;
        }
        match self.client.find_homes(layer, beside).await {
            Ok(found) => {
                for home in found {
                    let id = NodeId::parse(&home.node_id);
                    let id = id.ok().filter(|id| *homes == Homes::All || *id != self.me);
                    if let Some(id) = id {
                        endpoints.insert(id.clone(), home.endpoint);
                        offer.homes.push(id);
                    }
                }
            }
            Err(error) => {
                offer.rationed |= error.is_rationed();
                tracing::debug!(%layer, %error, "ask who pulls a layer");
            }
        }
        offer
    }

    fn next(&self, attempt: &mut Attempt, offer: &Offer) -> Step {
        let chooser = self.chooser();
        chooser.next(attempt, offer, self.now(), &mut self.random())
    }

    async fn ask<T, A>(
        &self,
        id: &NodeId,
        endpoints: &HashMap<NodeId, String>,
        ask: impl Fn(Channel) -> A,
    ) -> Result<T, PeerError>
    where
        A: Future<Output = Result<T, PeerError>>,
    {
        let channel = self
            .peers
            .channel(endpoints.get(id).map_or("", String::as_str))?;
        let asked = Asked::begin(self, id);
        let answer = ask(channel).await;
        let outcome = match &answer {
            Ok(_) => Outcome::Good(asked.began.elapsed()),
            Err(error) => {
                tracing::info!(peer = %id, %error, "a peer did not answer; going on without it");
                error.outcome
            }
        };
        asked.end(outcome);
        answer
    }

    async fn pull<P>(
        &self,
        id: &NodeId,
        endpoints: &HashMap<NodeId, String>,
        pull: impl Fn(Channel) -> P,
    ) -> Result<(), PeerError>
    where
        P: Future<Output = Result<(), PeerError>>,
    {
        let channel = self
            .peers
            .channel(endpoints.get(id).map_or("", String::as_str))?;
        let asked = Asked::begin(self, id);
        let answer = pull(channel).await;
        if let Err(error) = &answer {
            tracing::info!(home = %id, %error, "a home did not pull a layer; going on without it");
        }
        // How long a registry takes says nothing of the peer, nor does a full disk of its.
        asked.end(match &answer {
            Err(error) if error.outcome == Outcome::Failed => Outcome::Failed,
            _ => Outcome::Dropped,
        });
        answer
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn chooser(&self) -> MutexGuard<'_, Chooser> {
        self.chooser.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn random(&self) -> MutexGuard<'_, Random> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way; one whose caller leaves counts as ended.
struct Asked<'a> {
    cluster: &'a Cluster,
    id: NodeId,
    began: Instant,
    outcome: Outcome,
}

impl<'a> Asked<'a> {
    fn begin(cluster: &'a Cluster, id: &NodeId) -> Self {
        let now = cluster.now();
        cluster.chooser().started(id, now);
        Self {
            cluster,
            id: id.clone(),
            began: Instant::now(),
            outcome: Outcome::Dropped,
        }
    }

    fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let now = self.cluster.now();
        let mut chooser = self.cluster.chooser();
        chooser.finished(&self.id, self.outcome, now, &mut self.cluster.random());
    }
}
