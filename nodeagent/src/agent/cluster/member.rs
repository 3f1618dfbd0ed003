//! One machine's place in a cluster, as one state of the file and the certificates says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lamina_discovery::NodeId;
use lamina_discovery::client::{Client, ClientConfig, ClientTls};
use lamina_discovery::tls::{Certificates, TlsError};
use tonic::transport::Channel;

use super::choices::Choices;
use super::known::Known;
use super::pool::{self, Pool};
use crate::cluster_file::ClusterFile;

/// For one try of a question to one replica of discovery: a reader may wait for it.
const ASK_DEADLINE: Duration = Duration::from_millis(700);

/// Why nothing can be made of the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemberError {
    #[error("node id {node:?}: {why}")]
    Node { node: String, why: &'static str },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("dial the socket of `lamina node`")]
    Socket(#[from] tonic::transport::Error),
}

/// What a member is made of.
#[derive(PartialEq, Eq)]
pub(super) struct Makings {
    file: ClusterFile,
    certificates: Option<Certificates>,
}

/// One machine in its cluster.
pub(crate) struct Member {
    makings: Makings,
    node: NodeId,
    pub(super) discovery: Client,
    pub(super) pool: Pool,
    pub(super) own: Channel,
    pub(super) choices: Arc<Choices>,
    pub(super) known: Arc<Known>,
    /// Another one has taken its place.
    over: AtomicBool,
}

impl Makings {
    /// With the certificates as they are now.
    pub(super) fn of(file: ClusterFile) -> Result<Self, MemberError> {
        let tls = file.tls.as_deref();
        let certificates = tls.map(Certificates::read).transpose()?;
        Ok(Self { file, certificates })
    }

    /// A member, with what is known already.
    pub(super) fn make(
        self,
        choices: &Arc<Choices>,
        known: &Arc<Known>,
    ) -> Result<Member, MemberError> {
        let node = NodeId::parse(&self.file.node).map_err(|why| MemberError::Node {
            node: self.file.node.clone(),
            why,
        })?;
        let names = &self.file.server_names;
        let tls = self.file.tls.clone().map(|dir| ClientTls {
            dir,
            server_name: names.discovery.clone(),
        });
        let discovery = Client::start(ClientConfig {
            tls,
            deadline: ASK_DEADLINE,
            ..ClientConfig::new(self.file.discovery.clone())
        })?;
        Ok(Member {
            node,
            discovery,
            pool: Pool::new(self.certificates.clone(), &names.node),
            own: pool::to_socket(&self.file.socket)?,
            choices: Arc::clone(choices),
            known: Arc::clone(known),
            over: AtomicBool::new(false),
            makings: self,
        })
    }
}

impl Member {
    /// The node's id.
    pub(crate) fn node(&self) -> &NodeId {
        &self.node
    }

    /// Whether another one has taken its place: then it is better asked.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_of(&self, makings: &Makings) -> bool {
        self.makings == *makings
    }
}
