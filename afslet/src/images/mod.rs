//! Images, mounted: once each, shared by all runs on them, kept while warm.
//!
//! ```text
//!  key (image|tag|platform, credentials) ──Ensure──> digest ──Publish──> mount at VOLUMES/<digest>
//!            believed for a while                        one mount per digest
//! ```
//! What always holds: a mount in use is never taken down; of the idle ones the least recently used goes when there are
//! too many; nothing is mounted before what an earlier life left is gone; work for an image goes on when its caller is
//! gone, and however many want it, it is done once.

mod books;
mod mounted;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use lamina_proto::afsletpb::Keep;
use lamina_proto::lamina::v1::source::From as Origin;
use lamina_proto::lamina::v1::{CommitStart, FlistInfo, FlistSource, ImageSource, Source};
use tokio::sync::{OnceCell, OwnedMutexGuard, mpsc};
use tokio::time::Instant;
use tonic::Code;

use crate::error::RunError;
use crate::node::Node;
use crate::order::Image;
use books::Books;
pub(crate) use mounted::{Lease, Mounted};

/// How long what a tag stands for is believed.
const RESOLVE_TTL: Duration = Duration::from_secs(300);
/// By this the volumes of afslets are known among those of pods.
const VOLUME_PREFIX: &str = "afslet-";
/// How often an image is mounted for one run that is taken down before the run has it.
const TRIES: usize = 3;
/// Volumes of an earlier life that are taken down at once.
const SWEEP_AT_ONCE: usize = 8;

type Flight = Shared<BoxFuture<'static, Result<Arc<Mounted>, RunError>>>;

