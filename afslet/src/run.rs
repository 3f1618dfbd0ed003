//! One run, from its first frame to its last.
//!
//! ```text
//!  start ──> reserve ──> image ──> sandbox, root ──Accepted──> files ──> command ──> logs ─┐
//!                                            Done <── gone <── changes <── Result <── kept ┘
//! ```
//! What always holds: nothing of a run is left when its task ends, whatever ended it; nothing is waited for that has no
//! deadline but the command itself, which has one, too; a client that is gone ends its run.

use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lamina_proto::afsletpb::execute_request::Payload as Asked;
use lamina_proto::afsletpb::execute_response::Payload;
use lamina_proto::afsletpb::{Accepted, Done, ExecuteRequest, Keep, StartRequest};
use lamina_proto::broken::Broken;
use lamina_proto::lamina::v1::FlistInfo;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use crate::changes;
use crate::drain::Drain;
use crate::error::RunError;
use crate::frames::{Frames, Step};
use crate::images::Lease;
use crate::live::{Live, Pipes, since};
use crate::logs::{self, LogBound};
use crate::order::Order;
use crate::outcome::{Cause, Outcome, Times};
use crate::outlet::Outlet;
use crate::parts::Parts;
use crate::place::Placer;
use crate::sys;

/// How long a client may take for its first frame.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take between two frames of its files.
const FRAME_PATIENCE: Duration = Duration::from_secs(60);
/// How long a client whose run has failed is listened to.
const LINGER: Duration = Duration::from_secs(2);
/// Frames that are put in place at one go, and the bytes after which there are enough.
const BATCH_FRAMES: usize = 64;
const BATCH_BYTES: usize = 1 << 20;

/// A run and its client.
pub(crate) struct Run {
    pub(crate) parts: Parts,
    pub(crate) frames: Streaming<ExecuteRequest>,
    pub(crate) broken: Broken,
    pub(crate) outlet: Outlet,
}

impl Run {
    /// Runs it to its end, and tells the client.
    pub(crate) async fn go(mut self) {
        let began = Instant::now();
        let counted = self.parts.drain.count();
        let done = self.run(began).await;
        match done {
            Ok(done) => {
                self.outlet.hurry();
                // A client that leaves before the very last frame has all it wanted.
                let _ = self.outlet.send(Payload::Done(done)).await;
            }
            Err(error) => {
                self.parts.metrics.refused(error.code());
                tracing::info!(code = ?error.code(), %error, "run refused or cut off");
                self.outlet.fail(error).await;
                drop(self.outlet);
                drop(counted);
                linger(&mut self.frames).await;
            }
        }
    }

    async fn run(&mut self, began: Instant) -> Result<Done, RunError> {
        let start = self.start().await?;
        let Parts {
            limits,
            node,
            admission,
            ..
        } = &self.parts;
        let order = Arc::new(Order::parse(start, limits, node)?);
        self.parts.drain.check()?;
        let reservation = admission.reserve(order.bounds.cpu_cores, order.bounds.memory_mb)?;
        let lease = self
            .unless_gone(self.parts.images.get(&order.image))
            .await?;
        let argv = lease.mounted().config().argv(&order.wanted);
        argv.map_err(|error| RunError::invalid(format!("command: {error}")))?;
        let image_us = since(began);
        let mut live = Some(self.sandbox(&lease, &order).await?);
        let times = Times {
            image: image_us,
            ..Times::default()
        };
        let done = self
            .in_sandbox(&mut live, &lease, &order, began, times)
            .await;
        if let Some(live) = live {
            // Waited for: who is told that a run is done finds its room free, and nothing of it but an empty cgroup.
            let _ = spawn_blocking(move || live.end()).await;
        }
        drop((lease, reservation));
        done
    }

    /// The first frame.
    async fn start(&mut self) -> Result<StartRequest, RunError> {
        let frame = timeout(START_PATIENCE, self.frames.message()).await;
        let late = |_| RunError::new(Code::DeadlineExceeded, "start: it did not come within 30 s");
        match frame.map_err(late)?.map_err(|status| received(&status))? {
            Some(ExecuteRequest {
                payload: Some(Asked::Start(start)),
            }) => Ok(start),
            Some(_) => Err(RunError::invalid("start: it must be the first frame")),
            None => Err(RunError::invalid("start: the stream ended before it")),
        }
    }

