//! One afslet: its connections, what it last told of itself, and what was given to it since.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lamina_discovery::reason;
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsletpb::{GetRuntimeStatusRequest, GetRuntimeStatusResponse};
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;

use crate::ask::{Ask, WantedImage, without_arch};
use crate::choose::Candidate;
use crate::freed::Freed;
use crate::ledger::{Entry, Ledger, Share};

/// Warm images that are believed of one afslet.
const WARM_MAX: usize = 1024;
/// Bytes of a name or a version that are believed.
const TEXT_MAX: usize = 256;
/// Bytes of a status: a thousand keys of 1,280 bytes, and the rest.
const STATUS_BYTES_MAX: usize = 2 << 20;

/// What an afslet tells, as far as it can be true.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) node: String,
    pub(crate) version: String,
    pub(crate) running: u64,
    pub(crate) limit: Share,
    pub(crate) used: Share,
    pub(crate) available: Share,
    pub(crate) is_draining: bool,
    /// Whole keys, and keys up to the architecture.
    warm: BTreeSet<String>,
}

impl Told {
    /// Whatever it says: nothing is negative, and no more is available than there is.
    fn of(status: GetRuntimeStatusResponse) -> Self {
        let whole = |number: i64| u64::try_from(number).unwrap_or(0);
        let share = |cpu, memory| Share {
            cpu: whole(cpu),
            memory: whole(memory),
        };
        let limit = share(status.limit_cpu_cores, status.limit_memory_mb);
        let mut told = Self {
            node: short(status.node_id),
            version: short(status.version),
            running: whole(status.running_containers),
            limit,
            used: share(status.used_cpu_cores, status.used_memory_mb),
            available: share(status.available_cpu_cores, status.available_memory_mb).at_most(limit),
            is_draining: status.draining,
            warm: BTreeSet::new(),
        };
        for key in status.warm_images.into_iter().take(WARM_MAX) {
            told.warm.insert(without_arch(&key).to_owned());
            told.warm.insert(key);
        }
        told
    }

    fn has_warm(&self, image: &WantedImage) -> bool {
        match image {
            WantedImage::Key(key) | WantedImage::AnyArch(key) => self.warm.contains(key),
        }
    }
}

fn short(text: String) -> String {
    match text.len() <= TEXT_MAX {
        true => text,
        false => text.chars().take(TEXT_MAX / 4).collect(),
    }
}

/// What is known of it now, for who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) at: SocketAddr,
    /// Of the last time it answered.
    pub(crate) told: Option<Arc<Told>>,
    /// Why it does not answer now; `None`: it does.
    pub(crate) error: Option<String>,
}

/// One afslet.
pub(crate) struct Afslet {
    pub(crate) at: SocketAddr,
    channels: Mutex<Channels>,
    state: Mutex<State>,
    /// Questions in a row that were not answered.
    failed: watch::Sender<u32>,
    /// It should be asked now.
    doubted: Notify,
}

/// Runs have a connection of their own: however many they are, the question how the afslet is goes through.
#[derive(Clone)]
pub(crate) struct Channels {
    pub(crate) runs: Channel,
    pub(crate) questions: Channel,
}

struct State {
    told: Option<Arc<Told>>,
    error: Option<String>,
    is_polled: bool,
    ledger: Ledger,
}

impl Afslet {
    pub(crate) fn new(at: SocketAddr, channels: Channels) -> Self {
        Self {
            at,
            channels: Mutex::new(channels),
            state: Mutex::new(State {
                told: None,
                error: Some("it was not asked yet".into()),
                is_polled: false,
                ledger: Ledger::default(),
            }),
            failed: watch::Sender::new(0),
            doubted: Notify::new(),
        }
    }

    /// From now on through these; what is under way goes on as it does.
    pub(crate) fn reconnect(&self, channels: Channels) {
        *self.channels.lock().unwrap_or_else(PoisonError::into_inner) = channels;
    }

