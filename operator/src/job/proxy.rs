//! One run, from sending it to its end: a stream to a proxy, which finds a node for it.
//!
//! Before it was accepted nothing has run, and a refusal says so by its code; a connection that breaks says nothing, so what was
//! sent over it may have run.

use std::sync::Arc;
use std::time::Duration;

use lamina_crds::JobOutcome;
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsletpb::execute_response::Payload;
use lamina_proto::afsletpb::{EndReason, ExecuteResponse, Result as RunResult};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::order::Order;
use super::plan::{How, Ran};
use super::tail::Tail;
use crate::fault::Fault;

/// Largest message of a run.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Until a run is accepted: its image may have to be pulled, and room be found.
const ACCEPT: Duration = Duration::from_secs(900);
/// After its time is over, until the proxy says so.
const SLACK: Duration = Duration::from_secs(60);

/// After a run that succeeded, until what it changed is in its stores.
const KEEP: Duration = Duration::from_secs(900);

/// Which run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) index: i32,
    pub(crate) attempt: i32,
    /// Its name in logs.
    pub(crate) request: String,
}

/// Has it run, and says how that ended.
pub(crate) async fn run(channel: Channel, order: Arc<Order>, run: Run) -> How {
    let keeps = order.keeps();
    let keep = if keeps { KEEP } else { Duration::ZERO };
    let most = ACCEPT + order.timeout() + keep + SLACK;
    let mut client = AfsletClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let messages = order.messages(run.index, run.attempt, run.request);
    let work = async {
        match client.execute(tokio_stream::iter(messages)).await {
            Ok(answer) => follow(answer.into_inner(), keeps).await,
            Err(status) => refused(&status),
        }
    };
    match Box::pin(tokio::time::timeout(most, work)).await {
        Ok(how) => how,
        Err(_) => ran(Ran::lost("the proxy does not say that it ended")),
    }
}

/// What is known of a run while it goes on.
#[derive(Default)]
struct Known {
    /// What it changes is to be kept.
    keeps: bool,
    accepted: bool,
    node: Option<String>,
    base: Option<String>,
    tail: Tail,
    result: Option<RunResult>,
}

async fn follow(mut answers: Streaming<ExecuteResponse>, keeps: bool) -> How {
    let mut known = Known {
        keeps,
        ..Known::default()
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                if known.take(answer) {
                    return known.end();
                }
            }
            Ok(None) => return known.end(),
            // What came before it stands.
            Err(_) if known.result.is_some() => return known.end(),
            // Something of the request cannot be: the command was not begun.
            Err(status) if !known.accepted || status.code() == Code::InvalidArgument => {
                return refused(&status);
            }
            Err(status) => {
                let why = format!("it ended without a result: {}", status.message());
                return known.lost(why);
            }
        }
    }
}

impl Known {
    /// Takes in a message; whether it was the last one.
    fn take(&mut self, answer: ExecuteResponse) -> bool {
        match answer.payload {
            Some(Payload::Accepted(accepted)) => {
                self.accepted = true;
                self.node = Some(accepted.node_id).filter(|node| !node.is_empty());
                self.base = Some(accepted.flist_digest).filter(|digest| !digest.is_empty());
            }
            Some(Payload::Log(log)) => self.tail.push(&log.message),
            Some(Payload::Result(result)) => self.result = Some(result),
            Some(Payload::Done(_)) => return true,
            // Changes were not asked for.
            Some(Payload::TarHeader(_) | Payload::TarChunk(_)) | None => {}
        }
        false
    }

    fn end(mut self) -> How {
        let Some(result) = self.result.take() else {
            return self.lost("it ended without a result".to_owned());
        };
        let mut outcome = outcome(&result);
        let kept = result.kept.map(|flist| flist.digest);
        let mut error = result.error;
        if self.keeps && kept.is_none() && outcome == JobOutcome::Succeeded {
            // Not to be told as kept: what was wanted of it is gone.
            outcome = JobOutcome::Failed;
            let why =
                "it ended well, and its node runs a version of Lamina that cannot keep changes";
            error = String::from(why);
        }
        let usage = result.usage.unwrap_or_default();
        let amount = |number: i64| u64::try_from(number).unwrap_or(0);
        ran(Ran {
            outcome,
            exit_code: Some(result.exit_code),
            node: self.node.map(|node| super::plan::shortened(&node)),
            base: self.base.map(|digest| super::plan::shortened(&digest)),
            message: match (outcome, error.is_empty()) {
                (JobOutcome::Succeeded, _) => None,
                (_, true) => Some(format!("exit code {}", result.exit_code)),
                (_, false) => Some(error),
            },
            log: self.tail.end(),
            kept,
            flist: None,
            cpu_us: amount(usage.cpu_us),
            memory_peak_bytes: amount(usage.memory_peak_bytes),
        })
    }

    fn lost(self, why: String) -> How {
        ran(Ran {
            node: self.node,
            base: self.base,
            log: self.tail.end(),
            ..Ran::lost(why)
        })
    }
}

