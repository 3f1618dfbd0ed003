//! How a failed verb ends: one message on standard error, one documented exit code.

use anyhow::Error;
use lamina_image::convert::{ConvertError, LayerFailure, StreamError};
use lamina_image::layer::LayerError;
use lamina_image::manifest::ManifestError;
use lamina_image::registry::RegistryError;
use lamina_image::source::{ArchiveError, LayoutError, SourceError};
use lamina_image::tar::TarError;
use lamina_image::unpack::UnpackError;
use lamina_nodeagent::api::{CallError, FailureKind};
use lamina_store::{OpenFlistError, SinkError};
use std::io;
use std::process::ExitCode;

/// Anything no other code fits.
const FAILURE: u8 = 1;
/// The command line or an input is wrong.
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const AUTH: u8 = 4;
const UNAVAILABLE: u8 = 6;
const TIMEOUT: u8 = 7;
const INTEGRITY: u8 = 8;
const EXHAUSTED: u8 = 10;

/// As if SIGPIPE had ended the command: nobody reads what it writes.
pub(crate) const BROKEN_PIPE: u8 = 128 + 13;

/// The user asked for something that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Something named by the user does not exist.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotFound(pub(crate) String);

/// Data was found damaged.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damaged(pub(crate) String);

/// Nothing is known to be wrong, but stores could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreachable(pub(crate) String);

/// The command that `lamina run` ran ended like this; there is nothing more to say.
#[derive(Debug, thiserror::Error)]
#[error("the command ended with code {0}")]
pub(crate) struct CommandEnded(pub(crate) u8);

/// `lamina run` could not run the command: a code of its own, since others are the command's.
#[derive(Debug, thiserror::Error)]
#[error("run {0}")]
pub(crate) struct NotRun(pub(crate) String);