/// The images of an afslet; clones are the same ones.
#[derive(Clone)]
pub(crate) struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    volumes: PathBuf,
    books: Mutex<Books>,
    flights: Mutex<HashMap<(String, bool), Flight>>,
    /// Who mounts or unmounts a digest.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    swept: OnceCell<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Images {
    /// Mounted by `node` below `volumes`; at most `idle_max` that nobody uses.
    pub(crate) fn new(node: Node, volumes: &Path, idle_max: usize) -> Self {
        let inner = Inner {
            node,
            volumes: volumes.to_owned(),
            books: Mutex::new(Books::new(idle_max)),
            flights: Mutex::default(),
            turns: Mutex::default(),
            swept: OnceCell::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The image, mounted for as long as the lease lives.
    pub(crate) async fn get(&self, image: &Image) -> Result<Lease, RunError> {
        let name = name_of(image);
        let mut known = match image.anew {
            true => None,
            false => lock(&self.inner.books).find(&name, Instant::now(), RESOLVE_TTL),
        };
        for _ in 0..TRIES {
            let mounted = match known.take() {
                Some(mounted) => mounted,
                None => self.flight(name.clone(), image.clone()).await?,
            };
            if let Some(lease) = self.lease(&mounted) {
                match lease.check() {
                    Ok(()) => return Ok(lease),
                    // Somebody unmounted it under us.
                    Err(error) => tracing::warn!(%error, "mounting it again"),
                }
                lock(&self.inner.books).forget(&mounted);
            }
        }
        Err(RunError::unavailable(
            "the image is unmounted again and again",
        ))
    }

    /// `None` when it is about to be taken down.
    fn lease(&self, mounted: &Arc<Mounted>) -> Option<Lease> {
        let mut books = lock(&self.inner.books);
        let images = self.clone();
        // While the books are held: what they have and has a user is not evicted.
        books
            .touch(mounted)
            .then(|| Lease::new(Arc::clone(mounted), move || images.trim()))
    }

    /// Keys of what is mounted, last used first.
    pub(crate) fn warm(&self) -> Vec<String> {
        lock(&self.inner.books).keys()
    }

    /// Mounts at this moment.
    pub(crate) fn count(&self) -> usize {
        lock(&self.inner.books).count()
    }

    /// What of an earlier life is gone.
    pub(crate) fn is_swept(&self) -> bool {
        self.inner.swept.initialized()
    }

    /// Does it, once.
    pub(crate) async fn sweep(&self) -> Result<(), RunError> {
        let swept = self.inner.swept.get_or_try_init(|| self.inner.sweep());
        swept.await.map(drop)
    }

    /// Has this node keep the changes of a run over the image it ran on.
    pub(crate) async fn commit(
        &self,
        image: &Image,
        lease: &Lease,
        keep: &Keep,
        pieces: mpsc::Receiver<Vec<u8>>,
    ) -> Result<FlistInfo, RunError> {
        let start = CommitStart {
            base: Some(base(image, lease.mounted().digest())),
            stores: keep.stores.clone(),
            base_stores: keep.base_stores.clone(),
        };
        self.inner.node.commit(start, pieces).await
    }

    /// The work for an image that several may wait for.
    fn flight(&self, name: String, image: Image) -> Flight {
        // Who asks anew is not answered with what was asked before.
        let key = (name.clone(), image.anew);
        let mut flights = lock(&self.inner.flights);
        if let Some(flight) = flights.get(&key) {
            return flight.clone();
        }
        let (images, landed) = (self.clone(), key.clone());
        let work = tokio::spawn(async move {
            let done = images.bring(&name, &image).await;
            lock(&images.inner.flights).remove(&landed);
            done
        });
        let landed = work.map(|done| {
            done.unwrap_or_else(|error| Err(RunError::internal("mount the image", &error)))
        });
        let flight = landed.boxed().shared();
        flights.insert(key, flight.clone());
        flight
    }

    async fn bring(&self, name: &str, image: &Image) -> Result<Arc<Mounted>, RunError> {
        self.sweep().await?;
        let (digest, source) = match &image.source.from {
            Some(Origin::Image(wanted)) => match self.inner.node.ensure(&image.source).await {
                Ok(info) => (info.digest.clone(), pinned(&info, wanted)),
                Err(error) => return self.stale(name, image, error),
            },
            Some(Origin::Flist(flist)) => (flist.digest.clone(), image.source.clone()),
            _ => return Err(RunError::invalid("image: it is empty")),
        };
        let mounted = self.mount(&digest, source).await?;
        lock(&self.inner.books).name(name, &image.key, &mounted, Instant::now());
        Ok(mounted)
    }

    /// What was known before, while nobody can be asked.
    fn stale(&self, name: &str, image: &Image, error: RunError) -> Result<Arc<Mounted>, RunError> {
        let may_be = matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded);
        let known = lock(&self.inner.books).find(name, Instant::now(), Duration::MAX);
        match known {
            Some(mounted) if may_be && !image.anew => {
                tracing::warn!(%error, key = image.key, "using what the image was before");
                Ok(mounted)
            }
            _ => Err(error),
        }
    }

    async fn mount(&self, digest: &str, source: Source) -> Result<Arc<Mounted>, RunError> {
        let _turn = self.inner.turn(digest).await;
        if let Some(mounted) = lock(&self.inner.books).of_digest(digest)
            && mounted.open().is_ok()
        {
            return Ok(mounted);
        }
        let target = self.inner.volumes.join(digest);
        let volume_id = format!("{VOLUME_PREFIX}{digest}");
        let node = &self.inner.node;
        let info = node.publish(&volume_id, &target, source.clone()).await?;
        let mut mounted = Mounted::new(volume_id.clone(), target.clone(), info);
        if let Err(error) = mounted.open() {
            // Unmounted under the node, which may not have seen it yet.
            tracing::warn!(%error, "mounting it anew");
            node.unpublish(&volume_id, &target.display().to_string())
                .await?;
            let info = node.publish(&volume_id, &target, source).await?;
            mounted = Mounted::new(volume_id, target, info);
        }
        let mounted = Arc::new(mounted);
        lock(&self.inner.books).add(&mounted);
        Ok(mounted)
    }

    /// Has those taken down that are too many.
    fn trim(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        for mounted in lock(&self.inner.books).evict() {
            let inner = Arc::clone(&self.inner);
            runtime.spawn(async move { inner.unmount(&mounted).await });
        }
    }

    /// Has those taken down that nobody uses and somebody wants to forget: an `Image` or `Flist` is deleted.
    pub(crate) async fn let_go(&self) -> Result<(), RunError> {
        if self.count() == 0 {
            return Ok(());
        }
        let volumes = self.inner.node.volumes().await?.into_iter();
        let unwanted = volumes.filter(|volume| volume.unwanted);
        let digests: Vec<String> = unwanted.map(|volume| volume.digest).collect();
        let gone = lock(&self.inner.books).take_idle(&digests);
        futures::future::join_all(gone.iter().map(|mounted| self.inner.unmount(mounted))).await;
        Ok(())
    }

    /// Takes everything down; nobody runs any more.
    pub(crate) async fn close(&self) {
        let all = lock(&self.inner.books).take_all();
        futures::future::join_all(all.iter().map(|mounted| self.inner.unmount(mounted))).await;
    }
}

