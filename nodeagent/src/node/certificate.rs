//! The node's own certificate: asked of the operator with the token of this pod, and renewed.
//!
//! ```text
//!  token, ca.crt (volumes of the pod) ──> Certificates.Sign ──> <state>/tls/{tls.crt, tls.key, ca.crt}
//! ```
//!
//! The key never leaves the machine, and is another one each time. Nothing that mounts waits for it: only the TCP side
//! and discovery do. Whom to believe comes from the pod's volume alone. Files are replaced whole; who reads a
//! certificate beside the key of another one takes neither and looks again.

mod ask;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lamina_discovery::daemon::stopped;
use lamina_discovery::identity;
use lamina_discovery::random::Random;
use lamina_discovery::tls::{self, Certificates};
use tokio::sync::watch;
use tonic::transport::{Identity, ServerTlsConfig};

use super::metrics::Metrics;
use crate::rundir::replace_file;

/// Where the files are, in the state directory.
pub const DIR: &str = "tls";
/// Between two looks at the volume with the authority.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After a failure; doubled after each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The most of it: an operator that is back has ten thousand nodes to serve.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Most bytes of a token or of an authority.
const FILE_MAX: u64 = 1 << 20;

/// How a node gets its certificate.
#[derive(Debug, Clone)]
pub struct CertificatesFrom {
    /// `HOST:PORT` of `lamina.v1.Certificates`.
    pub address: String,
    /// File with the pod's token: read at each request, since kubelet replaces it.
    pub token: PathBuf,
    /// File with whom to believe.
    pub ca: PathBuf,
}

/// Whether there is a certificate: set once, and true from then on.
pub(crate) type Certified = watch::Receiver<bool>;

/// Returns once there is a certificate, or `stop` says so; whether there is one.
pub(crate) async fn certified(mut certified: Certified, stop: watch::Receiver<bool>) -> bool {
    tokio::select! {
        told = certified.wait_for(|there| *there) => told.is_ok(),
        () = stopped(stop) => false,
    }
}

/// Keeps the certificate in `dir` until `stop`, and tells when there is one.
///
/// # Errors
/// When the directory cannot be made.
pub(super) async fn keep(
    from: CertificatesFrom,
    dir: PathBuf,
    metrics: Arc<Metrics>,
    tell: watch::Sender<bool>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    super::make_private(&dir)?;
    let mut keeper = Keeper {
        from,
        dir,
        metrics,
        tell,
        random: Random::new(),
        failures: 0,
    };
    tokio::select! {
        () = keeper.run() => {}
        () = stopped(stop) => {}
    }
    Ok(())
}

/// When something is due by the machine's clock, which may be set: forward, and it is due sooner, as certificates end
/// sooner; back, and it is still due within the same wait.
struct Due {
    at: SystemTime,
    wait: Duration,
}

impl Due {
    fn after(wait: Duration, now: SystemTime) -> Self {
        let at = now + wait;
        Self { at, wait }
    }

    /// How long until then; none when it is due.
    fn left(&mut self, now: SystemTime) -> Duration {
        self.at = self.at.min(now + self.wait);
        self.at.duration_since(now).unwrap_or_default()
    }
}

struct Keeper {
    from: CertificatesFrom,
    dir: PathBuf,
    metrics: Arc<Metrics>,
    tell: watch::Sender<bool>,
    random: Random,
    failures: u32,
}

impl Keeper {
    async fn run(&mut self) {
        // One of an earlier process serves until there is a new one. It is asked for anyway: the authority may be
        // another one by now.
        if let Err(error) = self.take_authority().and_then(|_| self.look()) {
            tracing::debug!("no certificate of before: {error:#}");
        }
        let mut due = Due::after(Duration::ZERO, SystemTime::now());
        loop {
            if due.left(SystemTime::now()).is_zero() {
                due = Due::after(self.renew().await, SystemTime::now());
            } else if let Err(error) = self.take_authority() {
                tracing::warn!("{error:#}");
            }
            let left = due.left(SystemTime::now());
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
    }

    /// Asks for a certificate; when to ask again.
    async fn renew(&mut self) -> Duration {
        match self.renewed().await {
            Ok(life) => {
                self.failures = 0;
                tracing::info!(seconds = life.as_secs(), "this node has a new certificate");
                life / 2
            }
            Err(error) => {
                let pause = pause(self.failures, self.random.unit());
                self.failures = self.failures.saturating_add(1);
                let again = pause.as_secs();
                tracing::warn!(
                    "no certificate for this node, trying again in {again} s: {error:#}"
                );
                pause
            }
        }
    }

    async fn renewed(&mut self) -> Result<Duration> {
        let ca = self.take_authority()?;
        let token = read(&self.from.token).context("read this pod's token")?;
        let new = ask::sign(&self.from.address, &token, &ca).await?;
        // What cannot be used must not replace what can.
        let pair = Identity::from_pem(&new.certificate, &new.key);
        let server = tls::server().tls_config(ServerTlsConfig::new().identity(pair));
        server.context("use what the operator signed")?;
        left(&new.certificate)?;
        let write = |name: &str, text: &str| {
            let path = self.dir.join(name);
            replace_file(&path, text.as_bytes())
                .with_context(|| format!("write {}", path.display()))
        };
        write("tls.key", &new.key)?;
        write("tls.crt", &new.certificate)?;
        self.look()
    }

    /// Whom to believe, as the pod's volume has it now.
    fn take_authority(&self) -> Result<String> {
        let ca = read(&self.from.ca).context("read whom to believe")?;
        ensure!(!ca.is_empty(), "{} is empty", self.from.ca.display());
        let path = self.dir.join("ca.crt");
        if std::fs::read(&path).ok().as_deref() != Some(ca.as_bytes()) {
            replace_file(&path, ca.as_bytes())
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(ca)
    }

    /// Tells of the certificate that is there; how long it is good for.
    fn look(&self) -> Result<Duration> {
        let files = Certificates::read(&self.dir)?;
        let server = tls::server().tls_config(files.server());
        server.context("use the certificate and its key")?;
        let left = left(&read(&self.dir.join("tls.crt"))?)?;
        self.metrics.certified_until(SystemTime::now() + left);
        self.tell.send_replace(true);
        Ok(left)
    }
}

/// How long a certificate is good for.
fn left(pem: &str) -> Result<Duration> {
    let end = identity::not_after(pem).context("read the certificate")?;
    let left = end.duration_since(SystemTime::now());
    left.context("the certificate has ended by this machine's clock; is that right?")
}

/// A small file's text, without white space around it.
fn read(path: &Path) -> Result<String> {
    let text = || -> io::Result<String> {
        let mut text = String::new();
        let file = std::fs::File::open(path)?;
        io::Read::read_to_string(&mut io::Read::take(file, FILE_MAX), &mut text)?;
        Ok(text.trim().to_owned())
    };
    text().with_context(|| format!("read {}", path.display()))
}

/// How long to wait after `failures` earlier ones; `spread`, in [0, 1), spreads it over the upper half.
fn pause(failures: u32, spread: f64) -> Duration {
    let full = PAUSE_MIN
        .saturating_mul(1 << failures.min(10))
        .min(PAUSE_MAX);
    full / 2 + (full / 2).mul_f64(spread)
}
