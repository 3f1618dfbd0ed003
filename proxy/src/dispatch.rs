//! Finds an afslet that accepts a run, and says why when there is none.
//!
//! An afslet that refuses for want of room, does not answer or breaks off is passed over for another one; between
//! looks there are pauses, linearly longer, cut short when room becomes known. Always: nothing is tried again after an
//! afslet's first answer, whatever it was.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lamina_discovery::{Random, reason};
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Extensions, Request, Status, Streaming};

use crate::afslet::{Afslet, Reserved};
use crate::afslets::Afslets;
use crate::ask::{Ask, Hope};
use crate::choose::{NoPlace, Shortage, choose};
use crate::config::Limits;
use crate::frame::{FRAME_MAX, Frames};
use crate::ledger::Share;
use crate::metrics::{Metrics, Try};
use crate::passage::{Call, Passage};
use crate::phase::Phase;
use crate::source::Source;

const EXECUTE: &str = "/afsletpb.Afslet/Execute";
/// Most nodes that are named to who wants another one.
const NAMES_MAX: usize = 8;
/// Headers that speak of the message's encoding on the client's connection, which is not ours.
const NOT_PASSED_ON: [&str; 5] = [
    "grpc-timeout",
    "grpc-encoding",
    "grpc-accept-encoding",
    "content-length",
    "accept-encoding",
];

/// Finds places.
pub(crate) struct Dispatch {
    pub(crate) afslets: Arc<Afslets>,
    pub(crate) phase: Phase,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    random: Mutex<Random>,
}

/// A run without a place.
pub(crate) struct Wanted {
    pub(crate) ask: Ask,
    pub(crate) source: Source,
    pub(crate) metadata: MetadataMap,
    /// When looking for a place ends.
    pub(crate) until: Instant,
    /// When its client does not wait for the run any more.
    pub(crate) deadline: Option<Instant>,
}

/// Why one look was in vain.
enum Vain {
    /// It would always be.
    Final(Status),
    /// Now.
    Wait(Status, Hope),
    /// There is no more time.
    Late,
}

/// Why one afslet did not accept.
enum Refused {
    /// Another one may.
    PassOn(Code, String),
    /// It is not there, or broke off. Another one may.
    Lost(String),
    /// None should be asked.
    Final(Status),
    /// There is no more time.
    Late,
}

impl Dispatch {
    pub(crate) fn new(
        afslets: Arc<Afslets>,
        phase: Phase,
        metrics: Arc<Metrics>,
        limits: Limits,
    ) -> Self {
        Self {
            afslets,
            phase,
            metrics,
            limits,
            random: Mutex::new(Random::new()),
        }
    }

    /// Gives a run to an afslet; returns with its first answer.
    ///
    /// # Errors
    /// What to tell the client, for which nothing ran.
    pub(crate) async fn place(&self, wanted: &Wanted) -> Result<Passage, Status> {
        tokio::select! {
            biased;
            status = self.phase.drained() => Err(status),
            status = wanted.source.failed() => Err(status),
            placed = self.look_until(wanted) => placed,
        }
    }

    async fn look_until(&self, wanted: &Wanted) -> Result<Passage, Status> {
        self.afslets.settled().await;
        let (began, patience) = (Instant::now(), wanted.ask.patience);
        let mut last = None;
        for attempt in 1.. {
            let (vain, hope) = match self.look(wanted).await {
                Ok(passage) => return Ok(passage),
                Err(Vain::Final(status)) => return Err(status),
                Err(Vain::Late) => return Err(late(last.as_ref())),
                Err(Vain::Wait(status, hope)) => (status, hope),
            };
            if patience.is_over(hope, attempt, began.elapsed()) {
                return Err(looked(&vain, attempt));
            }
            let pause = patience.pause(attempt, &mut self.random());
            let again = Instant::now() + pause;
            if again >= wanted.until {
                return Err(looked(&vain, attempt));
            }
            last = Some(vain);
            if let Some(passage) = self.wait(wanted, again, last.as_ref()).await? {
                return Ok(passage);
            }
        }
        Err(Status::internal("looking for a place ended by itself"))
    }

    /// Waits, and looks in between when something became free.
    async fn wait(
        &self,
        wanted: &Wanted,
        again: Instant,
        last: Option<&Status>,
    ) -> Result<Option<Passage>, Status> {
        let waiting = self.metrics.waiting();
        loop {
            let heard = tokio::select! {
                () = tokio::time::sleep_until(again) => return Ok(None),
                heard = self.afslets.freed.told() => heard,
            };
            let found = self.look(wanted).await;
            drop(heard);
            match found {
                Ok(passage) => {
                    drop(waiting);
                    return Ok(Some(passage));
                }
                Err(Vain::Final(status)) => return Err(status),
                Err(Vain::Late) => return Err(late(last)),
                Err(Vain::Wait(..)) => {}
            }
        }
    }