    async fn sandbox(&self, lease: &Lease, order: &Arc<Order>) -> Result<Live, RunError> {
        let (lower, order) = (lease.open()?, Arc::clone(order));
        let sandboxes = Arc::clone(&self.parts.sandboxes);
        let made = spawn_blocking(move || Live::make(&sandboxes, &lower, &order)).await;
        made.map_err(|error| RunError::internal("make a sandbox", &error))?
    }

    async fn in_sandbox(
        &mut self,
        live: &mut Option<Live>,
        lease: &Lease,
        order: &Arc<Order>,
        began: Instant,
        mut times: Times,
    ) -> Result<Done, RunError> {
        self.accept(lease, order).await?;
        let pipes = self.start_command(live, lease, order).await?;
        let ran = Instant::now();
        times.startup = since(began);
        self.parts.metrics.started(began.elapsed());
        let bound = LogBound::new(order.bounds.log_bytes);
        let (watched, read) = tokio::join!(
            self.watch(live, pipes.readiness, order, &bound),
            self.logs(pipes.output, pipes.error, &bound)
        );
        let (cause, ended, used, has_room) = watched?;
        if cause == Some(Cause::Gone) {
            return Err(RunError::cancelled());
        }
        times.wall = since(ran);
        let was_cut = bound.is_exceeded().then_some(Cause::LogLimit);
        let mut outcome = Outcome {
            ended,
            cause: cause.or(was_cut),
            used,
            has_room,
            times,
            log_bytes: bound.bytes(),
        };
        let kept = match &order.keep {
            Some(keep) if read.is_ok() && outcome.is_success() => {
                Some(self.keep(live.as_ref(), lease, order, keep).await)
            }
            _ => None,
        };
        if let Some(Err(_)) = &kept {
            outcome.cause = Some(Cause::NotKept);
        }
        self.count(&outcome, order);
        read?;
        let done = self.tell(&outcome, kept, lease, order).await?;
        match order.keeps_diff {
            true => self.send_changes(live.as_ref(), order).await,
            false => Ok(done),
        }
    }

    /// Tells the client that it runs here.
    async fn accept(&self, lease: &Lease, order: &Order) -> Result<(), RunError> {
        let accepted = Accepted {
            accepted: true,
            node_id: self.parts.node.to_string(),
            request_id: order.request_id.clone(),
            flist_digest: lease.mounted().digest().to_owned(),
        };
        self.outlet.send(Payload::Accepted(accepted)).await
    }

    /// Puts the client's files in place and starts the command, once there are no more of them.
    async fn start_command(
        &mut self,
        live: &mut Option<Live>,
        lease: &Lease,
        order: &Arc<Order>,
    ) -> Result<Pipes, RunError> {
        let most = self.parts.limits.timeout;
        let placed = timeout(most, self.files(live.as_ref(), order)).await;
        let placed = placed.map_err(|_| late("the files did not all come", most))??;
        // A reset ends a client's frames as its own end does.
        if self.broken.is_set() || self.outlet.is_gone() {
            return Err(RunError::cancelled());
        }
        let (order, mounted) = (Arc::clone(order), Arc::clone(lease.mounted()));
        with(live, move |live| {
            live.start(&order, mounted.config(), placed)
        })
        .await?
    }

    /// For metrics and logs of this afslet.
    fn count(&self, outcome: &Outcome, order: &Order) {
        self.parts.metrics.ended(outcome);
        tracing::info!(
            request = order.request_id,
            image = order.image.key,
            reason = outcome.reason().as_str_name(),
            code = outcome.ended.exit_code(),
            startup_us = outcome.times.startup,
            wall_us = outcome.times.wall,
            "run ended"
        );
    }

    /// Tells the client how the run ended, and as what it was kept; what is to be said at the very end.
    async fn tell(
        &self,
        outcome: &Outcome,
        kept: Option<Result<(FlistInfo, Done), RunError>>,
        lease: &Lease,
        order: &Order,
    ) -> Result<Done, RunError> {
        let program = match outcome.ended {
            lamina_runtime::Ended::NotRun { .. } => {
                let argv = lease.mounted().config().argv(&order.wanted);
                argv.unwrap_or_default().into_iter().next()
            }
            _ => None,
        };
        let mut result = outcome.result(&order.bounds, &program.unwrap_or_default());
        let mut done = Done::default();
        match kept {
            Some(Ok((flist, left_out))) => (result.kept, done) = (Some(flist), left_out),
            Some(Err(_)) if self.outlet.is_gone() => return Err(RunError::cancelled()),
            Some(Err(error)) => result.error = format!("{}: {error}", result.error),
            None => {}
        }
        self.outlet.send(Payload::Result(result)).await?;
        Ok(done)
    }

