//! `exec`: a command in the cluster, as if it ran here.
//!
//! ```text
//!  upload (a thread) ── frames ──> proxy ──> afslet
//!  answers <── logs, result, changes ──────────┘
//!     ├──> printer (a thread) ──> our standard output and error
//!     └──> diff: a file that is there whole, or not at all
//! ```
//! Always: files that cannot be read to their end give the run up, so that no command starts with a part of them.

mod answers;
mod diff;
mod flags;
mod order;
mod printer;
mod upload;

use super::{reach, runtime};
use crate::args::exec::Exec;
use crate::kube::Fault;
use crate::{exit, output};
use answers::{Answers, Ended};
use anyhow::{Context, Result, anyhow};
use diff::Diff;
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsletpb::execute_request::Payload;
use lamina_proto::afsletpb::{ExecuteRequest, ExecuteResponse};
use printer::Printer;
use tokio::signal::unix::{SignalKind, signal};
use tonic::{CancellationHandle, Request, Streaming};

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 8 << 20;

pub(crate) fn exec(args: &Exec) -> Result<()> {
    let runtime = runtime()?;
    let ended = runtime.block_on(run(args));
    // A thread that waits for a slow reader of our output must not keep us.
    runtime.shutdown_background();
    match ended.with_context(|| exit::NotRun(args.image.clone()))? {
        0 => Ok(()),
        code => Err(exit::CommandEnded(code).into()),
    }
}

async fn run(args: &Exec) -> Result<u8> {
    let start = order::start(args)?;
    let sources = upload::sources(args)?;
    let diff = args.diff.as_deref().map(Diff::create).transpose()?;
    let mut interrupted = Interrupted::new()?;
    let ran = async {
        let proxy = reach::connect(&args.reach).await?;
        let mut client =
            AfsletClient::new(proxy.channel()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let (uploading, mut frames) = upload::begin(start, sources)?;
        let frames = futures::stream::poll_fn(move |cx| frames.poll_recv(cx));
        let mut request = Request::new(frames);
        let call = Call(Some(request.cancellation_handle()));
        let answering = async {
            let answered = client.execute(request).await;
            let answers = answered
                .map_err(|status| said(&proxy.unanswered(&status)))?
                .into_inner();
            read(answers, diff).await
        };
        let mut answering = std::pin::pin!(answering);
        tokio::select! {
            biased;
            ended = &mut answering => ended,
            failed = uploading.failed() => {
                drop(call);
                Err(failed)
            }
        }
    };
    tokio::select! {
        biased;
        code = interrupted.come() => Ok(code),
        ended = ran => ended,
    }
}

/// Gives the call up when dropped, without saying that the files are all.
struct Call(Option<CancellationHandle>);

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call.cancel();
        }
    }
}

async fn read(mut messages: Streaming<ExecuteResponse>, diff: Option<Diff>) -> Result<u8> {
    let printer = Printer::start()?;
    let mut answers = Answers::new(diff);
    let came = loop {
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => break Ok(None),
            Err(status) => break Ok(Some(said(&reach::refused(&status)))),
        };
        match answers.take(message) {
            Ok(None) => {}
            Ok(Some(text)) => {
                if !printer.print(text).await {
                    // As if it had written there itself.
                    return Ok(exit::BROKEN_PIPE);
                }
            }
            Err(error) => break Err(error),
        }
    };
    printer.finish().await;
    let Ended { code, why } = match came? {
        None => answers.end()?,
        Some(refused) => answers.broken(refused.into())?,
    };
    if let Some(why) = why {
        eprintln!("error: {}", output::printable(&flags::said(&why)));
    }
    Ok(code)
}

/// What ends us from outside.
struct Interrupted {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupted {
    fn new() -> Result<Self> {
        let of = |kind| signal(kind).context("wait for signals");
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
        })
    }

    /// The exit code that says which came. The run ends with its call.
    async fn come(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 128 + 2,
            _ = self.terminate.recv() => 128 + 15,
        }
    }
}

/// A refusal in the words of the command line.
fn said(fault: &Fault) -> Fault {
    Fault::new(fault.kind, flags::said(&fault.message))
}

/// A frame with this in it.
fn frame(payload: Payload) -> ExecuteRequest {
    ExecuteRequest {
        payload: Some(payload),
    }
}

/// A failure of the protocol, which is the other side's.
fn broken(what: &str) -> anyhow::Error {
    anyhow!("the proxy's answer cannot be right: {what}")
}