    pub(crate) fn channels(&self) -> Channels {
        let channels = self.channels.lock();
        channels.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks it how it is; whether more became free.
    pub(crate) async fn poll(&self, deadline: Duration) -> bool {
        let asked = self.state().ledger.ask();
        let mut client = AfsletClient::new(self.channels().questions)
            .max_decoding_message_size(STATUS_BYTES_MAX);
        let asking = client.get_runtime_status(GetRuntimeStatusRequest {});
        let answer = match tokio::time::timeout(deadline, asking).await {
            Ok(Ok(answer)) => Ok(Told::of(answer.into_inner())),
            Ok(Err(status)) => Err(reason(&status)),
            Err(_) => Err(format!("it did not say within {deadline:?} how it is")),
        };
        let failed = match &answer {
            Ok(_) => 0,
            Err(_) => self.failed.borrow().saturating_add(1),
        };
        let more = {
            let mut state = self.state();
            state.is_polled = true;
            let before = state.free();
            match answer {
                Ok(told) => {
                    state.ledger.told(asked);
                    state.told = Some(Arc::new(told));
                    state.error = None;
                }
                Err(error) => state.error = Some(error),
            }
            !before.holds(state.free())
        };
        self.failed.send_replace(failed);
        more
    }

    /// Returns when it should be asked at once how it is.
    pub(crate) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// It is not what it seemed to be.
    pub(crate) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// It cannot be reached; it is offered nothing until it says how it is.
    pub(crate) fn unreachable(&self, why: String) {
        self.state().error = Some(why);
        self.doubt();
    }

    /// Returns once so many questions in a row were not answered.
    pub(crate) async fn silent(&self, failed_max: u32) {
        // The sender lives in `self`.
        let _ = self
            .failed
            .subscribe()
            .wait_for(|failed| *failed >= failed_max)
            .await;
    }

    pub(crate) fn is_polled(&self) -> bool {
        self.state().is_polled
    }

    pub(crate) fn candidate(&self, ask: &Ask, is_tried: bool) -> Candidate {
        let state = self.state();
        let told = state.told.as_ref();
        let is_wanted = |wanted: &String| told.is_some_and(|told| told.node == *wanted);
        Candidate {
            limit: told.map(|told| told.limit),
            free: state.free(),
            is_open: state.error.is_none() && told.is_some_and(|told| !told.is_draining),
            is_wanted: ask.node.as_ref().is_none_or(is_wanted),
            is_warm: told
                .zip(ask.image.as_ref())
                .is_some_and(|(told, image)| told.has_warm(image)),
            is_tried,
        }
    }

    pub(crate) fn known(&self) -> Known {
        let state = self.state();
        Known {
            at: self.at,
            told: state.told.clone(),
            error: state.error.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn free(&self) -> Share {
        match &self.told {
            Some(told) if self.error.is_none() => self.ledger.free(told.available, told.limit),
            _ => Share::default(),
        }
    }
}

/// A run's entry in the ledger of its afslet; ends when dropped.
pub(crate) struct Reserved {
    afslet: Arc<Afslet>,
    entry: Entry,
    is_accepted: AtomicBool,
    freed: Arc<Freed>,
}

impl Reserved {
    /// `freed` is told when it ends, if it was accepted.
    pub(crate) fn new(afslet: &Arc<Afslet>, ask: &Ask, freed: Arc<Freed>) -> Self {
        let share = Share {
            cpu: ask.cpu,
            memory: ask.memory,
        };
        Self {
            entry: afslet.state().ledger.give(share),
            afslet: Arc::clone(afslet),
            is_accepted: AtomicBool::new(false),
            freed,
        }
    }

    /// Where it is.
    pub(crate) fn at(&self) -> SocketAddr {
        self.afslet.at
    }

    /// It has its share there, and the image is mounted.
    pub(crate) fn accepted(&self, image: Option<&WantedImage>) {
        self.is_accepted.store(true, Ordering::Relaxed);
        let mut state = self.afslet.state();
        state.ledger.accepted(self.entry);
        if let (Some(told), Some(WantedImage::Key(key) | WantedImage::AnyArch(key))) =
            (&mut state.told, image)
            && told.warm.len() < 3 * WARM_MAX
        {
            Arc::make_mut(told).warm.insert(key.clone());
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.afslet.state().ledger.ended(self.entry);
        if self.is_accepted.load(Ordering::Relaxed) {
            self.freed.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_are_cut_to_what_can_be() {
        let told = Told::of(GetRuntimeStatusResponse {
            limit_cpu_cores: 4,
            limit_memory_mb: -5,
            available_cpu_cores: i64::MAX,
            available_memory_mb: i64::MAX,
            used_cpu_cores: i64::MIN,
            node_id: "n".repeat(1 << 20),
            warm_images: vec!["a|b|c|d|e".into(); 100_000],
            ..GetRuntimeStatusResponse::default()
        });
        assert_eq!((told.limit.cpu, told.limit.memory), (4, 0));
        assert_eq!(told.available, told.limit);
        assert_eq!(told.used, Share::default());
        assert!(told.node.len() <= TEXT_MAX);
        assert_eq!(told.warm.len(), 2);
        assert!(told.has_warm(&WantedImage::AnyArch("a|b|c".into())));
        assert!(told.has_warm(&WantedImage::Key("a|b|c|d|e".into())));
        assert!(!told.has_warm(&WantedImage::Key("a|b|c|x|e".into())));
    }
}
