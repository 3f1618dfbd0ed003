//! Heartbeats to every replica, each at its own pace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lamina_proto::discovery::v1::{HeartbeatRequest, HeartbeatResponse};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tonic::Response;

use super::discovery;
use super::holding::Holding;
use super::replicas::Replicas;
use crate::clock::Clock;
use crate::pace::{Pace, Tempo};
use crate::random::Random;
use crate::reason::reason;

/// What every replica is told.
type Held = watch::Receiver<Option<Arc<Holding>>>;

/// Tells every replica what this node holds.
pub(super) struct Reporter {
    pub(super) replicas: Arc<Replicas>,
    pub(super) tempo: Tempo,
    pub(super) deadline: Duration,
    pub(super) look_every: Duration,
    pub(super) clock: Clock,
    /// How often a replica that knows states was told everything.
    pub(super) told_whole: watch::Sender<u64>,
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
        let (mut is_known, mut confirmed) = (None, None);
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
            match self.send(address, &mut held, &mut confirmed).await {
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

    /// Sends what is held now, or how it differs from what the replica confirmed; answers with how long it is
    /// remembered.
    async fn send(
        &self,
        address: SocketAddr,
        held: &mut Held,
        confirmed: &mut Option<Arc<Holding>>,
    ) -> Result<Duration, String> {
        let held = held.borrow_and_update().clone();
        let held = held.ok_or("nothing is known yet")?;
        if let Some(before) = confirmed.take() {
            let told = self.tell_once(address, held.since(&before)).await?;
            if told.state == held.state() {
                *confirmed = Some(held);
                return Ok(ttl(&told));
            }
            // It was started again, or heard of another life of this node meanwhile.
            tracing::debug!(%address, "discovery wants to be told everything");
        }
        let told = self.tell_once(address, held.whole()).await?;
        // One that does not know states takes a change for everything.
        *confirmed = (told.state == held.state()).then_some(held);
        if confirmed.is_some() {
            self.told_whole.send_modify(|times| *times += 1);
        }
        Ok(ttl(&told))
    }

    async fn tell_once(
        &self,
        address: SocketAddr,
        message: HeartbeatRequest,
    ) -> Result<HeartbeatResponse, String> {
        let channel = self.replicas.all().remove(&address);
        let mut client = discovery(channel.ok_or("it is no longer named")?);
        let sent = tokio::time::timeout(self.deadline, client.heartbeat(message)).await;
        let sent = sent.map_err(|_| format!("no answer within {:?}", self.deadline))?;
        sent.map(Response::into_inner)
            .map_err(|status| reason(&status))
    }
}

fn ttl(told: &HeartbeatResponse) -> Duration {
    Duration::from_secs(u64::try_from(told.expires_in_seconds).unwrap_or(0))
}