/// Prints the error with its causes and gives the exit code.
pub(crate) fn report(error: &Error) -> ExitCode {
    if let Some(CommandEnded(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    eprintln!("error: {}", crate::output::printable(&message(error)));
    ExitCode::from(code(error))
}

/// The chain of causes in one line, without a cause that only repeats what was said before it.
fn message(error: &Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

/// What a verb said of the whole failure decides, then the first cause that knows its code.
fn code(error: &Error) -> u8 {
    if error.downcast_ref::<NotRun>().is_some() {
        return lamina_runtime::ended::EXIT_FAILED;
    }
    if error.downcast_ref::<Usage>().is_some() {
        return USAGE;
    }
    if error.downcast_ref::<NotFound>().is_some() {
        return NOT_FOUND;
    }
    if error.downcast_ref::<Damaged>().is_some() {
        return INTEGRITY;
    }
    if error.downcast_ref::<Unreachable>().is_some() {
        return UNAVAILABLE;
    }
    error.chain().find_map(known_code).unwrap_or(FAILURE)
}

fn known_code(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(error) = cause.downcast_ref::<CallError>() {
        return Some(of_call(error));
    }
    if let Some(fault) = cause.downcast_ref::<crate::kube::Fault>() {
        return Some(of_cluster(fault.kind));
    }
    if let Some(error) = cause.downcast_ref::<lamina_store::StoreError>() {
        return Some(of_store(error.kind()));
    }
    if let Some(error) = cause.downcast_ref::<SinkError>() {
        return of_sink(error);
    }
    if let Some(error) = cause.downcast_ref::<ConvertError>() {
        return of_convert(error);
    }
    if let Some(error) = cause.downcast_ref::<LayerFailure>() {
        return of_layer(error);
    }
    if let Some(error) = cause.downcast_ref::<lamina_store::ReadError>() {
        return Some(of_store(error.kind()));
    }
    if let Some(error) = cause.downcast_ref::<UnpackError>() {
        return of_unpack(error);
    }
    if let Some(OpenFlistError::NotAFile { .. }) = cause.downcast_ref() {
        return Some(USAGE);
    }
    if cause.is::<lamina_flist::FlistError>() {
        return Some(INTEGRITY);
    }
    cause
        .downcast_ref::<io::Error>()
        .and_then(|error| of_io(error.kind()))
}

fn of_call(error: &CallError) -> u8 {
    match error {
        CallError::NoAgent { .. } | CallError::Broken { .. } => UNAVAILABLE,
        CallError::Timeout { .. } => TIMEOUT,
        CallError::Failed(failure) | CallError::CannotStart(failure) => match failure.kind {
            FailureKind::Invalid => USAGE,
            FailureKind::NotFound => NOT_FOUND,
            FailureKind::Denied => AUTH,
            FailureKind::Unavailable => UNAVAILABLE,
            FailureKind::Timeout => TIMEOUT,
            FailureKind::Integrity => INTEGRITY,
            FailureKind::Exhausted => EXHAUSTED,
            FailureKind::Busy | FailureKind::Other => FAILURE,
        },
    }
}

fn of_cluster(kind: crate::kube::Kind) -> u8 {
    use crate::kube::Kind as K;
    match kind {
        K::Usage => USAGE,
        K::NotFound => NOT_FOUND,
        K::Denied => AUTH,
        K::Unavailable => UNAVAILABLE,
        K::Timeout => TIMEOUT,
        K::Integrity => INTEGRITY,
        K::Exhausted => EXHAUSTED,
        K::Other => FAILURE,
    }
}

fn of_store(kind: lamina_store::ErrorKind) -> u8 {
    use lamina_store::ErrorKind as K;
    match kind {
        K::NotFound => NOT_FOUND,
        K::Denied => AUTH,
        K::Unavailable => UNAVAILABLE,
        K::Timeout => TIMEOUT,
        K::Corrupt => INTEGRITY,
        K::Full => EXHAUSTED,
        K::Invalid | K::Unsupported => USAGE,
        _ => FAILURE,
    }
}

/// `transparent` errors do not appear in the chain by themselves; these know what they wrap.
fn of_sink(error: &SinkError) -> Option<u8> {
    match error {
        SinkError::Store(error) => Some(of_store(error.kind())),
        _ => None,
    }
}

fn of_unpack(error: &UnpackError) -> Option<u8> {
    match error {
        UnpackError::NotEmpty(_) | UnpackError::IsLayer => Some(USAGE),
        UnpackError::Missing(_) => Some(INTEGRITY),
        _ => None,
    }
}

fn of_convert(error: &ConvertError) -> Option<u8> {
    match error {
        ConvertError::Source(SourceError::Registry(error)) => of_registry(error),
        ConvertError::Source(SourceError::Manifest(error)) => Some(of_manifest(error)),
        ConvertError::Source(SourceError::Layout(error)) => of_layout(error),
        ConvertError::Source(SourceError::Archive(error)) => of_archive(error),
        ConvertError::Source(SourceError::NestedIndex) | ConvertError::Stack(_) => Some(INTEGRITY),
        ConvertError::NoTarget => Some(USAGE),
        _ => None,
    }
}

fn of_layout(error: &LayoutError) -> Option<u8> {
    match error {
        LayoutError::Read { .. } => None,
        LayoutError::Tag { .. } => Some(NOT_FOUND),
        LayoutError::Several { .. } => Some(USAGE),
        LayoutError::Manifest { source, .. } => Some(of_manifest(source)),
    }
}

fn of_archive(error: &ArchiveError) -> Option<u8> {
    match error {
        ArchiveError::Read { .. } => None,
        ArchiveError::Tar { source, .. } => of_tar(source),
        ArchiveError::Name { .. } => Some(NOT_FOUND),
        ArchiveError::Several { .. } => Some(USAGE),
        ArchiveError::Config { source, .. } => Some(of_manifest(source)),
        ArchiveError::Unpack { source, .. } => of_stream(source),
        ArchiveError::Missing { .. } | ArchiveError::Manifest { .. } => Some(INTEGRITY),
    }
}

fn of_tar(error: &TarError) -> Option<u8> {
    match error {
        TarError::Io { source, .. } => of_stream(source),
        _ => Some(INTEGRITY),
    }
}

/// Reading through a decompressor: what no disk and no server said, it said of the bytes.
fn of_stream(error: &io::Error) -> Option<u8> {
    use io::ErrorKind as K;
    if let Some(error) = error.get_ref().and_then(|e| e.downcast_ref()) {
        return of_registry(error);
    }
    match error.kind() {
        kind if error.raw_os_error().is_some() => of_io(kind),
        K::InvalidInput | K::InvalidData | K::UnexpectedEof | K::Unsupported | K::Other => {
            Some(INTEGRITY)
        }
        kind => of_io(kind),
    }
}

fn of_layer(failure: &LayerFailure) -> Option<u8> {
    match failure {
        LayerFailure::Store(error) => Some(of_store(error.kind())),
        LayerFailure::Stream(StreamError::Read(error)) => of_stream(error),
        LayerFailure::Layer(LayerError::Tar(error)) => of_tar(error),
        LayerFailure::Layer(LayerError::Sink(_)) => None,
        LayerFailure::Layer(_)
        | LayerFailure::Stream(
            StreamError::WrongSize { .. }
            | StreamError::WrongDigest { .. }
            | StreamError::WrongDiffId { .. }
            | StreamError::TrailingData,
        ) => Some(INTEGRITY),
        _ => None,
    }
}

fn of_registry(error: &RegistryError) -> Option<u8> {
    match error {
        RegistryError::NotFound { .. } => Some(NOT_FOUND),
        RegistryError::Denied { .. } | RegistryError::Credentials(_) => Some(AUTH),
        RegistryError::RateLimited { .. }
        | RegistryError::NotBefore { .. }
        | RegistryError::Status { .. }
        | RegistryError::Transport { .. }
        | RegistryError::Short { .. } => Some(UNAVAILABLE),
        RegistryError::TooLong { .. } | RegistryError::Protocol { .. } => Some(INTEGRITY),
        RegistryError::Manifest(error) => Some(of_manifest(error)),
        RegistryError::Redirect { .. } => None,
    }
}

fn of_manifest(error: &ManifestError) -> u8 {
    match error {
        ManifestError::NoPlatform { .. } | ManifestError::WrongPlatform { .. } => NOT_FOUND,
        ManifestError::TooLarge { .. } | ManifestError::TooMany { .. } => EXHAUSTED,
        _ => INTEGRITY,
    }
}

fn of_io(kind: io::ErrorKind) -> Option<u8> {
    use io::ErrorKind as K;
    match kind {
        K::NotFound => Some(NOT_FOUND),
        K::PermissionDenied | K::ReadOnlyFilesystem => Some(AUTH),
        K::ConnectionRefused | K::ConnectionReset | K::HostUnreachable | K::NetworkUnreachable => {
            Some(UNAVAILABLE)
        }
        K::TimedOut => Some(TIMEOUT),
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge | K::OutOfMemory => Some(EXHAUSTED),
        K::InvalidInput | K::NotADirectory | K::IsADirectory => Some(USAGE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn every_documented_kind_has_its_code() {
        let io = |kind| Error::from(io::Error::from(kind)).context("do a thing");
        assert_eq!(code(&io(io::ErrorKind::NotFound)), 3);
        assert_eq!(code(&io(io::ErrorKind::PermissionDenied)), 4);
        assert_eq!(code(&io(io::ErrorKind::ConnectionRefused)), 6);
        assert_eq!(code(&io(io::ErrorKind::TimedOut)), 7);
        assert_eq!(code(&io(io::ErrorKind::StorageFull)), 10);
        assert_eq!(code(&Usage("x".into()).into()), 2);
        assert_eq!(
            code(&io(io::ErrorKind::NotFound).context(Usage("x".into()))),
            2
        );
        assert_eq!(code(&Damaged("x".into()).into()), 8);
        let registry = |error| code(&ConvertError::Source(SourceError::Registry(error)).into());
        let url = || "https://host.example/v2/".to_owned();
        assert_eq!(registry(RegistryError::NotFound { url: url() }), 3);
        assert_eq!(
            registry(RegistryError::Denied {
                url: url(),
                status: 401
            }),
            4
        );
        assert_eq!(
            registry(RegistryError::RateLimited {
                url: url(),
                attempts: 3
            }),
            6
        );
        assert_eq!(
            registry(RegistryError::NotBefore {
                url: url(),
                status: 429,
                wait: std::time::Duration::from_secs(600)
            }),
            6
        );
        let store = |kind| lamina_store::StoreError::new(kind, "read", "dir:///x");
        let layer = LayerFailure::Store(store(lamina_store::ErrorKind::Denied));
        assert_eq!(code(&layer.into()), 4);
        assert_eq!(
            code(&SinkError::Store(store(lamina_store::ErrorKind::Full)).into()),
            10
        );
        assert_eq!(code(&anyhow::anyhow!("something else")), 1);
    }

    #[test]
    fn bytes_that_cannot_be_read_are_damage_and_transfers_that_fail_are_not() {
        let layer = |error| code(&LayerFailure::Stream(StreamError::Read(error)).into());
        let bad_deflate = io::Error::new(io::ErrorKind::InvalidInput, "corrupt deflate stream");
        assert_eq!(layer(bad_deflate), 8);
        assert_eq!(layer(io::ErrorKind::UnexpectedEof.into()), 8);
        assert_eq!(layer(io::Error::from_raw_os_error(libc::EACCES)), 4);
        let url = "https://host.example/v2/".to_owned();
        let limited = RegistryError::RateLimited { url, attempts: 3 };
        assert_eq!(layer(io::Error::other(limited)), 6);
    }

    #[test]
    fn an_image_that_is_not_there_is_told_from_one_that_is_not_named() {
        let source = |error| code(&ConvertError::Source(SourceError::Layout(error)).into());
        let dir = || std::path::PathBuf::from("oci");
        let tags = Vec::new;
        let why = "no image".to_owned();
        let missing = LayoutError::Tag {
            dir: dir(),
            why,
            tags: tags(),
        };
        assert_eq!(source(missing), 3);
        let several = LayoutError::Several {
            dir: dir(),
            tags: tags(),
        };
        assert_eq!(source(several), 2);
    }

    #[test]
    fn a_cause_is_not_printed_twice() {
        let inner = io::Error::other("disk on fire");
        let error = Err::<(), _>(inner)
            .context("write: disk on fire")
            .unwrap_err();
        assert_eq!(message(&error), "write: disk on fire");
    }
}
