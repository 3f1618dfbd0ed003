//! A proxy in this process: what becomes of a run is for the test to say.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use lamina_proto::afsletpb::afslet_server::{Afslet, AfsletServer};
use lamina_proto::afsletpb::{
    Accepted, Done, EndReason, ExecuteRequest, ExecuteResponse, GetRuntimeStatusRequest,
    GetRuntimeStatusResponse, LogMessage, Result as RunResult, StartRequest, Usage,
    execute_request, execute_response::Payload,
};
use lamina_proto::lamina::v1::FlistInfo;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

/// What becomes of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// It ends by itself; what it changed is kept if that is asked for.
    Exit(i32),
    /// The same, of a version that keeps nothing.
    ExitOld(i32),
    /// It ends so.
    End(EndReason),
    /// It is refused.
    Refuse(Code),
    /// It is accepted and goes on for ever.
    Hang,
    /// It is accepted, and its stream ends without a result.
    Break,
}

/// What a run was asked with.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) start: StartRequest,
    /// Path, mode and content.
    pub(crate) files: Vec<(String, u32, Vec<u8>)>,
}

impl Asked {
    /// The value of a variable.
    pub(crate) fn env(&self, name: &str) -> Option<&str> {
        let mut all = self.start.env.iter();
        all.find_map(|one| one.strip_prefix(name)?.strip_prefix('='))
    }
}

#[derive(Default)]
struct State {
    fates: Vec<Fate>,
    asked: Vec<Asked>,
    /// Runs whose stream the client dropped.
    gone: usize,
}

/// A running fake; ends when dropped.
pub(crate) struct FakeProxy {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl FakeProxy {
    /// With the fates of the runs in order; the last one is that of all that follow.
    pub(crate) async fn start(fates: &[Fate]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State {
            fates: fates.to_vec(),
            ..State::default()
        }));
        let service = AfsletServer::new(Served(Arc::clone(&state)));
        let task = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpIncoming::from(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            state,
            task,
        }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    pub(crate) fn gone(&self) -> usize {
        self.state.lock().unwrap().gone
    }
}

impl Drop for FakeProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Served(Arc<Mutex<State>>);

type Answers = Pin<Box<dyn Stream<Item = Result<ExecuteResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Afslet for Served {
    type ExecuteStream = Answers;

    async fn execute(
        &self,
        request: Request<Streaming<ExecuteRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let asked = read(request.into_inner()).await?;
        let keep = asked.start.keep.is_some();
        let fate = {
            let mut state = self.0.lock().unwrap();
            state.asked.push(asked);
            match state.fates.len() {
                1 => state.fates[0],
                _ => state.fates.remove(0),
            }
        };
        if let Fate::Refuse(code) = fate {
            return Err(Status::new(code, "refused"));
        }
        let (tell, told) = mpsc::channel(8);
        tokio::spawn(play(fate, keep, tell, Arc::clone(&self.0)));
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn get_runtime_status(
        &self,
        _: Request<GetRuntimeStatusRequest>,
    ) -> Result<Response<GetRuntimeStatusResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
}

async fn read(mut messages: Streaming<ExecuteRequest>) -> Result<Asked, Status> {
    let mut asked = None;
    while let Some(message) = messages.next().await.transpose()? {
        match (message.payload, &mut asked) {
            (Some(execute_request::Payload::Start(start)), None) => {
                asked = Some(Asked {
                    start,
                    files: Vec::new(),
                });
            }
            (Some(execute_request::Payload::FileBegin(file)), Some(asked)) => {
                asked.files.push((file.path, file.mode, Vec::new()));
            }
            (Some(execute_request::Payload::FileChunk(chunk)), Some(asked)) => {
                asked.files.last_mut().unwrap().2.extend(chunk.data);
            }
            (Some(execute_request::Payload::FileEnd(_)), Some(_)) => {}
            (payload, _) => return Err(Status::invalid_argument(format!("{payload:?}"))),
        }
    }
    asked.ok_or_else(|| Status::invalid_argument("nothing was asked"))
}

/// Digest of what every run leaves.
pub(crate) const KEPT: &str = "cafecafecafecafecafecafecafecafecafecafecafecafecafecafecafecafe";

async fn play(
    fate: Fate,
    keep: bool,
    tell: mpsc::Sender<Result<ExecuteResponse, Status>>,
    state: Arc<Mutex<State>>,
) {
    let say = |payload| {
        tell.send(Ok(ExecuteResponse {
            payload: Some(payload),
        }))
    };
    let _ = say(Payload::Accepted(Accepted {
        accepted: true,
        node_id: "n1".into(),
        flist_digest: "b1".into(),
        ..Accepted::default()
    }))
    .await;
    let _ = say(Payload::Log(LogMessage {
        source: "stdout".into(),
        message: "hello\n".into(),
        ..LogMessage::default()
    }))
    .await;
    let (exit_code, reason) = match fate {
        Fate::Exit(code) | Fate::ExitOld(code) => (code, EndReason::Exited),
        Fate::End(reason) => (137, reason),
        Fate::Hang => {
            tell.closed().await;
            state.lock().unwrap().gone += 1;
            return;
        }
        Fate::Break | Fate::Refuse(_) => return,
    };
    let _ = say(Payload::Result(RunResult {
        success: exit_code == 0,
        exit_code,
        error: match exit_code {
            0 => String::new(),
            code => format!("exit code {code}"),
        },
        reason: reason.into(),
        kept: matches!(fate, Fate::Exit(0))
            .then(|| FlistInfo {
                digest: KEPT.into(),
                ..FlistInfo::default()
            })
            .filter(|_| keep),
        usage: Some(Usage {
            cpu_us: 1_250_000,
            memory_peak_bytes: 4096,
            ..Usage::default()
        }),
        ..RunResult::default()
    }))
    .await;
    let _ = say(Payload::Done(Done::default())).await;
}
