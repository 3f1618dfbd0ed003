//! Why an image, a layer or a source's flist is not to be had, by what the caller can do about it.
//!
//! The kinds are the status codes named at the top of `node.proto` and `layerstore.proto`, one to one, so that
//! services translate them without looking at texts. An error is shared by everybody who waited for the same work,
//! hence `Clone`; no text of it holds a credential.

use std::error::Error as StdError;
use std::sync::Arc;

use lamina_flist::FlistError;
use lamina_image::convert::{CommitError, ConvertError, LayerFailure, RecordError, StreamError};
use lamina_image::decompress::BombError;
use lamina_image::manifest::ManifestError;
use lamina_image::registry::RegistryError;
use lamina_image::source::SourceError;
use lamina_store::{ErrorKind, SinkError, StoreError};
use tonic::Code;

use super::ledger::NoRoom;

/// What can be done about it: the gRPC status code it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EnsureErrorKind {
    /// The request makes no sense: `INVALID_ARGUMENT`.
    InvalidArgument,
    /// There is no such image or flist: `NOT_FOUND`.
    NotFound,
    /// Registry or store refused: `PERMISSION_DENIED`.
    PermissionDenied,
    /// It was given up half-way and can be asked for again: `ABORTED`.
    Aborted,
    /// Registry or store cannot be reached: `UNAVAILABLE`.
    Unavailable,
    /// Nothing came in time: `DEADLINE_EXCEEDED`.
    DeadlineExceeded,
    /// Bytes do not match their digest: `DATA_LOSS`.
    DataLoss,
    /// A queue, a disk or a limit is full: `RESOURCE_EXHAUSTED`.
    ResourceExhausted,
    /// Somebody uses it: `FAILED_PRECONDITION`.
    FailedPrecondition,
    /// Our own disk or a bug: `INTERNAL`.
    Internal,
}

impl EnsureErrorKind {
    /// The status code that the contracts name for it.
    pub(crate) fn code(self) -> Code {
        match self {
            Self::InvalidArgument => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::Aborted => Code::Aborted,
            Self::Unavailable => Code::Unavailable,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::DataLoss => Code::DataLoss,
            Self::ResourceExhausted => Code::ResourceExhausted,
            Self::FailedPrecondition => Code::FailedPrecondition,
            Self::Internal => Code::Internal,
        }
    }

    /// It may be refused to one caller, from another repository or with other credentials, and not to the next.
    pub(crate) fn is_of_the_caller(self) -> bool {
        matches!(self, Self::PermissionDenied | Self::NotFound)
    }
}

/// A flist is not to be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
pub struct EnsureError {
    kind: EnsureErrorKind,
    what: String,
    #[source]
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl EnsureError {
    /// A failure that explains itself: what was tried, what is wrong, what to do.
    pub fn new(kind: EnsureErrorKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            source: None,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What can be done about it.
    pub fn kind(&self) -> EnsureErrorKind {
        self.kind
    }

    /// Our own disk.
    pub(crate) fn disk(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::new(of_disk(&source), what).because(source)
    }

    /// The layerstore's bound.
    pub(crate) fn room(what: impl Into<String>, source: NoRoom) -> Self {
        Self::new(EnsureErrorKind::ResourceExhausted, what).because(source)
    }

    /// A store.
    pub(crate) fn store(what: impl Into<String>, source: StoreError) -> Self {
        Self::new(of_store(source.kind()), what).because(source)
    }

    /// A flist that is not sound.
    pub(crate) fn flist(what: impl Into<String>, source: FlistError) -> Self {
        Self::new(EnsureErrorKind::DataLoss, what).because(source)
    }

    /// A registry.
    pub(crate) fn registry(what: impl Into<String>, source: RegistryError) -> Self {
        Self::new(of_registry(&source), what).because(source)
    }

    /// A conversion.
    pub(crate) fn convert(what: impl Into<String>, source: ConvertError) -> Self {
        Self::new(of_convert(&source), what).because(source)
    }

    /// Changes over a flist.
    pub(crate) fn commit(what: impl Into<String>, source: CommitError) -> Self {
        Self::new(of_commit(&source), what).because(source)
    }
}

fn of_disk(error: &std::io::Error) -> EnsureErrorKind {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            EnsureErrorKind::ResourceExhausted
        }
        _ => EnsureErrorKind::Internal,
    }
}

fn of_store(kind: ErrorKind) -> EnsureErrorKind {
    match kind {
        ErrorKind::NotFound => EnsureErrorKind::NotFound,
        ErrorKind::Denied => EnsureErrorKind::PermissionDenied,
        ErrorKind::Unavailable => EnsureErrorKind::Unavailable,
        ErrorKind::Timeout => EnsureErrorKind::DeadlineExceeded,
        ErrorKind::Corrupt => EnsureErrorKind::DataLoss,
        ErrorKind::Full => EnsureErrorKind::ResourceExhausted,
        ErrorKind::Invalid | ErrorKind::Unsupported => EnsureErrorKind::InvalidArgument,
        _ => EnsureErrorKind::Internal,
    }
}

