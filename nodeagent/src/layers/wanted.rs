//! An image as somebody asks for it, and what its registry shows them.
//!
//! The right to a cached layer is the right to an image with it: the registry is asked as the caller, every time but
//! for what the same caller was shown moments ago by digest. Credentials are kept by nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lamina_discovery::image_key::NamedImage;
use lamina_image::registry::{CredentialSource, Credentials, GivenConfig, RegistryOptions};
use lamina_image::{Limits, Source, SourceImage};

use super::flight::{Flights, on_thread_within};
use super::turns::{TurnLimits, Turns};
use super::{EnsureError, EnsureErrorKind};

/// Tries of one request: somebody waits, and asks again anyway.
const ATTEMPTS: u32 = 4;
/// Registries asked at once, and one host of them; a question waits no longer than one takes.
const ASKING: TurnLimits = TurnLimits {
    all: 32,
    of_host: 8,
    wait_max: ASK_MAX,
};
/// How long a registry may take to say what an image is, all tries together: one that trickles is as good as none.
const ASK_MAX: Duration = Duration::from_secs(60);
/// How long what a digest stands for is taken for granted for the same caller: a node asks for an image's layers one
/// after the other.
const REMEMBERED: Duration = Duration::from_secs(30);
const REMEMBERED_MAX: usize = 256;
/// A docker config, in bytes.
pub(super) const CONFIG_MAX: usize = 64 << 10;

/// An image, and who wants it.
#[derive(Debug, Clone)]
pub struct WantedImage {
    /// Which, and for which platform.
    pub named: NamedImage,
    /// Who asks; never stored.
    pub credentials: Credentials,
}

impl WantedImage {
    /// An image asked for with a docker config's content, empty for nobody.
    ///
    /// # Errors
    /// When the config is none.
    pub async fn of(named: NamedImage, docker_config: Vec<u8>) -> Result<Self, EnsureError> {
        let what = || format!("use the credentials given for {}", named.reference);
        if docker_config.len() > CONFIG_MAX {
            let what = format!("{}: more than {CONFIG_MAX} bytes", what());
            return Err(EnsureError::new(EnsureErrorKind::InvalidArgument, what));
        }
        let given = match docker_config.is_empty() {
            true => CredentialSource::Explicit(Credentials::Anonymous),
            false => CredentialSource::Given(GivenConfig::new(docker_config)),
        };
        let found = given.find(named.reference.registry()).await;
        let credentials = found.map_err(|error| {
            EnsureError::new(EnsureErrorKind::InvalidArgument, what()).because(error)
        })?;
        Ok(Self { named, credentials })
    }

    /// Whether the caller is nobody to the registry.
    pub(super) fn is_anonymous(&self) -> bool {
        self.credentials == Credentials::Anonymous
    }

    /// The credentials for another node that acts for the same caller.
    pub(crate) fn docker_config(&self) -> Vec<u8> {
        self.credentials
            .to_docker_config(self.named.reference.registry())
    }

    /// Whether every node means the same registry by it.
    pub(super) fn is_shared(&self, insecure: &[String]) -> bool {
        let host = self.named.reference.registry();
        !self.named.reference.is_loopback() || insecure.iter().any(|named| named == host)
    }
}

/// What a caller was shown, and when.
type Shown = (Instant, Arc<SourceImage>);

/// Asks registries what images are.
pub(super) struct Resolver {
    insecure: Vec<String>,
    limits: Limits,
    asking: Arc<Turns>,
    ask_max: Duration,
    flights: Arc<Flights<Arc<SourceImage>>>,
    known: Mutex<HashMap<[u8; 32], Shown>>,
    /// Callers are told apart by a hash that says nothing to anybody else.
    secret: [u8; 32],
}

impl Resolver {
    pub(super) fn new(insecure: Vec<String>, limits: Limits, secret: [u8; 32]) -> Self {
        Self {
            insecure,
            limits,
            asking: Arc::new(Turns::new(ASKING)),
            ask_max: ASK_MAX,
            flights: Arc::default(),
            known: Mutex::default(),
            secret,
        }
    }

