//! What an Execute costs against a plain spawn of the same program: `execute ENDPOINT FLIST-DIGEST PROGRAM [ROUNDS]`.
//!
//! `PROGRAM` is a static program of this machine that is at `/bin/true` of the flist, too, or does the same. The ways are
//! measured in turn, so that what the machine does meanwhile hits all of them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsletpb::execute_request::Payload as Asked;
use lamina_proto::afsletpb::execute_response::Payload;
use lamina_proto::afsletpb::{DiffMode, ExecuteRequest, StartRequest};
use lamina_proto::lamina::v1::FlistSource;
use tonic::transport::Channel;

/// Runs under way at once where rates are measured.
const AT_ONCE: usize = 4;

struct Bench {
    client: AfsletClient<Channel>,
    start: StartRequest,
}

impl Bench {
    /// One run; microseconds until its command ran, as the afslet says it.
    async fn execute(&self, diff: DiffMode) -> i64 {
        let start = StartRequest {
            diff: diff.into(),
            ..self.start.clone()
        };
        let frame = ExecuteRequest {
            payload: Some(Asked::Start(start)),
        };
        let frames = futures::stream::iter([frame]);
        let mut client = self.client.clone();
        let mut answers = client.execute(frames).await.unwrap().into_inner();
        let (mut startup, mut is_done) = (0, false);
        while let Some(frame) = answers.message().await.unwrap() {
            match frame.payload {
                Some(Payload::Result(result)) => {
                    assert!(result.success, "{result:?}");
                    startup = result.usage.map_or(0, |usage| usage.startup_us);
                }
                Some(Payload::Done(_)) => is_done = true,
                _ => {}
            }
        }
        assert!(is_done);
        startup
    }
}

fn show(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    println!(
        "{name:34} p50 {:.2} ms, p99 {:.2} ms, min {:.2} ms",
        at(50),
        at(99),
        at(0)
    );
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, endpoint, digest, program, rest @ ..] = args.as_slice() else {
        panic!("usage: execute ENDPOINT FLIST-DIGEST PROGRAM [ROUNDS]");
    };
    let rounds = rest
        .first()
        .map_or(200_u32, |rounds| rounds.parse().unwrap());
    let bench = Bench {
        client: AfsletClient::connect(endpoint.clone()).await.unwrap(),
        start: StartRequest {
            command: vec!["/bin/true".into()],
            cpu_cores: 1,
            memory_mb: 32,
            flist: Some(FlistSource {
                digest: digest.clone(),
                ..FlistSource::default()
            }),
            ..StartRequest::default()
        },
    };
    let mut plain = Command::new(program);
    plain.stdin(Stdio::null()).stdout(Stdio::null());
    let mut times: [Vec<Duration>; 4] = Default::default();
    bench.execute(DiffMode::None).await;
    for _ in 0..rounds {
        let began = Instant::now();
        assert!(plain.status().unwrap().success());
        times[0].push(began.elapsed());
        let began = Instant::now();
        let startup = bench.execute(DiffMode::None).await;
        times[1].push(began.elapsed());
        times[2].push(Duration::from_micros(startup.unsigned_abs()));
        let began = Instant::now();
        bench.execute(DiffMode::Unspecified).await;
        times[3].push(began.elapsed());
    }
    let names = [
        "plain spawn",
        "Execute, no changes asked for",
        "of it, until the command ran",
        "Execute, with changes",
    ];
    for (name, times) in names.iter().zip(&mut times) {
        show(name, times);
    }
    let began = Instant::now();
    let runs = futures::stream::iter(0..rounds).map(|_| bench.execute(DiffMode::None));
    runs.buffer_unordered(AT_ONCE).count().await;
    let rate = f64::from(rounds) / began.elapsed().as_secs_f64();
    println!("{AT_ONCE} at once: {rate:.0} executes per second");
}
