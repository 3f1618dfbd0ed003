use super::*;
use crate::clock::Now;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// A registry that counts, and answers when it is let.
#[derive(Default)]
struct Fake {
    asked: AtomicU64,
    holds: std::sync::atomic::AtomicBool,
    go: Notify,
    fails: Mutex<Option<ResolveError>>,
}

#[async_trait::async_trait]
impl Upstream for Arc<Fake> {
    async fn ask(&self, image: &NamedImage) -> Result<ResolveImageResponse, ResolveError> {
        let nth = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        if self.holds.load(Ordering::SeqCst) {
            self.go.notified().await;
        }
        if let Some(error) = self.fails.lock().unwrap().clone() {
            return Err(error);
        }
        Ok(ResolveImageResponse {
            image_key: image.key().to_string(),
            resolved_reference: nth.to_string(),
            ..ResolveImageResponse::default()
        })
    }
}

struct World {
    fake: Arc<Fake>,
    now_s: Arc<AtomicU64>,
    resolver: Arc<Resolver>,
}

impl World {
    fn new(config: ResolveConfig) -> Self {
        let fake = Arc::<Fake>::default();
        let now_s = Arc::new(AtomicU64::new(1));
        let time = Arc::clone(&now_s);
        let clock = Clock::by(move || Now {
            since: Duration::from_secs(time.load(Ordering::SeqCst)),
            unix_s: 0,
        });
        let resolver = Arc::new(Resolver::new(Arc::clone(&fake), config, clock));
        Self {
            fake,
            now_s,
            resolver,
        }
    }

    async fn ask(&self, name: &str, fresh: bool) -> Result<String, Code> {
        let (answer, _) = self.resolver.resolve(&image(name), fresh).await;
        let answer = answer.map(|told| told.resolved_reference.clone());
        answer.map_err(|error| error.code)
    }

    fn asked(&self) -> u64 {
        self.fake.asked.load(Ordering::SeqCst)
    }

    fn pass(&self, seconds: u64) {
        self.now_s.fetch_add(seconds, Ordering::SeqCst);
    }
}

fn image(name: &str) -> NamedImage {
    NamedImage::new(name, "", ["linux", "amd64", ""]).unwrap()
}

#[tokio::test]
async fn an_answer_is_good_for_its_time_unless_it_is_wanted_fresh() {
    let world = World::new(ResolveConfig::default());
    assert_eq!(world.ask("a", false).await.unwrap(), "1");
    world.pass(299);
    assert_eq!(world.ask("a", false).await.unwrap(), "1");
    assert_eq!(world.ask("a", true).await.unwrap(), "2");
    assert_eq!(world.ask("a", false).await.unwrap(), "2");
    world.pass(301);
    assert_eq!(world.ask("a", false).await.unwrap(), "3");
    let pinned = format!("q.io/a@sha256:{}", "ab".repeat(32));
    assert_eq!(world.ask(&pinned, false).await.unwrap(), "4");
    world.pass(3600);
    assert_eq!(world.ask(&pinned, false).await.unwrap(), "4");
}

#[tokio::test]
async fn the_registry_is_asked_once_however_many_ask() {
    let world = World::new(ResolveConfig::default());
    world.fake.holds.store(true, Ordering::SeqCst);
    let asking = |fresh| {
        let resolver = Arc::clone(&world.resolver);
        tokio::spawn(async move { resolver.resolve(&image("a"), fresh).await.0 })
    };
    let crowd: Vec<_> = (0..100).map(|n| asking(n % 2 == 0)).collect();
    while world.asked() == 0 {
        tokio::task::yield_now().await;
    }
    world.fake.holds.store(false, Ordering::SeqCst);
    world.fake.go.notify_one();
    for one in crowd {
        assert_eq!(one.await.unwrap().unwrap().resolved_reference, "1");
    }
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn who_wants_it_fresh_gets_nothing_that_was_asked_for_before() {
    let world = World::new(ResolveConfig::default());
    world.fake.holds.store(true, Ordering::SeqCst);
    let resolver = Arc::clone(&world.resolver);
    let first = tokio::spawn(async move { resolver.resolve(&image("a"), true).await.0 });
    while world.asked() == 0 {
        tokio::task::yield_now().await;
    }
    world.pass(1);
    let resolver = Arc::clone(&world.resolver);
    let second = tokio::spawn(async move { resolver.resolve(&image("a"), true).await.0 });
    tokio::task::yield_now().await;
    world.fake.holds.store(false, Ordering::SeqCst);
    world.fake.go.notify_one();
    assert_eq!(first.await.unwrap().unwrap().resolved_reference, "1");
    assert_eq!(second.await.unwrap().unwrap().resolved_reference, "2");
}

#[tokio::test]
async fn failures_are_remembered_briefly_and_what_was_known_outlives_an_outage() {
    let world = World::new(ResolveConfig::default());
    let fail = |error| *world.fake.fails.lock().unwrap() = error;
    fail(Some(ResolveError::new(Code::NotFound, "no")));
    for _ in 0..10 {
        assert_eq!(world.ask("a", false).await, Err(Code::NotFound));
    }
    assert_eq!(world.asked(), 1);
    fail(None);
    world.pass(6);
    assert_eq!(world.ask("a", false).await.unwrap(), "2");
    fail(Some(ResolveError::new(Code::Unavailable, "down")));
    world.pass(301);
    assert_eq!(world.ask("a", false).await.unwrap(), "2", "what was known");
    assert_eq!(world.ask("a", true).await, Err(Code::Unavailable));
}

#[tokio::test]
async fn memory_is_bounded() {
    let world = World::new(ResolveConfig {
        answers_max: 3,
        ..ResolveConfig::default()
    });
    for n in 0..10 {
        world.pass(1);
        world.ask(&format!("i{n}"), false).await.unwrap();
    }
    assert_eq!(world.resolver.len(), 3);
    assert_eq!(
        world.ask("i9", false).await.unwrap(),
        "10",
        "the newest are kept"
    );
    let world = World::new(ResolveConfig {
        answer_bytes_max: 10,
        ..ResolveConfig::default()
    });
    assert_eq!(world.ask("a", false).await.unwrap(), "1");
    assert_eq!(
        world.ask("a", false).await.unwrap(),
        "2",
        "too large to be kept"
    );
}
