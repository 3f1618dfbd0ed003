//! A node's side of discovery: it reports to every replica and asks any of them.
//!
//! Replicas are named as host:port; a name may stand for many addresses (a headless service) and is resolved again
//! and again. Always: every replica is told within a fraction of its time to live while it can be reached; a question
//! goes to the next replica on any failure that another one may not have, and ends within its deadline; losing all
//! replicas costs answers, nothing else.

mod holding;
mod replicas;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lamina_flist::Sha256Digest;
use lamina_proto::discovery::v1::service_discovery_client::ServiceDiscoveryClient;
use lamina_proto::discovery::v1::{
    FindImageProviderRequest, FindImageRequest, FindProviderRequest, HeartbeatRequest,
    ResolveImageRequest, ResolveImageResponse, ServiceInstance,
};
use lamina_proto::lamina::v1::partials_client::PartialsClient;
use lamina_proto::lamina::v1::placement_client::PlacementClient;
use lamina_proto::lamina::v1::profiles_client::ProfilesClient;
use lamina_proto::lamina::v1::{
    FindHomesRequest, FindPartialsRequest, FindUnknownRequest, GetProfileRequest,
    GetProfileResponse, Home, PartialHolder, PutPartialsRequest, PutProfileRequest,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::clock::Clock;
use crate::image_key::ImageKey;
use crate::pace::Tempo;
use crate::random::Random;
use crate::service::BESIDE_MAX;
use crate::tls::TlsError;
use holding::Holding;
use replicas::Replicas;

/// A list of every service is the largest answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How to speak to discovery.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// host:port of its replicas.
    pub replicas: Vec<String>,
    /// Our certificates; `None`: without TLS.
    pub tls: Option<ClientTls>,
    /// When heartbeats are sent.
    pub tempo: Tempo,
    /// For one try of a question out of memory, and for a heartbeat.
    pub deadline: Duration,
    /// For one try of [`Client::resolve`], behind which is a registry.
    pub deadline_resolve: Duration,
    /// Between two looks at what the names stand for.
    pub look_every: Duration,
}

/// Who we are to replicas, and they to us.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Directory of tls.crt, tls.key and ca.crt; read again when they change, and waited for while they are not there.
    pub dir: PathBuf,
    /// Name in the replicas' certificates.
    pub server_name: String,
}

impl ClientConfig {
    /// The usual times, without TLS.
    pub fn new(replicas: Vec<String>) -> Self {
        Self {
            replicas,
            tls: None,
            tempo: Tempo::default(),
            deadline: Duration::from_secs(2),
            deadline_resolve: Duration::from_secs(90),
            look_every: Duration::from_secs(15),
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Another replica would say the same.
    #[error("discovery refuses: {}", .0.message())]
    Refused(Status),
    /// No replica answers.
    #[error("none of {tried} replicas of discovery answers; the last one: {last}")]
    Unreachable {
        /// Replicas tried.
        tried: usize,
        /// What came of the last one.
        last: String,
    },
    /// Our own certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl AskError {
    /// Whether discovery asks us to come again soon ([`crate::choose::Offer::rationed`]).
    pub fn is_rationed(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::ResourceExhausted)
    }
}

/// Speaks to discovery as one node; heartbeats end with it.
pub struct Client {
    replicas: Arc<Replicas>,
    held: watch::Sender<Option<Arc<Holding>>>,
    life: u64,
    states: AtomicU64,
    told_whole: watch::Sender<u64>,
    reporting: JoinHandle<()>,
    config: ClientConfig,
}

impl Client {
    /// Begins to look for replicas; nothing is reported before [`Client::report`].
    ///
    /// # Errors
    /// When our certificates cannot be used.
    pub fn start(config: ClientConfig) -> Result<Self, TlsError> {
        let replicas = Arc::new(Replicas::new(&config)?);
        let (held, holds) = watch::channel(None);
        let told_whole = watch::Sender::new(0);
        let reporter = report::Reporter {
            replicas: Arc::clone(&replicas),
            tempo: config.tempo.clone(),
            deadline: config.deadline,
            look_every: config.look_every,
            clock: Clock::system(),
            told_whole: told_whole.clone(),
        };
        Ok(Self {
            replicas,
            held,
            life: Random::new().next_u64(),
            states: AtomicU64::new(0),
            told_whole,
            reporting: tokio::spawn(reporter.run(holds)),
            config,
        })
    }

    /// From now on every replica is told this; at once, if it is something new.
    pub fn report(&self, holds: HeartbeatRequest) {
        self.held.send_if_modified(|held| {
            let is_new = !held.as_ref().is_some_and(|held| held.says(&holds));
            if is_new {
                let number = self.states.fetch_add(1, Ordering::Relaxed);
                *held = Some(Arc::new(Holding::new(holds, self.life, number)));
            }
            is_new
        });
    }