    /// Sends what the run changed.
    async fn send_changes(&self, live: Option<&Live>, order: &Order) -> Result<Done, RunError> {
        let live = live.ok_or_else(RunError::cancelled)?;
        let (root, ids) = (live.root()?, live.ids()?);
        let most = self.parts.limits.timeout;
        let sent = changes::send(root, ids, order.host_network, &self.outlet);
        let sent = timeout(most, sent).await;
        sent.map_err(|_| late("the changes were not all taken", most))?
    }

    /// Has the node keep what a run changed: as what, and what is not in it.
    async fn keep(
        &self,
        live: Option<&Live>,
        lease: &Lease,
        order: &Order,
        keep: &Keep,
    ) -> Result<(FlistInfo, Done), RunError> {
        let live = live.ok_or_else(RunError::cancelled)?;
        let (root, ids) = (live.root()?, live.ids()?);
        let (sender, pieces) = mpsc::channel(changes::AHEAD);
        let packing = changes::hand_over(root, ids, order.host_network, sender);
        let committing = self.parts.images.commit(&order.image, lease, keep, pieces);
        // Few runs are kept, and all would be as large as this.
        let both = Box::pin(async { Ok(tokio::join!(packing, committing)) });
        let (packed, kept) = self.unless_gone(both).await?;
        match (packed, kept) {
            (Ok(packed), Ok(kept)) => Ok((kept, changes::left_out(packed))),
            // A node that refuses takes no more; that is the reason, not that packing was cut short.
            (Err(error), _) if error.code() != Code::Cancelled => Err(error),
            (Err(error), Ok(_)) | (_, Err(error)) => Err(error),
        }
    }

    /// Puts the client's files in place; how many bytes.
    async fn files(&mut self, live: Option<&Live>, order: &Order) -> Result<u64, RunError> {
        let mut frames = Frames::default();
        let mut placer: Option<Placer> = None;
        loop {
            let batch = self.batch(&mut frames).await?;
            if batch.steps.is_empty() {
                return Ok(placer.map_or(0, |placer| placer.bytes()));
            }
            let mut at = match placer.take() {
                Some(placer) => placer,
                None => live.ok_or_else(RunError::cancelled)?.placer(order)?,
            };
            let put = move || {
                for (step, path) in batch.steps {
                    at.apply(step).map_err(|error| error.of(&path))?;
                }
                Ok::<_, RunError>(at)
            };
            let put = spawn_blocking(put).await;
            let put = put.map_err(|error| RunError::internal("put files in place", &error))?;
            placer = Some(put?);
            if batch.is_last {
                return Ok(placer.map_or(0, |placer| placer.bytes()));
            }
        }
    }

