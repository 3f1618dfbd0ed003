//! An afslet that does as a test tells it, by the real contract: admission, one answer after the other, a command that
//! begins when the client's frames have ended.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lamina_proto::afsletpb::afslet_server::{Afslet, AfsletServer};
use lamina_proto::afsletpb::execute_request::Payload as Frame;
use lamina_proto::afsletpb::execute_response::Payload;
use lamina_proto::afsletpb::{
    Accepted, Done, ExecuteRequest, ExecuteResponse, GetRuntimeStatusRequest,
    GetRuntimeStatusResponse, LogMessage, Result as RunResult, StartRequest,
};
use lamina_proto::broken::{Broken, Watched};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::cable::Cable;

/// What becomes of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Act {
    /// It is admitted if it fits, and ends when it may.
    Run,
    /// It is refused at once.
    Refuse(Code, &'static str),
    /// Nothing is ever said.
    Hang,
    /// The call ends without a word.
    Mute,
    /// It is accepted, and fails.
    Fail(Code),
    /// It writes logs as fast as they are taken.
    Flood,
}

/// What a test sees of it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Calls of `Execute`.
    pub(crate) offered: usize,
    /// Those that got `accepted`.
    pub(crate) accepted: usize,
    /// Commands that began.
    pub(crate) begun: usize,
    /// Their request ids.
    pub(crate) begun_ids: Vec<String>,
    /// Runs whose caller went away before they had ended.
    pub(crate) abandoned: usize,
    /// Bytes of files.
    pub(crate) file_bytes: usize,
    /// Most runs at one time.
    pub(crate) most: i64,
    pub(crate) starts: Vec<StartRequest>,
    /// Of the last call.
    pub(crate) headers: tonic::metadata::MetadataMap,
}

pub(crate) struct State {
    act: Mutex<Act>,
    status: Mutex<GetRuntimeStatusResponse>,
    polls_hang: watch::Sender<bool>,
    pub(crate) seen: Mutex<Seen>,
    pub(crate) polls: AtomicUsize,
    /// Commands end while this is so.
    finish: watch::Sender<bool>,
}

/// One afslet behind a cable; ends when dropped.
pub(crate) struct Fake {
    pub(crate) at: SocketAddr,
    pub(crate) cable: Cable,
    pub(crate) state: Arc<State>,
    serving: AbortHandle,
}

impl Fake {
    pub(crate) async fn start(node: &str, cpu: i64, memory: i64) -> Self {
        Self::secured(node, cpu, memory, Server::builder()).await
    }

    pub(crate) async fn secured(node: &str, cpu: i64, memory: i64, mut server: Server) -> Self {
        let state = Arc::new(State {
            act: Mutex::new(Act::Run),
            status: Mutex::new(GetRuntimeStatusResponse {
                limit_cpu_cores: cpu,
                limit_memory_mb: memory,
                available_cpu_cores: cpu,
                available_memory_mb: memory,
                node_id: node.into(),
                version: "fake".into(),
                ..GetRuntimeStatusResponse::default()
            }),
            polls_hang: watch::Sender::new(false),
            seen: Mutex::default(),
            polls: AtomicUsize::new(0),
            finish: watch::Sender::new(true),
        });
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let incoming = incoming.with_nodelay(Some(true));
        let far = incoming.local_addr().unwrap();
        let service = AfsletServer::new(Served(Arc::clone(&state)));
        let service = Watched(service.max_decoding_message_size(5 << 20));
        let router = server.add_service(service);
        let serving = tokio::spawn(async move {
            router.serve_with_incoming(incoming).await.unwrap();
        });
        let cable = Cable::to(far).await;
        Self {
            at: cable.at,
            cable,
            state,
            serving: serving.abort_handle(),
        }
    }

    pub(crate) fn will(&self, act: Act) {
        *self.state.act.lock().unwrap() = act;
    }

    /// Whether commands end by themselves; else they go on.
    pub(crate) fn finish(&self, finish: bool) {
        self.state.finish.send_replace(finish);
    }

    pub(crate) fn hang_polls(&self, hang: bool) {
        self.state.polls_hang.send_replace(hang);
    }

    pub(crate) fn tell(&self, change: impl FnOnce(&mut GetRuntimeStatusResponse)) {
        change(&mut self.state.status.lock().unwrap());
    }

    pub(crate) fn see<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.state.seen.lock().unwrap())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Served(Arc<State>);

/// Room that a run has.
struct Room {
    state: Arc<State>,
    cpu: i64,
    memory: i64,
    is_over: bool,
}

