//! How patient and how trusting a [`crate::StoreSet`] is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Where the store URLs came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UrlTrust {
    /// Typed by the user: credentials may be sent where the URL says.
    #[default]
    User,
    /// Read from a flist somebody else may have written: a `credentials=` file is not opened, bearer tokens
    /// from the environment go only to the cloud's own servers, never to an `endpoint=`, and a docker login is
    /// not sent in plain HTTP (`insecure=true`) beyond this machine.
    Flist,
}

/// Where credentials and settings are looked up that a URL does not carry.
#[derive(Debug, Clone, Default)]
pub enum Environment {
    /// This process's environment.
    #[default]
    Process,
    /// The environment of whoever asked, for a daemon that serves several people.
    Given(Arc<BTreeMap<String, String>>),
}

impl Environment {
    /// A variable's value.
    pub(crate) fn var(&self, name: &str) -> Option<String> {
        match self {
            Self::Process => std::env::var(name).ok(),
            Self::Given(vars) => vars.get(name).cloned(),
        }
    }

    /// The variables whose names begin with `prefix`.
    pub(crate) fn starting_with(&self, prefix: &str) -> Vec<(String, String)> {
        let wanted = |(name, _): &(String, String)| name.starts_with(prefix);
        match self {
            // `vars` would panic at a foreign variable that is not UTF-8.
            Self::Process => std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .filter(wanted)
                .collect(),
            Self::Given(vars) => {
                let vars = vars
                    .iter()
                    .map(|(name, value)| (name.clone(), value.clone()));
                vars.filter(wanted).collect()
            }
        }
    }
}

impl From<BTreeMap<String, String>> for Environment {
    fn from(vars: BTreeMap<String, String>) -> Self {
        Self::Given(Arc::new(vars))
    }
}

/// Deadlines and trust. The defaults suit a command: a hanging replica costs a second, a wrong address a few.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Where the URLs came from.
    pub url_trust: UrlTrust,
    /// Where credentials are looked up.
    pub environment: Environment,
    /// One try of one request to one store, plus one second per [`StoreOptions::BYTES_PER_SECOND_MIN`].
    pub attempt_timeout: Duration,
    /// A read asks the next replica when the first has not answered after this long, plus a quarter of a
    /// second per MiB asked for.
    pub hedge_after: Duration,
    /// A whole operation with all its retries; what single tries take for their size comes on top, at most
    /// the same allowance.
    pub budget: Duration,
    /// The same where no connection comes about (refused, no such host): a server that restarts is back by
    /// then, a wrong address never is.
    pub connect_budget: Duration,
    /// A replica that failed is asked last for this long. One that an operation gave up waiting for is asked
    /// once per operation, without another wait.
    pub quarantine: Duration,
}

impl StoreOptions {
    /// A transfer slower than this counts as hanging.
    pub const BYTES_PER_SECOND_MIN: u64 = 256 << 10;

    /// One page of a listing: a registry may read all of its tags for each.
    pub(crate) fn page_timeout(&self) -> Duration {
        self.attempt_timeout * 2
    }

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
            environment: Environment::Process,
            attempt_timeout: Duration::from_secs(5),
            hedge_after: Duration::from_secs(1),
            budget: Duration::from_secs(30),
            connect_budget: Duration::from_secs(3),
            quarantine: Duration::from_secs(10),
        }
    }
}
