//! Heartbeats to every replica, each at its own pace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lamina_proto::discovery::v1::HeartbeatRequest;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::discovery;
use super::replicas::Replicas;
use crate::clock::Clock;
use crate::pace::{Pace, Tempo};
use crate::random::Random;

/// What every replica is told.
type Held = watch::Receiver<Option<Arc<HeartbeatRequest>>>;

/// Tells every replica what this node holds.
pub(super) struct Reporter {
    pub(super) replicas: Arc<Replicas>,
    pub(super) tempo: Tempo,
    pub(super) deadline: Duration,
    pub(super) look_every: Duration,
    pub(super) clock: Clock,
}

impl Reporter {
    /// One task per replica, as they come and go; until nobody holds the sender.
    pub(super) async fn run(self, mut held: Held) {
        if held.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let this = Arc::new(self);
        let mut random = Random::new();
        let mut tasks = JoinSet::new();
        let mut telling: BTreeMap<SocketAddr, AbortHandle> = BTreeMap::new();
        loop {
            this.replicas.look().await;
            let known = this.replicas.all();
            telling.retain(|address, task| {
                let stays = known.contains_key(address);
                if !stays {
                    task.abort();
                }
                stays
            });
            for address in known.into_keys() {
                let tell = || tasks.spawn(Arc::clone(&this).tell(address, held.clone()));
                telling.entry(address).or_insert_with(tell);
            }
            while tasks.try_join_next().is_some() {}
            tokio::time::sleep(random.around(this.look_every, 0.2)).await;
        }
    }

    async fn tell(self: Arc<Self>, address: SocketAddr, mut held: Held) {
        let mut random = Random::new();
        let now = || self.clock.now().since;
        let mut pace = Pace::new(self.tempo.clone(), now(), &mut random);
        let mut is_known = None;
        loop {
            let wait = pace.due().saturating_sub(now());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = held.changed() => match changed {
                    Ok(()) => {
                        pace.changed(now(), &mut random);
                        continue;
                    }
                    Err(_) => return,
                }
            }
            match self.send(address, &mut held).await {
                Ok(ttl) => {
                    if is_known.replace(true) != Some(true) {
                        tracing::info!(%address, "discovery knows this node");
                    }
                    pace.succeeded(now(), ttl, &mut random);
                }
                Err(error) => {
                    // The first of them: what follows says the same again.
                    if is_known.replace(false) != Some(false) {
                        tracing::warn!(%address, %error, "discovery does not know this node; trying again and again");
                    }
                    pace.failed(now(), &mut random);
                }
            }
        }
    }

    /// Sends what is held now; answers with how long it is remembered.
    async fn send(&self, address: SocketAddr, held: &mut Held) -> Result<Duration, String> {
        let message = held.borrow_and_update().clone();
        let message = message.ok_or("nothing is known yet")?;
        let channel = self.replicas.all().remove(&address);
        let channel = channel.ok_or("it is no longer named")?;
        let mut client = discovery(channel);
        let sending = client.heartbeat(HeartbeatRequest::clone(&message));
        let sent = tokio::time::timeout(self.deadline, sending).await;
        let sent = sent.map_err(|_| format!("no answer within {:?}", self.deadline))?;
        let told = sent.map_err(|status| said(&status))?;
        let seconds = told.into_inner().expires_in_seconds;
        Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }
}

/// What came back, with its causes: a connection that was refused is told by these alone.
fn said(status: &tonic::Status) -> String {
    let mut said = status.message().to_owned();
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        let more = cause.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
        next = cause.source();
    }
    said
}