    /// The next frames, as many as are there.
    async fn batch(&mut self, order: &mut Frames) -> Result<Batch, RunError> {
        use futures::FutureExt;
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.steps.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
            let frame = match batch.steps.is_empty() {
                true => self.frame().await?,
                false => match self.frames.message().now_or_never() {
                    Some(frame) => frame.map_err(|status| received(&status))?,
                    None => break,
                },
            };
            let Some(frame) = frame else {
                order.finish()?;
                batch.is_last = true;
                break;
            };
            let before = order.entry().map(str::to_owned);
            let step = order.next(frame)?;
            if let Step::Data(data) = &step {
                bytes += data.len();
            }
            let path = order.entry().map(str::to_owned).or(before);
            batch.steps.push((step, path.unwrap_or_default()));
        }
        Ok(batch)
    }

    /// The next frame, waited for.
    async fn frame(&mut self) -> Result<Option<ExecuteRequest>, RunError> {
        let late = |_| {
            let why = "the client sent no frame for 60 s, and has not ended its stream";
            RunError::new(Code::DeadlineExceeded, why)
        };
        let (frames, drain, outlet) = (&mut self.frames, &self.parts.drain, &self.outlet);
        tokio::select! {
            frame = timeout(FRAME_PATIENCE, frames.message()) => {
                frame.map_err(late)?.map_err(|status| received(&status))
            }
            () = drain.over() => Err(Drain::refusal()),
            () = outlet.gone() => Err(RunError::cancelled()),
        }
    }

    /// Until nothing of the command is left: ends it when it must.
    async fn watch(
        &self,
        live: &mut Option<Live>,
        readiness: OwnedFd,
        order: &Order,
        bound: &LogBound,
    ) -> Result<Watched, RunError> {
        let cause = self.cause(readiness, order, bound).await;
        if let (Err(_) | Ok(Some(_)), Some(live)) = (&cause, &live) {
            live.kill();
        }
        self.outlet.hurry();
        let cause = cause?;
        let (ended, used, has_room) = with(live, |live| {
            let (ended, used) = live.wait()?;
            Ok::<_, RunError>((ended, used, live.has_room()))
        })
        .await??;
        Ok((cause, ended, used, has_room))
    }

    /// What ends the command; `None`: itself.
    async fn cause(
        &self,
        readiness: OwnedFd,
        order: &Order,
        bound: &LogBound,
    ) -> Result<Option<Cause>, RunError> {
        let readiness = sys::readable(readiness)
            .map_err(|error| RunError::internal("watch the command", &error))?;
        Ok(tokio::select! {
            _ = readiness.readable() => None,
            () = tokio::time::sleep(order.bounds.timeout) => Some(Cause::TimedOut),
            () = bound.exceeded() => Some(Cause::LogLimit),
            () = self.parts.drain.over() => Some(Cause::Drained),
            () = self.outlet.gone() => Some(Cause::Gone),
        })
    }

    async fn logs(
        &self,
        output: PipeReader,
        error: PipeReader,
        bound: &LogBound,
    ) -> Result<(), RunError> {
        let open = |pipe: PipeReader| {
            let opened = Receiver::from_owned_fd(pipe.into());
            opened.map_err(|error| RunError::internal("read the command's output", &error))
        };
        let (output, error) = (open(output)?, open(error)?);
        let pumped = tokio::join!(
            logs::pump("stdout", &output, bound, &self.outlet),
            logs::pump("stderr", &error, bound, &self.outlet)
        );
        // What is not read any more is not closed before either: the command is to be killed, not to see that.
        self.outlet.hurried().await;
        pumped.0.and(pumped.1)
    }

    /// What is waited for, unless the client goes meanwhile or the afslet ends.
    async fn unless_gone<T>(
        &self,
        work: impl Future<Output = Result<T, RunError>>,
    ) -> Result<T, RunError> {
        tokio::select! {
            done = work => done,
            () = self.outlet.gone() => Err(RunError::cancelled()),
            () = self.parts.drain.over() => Err(Drain::refusal()),
        }
    }
}

type Watched = (
    Option<Cause>,
    lamina_runtime::Ended,
    lamina_runtime::cgroup::Usage,
    bool,
);

/// Steps with the paths they are about.
#[derive(Default)]
struct Batch {
    steps: Vec<(Step, String)>,
    is_last: bool,
}

/// Does something that blocks with a sandbox.
async fn with<T: Send + 'static>(
    live: &mut Option<Live>,
    work: impl FnOnce(&mut Live) -> T + Send + 'static,
) -> Result<T, RunError> {
    let mut held = live.take().ok_or_else(RunError::cancelled)?;
    let worked = spawn_blocking(move || {
        let done = work(&mut held);
        (held, done)
    });
    let (held, done) = worked
        .await
        .map_err(|error| RunError::internal("work on a sandbox", &error))?;
    *live = Some(held);
    Ok(done)
}

/// Reads on for a moment: a client that is cut off in the middle of its files may never look for the reason.
async fn linger(frames: &mut Streaming<ExecuteRequest>) {
    let rest = async { while let Ok(Some(_)) = frames.message().await {} };
    // Who goes on sending for longer is not listened to.
    let _ = timeout(LINGER, rest).await;
}

/// A client that sends or takes a little now and then holds what was reserved for it, so there is an end.
fn late(what: &str, most: Duration) -> RunError {
    let why = format!("{what} within {most:?}, the longest that a run may take here");
    RunError::new(Code::DeadlineExceeded, why)
}

/// What is wrong with a stream of frames: cut off, or no frames at all.
fn received(status: &Status) -> RunError {
    match status.code() {
        Code::OutOfRange | Code::Internal | Code::InvalidArgument | Code::ResourceExhausted => {
            RunError::invalid(format!("a frame cannot be read: {}", status.message()))
        }
        _ => RunError::cancelled(),
    }
}
