//! How patient and how trusting a [`crate::StoreSet`] is.

use std::time::Duration;

/// Where the store URLs came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UrlTrust {
    /// Typed by the user: credentials may be sent where the URL says.
    #[default]
    User,
    /// Read from a flist somebody else may have written: a `credentials=` file is not opened, and bearer
    /// tokens from the environment go only to the cloud's own servers, never to an `endpoint=`.
    Flist,
}

/// Deadlines and trust. The defaults suit a mount: a hanging replica costs a second.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Where the URLs came from.
    pub url_trust: UrlTrust,
    /// One try of one request to one store, plus one second per [`StoreOptions::BYTES_PER_SECOND_MIN`].
    pub attempt_timeout: Duration,
    /// A read asks the next replica when the first has not answered after this long, plus a quarter of a
    /// second per MiB asked for.
    pub hedge_after: Duration,
    /// A whole operation with all its retries, plus the same allowance for size.
    pub budget: Duration,
    /// A replica that failed is asked last for this long.
    pub quarantine: Duration,
}

impl StoreOptions {
    /// A transfer slower than this counts as hanging.
    pub const BYTES_PER_SECOND_MIN: u64 = 256 << 10;

    /// `base` plus what `bytes` take at 4 MiB/s: asking a second replica for what the first is still sending
    /// at a fair pace would only halve the line.
    pub(crate) fn hedge_allow(base: Duration, bytes: u64) -> Duration {
        base + Duration::from_millis(bytes.saturating_mul(1000) / (4 << 20))
    }

    /// `base` plus what `bytes` may take on a slow line.
    pub(crate) fn allow(base: Duration, bytes: u64) -> Duration {
        base + Duration::from_millis(bytes.saturating_mul(1000) / Self::BYTES_PER_SECOND_MIN)
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            url_trust: UrlTrust::User,
            attempt_timeout: Duration::from_secs(5),
            hedge_after: Duration::from_secs(1),
            budget: Duration::from_secs(30),
            quarantine: Duration::from_secs(10),
        }
    }
}