    /// Who holds a layer.
    ///
    /// # Errors
    /// When no replica answers.
    pub async fn find_provider(
        &self,
        layer: &Sha256Digest,
    ) -> Result<Vec<ServiceInstance>, AskError> {
        let request = FindProviderRequest {
            layer_digest: layer.to_string(),
        };
        self.ask(self.config.deadline, move |channel| {
            let request = request.clone();
            async move { discovery(channel).find_provider(request).await }
        })
        .await
        .map(|found| found.services)
    }

    /// Who is to pull a layer that nobody holds, best first; `beside`: other layers that are wanted with it, of which the
    /// first 128 count.
    ///
    /// # Errors
    /// When no replica answers.
    pub async fn find_homes(
        &self,
        layer: &Sha256Digest,
        beside: &[Sha256Digest],
    ) -> Result<Vec<Home>, AskError> {
        let beside = beside.iter().take(BESIDE_MAX);
        let request = FindHomesRequest {
            layer_digest: layer.to_string(),
            count: 0,
            beside: beside.map(Sha256Digest::to_string).collect(),
        };
        self.ask(self.config.deadline, move |channel| {
            let request = request.clone();
            async move { PlacementClient::new(channel).find_homes(request).await }
        })
        .await
        .map(|found| found.homes)
    }

    /// Who has parts of a layer.
    ///
    /// # Errors
    /// When no replica answers.
    pub async fn find_partials(
        &self,
        layer: &Sha256Digest,
    ) -> Result<Vec<PartialHolder>, AskError> {
        let request = FindPartialsRequest {
            layer_digest: layer.to_string(),
        };
        self.ask(self.config.deadline, move |channel| {
            let request = request.clone();
            async move { partials(channel).find_partials(request).await }
        })
        .await
        .map(|found| found.holders)
    }

