//! Runs asked of an afslet or a proxy without TLS, and afslets that only say that they ran something.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsletpb::afslet_server::{Afslet, AfsletServer};
use lamina_proto::afsletpb::execute_request::Payload as Asked;
use lamina_proto::afsletpb::execute_response::Payload;
use lamina_proto::afsletpb::{
    Accepted, DiffMode, Done, ExecuteRequest, ExecuteResponse, FileChunk, FileEntryBegin,
    FileEntryEnd, FileType, GetRuntimeStatusRequest, GetRuntimeStatusResponse, Result as RunResult,
    StartRequest,
};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// Bytes of one frame of a file.
const CHUNK: usize = 1 << 20;
/// As clients of ours ask for them.
const WINDOW: u32 = 8 << 20;
/// Most time for runs that are only held.
const HELD: Duration = Duration::from_secs(600);

/// Which runs.
#[derive(clap::Args, Clone)]
pub(crate) struct Runs {
    /// Afslet or proxy, without TLS
    #[arg(long)]
    at: SocketAddr,
    /// Reference of the image
    #[arg(long)]
    image: String,
    /// How many runs
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// Of them, how many at once
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Over how many connections
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[arg(long, default_value_t = 64)]
    memory_mb: i64,
    /// Ask for no changes
    #[arg(long)]
    no_diff: bool,
    /// Put a file of this size at /in
    #[arg(long, default_value_t = 0)]
    file_bytes: usize,
    /// That file is this one, over and over, not noise
    #[arg(long)]
    text: Option<PathBuf>,
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

/// Runs that wait until nobody needs them any more.
#[derive(clap::Args)]
pub(crate) struct Hold {
    #[command(flatten)]
    runs: Runs,
    /// Start the command itself instead, without a sandbox
    #[arg(long)]
    plain: bool,
}

/// One run's story.
#[derive(Default)]
struct Ran {
    ms: f64,
    startup_us: i64,
    diff_bytes: u64,
    result: RunResult,
}

/// Milliseconds and what the afslet says of each run, and the seconds of all.
pub(crate) fn execute(runs: &Runs) -> Result<Value> {
    runtime()?.block_on(async {
        let clients = connect(runs).await?;
        let file = runs.file()?;
        let began = Instant::now();
        let all: Vec<Ran> = stream::iter(0..runs.count)
            .map(|number| run(clients[number % clients.len()].clone(), runs, file.clone()))
            .buffer_unordered(runs.jobs)
            .try_collect()
            .await?;
        let seconds = began.elapsed().as_secs_f64();
        let each = |of: fn(&Ran) -> Value| all.iter().map(of).collect::<Vec<_>>();
        Ok(json!({
            "seconds": seconds,
            "ms": each(|ran| ran.ms.into()),
            "startup_us": each(|ran| ran.startup_us.into()),
            "diff_bytes": each(|ran| ran.diff_bytes.into()),
            "memory_peak_bytes": each(|ran| ran.result.usage.unwrap_or_default().memory_peak_bytes.into()),
        }))
    })
}

/// Prints `ready` once every command has said something, and ends them when standard input ends.
pub(crate) fn hold(ask: &Hold) -> Result<Value> {
    if ask.plain {
        let mut command = Command::new(&ask.runs.command[0]);
        command.args(&ask.runs.command[1..]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let started: Result<Vec<Child>, _> = (0..ask.runs.count).map(|_| command.spawn()).collect();
        wait_for_the_end()?;
        for mut child in started? {
            child.kill()?;
            child.wait()?;
        }
        return Ok(json!({ "held": ask.runs.count }));
    }
    let runtime = runtime()?;
    let held = runtime.block_on(async {
        let clients = connect(&ask.runs).await?;
        let held = stream::iter(0..ask.runs.count)
            .map(|number| begin(clients[number % clients.len()].clone(), &ask.runs))
            .buffer_unordered(ask.runs.jobs)
            .try_collect::<Vec<_>>();
        tokio::time::timeout(HELD, held).await?
    })?;
    wait_for_the_end()?;
    Ok(json!({ "held": held.len() }))
}

fn wait_for_the_end() -> Result<()> {
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Serves afslets that say of every run that it was done, until standard input ends.
pub(crate) fn serve_nothing(listen: &[SocketAddr]) -> Result<Value> {
    let runtime = runtime()?;
    for (number, at) in listen.iter().enumerate() {
        let idle = Idle(format!("idle-{number}"));
        let server = Server::builder().tcp_nodelay(true);
        let serving = { server }.add_service(AfsletServer::new(idle)).serve(*at);
        runtime.spawn(serving);
    }
    wait_for_the_end()?;
    Ok(json!({ "served": listen.len() }))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.enable_all().build()?)
}

async fn connect(runs: &Runs) -> Result<Vec<AfsletClient<Channel>>> {
    let endpoint = Endpoint::from_shared(format!("http://{}", runs.at))?
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .tcp_nodelay(true);
    let mut clients = Vec::new();
    for _ in 0..runs.connections {
        clients.push(AfsletClient::new(endpoint.connect().await?));
    }
    Ok(clients)
}

impl Runs {
    fn start(&self) -> StartRequest {
        let diff = if self.no_diff {
            DiffMode::None
        } else {
            DiffMode::Unspecified
        };
        StartRequest {
            image: self.image.clone(),
            command: self.command.clone(),
            cpu_cores: 1,
            memory_mb: self.memory_mb,
            diff: diff.into(),
            ..StartRequest::default()
        }
    }

    /// Frames of the file, made before anything is measured.
    fn file(&self) -> Result<Vec<ExecuteRequest>> {
        if self.file_bytes == 0 {
            return Ok(Vec::new());
        }
        let begin = FileEntryBegin {
            path: "/in".to_owned(),
            r#type: FileType::File.into(),
            ..FileEntryBegin::default()
        };
        let bytes: Vec<u8> = if let Some(path) = &self.text {
            let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            ensure!(!text.is_empty(), "{} is empty", path.display());
            text.into_iter().cycle().take(self.file_bytes).collect()
        } else {
            let mut random = crate::measure::Random::new(1);
            let numbers = std::iter::repeat_with(|| random.below(u64::MAX).to_le_bytes());
            numbers.flatten().take(self.file_bytes).collect()
        };
        let chunks = bytes.chunks(CHUNK).map(|chunk| {
            let data = chunk.to_vec();
            Asked::FileChunk(FileChunk { data })
        });
        let frames = std::iter::once(Asked::FileBegin(begin))
            .chain(chunks)
            .chain([Asked::FileEnd(FileEntryEnd {})])
            .map(|payload| ExecuteRequest {
                payload: Some(payload),
            });
        Ok(frames.collect())
    }
}

/// From the call to the end of its stream.
async fn run(
    mut client: AfsletClient<Channel>,
    runs: &Runs,
    file: Vec<ExecuteRequest>,
) -> Result<Ran> {
    let start = ExecuteRequest {
        payload: Some(Asked::Start(runs.start())),
    };
    let began = Instant::now();
    let frames = stream::iter(std::iter::once(start).chain(file));
    let mut answers = client.execute(frames).await?.into_inner();
    let (mut ran, mut is_done) = (Ran::default(), false);
    while let Some(answer) = answers.message().await? {
        match answer.payload {
            Some(Payload::Result(result)) => {
                ensure!(result.success, "a run failed: {result:?}");
                ran.startup_us = result.usage.unwrap_or_default().startup_us;
                ran.result = result;
            }
            Some(Payload::TarChunk(chunk)) => ran.diff_bytes += chunk.data.len() as u64,
            Some(Payload::Done(_)) => is_done = true,
            _ => {}
        }
    }
    ran.ms = began.elapsed().as_secs_f64() * 1000.0;
    ensure!(is_done, "a run ended before it was done");
    Ok(ran)
}

/// Up to the command's first word.
async fn begin(
    mut client: AfsletClient<Channel>,
    runs: &Runs,
) -> Result<Streaming<ExecuteResponse>> {
    let start = ExecuteRequest {
        payload: Some(Asked::Start(runs.start())),
    };
    let mut answers = client.execute(stream::iter([start])).await?.into_inner();
    loop {
        let answer = answers.message().await?.context("a run that ended")?;
        match answer.payload {
            Some(Payload::Log(_)) => return Ok(answers),
            Some(Payload::Result(result)) => bail!("a command that ended: {result:?}"),
            _ => {}
        }
    }
}

struct Idle(String);

#[tonic::async_trait]
impl Afslet for Idle {
    type ExecuteStream = BoxStream<'static, Result<ExecuteResponse, Status>>;

    async fn execute(
        &self,
        request: Request<Streaming<ExecuteRequest>>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let mut frames = request.into_inner();
        frames.message().await?;
        let accepted = Payload::Accepted(Accepted {
            accepted: true,
            node_id: self.0.clone(),
            ..Accepted::default()
        });
        let result = Payload::Result(RunResult {
            success: true,
            ..RunResult::default()
        });
        let answer = |payload| ExecuteResponse {
            payload: Some(payload),
        };
        // Who hands runs on sends the rest, and its end, only to an afslet that has answered.
        let rest = async move {
            while frames.message().await?.is_some() {}
            Ok(answer(result))
        };
        let answers = stream::once(std::future::ready(Ok(answer(accepted))))
            .chain(stream::once(rest))
            .chain(stream::once(std::future::ready(Ok(answer(Payload::Done(
                Done::default(),
            ))))))
            .boxed();
        Ok(Response::new(answers))
    }

    async fn get_runtime_status(
        &self,
        _: Request<GetRuntimeStatusRequest>,
    ) -> Result<Response<GetRuntimeStatusResponse>, Status> {
        Ok(Response::new(GetRuntimeStatusResponse {
            limit_cpu_cores: 1 << 20,
            limit_memory_mb: 1 << 30,
            available_cpu_cores: 1 << 20,
            available_memory_mb: 1 << 30,
            node_id: self.0.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..GetRuntimeStatusResponse::default()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_an_idle_afslet_is_measured() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = free.local_addr().unwrap();
        drop(free);
        let server = runtime().unwrap();
        server.spawn(
            Server::builder()
                .add_service(AfsletServer::new(Idle("one".into())))
                .serve(at),
        );
        while std::net::TcpStream::connect(at).is_err() {
            std::thread::yield_now();
        }
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(text.path(), "all is well\n").unwrap();
        let runs = Runs {
            at,
            image: "x".into(),
            count: 7,
            jobs: 2,
            connections: 2,
            memory_mb: 1,
            no_diff: false,
            file_bytes: 3 << 20,
            text: Some(text.path().to_owned()),
            command: vec!["true".into()],
        };
        let found = execute(&runs).unwrap();
        assert_eq!(found["ms"].as_array().unwrap().len(), 7);
    }
}