impl State {
    fn see(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock().unwrap());
    }

    fn admit(self: &Arc<Self>, start: &StartRequest) -> Result<Room, Status> {
        let mut status = self.status.lock().unwrap();
        let (cpu, memory) = (start.cpu_cores, start.memory_mb);
        let used = (status.used_cpu_cores + cpu, status.used_memory_mb + memory);
        if used.0 > status.limit_cpu_cores || used.1 > status.limit_memory_mb {
            return Err(Status::resource_exhausted("it does not fit now"));
        }
        self.share(&mut status, cpu, memory, 1);
        Ok(Room {
            state: Arc::clone(self),
            cpu,
            memory,
            is_over: false,
        })
    }

    fn share(&self, status: &mut GetRuntimeStatusResponse, cpu: i64, memory: i64, runs: i64) {
        status.used_cpu_cores += cpu;
        status.available_cpu_cores -= cpu;
        status.used_memory_mb += memory;
        status.available_memory_mb -= memory;
        status.running_containers += runs;
        let running = status.running_containers;
        self.see(|seen| seen.most = seen.most.max(running));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut status = self.state.status.lock().unwrap();
        let (cpu, memory) = (self.cpu, self.memory);
        self.state.share(&mut status, -cpu, -memory, -1);
        if !self.is_over {
            self.state.see(|seen| seen.abandoned += 1);
        }
    }
}

type Answers = mpsc::Sender<Result<ExecuteResponse, Status>>;

async fn say(answers: &Answers, payload: Payload) -> Option<()> {
    let payload = Some(payload);
    answers.send(Ok(ExecuteResponse { payload })).await.ok()
}

/// A run that was admitted; `None` when its caller went away.
async fn run(
    act: Act,
    start: StartRequest,
    (mut frames, broken): (Streaming<ExecuteRequest>, Broken),
    answers: Answers,
    mut room: Room,
) -> Option<()> {
    let state = Arc::clone(&room.state);
    let node_id = state.status.lock().unwrap().node_id.clone();
    let accepted = Accepted {
        accepted: true,
        node_id,
        request_id: start.request_id.clone(),
        ..Accepted::default()
    };
    say(&answers, Payload::Accepted(accepted)).await?;
    state.see(|seen| seen.accepted += 1);
    if let Act::Fail(code) = act {
        room.is_over = true;
        return answers.send(Err(Status::new(code, "it fails"))).await.ok();
    }
    loop {
        let frame = tokio::select! {
            frame = frames.message() => frame.ok()?,
            () = answers.closed() => return None,
        };
        match frame.map(|frame| frame.payload) {
            None => break,
            Some(Some(Frame::FileChunk(chunk))) => {
                state.see(|seen| seen.file_bytes += chunk.data.len());
            }
            Some(Some(Frame::Start(_))) => {
                room.is_over = true;
                let refused = Status::invalid_argument("a second start");
                return answers.send(Err(refused)).await.ok();
            }
            Some(_) => {}
        }
    }
    if broken.is_set() {
        return None;
    }
    state.see(|seen| {
        seen.begun += 1;
        seen.begun_ids.push(start.request_id.clone());
    });
    let log = |message: String| {
        Payload::Log(LogMessage {
            source: "stdout".into(),
            message,
            ..LogMessage::default()
        })
    };
    if act == Act::Flood {
        loop {
            say(&answers, log("x".repeat(64 << 10))).await?;
        }
    }
    say(&answers, log(start.command.join(" "))).await?;
    let mut finish = state.finish.subscribe();
    tokio::select! {
        _ = finish.wait_for(|finish| *finish) => {}
        () = answers.closed() => return None,
    }
    room.is_over = true;
    drop(room);
    let success = RunResult {
        success: true,
        ..RunResult::default()
    };
    say(&answers, Payload::Result(success)).await?;
    say(&answers, Payload::Done(Done::default())).await
}

#[tonic::async_trait]
impl Afslet for Served {
    type ExecuteStream = ReceiverStream<Result<ExecuteResponse, Status>>;

    async fn execute(
        &self,
        request: Request<Streaming<ExecuteRequest>>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let state = Arc::clone(&self.0);
        let (headers, extensions, mut frames) = request.into_parts();
        let broken = Broken::of(&extensions);
        let first = frames.message().await?.and_then(|frame| frame.payload);
        let Some(Frame::Start(start)) = first else {
            return Err(Status::invalid_argument("no start"));
        };
        state.see(|seen| {
            seen.offered += 1;
            seen.starts.push(start.clone());
            seen.headers = headers;
        });
        let act = state.act.lock().unwrap().clone();
        let (answers, answered) = mpsc::channel(4);
        let refuse = |code, why: &str| Err(Status::new(code, why));
        match act {
            Act::Refuse(code, why) => return refuse(code, why),
            Act::Hang => std::future::pending().await,
            Act::Mute => {}
            Act::Run | Act::Fail(_) | Act::Flood => {
                let room = state.admit(&start)?;
                let frames = (frames, broken);
                tokio::spawn(run(act, start, frames, answers, room));
            }
        }
        Ok(Response::new(ReceiverStream::new(answered)))
    }

    async fn get_runtime_status(
        &self,
        _: Request<GetRuntimeStatusRequest>,
    ) -> Result<Response<GetRuntimeStatusResponse>, Status> {
        self.0.polls.fetch_add(1, Ordering::SeqCst);
        let mut hang = self.0.polls_hang.subscribe();
        let _ = hang.wait_for(|hang| !hang).await;
        Ok(Response::new(self.0.status.lock().unwrap().clone()))
    }
}
