//! `lamina.v1.Certificates`: a certificate for the node that the caller's token speaks for.
//!
//! Everybody can call: what is not a node's costs one look at a map, or one review at most, and callers have rations.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use lamina_proto::lamina::v1::certificates_server::Certificates;
use lamina_proto::lamina::v1::{SignRequest, SignResponse};
use prometheus::IntCounterVec;
use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::authority::Ca;
use super::ration::Rations;
use super::review::{self, Refused};
use super::sign::{self, Unsigned};
use super::{AUTHORITY_SECRET, secrets};

/// Most bytes of a token; those of the API server have about 1 KiB.
const TOKEN_MAX: usize = 8 << 10;
/// Calls that wait for the API server at once.
const REVIEWS_MAX: usize = 64;
/// How long a CA is believed to be the one that signs. Reading it for each of ten thousand nodes is not needed.
const REMEMBERED: Duration = Duration::from_secs(30);
/// How long the API server may take to say which it is.
const DEADLINE: Duration = Duration::from_secs(5);

/// Signs for nodes.
pub(super) struct Service {
    client: kube::Client,
    namespace: String,
    counted: IntCounterVec,
    callers: Mutex<Rations<IpAddr>>,
    nodes: Mutex<Rations<String>>,
    reviews: Semaphore,
    authority: tokio::sync::Mutex<Option<(Instant, Arc<Ca>)>>,
}

impl Service {
    /// `counted` has a label for the result.
    pub(super) fn new(client: kube::Client, namespace: String, counted: IntCounterVec) -> Self {
        Self {
            client,
            namespace,
            counted,
            // A node asks twice a day, and again after a failure: one that is started again and again included.
            callers: Mutex::new(Rations::new(30, Duration::from_secs(1))),
            nodes: Mutex::new(Rations::new(20, Duration::from_secs(30))),
            reviews: Semaphore::new(REVIEWS_MAX),
            authority: tokio::sync::Mutex::default(),
        }
    }

    async fn signed(&self, request: Request<SignRequest>) -> Result<SignResponse, Status> {
        let often =
            |who: &str| Status::resource_exhausted(format!("too many requests {who}: ask later"));
        let address = request.remote_addr().map(|at| at.ip().to_canonical());
        let address = address.ok_or_else(|| Status::internal("the caller has no address"))?;
        if !taken(&self.callers, address) {
            return Err(often("from this address"));
        }
        let token = token(request.metadata())?.to_owned();
        let request = request.into_inner().request;
        if request.len() > sign::REQUEST_MAX {
            return Err(refused(&Unsigned::TooBig(request.len())));
        }
        let node = {
            let _turn = self.reviews.try_acquire().map_err(|_| often("at once"))?;
            let node = review::node_of(&self.client, &self.namespace, &token).await;
            node.map_err(|error| unaccepted(&error))?
        };
        if !taken(&self.nodes, node.clone()) {
            return Err(often("for this node"));
        }
        let ca = self.authority().await?;
        let signed = sign::sign(&ca, &node, &request, Timestamp::now());
        let certificate = signed.map_err(|error| refused(&error))?;
        tracing::info!(node, "signed a certificate");
        Ok(SignResponse { certificate })
    }

    /// The CA that signs: it is published, and has been for long enough.
    async fn authority(&self) -> Result<Arc<Ca>, Status> {
        let mut known = self.authority.lock().await;
        if let Some((at, ca)) = known.as_ref()
            && at.elapsed() < REMEMBERED
        {
            return Ok(Arc::clone(ca));
        }
        let read = tokio::time::timeout(DEADLINE, self.read());
        let read = read
            .await
            .map_err(|_| not_yet("the API server does not answer"))?;
        let ca = Arc::new(read?);
        *known = Some((Instant::now(), Arc::clone(&ca)));
        Ok(ca)
    }

    async fn read(&self) -> Result<Ca, Status> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let get = async |name: &str| {
            let found = api.get_opt(name).await;
            let found =
                found.map_err(|error| not_yet(&format!("the API server refused: {error}")))?;
            found.ok_or_else(|| not_yet(&format!("there is no Secret {name} yet")))
        };
        let published = get(AUTHORITY_SECRET).await?;
        let name = secrets::signer_of(&published).unwrap_or_default();
        let ca = Ca::read(&get(name).await?).map_err(|error| not_yet(&error.to_string()))?;
        let trusted = super::authority::text(&published, "ca.crt").unwrap_or_default();
        if !trusted.contains(&ca.pem) {
            return Err(not_yet(
                "the authority that signs is new and not published yet",
            ));
        }
        match secrets::signs_from(&published) {
            Some(from) if from <= Timestamp::now() => Ok(ca),
            _ => Err(not_yet(
                "the authority that signs has been published only now",
            )),
        }
    }
}

#[tonic::async_trait]
impl Certificates for Service {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let signed = self.signed(request).await;
        let code = signed.as_ref().map_or_else(Status::code, |_| Code::Ok);
        if let Err(status) = &signed {
            tracing::debug!(?code, message = status.message(), "not signed");
        }
        self.counted.with_label_values(&[word(code)]).inc();
        signed.map(Response::new)
    }
}

fn taken<K: std::hash::Hash + Eq>(rations: &Mutex<Rations<K>>, key: K) -> bool {
    let mut rations = rations.lock().expect("no holder panics");
    rations.take(key, Instant::now())
}

/// The token of a call.
fn token(metadata: &MetadataMap) -> Result<&str, Status> {
    let missing =
        || Status::unauthenticated("authorization: a pod's token is needed, as `Bearer TOKEN`");
    let header = metadata.get("authorization").ok_or_else(missing)?;
    let token = header
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("Bearer "));
    let token = token.map(str::trim).filter(|token| !token.is_empty());
    let token = token.ok_or_else(missing)?;
    match token.len() <= TOKEN_MAX {
        true => Ok(token),
        false => Err(Status::unauthenticated(
            "authorization: no token is that long",
        )),
    }
}

fn unaccepted(error: &Refused) -> Status {
    let message = error.to_string();
    match error {
        Refused::NotAccepted => Status::unauthenticated(message),
        Refused::OtherAccount { .. } | Refused::NoNode | Refused::BadName(_) => {
            Status::permission_denied(message)
        }
        Refused::Unavailable(_) => Status::unavailable(message),
    }
}

fn refused(error: &Unsigned) -> Status {
    let message = error.to_string();
    match error {
        Unsigned::TooBig(_) | Unsigned::NotOne(_) | Unsigned::OtherKey => {
            Status::invalid_argument(message)
        }
        Unsigned::Failed(_) => Status::unavailable(message),
    }
}

fn not_yet(why: &str) -> Status {
    Status::unavailable(format!("nothing can be signed now: {why}"))
}

/// What is counted.
fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "signed",
        Code::ResourceExhausted => "limited",
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => "refused",
        _ => "failed",
    }
}