    /// Offers the run to one afslet after the other, each once.
    async fn look(&self, wanted: &Wanted) -> Result<Passage, Vain> {
        let ask = &wanted.ask;
        let share = Share {
            cpu: ask.cpu,
            memory: ask.memory,
        };
        let mut tried = BTreeSet::new();
        let mut last = None;
        loop {
            if tried.len() >= self.limits.tries_max {
                return Err(Vain::Wait(refused(last), Hope::Room));
            }
            let afslet = self.choose(ask, share, &tried).map_err(|none| match none {
                NoPlace::Never(shortage) => Vain::Final(Status::invalid_argument(format!(
                    "it does not fit on any afslet: {shortage}"
                ))),
                NoPlace::NotNow(shortage) => match self.stranger(ask) {
                    Some(status) => Vain::Wait(status, Hope::Node),
                    None => wait(ask, &shortage, last.as_ref()),
                },
            })?;
            tried.insert(afslet.at);
            match self.offer(&afslet, wanted).await {
                Ok(passage) => return Ok(passage),
                Err(Refused::Final(status)) => return Err(Vain::Final(status)),
                Err(Refused::Late) => {
                    let before = last.map(|(code, why)| Status::new(code, why));
                    return Err(
                        before.map_or(Vain::Late, |before| Vain::Final(late(Some(&before))))
                    );
                }
                Err(Refused::PassOn(code, why)) => {
                    last = Some((code, passed_over(&afslet, ask, &why)));
                }
                Err(Refused::Lost(why)) => {
                    last = Some((Code::Unavailable, passed_over(&afslet, ask, &why)));
                }
            }
        }
    }

    /// That nobody is the wanted node, where each afslet has said who it is.
    fn stranger(&self, ask: &Ask) -> Option<Status> {
        let node = ask.node.as_ref()?;
        let known = self.afslets.known();
        let told = known
            .iter()
            .map(|one| Some(one.told.as_ref()?.node.as_str()));
        let names: BTreeSet<&str> = told.collect::<Option<_>>()?;
        if names.is_empty() || names.contains(node.as_str()) {
            return None;
        }
        let mut shown: Vec<&str> = names.iter().copied().take(NAMES_MAX).collect();
        if names.len() > NAMES_MAX {
            shown.push("…");
        }
        Some(Status::unavailable(format!(
            "node_id: there is no node {node:?}; there is {}",
            shown.join(", ")
        )))
    }

    fn choose(
        &self,
        ask: &Ask,
        share: Share,
        tried: &BTreeSet<SocketAddr>,
    ) -> Result<Arc<Afslet>, NoPlace> {
        let all = self.afslets.all();
        let candidates: Vec<_> = all
            .iter()
            .map(|afslet| afslet.candidate(ask, tried.contains(&afslet.at)))
            .collect();
        let chosen = choose(&candidates, share, &mut self.random())?;
        Ok(Arc::clone(&all[chosen]))
    }

    /// Offers the run to an afslet, and waits for its first answer.
    async fn offer(&self, afslet: &Arc<Afslet>, wanted: &Wanted) -> Result<Passage, Refused> {
        let reserved = Reserved::new(afslet, &wanted.ask, Arc::clone(&self.afslets.freed));
        let silent = self.limits.polls_failed_max;
        let answered = tokio::select! {
            biased;
            answered = call(afslet, wanted) => answered,
            () = afslet.silent(silent) => Err(Refused::Lost("it does not answer any more".into())),
            () = tokio::time::sleep_until(wanted.until) => Err(Refused::Late),
        };
        let (first, answers, call) = match answered {
            Ok(answered) => answered,
            Err(refused) => {
                self.note(afslet, &refused);
                return Err(refused);
            }
        };
        self.metrics.tried(Try::Accepted);
        wanted.source.answered();
        reserved.accepted(wanted.ask.image.as_ref());
        Ok(Passage {
            first,
            answers,
            source: wanted.source.clone(),
            call,
            reserved,
        })
    }