    pub(super) fn close(&self, closed: bool) {
        self.flights.close(closed);
    }

    /// Registries spoken to in plain http.
    pub(super) fn insecure(&self) -> &[String] {
        &self.insecure
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What the registry says the image is, to this caller.
    pub(super) async fn resolve(
        &self,
        wanted: &WantedImage,
    ) -> Result<Arc<SourceImage>, EnsureError> {
        let key = self.key(wanted);
        let pinned = wanted.named.reference.digest().is_some();
        if pinned && let Some(image) = self.remembered(&key) {
            return Ok(image);
        }
        let registry = self.registry(wanted);
        let (limits, asking) = (self.limits.clone(), Arc::clone(&self.asking));
        let (named, ask_max) = (wanted.named.clone(), self.ask_max);
        let landed = self.flights.join(hex::encode(key), || async move {
            let _turn = asking.at(named.reference.registry()).await?;
            let what = question(&named);
            let work = move || async move { ask(&named, &registry, &limits).await };
            on_thread_within(ask_max, || what, work).await
        });
        let image = landed.await.result?;
        if pinned {
            self.remember(key, &image);
        }
        Ok(image)
    }

    fn registry(&self, wanted: &WantedImage) -> RegistryOptions {
        let host = wanted.named.reference.registry();
        RegistryOptions {
            credentials: CredentialSource::Explicit(wanted.credentials.clone()),
            insecure: self.insecure.iter().any(|named| named == host),
            attempts: ATTEMPTS,
            ..RegistryOptions::default()
        }
    }

    fn key(&self, wanted: &WantedImage) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        let NamedImage {
            reference,
            platform,
        } = &wanted.named;
        hasher.update(format!("{reference}\0{platform}\0").as_bytes());
        hasher.update(&wanted.docker_config());
        *hasher.finalize().as_bytes()
    }

    fn remembered(&self, key: &[u8; 32]) -> Option<Arc<SourceImage>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (when, _)| when.elapsed() < REMEMBERED);
        known.get(key).map(|(_, image)| Arc::clone(image))
    }

    fn remember(&self, key: [u8; 32], image: &Arc<SourceImage>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        let now = Instant::now();
        // From when it was first shown: nobody has it for longer by asking often.
        known.entry(key).or_insert_with(|| (now, Arc::clone(image)));
    }
}

async fn ask(
    named: &NamedImage,
    registry: &RegistryOptions,
    limits: &Limits,
) -> Result<Arc<SourceImage>, EnsureError> {
    let source = Source::Registry(named.reference.clone());
    let opened = source.open(Some(&named.platform), registry, limits).await;
    opened
        .map(Arc::new)
        .map_err(|error| EnsureError::convert(question(named), error.into()))
}

fn question(named: &NamedImage) -> String {
    let NamedImage {
        reference,
        platform,
    } = named;
    format!("ask the registry for {reference} ({platform})")
}

#[cfg(test)]
mod tests {
    use lamina_image::Platform;

    use super::*;

    /// One registry that answered nothing held its turns, and in the end all of them, for ever.
    #[tokio::test]
    async fn a_registry_that_never_answers_is_given_up() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let image = format!("{}/a/b:t", silent.local_addr().unwrap());
        let named = NamedImage {
            reference: image.parse().unwrap(),
            platform: Platform::host(),
        };
        let wanted = WantedImage::of(named, Vec::new()).await.unwrap();
        let resolver = Resolver {
            ask_max: Duration::from_millis(1),
            ..Resolver::new(Vec::new(), Limits::default(), [0; 32])
        };
        for _ in 0..ASKING.all {
            let late = resolver.resolve(&wanted).await.err().unwrap();
            assert_eq!(late.kind(), EnsureErrorKind::DeadlineExceeded);
        }
    }
}