fn ran(ran: Ran) -> How {
    How::Ran(Box::new(ran))
}

fn outcome(result: &RunResult) -> JobOutcome {
    match result.reason() {
        _ if result.success && result.exit_code == 0 => JobOutcome::Succeeded,
        EndReason::TimedOut => JobOutcome::TimedOut,
        EndReason::OutOfMemory => JobOutcome::OOMKilled,
        _ => JobOutcome::Failed,
    }
}

/// A failure before anything ran, if it says so itself.
fn refused(status: &Status) -> How {
    // One that was not sent by the proxy but made here.
    if let Some(cause) = std::error::Error::source(status) {
        if was_not_sent(cause) {
            let text = format!("the proxy cannot be reached: {}", status.message());
            return How::Refused(Fault::new("ProxyUnreachable", text));
        }
        let why = format!("the connection to the proxy broke: {}", status.message());
        return ran(Ran::lost(why));
    }
    let said = status.message();
    let fault = |reason, what: &str| How::Refused(Fault::new(reason, format!("{what}: {said}")));
    match status.code() {
        Code::InvalidArgument => How::Impossible(Fault::new("InvalidSpec", said)),
        Code::NotFound => fault("NotFound", "its image or flist is not there"),
        Code::PermissionDenied | Code::Unauthenticated => fault("AccessDenied", "refused"),
        Code::ResourceExhausted => fault("NoRoom", "no node has room for it now"),
        Code::DeadlineExceeded => fault("Timeout", "no answer in time"),
        Code::Unavailable => fault("Unavailable", "no node takes runs now"),
        _ => fault("ProxyFailed", "the proxy failed"),
    }
}

/// Whether no connection came about.
fn was_not_sent(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |error| error.source());
    chain.any(<dyn std::error::Error>::is::<tonic::ConnectError>)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_reason() {
        for (code, reason) in [
            (Code::NotFound, "NotFound"),
            (Code::PermissionDenied, "AccessDenied"),
            (Code::ResourceExhausted, "NoRoom"),
            (Code::Unavailable, "Unavailable"),
            (Code::DeadlineExceeded, "Timeout"),
            (Code::Internal, "ProxyFailed"),
        ] {
            let How::Refused(fault) = refused(&Status::new(code, "why")) else {
                panic!("{code:?} is a refusal")
            };
            assert_eq!(fault.reason, reason, "{code:?}");
            assert!(fault.message.ends_with("why"), "{fault}");
        }
        let never = refused(&Status::invalid_argument("cpu_cores: 0"));
        assert!(matches!(never, How::Impossible(fault) if fault.message == "cpu_cores: 0"));
    }

    #[tokio::test]
    async fn what_could_not_be_sent_did_not_run_and_a_broken_connection_says_nothing() {
        let spec = serde_json::from_value(serde_json::json!({ "source": { "image": "a" } }));
        let order =
            Arc::new(Order::new(&spec.unwrap(), super::super::order::Inputs::default()).unwrap());
        let once = |order: &Arc<Order>, port: u16| {
            let address = format!("http://127.0.0.1:{port}");
            let channel = tonic::transport::Endpoint::from_shared(address)
                .unwrap()
                .connect_lazy();
            let asked = Run {
                index: 0,
                attempt: 1,
                request: "r".into(),
            };
            Box::pin(run(channel, Arc::clone(order), asked))
        };
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = nobody.local_addr().unwrap().port();
        drop(nobody);
        let how = once(&order, port).await;
        assert!(
            matches!(&how, How::Refused(fault) if fault.reason == "ProxyUnreachable"),
            "{how:?}"
        );
        // One that takes connections and drops them.
        let rude = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = rude.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = rude.accept().await.unwrap();
                let mut buffer = [0; 64];
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await;
            }
        });
        let how = once(&order, port).await;
        server.abort();
        assert!(
            matches!(&how, How::Ran(ran) if ran.outcome == JobOutcome::Lost),
            "{how:?}"
        );
    }

    #[test]
    fn every_end_has_its_outcome() {
        let result = |success, exit_code, reason: EndReason| RunResult {
            success,
            exit_code,
            reason: reason.into(),
            ..RunResult::default()
        };
        for (result, expected) in [
            (result(true, 0, EndReason::Exited), JobOutcome::Succeeded),
            (result(false, 3, EndReason::Exited), JobOutcome::Failed),
            (result(false, 137, EndReason::Signalled), JobOutcome::Failed),
            (
                result(false, 137, EndReason::TimedOut),
                JobOutcome::TimedOut,
            ),
            (
                result(false, 137, EndReason::OutOfMemory),
                JobOutcome::OOMKilled,
            ),
            (result(false, 127, EndReason::NotRun), JobOutcome::Failed),
            // A proxy of before our fields.
            (
                result(true, 0, EndReason::Unspecified),
                JobOutcome::Succeeded,
            ),
        ] {
            assert_eq!(outcome(&result), expected);
        }
    }
}