    /// What a refusal says of the afslet.
    fn note(&self, afslet: &Afslet, refused: &Refused) {
        self.metrics.tried(match refused {
            Refused::Final(_) | Refused::Late => Try::Refused,
            Refused::PassOn(Code::ResourceExhausted, _) => {
                afslet.doubt();
                Try::Full
            }
            // It may be about this run's image alone.
            Refused::PassOn(..) => {
                afslet.doubt();
                Try::Unavailable
            }
            Refused::Lost(why) => {
                afslet.unreachable(why.clone());
                Try::Unavailable
            }
        });
    }

    fn random(&self) -> std::sync::MutexGuard<'_, Random> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls it, until it answers or refuses.
async fn call(
    afslet: &Afslet,
    wanted: &Wanted,
) -> Result<(Bytes, Streaming<Bytes>, Call), Refused> {
    let mut request = Request::from_parts(
        passed_on(&wanted.metadata, wanted.deadline),
        Extensions::default(),
        wanted.source.attempt(),
    );
    let call = Call::new(request.cancellation_handle());
    let mut client: Grpc<Channel> =
        Grpc::new(afslet.channels().runs).max_decoding_message_size(FRAME_MAX);
    let ready = client.ready().await;
    ready.map_err(|error| Refused::Lost(format!("it cannot be reached: {error}")))?;
    let path = PathAndQuery::from_static(EXECUTE);
    let answered = client.streaming(request, path, Frames).await;
    let mut answers = answered.map_err(of_status)?.into_inner();
    match answers.message().await {
        Ok(Some(first)) => Ok((first, answers, call)),
        Ok(None) => Err(Refused::Lost("it ended the call without a word".into())),
        Err(status) => Err(of_status(status)),
    }
}

/// Says so; the afslet's words with where they are from.
fn passed_over(afslet: &Afslet, ask: &Ask, why: &str) -> String {
    tracing::debug!(at = %afslet.at, %why, request = %ask.request_id, "an afslet does not take a run");
    format!("{}: {why}", afslet.at)
}

/// Another one may be asked when this one has no room, or is not there: it cannot have begun, since it was not
/// told that the frames are all.
fn of_status(status: Status) -> Refused {
    let is_broken = status.source().is_some();
    match status.code() {
        _ if is_broken => Refused::Lost(reason(&status)),
        code @ (Code::Unavailable | Code::ResourceExhausted) => {
            Refused::PassOn(code, reason(&status))
        }
        _ => Refused::Final(status),
    }
}

/// The client's headers, with the time that it still waits if it said one.
fn passed_on(metadata: &MetadataMap, deadline: Option<Instant>) -> MetadataMap {
    let mut request = Request::new(());
    *request.metadata_mut() = metadata.clone();
    for name in NOT_PASSED_ON {
        request.metadata_mut().remove(name);
    }
    if let Some(deadline) = deadline {
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    std::mem::take(request.metadata_mut())
}

fn wait(ask: &Ask, shortage: &Shortage, last: Option<&(Code, String)>) -> Vain {
    let refusals = last.map(|(_, why)| format!("; {why}"));
    let refusals = refusals.unwrap_or_default();
    let status = match (shortage.open, &ask.node) {
        (0, Some(node)) => Status::unavailable(format!(
            "node_id: no afslet of node {node} takes runs{refusals}"
        )),
        (0, None) => Status::unavailable(format!(
            "none of {} afslets takes runs{refusals}",
            shortage.known
        )),
        // Room is not what is missing where there was some.
        _ => match last {
            Some((Code::Unavailable, why)) => {
                Status::unavailable(format!("no afslet can start it now; {why}"))
            }
            _ => Status::resource_exhausted(format!("it does not fit now: {shortage}{refusals}")),
        },
    };
    let hope = match (shortage.open, last) {
        (1.., Some((Code::Unavailable, _))) => Hope::Repair,
        _ => Hope::Room,
    };
    Vain::Wait(status, hope)
}

/// Its time is over; what was wrong until then is the reason.
fn late(before: Option<&Status>) -> Status {
    let before = before.map(|status| format!("; before: {}", status.message()));
    Status::deadline_exceeded(format!(
        "no afslet has accepted in time; nothing ran{}",
        before.unwrap_or_default()
    ))
}

fn refused(last: Option<(Code, String)>) -> Status {
    let (code, why) = last.unwrap_or((Code::Unavailable, "no afslet was asked".into()));
    Status::new(code, format!("no afslet takes it; {why}"))
}

fn looked(status: &Status, times: u32) -> Status {
    let times = match times {
        1 => "looked once".to_owned(),
        times => format!("looked {times} times"),
    };
    Status::new(status.code(), format!("{} ({times})", status.message()))
}