fn of_registry(error: &RegistryError) -> EnsureErrorKind {
    match error {
        RegistryError::NotFound { .. } => EnsureErrorKind::NotFound,
        RegistryError::Denied { .. } | RegistryError::Redirect { .. } => {
            EnsureErrorKind::PermissionDenied
        }
        RegistryError::Credentials(_) => EnsureErrorKind::InvalidArgument,
        RegistryError::Manifest(error) => of_manifest(error),
        RegistryError::TooLong { .. } => EnsureErrorKind::ResourceExhausted,
        RegistryError::RateLimited { .. }
        | RegistryError::NotBefore { .. }
        | RegistryError::Status { .. }
        | RegistryError::Transport { .. }
        | RegistryError::Short { .. }
        | RegistryError::Protocol { .. } => EnsureErrorKind::Unavailable,
    }
}

fn of_manifest(error: &ManifestError) -> EnsureErrorKind {
    match error {
        ManifestError::WrongDigest { .. } | ManifestError::WrongSize { .. } => {
            EnsureErrorKind::DataLoss
        }
        ManifestError::NoPlatform { .. } | ManifestError::WrongPlatform { .. } => {
            EnsureErrorKind::NotFound
        }
        _ => EnsureErrorKind::InvalidArgument,
    }
}

fn of_convert(error: &ConvertError) -> EnsureErrorKind {
    if let Some(kind) = of_bytes(error) {
        return kind;
    }
    match error {
        ConvertError::Source(SourceError::Registry(error)) => of_registry(error),
        ConvertError::Source(SourceError::Manifest(error)) => of_manifest(error),
        ConvertError::Layer { source, .. } | ConvertError::Archive { source, .. } => {
            of_layer(source)
        }
        ConvertError::Cancelled => EnsureErrorKind::Aborted,
        ConvertError::NoTarget => EnsureErrorKind::Internal,
        ConvertError::WrongRecord { .. } => EnsureErrorKind::DataLoss,
        _ => EnsureErrorKind::InvalidArgument,
    }
}

fn of_layer(failure: &LayerFailure) -> EnsureErrorKind {
    match failure {
        LayerFailure::Store(error) | LayerFailure::Sink(SinkError::Store(error)) => {
            of_store(error.kind())
        }
        LayerFailure::Sink(SinkError::Vanished(_)) | LayerFailure::Cancelled => {
            EnsureErrorKind::Aborted
        }
        LayerFailure::Stream(StreamError::TooLong { .. }) => EnsureErrorKind::ResourceExhausted,
        LayerFailure::Stream(StreamError::Read(_) | StreamError::TrailingData)
        | LayerFailure::Open(_)
        | LayerFailure::Layer(_) => EnsureErrorKind::InvalidArgument,
        LayerFailure::Stream(_) => EnsureErrorKind::DataLoss,
        LayerFailure::Sink(SinkError::Io(error))
        | LayerFailure::Record(RecordError::Write { source: error, .. }) => of_disk(error),
        LayerFailure::Sink(_) | LayerFailure::Place(_) | LayerFailure::Record(_) => {
            EnsureErrorKind::Internal
        }
    }
}

fn of_commit(error: &CommitError) -> EnsureErrorKind {
    if let Some(kind) = of_bytes(error) {
        return kind;
    }
    match error {
        CommitError::Sink(SinkError::Store(error)) => of_store(error.kind()),
        CommitError::Sink(SinkError::Vanished(_)) => EnsureErrorKind::Aborted,
        CommitError::Sink(SinkError::Io(error)) => of_disk(error),
        CommitError::Base(_) => EnsureErrorKind::DataLoss,
        CommitError::TooMany => EnsureErrorKind::ResourceExhausted,
        CommitError::NoTarget | CommitError::Sink(_) | CommitError::Place(_) => {
            EnsureErrorKind::Internal
        }
        _ => EnsureErrorKind::InvalidArgument,
    }
}

/// What stopped the stream of bytes, which travels inside an I/O error.
fn of_bytes(error: &(dyn StdError + 'static)) -> Option<EnsureErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>();
        if let Some(inner) = inner.and_then(std::io::Error::get_ref) {
            if let Some(error) = inner.downcast_ref::<RegistryError>() {
                return Some(of_registry(error));
            }
            if inner.is::<BombError>() {
                return Some(EnsureErrorKind::ResourceExhausted);
            }
            match inner.downcast_ref::<StreamError>() {
                Some(StreamError::TooLong { .. }) => {
                    return Some(EnsureErrorKind::ResourceExhausted);
                }
                Some(_) => return Some(EnsureErrorKind::DataLoss),
                None => {}
            }
        }
        cause = error.source();
    }
    None
}
