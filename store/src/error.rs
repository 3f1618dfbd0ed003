//! The one error every store operation returns: what kind of failure, at which store, for which key.
//!
//! The kind decides what a caller may do (retry, use another replica, give up); the text names the store
//! (never with a password in it) and leaves the cause to `source`.

use std::error::Error as StdError;
use std::fmt;

use crate::key::ObjectKey;

/// What went wrong, by what can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store answered: no such object. Another replica may have it.
    NotFound,
    /// Credentials are missing, wrong, or not allowed to do this.
    Denied,
    /// The store cannot be reached, or says it cannot serve now. Worth a retry.
    Unavailable,
    /// No answer within the deadline. Worth a retry.
    Timeout,
    /// The answer is not the object asked for: too short, too long, or other bytes.
    Corrupt,
    /// No space or quota left in the store.
    Full,
    /// The request makes no sense for this store: bad URL, bad range, bad key.
    Invalid,
    /// This kind of store cannot do that (a read-only store asked to write).
    Unsupported,
}

impl ErrorKind {
    /// Whether the same request may succeed a moment later.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout)
    }

    fn said(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::Denied => "access denied",
            Self::Unavailable => "store unavailable",
            Self::Timeout => "timed out",
            Self::Corrupt => "wrong data",
            Self::Full => "store full",
            Self::Invalid => "invalid request",
            Self::Unsupported => "not supported by this store",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.said())
    }
}

/// A failed store operation.
#[derive(Debug)]
pub struct StoreError(Box<Inner>); // small, so that results stay small

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    store: String,
    key: Option<ObjectKey>,
    detail: Option<String>,
    unreachable: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result of a store operation.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    /// A failure of `operation` ("read", "write", …) at `store`, its name already redacted.
    pub fn new(kind: ErrorKind, operation: &'static str, store: &str) -> Self {
        Self(Box::new(Inner {
            kind,
            operation,
            store: store.to_owned(),
            key: None,
            detail: None,
            unreachable: false,
            source: None,
        }))
    }

    /// Names the object the operation was about.
    #[must_use]
    pub fn key(mut self, key: &ObjectKey) -> Self {
        self.0.key = Some(*key);
        self
    }

    /// Adds what was observed, in a few words.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds to what was observed.
    #[must_use]
    pub(crate) fn and(mut self, more: &str) -> Self {
        self.0.detail = Some(match self.0.detail.take() {
            Some(detail) => format!("{detail}; {more}"),
            None => more.to_owned(),
        });
        self
    }

    /// A time-out says nothing of why: adds what an earlier try, which did not time out, said.
    #[must_use]
    pub(crate) fn after(self, before: Option<&StoreError>) -> Self {
        let Some(before) = before.filter(|_| self.kind() == ErrorKind::Timeout) else {
            return self;
        };
        let mut said = before.kind().to_string();
        if let Some(detail) = &before.0.detail {
            said = format!("{said}, {detail}");
        }
        let mut cause = StdError::source(before);
        while let Some(error) = cause {
            said = format!("{said}: {error}");
            cause = error.source();
        }
        self.and(&format!("before: {said}"))
    }

    /// Says that no connection came about (refused, no such host, no route): waiting seldom helps.
    #[must_use]
    pub fn unreachable(mut self) -> Self {
        self.0.unreachable = true;
        self.and("cannot connect")
    }

    /// Adds the cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether no connection came about.
    pub fn is_unreachable(&self) -> bool {
        self.0.unreachable
    }

    /// The store, without credentials.
    pub fn store(&self) -> &str {
        &self.0.store
    }

    /// The object, where the operation was about one.
    pub fn object(&self) -> Option<&ObjectKey> {
        self.0.key.as_ref()
    }

    /// `NotFound`?
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.0.operation)?;
        if let Some(key) = &self.0.key {
            write!(f, "{key} ")?;
        }
        write!(f, "at {}: {}", self.0.store, self.0.kind)?;
        match &self.0.detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

/// Maps an I/O error of a local file system to what a caller can do about it.
pub(crate) fn io_kind(error: &std::io::Error) -> ErrorKind {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => ErrorKind::NotFound,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => ErrorKind::Denied,
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => ErrorKind::Full,
        // A symbolic link or a non-directory where we keep ours: somebody else's doing.
        Some(Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO) => ErrorKind::Corrupt,
        Some(Errno::TIMEDOUT) => ErrorKind::Timeout,
        _ => match error.kind() {
            std::io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
            std::io::ErrorKind::TimedOut => ErrorKind::Timeout,
            _ => ErrorKind::Unavailable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_maps_to_what_the_caller_can_do() {
        let table = [
            (2, ErrorKind::NotFound),
            (13, ErrorKind::Denied),
            (30, ErrorKind::Denied),
            (28, ErrorKind::Full),
            (122, ErrorKind::Full),
            (40, ErrorKind::Corrupt),
            (5, ErrorKind::Unavailable),
        ];
        for (errno, kind) in table {
            assert_eq!(
                io_kind(&std::io::Error::from_raw_os_error(errno)),
                kind,
                "errno {errno}"
            );
        }
    }

    #[test]
    fn text_names_store_and_leaves_the_cause_to_source() {
        let error = StoreError::new(ErrorKind::Full, "write", "dir:///srv")
            .detail("after 3 tries")
            .source(std::io::Error::other("disk"));
        assert_eq!(
            error.to_string(),
            "write at dir:///srv: store full (after 3 tries)"
        );
        assert_eq!(StdError::source(&error).unwrap().to_string(), "disk");
    }
}
