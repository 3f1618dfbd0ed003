//! Failures of calls: translated once, here, from what happened to what the caller can do.

use crate::agent::fetch::FetchError;
use crate::agent::flists::AdmitError;
use crate::api::{Failure, FailureKind};
use lamina_mount::cache::CacheError;
use lamina_store::ErrorKind;
use std::error::Error;
use std::io;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// An error, with its causes, as the answer to a call.
pub(crate) fn failure(kind: FailureKind, error: &dyn Error) -> Failure {
    Failure {
        kind,
        message: crate::chain(error),
    }
}

/// A refusal in words.
pub(crate) fn refused(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure {
        kind,
        message: message.into(),
    }
}

/// What a store's failure means to a caller.
pub(crate) fn of_store(kind: ErrorKind) -> FailureKind {
    match kind {
        ErrorKind::NotFound => FailureKind::NotFound,
        ErrorKind::Denied => FailureKind::Denied,
        ErrorKind::Timeout => FailureKind::Timeout,
        ErrorKind::Corrupt => FailureKind::Integrity,
        ErrorKind::Full => FailureKind::Exhausted,
        ErrorKind::Invalid | ErrorKind::Unsupported => FailureKind::Invalid,
        _ => FailureKind::Unavailable,
    }
}

/// What a cache failure means to a caller.
pub(crate) fn of_cache(error: &CacheError) -> FailureKind {
    match error {
        CacheError::Full { .. } => FailureKind::Exhausted,
        CacheError::Busy(_) => FailureKind::Busy,
        CacheError::Mismatch { .. } | CacheError::Length { .. } | CacheError::WrongMap(_) => {
            FailureKind::Integrity
        }
        _ => FailureKind::Other,
    }
}

/// What any error with its causes means: the first cause that says.
pub(crate) fn chain_kind(error: &anyhow::Error) -> FailureKind {
    let kind = |cause: &(dyn Error + 'static)| {
        let kind = match cause.downcast_ref::<CacheError>() {
            Some(error) => of_cache(error),
            None => of_io(cause.downcast_ref::<io::Error>()?),
        };
        (kind != FailureKind::Other).then_some(kind)
    };
    error.chain().find_map(kind).unwrap_or(FailureKind::Other)
}

/// What an I/O failure on a file the caller named means.
pub(crate) fn of_io(error: &io::Error) -> FailureKind {
    match error.kind() {
        io::ErrorKind::NotFound => FailureKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FailureKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::Exhausted,
        io::ErrorKind::ResourceBusy => FailureKind::Busy,
        io::ErrorKind::InvalidInput | io::ErrorKind::NotADirectory => FailureKind::Invalid,
        _ => FailureKind::Other,
    }
}

impl AdmitError {
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Read { source, .. } | Self::Copy { source, .. } => of_io(source),
            Self::Refused { .. } => FailureKind::Integrity,
            Self::Seal(error) => of_cache(error),
            Self::NoRoom { .. } => FailureKind::Exhausted,
        }
    }
}

impl FetchError {
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Store { source, .. } => of_store(source.kind()),
            Self::Cache { source, .. } => of_cache(source),
            Self::Late { .. } => FailureKind::Timeout,
            Self::Nodes { .. } => FailureKind::Unavailable,
            Self::NoRoom(_) => FailureKind::Exhausted,
            Self::Unplaced { .. } | Self::Closed { .. } | Self::Lost { .. } => FailureKind::Other,
        }
    }
}