impl Inner {
    async fn turn(&self, digest: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = lock(&self.turns);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(digest.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    async fn unmount(&self, mounted: &Mounted) {
        let _turn = self.turn(mounted.digest()).await;
        if lock(&self.books).of_digest(mounted.digest()).is_some() {
            // Mounted again meanwhile, at the same place.
            return;
        }
        let target = mounted.target().display().to_string();
        if let Err(error) = self.node.unpublish(mounted.volume_id(), &target).await {
            // The next life sweeps it.
            tracing::warn!(%error, "an image stays mounted");
        }
    }

    /// Takes down what an afslet that was killed left mounted.
    async fn sweep(&self) -> Result<(), RunError> {
        use futures::{StreamExt, TryStreamExt};
        let volumes = self.node.volumes().await?.into_iter();
        let left = volumes.filter(|volume| {
            volume.volume_id.starts_with(VOLUME_PREFIX)
                && Path::new(&volume.target).starts_with(&self.volumes)
        });
        futures::stream::iter(left)
            .map(|volume| async move {
                tracing::info!(volume.target, "unmounting what was left");
                self.node.unpublish(&volume.volume_id, &volume.target).await
            })
            .buffer_unordered(SWEEP_AT_ONCE)
            .try_collect()
            .await
    }
}

/// By digest, so that equal images of several names are mounted once; made again where it was forgotten meanwhile.
fn pinned(info: &FlistInfo, image: &ImageSource) -> Source {
    let flist = FlistSource {
        digest: info.digest.clone(),
        image: Some(image.clone()),
        ..FlistSource::default()
    };
    Source {
        from: Some(Origin::Flist(flist)),
    }
}

/// What was mounted of an image: by its digest, and made again where the node has forgotten it.
fn base(image: &Image, digest: &str) -> FlistSource {
    let digest = digest.to_owned();
    match &image.source.from {
        Some(Origin::Flist(flist)) => FlistSource {
            digest,
            ..flist.clone()
        },
        Some(Origin::Image(image)) => FlistSource {
            digest,
            image: Some(image.clone()),
            ..FlistSource::default()
        },
        _ => FlistSource {
            digest,
            ..FlistSource::default()
        },
    }
}

/// What an answer may be kept under: other credentials are another question.
fn name_of(image: &Image) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let credentials = match &image.source.from {
        Some(Origin::Image(image)) => image.docker_config_json.as_slice(),
        _ => &[],
    };
    if credentials.is_empty() {
        return image.key.clone();
    }
    // Not a secret, and no way back to one.
    let mut hash = DefaultHasher::new();
    credentials.hash(&mut hash);
    format!("{}|{:016x}", image.key, hash.finish())
}