    /// Tells every replica what this node has parts of.
    ///
    /// # Errors
    /// When none of them takes it, which is so before the first heartbeat.
    pub async fn put_partials(&self, request: PutPartialsRequest) -> Result<(), AskError> {
        let order = self.replicas.in_order().await;
        let sent = order.iter().map(|(address, channel)| {
            let mut client = partials(channel.clone());
            let request = request.clone();
            async move {
                let sending = client.put_partials(request);
                match tokio::time::timeout(self.config.deadline, sending).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(status)) => Err(format!("{address}: {}", status.message())),
                    Err(_) => Err(format!("{address}: no answer in time")),
                }
            }
        });
        let sent = futures::future::join_all(sent).await;
        let tried = sent.len();
        if sent.iter().any(Result::is_ok) {
            return Ok(());
        }
        let last = sent.into_iter().find_map(Result::err);
        let last = last.unwrap_or_else(|| "no address is known for them".to_owned());
        Err(AskError::Unreachable { tried, last })
    }

    /// Who holds every layer of an image.
    ///
    /// # Errors
    /// When no replica answers.
    pub async fn find_image_provider(
        &self,
        image: &ImageKey,
    ) -> Result<Vec<ServiceInstance>, AskError> {
        let request = FindImageProviderRequest {
            image_key: image.to_string(),
        };
        self.ask(self.config.deadline, move |channel| {
            let request = request.clone();
            async move { discovery(channel).find_image_provider(request).await }
        })
        .await
        .map(|found| found.services)
    }

    /// Every live service.
    ///
    /// # Errors
    /// When no replica answers.
    pub async fn every(&self) -> Result<Vec<ServiceInstance>, AskError> {
        self.ask(self.config.deadline, |channel| async move {
            let request = FindImageRequest::default();
            discovery(channel).find_image(request).await
        })
        .await
        .map(|found| found.services)
    }

    /// What an image is.
    ///
    /// # Errors
    /// What its registry says, or that no replica answers.
    pub async fn resolve(
        &self,
        request: ResolveImageRequest,
    ) -> Result<ResolveImageResponse, AskError> {
        self.ask(self.config.deadline_resolve, move |channel| {
            let request = request.clone();
            async move { discovery(channel).resolve_image(request).await }
        })
        .await
    }

    /// Tells every replica what a start read.
    ///
    /// # Errors
    /// When none of them answers.
    pub async fn put_profile(&self, request: PutProfileRequest) -> Result<(), AskError> {
        let put = move |channel| {
            let request = request.clone();
            async move { ProfilesClient::new(channel).put_profile(request).await }
        };
        let put = self.ask_until(self.config.deadline, put, |_| false).await;
        put.map(|_| ())
    }

    /// Changes when a replica did not know this node and was told everything: it may have been started again. What else
    /// it forgot is to be told again, too.
    pub fn told_whole(&self) -> watch::Receiver<u64> {
        self.told_whole.subscribe()
    }

    /// Tells each replica what starts read of which it knows nothing; of starts of images' own commands, at most 256.
    /// Best effort; gives how many were told, all replicas together.
    pub async fn put_profiles_again(&self, kept: &[PutProfileRequest]) -> usize {
        let digests: Vec<String> = kept.iter().map(|one| one.digest.clone()).collect();
        let order = self.replicas.in_order().await;
        let telling = order.into_iter().map(|(address, channel)| {
            let digests = digests.clone();
            async move {
                let mut told = 0;
                let all = self.put_unknown(channel, digests, kept, &mut told).await;
                if let Err(error) = all {
                    tracing::debug!(%address, %error, "tell again what starts read");
                }
                told
            }
        });
        futures::future::join_all(telling).await.into_iter().sum()
    }

    async fn put_unknown(
        &self,
        channel: Channel,
        digests: Vec<String>,
        kept: &[PutProfileRequest],
        told: &mut usize,
    ) -> Result<(), Status> {
        let late = |_| Status::deadline_exceeded("no answer in time");
        let mut client = ProfilesClient::new(channel);
        let asking = client.find_unknown(FindUnknownRequest { digests });
        let asked = tokio::time::timeout(self.config.deadline, asking).await;
        let unknown = asked.map_err(late)??.into_inner().unknown;
        for place in unknown {
            let Some(one) = kept.get(place as usize) else {
                continue;
            };
            let putting = client.put_profile(one.clone());
            let put = tokio::time::timeout(self.config.deadline, putting).await;
            put.map_err(late)??;
            *told += 1;
        }
        Ok(())
    }

    /// What a start will read: of the first replica that knows something of it; one that was started again may
    /// not.
    ///
    /// # Errors
    /// When no replica answers.
    pub async fn get_profile(
        &self,
        request: GetProfileRequest,
    ) -> Result<GetProfileResponse, AskError> {
        let get = move |channel| {
            let request = request.clone();
            async move { ProfilesClient::new(channel).get_profile(request).await }
        };
        let knows = |told: &GetProfileResponse| !told.ranges.is_empty();
        self.ask_until(self.config.deadline, get, knows).await
    }

    /// Asks the replica that answered last, and on failure the others, each once.
    async fn ask<T, F>(
        &self,
        deadline: Duration,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, AskError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_until(deadline, call, |_| true).await
    }

    /// The same, going on until an answer is `enough`; else the first one.
    async fn ask_until<T, F>(
        &self,
        deadline: Duration,
        call: impl Fn(Channel) -> F,
        enough: impl Fn(&T) -> bool,
    ) -> Result<T, AskError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut poor = None;
        let order = self.replicas.in_order().await;
        let mut last = "no address is known for them".to_owned();
        for (address, channel) in &order {
            let answer = tokio::time::timeout(deadline, call(channel.clone())).await;
            match answer.map(|answer| answer.map(Response::into_inner)) {
                Ok(Ok(answer)) if enough(&answer) => {
                    self.replicas.prefer(*address);
                    return Ok(answer);
                }
                Ok(Ok(answer)) => {
                    poor.get_or_insert(answer);
                    continue;
                }
                Ok(Err(status)) if is_final(status.code()) => {
                    self.replicas.prefer(*address);
                    return Err(AskError::Refused(status));
                }
                Ok(Err(status)) => last = format!("{address}: {}", status.message()),
                Err(_) => last = format!("{address}: no answer within {deadline:?}"),
            }
            tracing::debug!(%last, "asking the next replica");
        }
        poor.ok_or(AskError::Unreachable {
            tried: order.len(),
            last,
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reporting.abort();
    }
}

fn discovery(channel: Channel) -> ServiceDiscoveryClient<Channel> {
    ServiceDiscoveryClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

fn partials(channel: Channel) -> PartialsClient<Channel> {
    PartialsClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// Whether every replica would answer so.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::DataLoss
            | Code::ResourceExhausted
            | Code::Unimplemented
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn questions_may_be_asked_by_any_task_and_end_without_replicas() {
        let client = Client::start(ClientConfig::new(Vec::new())).unwrap();
        let asking = tokio::spawn(async move {
            let layer = Sha256Digest::from_bytes([0; 32]);
            let found = client.find_provider(&layer).await.map(|_| ());
            let resolved = client.resolve(ResolveImageRequest::default()).await;
            (found, resolved.map(|_| ()))
        });
        let (found, resolved) = asking.await.unwrap();
        for error in [found.unwrap_err(), resolved.unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("no address is known"), "{text}");
            assert!(!error.is_rationed());
        }
    }
}
