//! A client of a proxy, as the generated code has it.

use std::net::SocketAddr;

use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsletpb::execute_request::Payload as Frame;
use lamina_proto::afsletpb::execute_response::Payload;
use lamina_proto::afsletpb::{
    ExecuteRequest, ExecuteResponse, FileChunk, FileEntryBegin, FileEntryEnd, FileType,
    StartRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{CancellationHandle, Request, Status, Streaming};

use crate::bench::soon;

pub(crate) fn start(cpu: i64, memory: i64) -> StartRequest {
    StartRequest {
        image: "debian".into(),
        command: vec!["true".into()],
        cpu_cores: cpu,
        memory_mb: memory,
        // None.
        proxy_dispatch_max_retries: -1,
        ..StartRequest::default()
    }
}

pub(crate) fn frame(payload: Frame) -> ExecuteRequest {
    let payload = Some(payload);
    ExecuteRequest { payload }
}

/// A file of so many bytes, in pieces.
pub(crate) fn file(name: &str, bytes: usize, piece: usize) -> Vec<ExecuteRequest> {
    let begin = FileEntryBegin {
        path: name.into(),
        r#type: FileType::File.into(),
        ..FileEntryBegin::default()
    };
    let mut frames = vec![frame(Frame::FileBegin(begin))];
    let mut left = bytes;
    while left > 0 {
        let data = vec![7; left.min(piece)];
        left -= data.len();
        frames.push(frame(Frame::FileChunk(FileChunk { data })));
    }
    frames.push(frame(Frame::FileEnd(FileEntryEnd {})));
    frames
}

pub(crate) async fn channel(at: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{at}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// What a run said, and how it ended.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) answers: Vec<Payload>,
    pub(crate) end: Result<(), Status>,
}

impl Told {
    /// The node that accepted it.
    pub(crate) fn node(&self) -> Option<&str> {
        self.answers.iter().find_map(|answer| match answer {
            Payload::Accepted(accepted) => Some(accepted.node_id.as_str()),
            _ => None,
        })
    }

    /// The status that ended it.
    pub(crate) fn status(&self) -> &Status {
        self.end.as_ref().unwrap_err()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.end.is_ok() && matches!(self.answers.last(), Some(Payload::Done(_)))
    }
}

/// A run of which a test holds both ends.
pub(crate) struct Run {
    pub(crate) frames: Option<mpsc::Sender<ExecuteRequest>>,
    pub(crate) answers: Streaming<ExecuteResponse>,
    call: Option<CancellationHandle>,
}

impl Run {
    /// Sends `start`, and waits for the first answer's headers.
    pub(crate) async fn begin(channel: Channel, start: StartRequest) -> Result<Self, Status> {
        let (frames, sent) = mpsc::channel(1);
        frames.send(frame(Frame::Start(start))).await.unwrap();
        let mut client = AfsletClient::new(channel);
        let mut request = Request::new(ReceiverStream::new(sent));
        let call = request.cancellation_handle();
        let answers = client.execute(request).await?.into_inner();
        Ok(Self {
            frames: Some(frames),
            answers,
            call: Some(call),
        })
    }

    /// Gives the call up, without saying that the frames are all.
    pub(crate) fn abandon(mut self) {
        if let Some(call) = self.call.take() {
            call.cancel();
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Payload>, Status> {
        let next = soon("an answer", self.answers.message()).await?;
        Ok(next.and_then(|answer| answer.payload))
    }

    /// No more files; then everything it says.
    pub(crate) async fn finish(mut self) -> Told {
        self.frames = None;
        let mut answers = Vec::new();
        loop {
            match self.next().await {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) => {
                    return Told {
                        answers,
                        end: Ok(()),
                    };
                }
                Err(status) => {
                    let end = Err(status);
                    return Told { answers, end };
                }
            }
        }
    }
}

/// A run with these frames after its start, to its end.
pub(crate) async fn execute_on(
    channel: Channel,
    start: StartRequest,
    files: Vec<ExecuteRequest>,
) -> Told {
    let frames: Vec<_> = std::iter::once(frame(Frame::Start(start)))
        .chain(files)
        .collect();
    send(channel, frames).await
}

/// These frames, and what comes of them.
pub(crate) async fn send(channel: Channel, frames: Vec<ExecuteRequest>) -> Told {
    let mut client = AfsletClient::new(channel);
    let calling = client.execute(tokio_stream::iter(frames));
    match soon("a call", calling).await {
        Ok(answers) => {
            let run = Run {
                frames: None,
                answers: answers.into_inner(),
                call: None,
            };
            run.finish().await
        }
        Err(status) => Told {
            answers: Vec::new(),
            end: Err(status),
        },
    }
}

pub(crate) async fn execute(at: SocketAddr, start: StartRequest) -> Told {
    execute_on(channel(at).await, start, Vec::new()).await
}
