//! An afslet and its node's agent, killed at a hundred moments while runs go on through a proxy. Always: nothing is left
//! after the next start, every client is told, nothing that was accepted runs twice, and what comes then works.

use super::support::{Afslet, Ran, descendants, execute, file, frame, is_alive};
use crate::exec::Cluster;
use crate::machine::{kill, wait_until};
use futures::future::join_all;
use lamina_discovery::Random;
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsletpb::execute_request::Payload;
use lamina_proto::afsletpb::{DiffMode, Network, StartRequest};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::Code;

/// How often each is killed, unless `LAMINA_TEST_KILLS` says otherwise.
const KILLS: u64 = 100;
/// Runs that are under way at each kill.
const RUNS: u64 = 4;
/// Kills fall within this time from the runs' start: about what they take.
const MOMENTS: Duration = Duration::from_millis(150);
/// Every so often `lamina node` is killed, too.
const NODE_EVERY: u64 = 10;
const SEED: u64 = 0x6b69_6c6c;

#[test]
fn kills_at_any_moment_leave_nothing_and_run_nothing_twice() {
    let kills = std::env::var("LAMINA_TEST_KILLS").map_or(KILLS, |times| times.parse().unwrap());
    let options = ["--warm", "1", "--cpu", "64", "--allow-host-network"];
    let mut cluster = Cluster::before(Afslet::new(&options));
    let marks = Marks::listen(&cluster.afslet);
    let mut random = Random::from_seed(SEED);
    let mut files = None;
    let (mut done, mut cut_off) = (0, 0);
    for round in 0..kills {
        let runs = begin(&cluster, &marks, round, &mut random);
        let mortal = descendants(cluster.afslet.pid());
        let agent = kill_both(&mut cluster.afslet, round, &mut random);
        let ran = cluster.afslet.runtime.block_on(join_all(runs));
        for (name, ran) in ran.into_iter().map(Result::unwrap) {
            let times = marks.times(&name);
            let at = || format!("seed {SEED:#x}, {name}: ran {times} times, {ran:?}");
            if ran.done.is_some() {
                assert!(times == 1 && ran.result().success, "{}", at());
                assert_eq!(ran.out, "100000\n", "{}", at());
                done += 1;
            } else {
                // Whoever was not accepted was given to the next life.
                assert!(times <= 1 && ran.accepted.is_some(), "{}", at());
                assert_eq!(ran.code(), Code::Unavailable, "{}", at());
                assert!(ran.said().contains("is not tried again"), "{}", at());
                cut_off += 1;
            }
        }
        let afslet = &cluster.afslet;
        let is_new = || {
            afslet
                .machine
                .daemon("agent")
                .is_some_and(|now| now != agent)
        };
        assert!(wait_until(is_new), "{}", afslet.logs());
        assert!(wait_until(|| !mortal.iter().any(is_alive)), "{mortal:?}");
        let ran = afslet.run(afslet.sh("echo again"));
        assert_eq!(ran.out, "again\n", "{ran:?}\n{}", afslet.logs());
        afslet.assert_nothing_left_but(1);
        assert_eq!(afslet.images(), 1, "{:?}", afslet.machine.mounted());
        let now = afslet.names();
        assert_eq!(files.get_or_insert_with(|| now.clone()), &now, "{round}");
    }
    assert!(
        done > 0 && cut_off > 0,
        "{done} runs done, {cut_off} cut off"
    );
    assert_eq!(marks.twice(), Vec::<String>::new());
}

/// Kills afslet and agent, each at a moment of its own, and starts the afslet again; the agent is by its holder. Gives the
/// agent that was killed.
fn kill_both(afslet: &mut Afslet, round: u64, random: &mut Random) -> i32 {
    let agent = afslet.machine.daemon("agent").unwrap();
    let mut moments = [
        (random.up_to(MOMENTS), true),
        (random.up_to(MOMENTS), false),
    ];
    moments.sort_unstable();
    let mut passed = Duration::ZERO;
    for (moment, is_afslet) in moments {
        // What is tested is this moment: nothing is waited for.
        std::thread::sleep(moment.saturating_sub(passed));
        passed = moment;
        match is_afslet {
            true => afslet.kill(),
            false => kill(agent),
        }
    }
    if round % NODE_EVERY == NODE_EVERY - 1 {
        afslet.kill_node();
        afslet.start_node();
    }
    afslet.start();
    agent
}

/// Begins runs through the proxy; each says its name to `marks` when its command runs, and writes and reads files.
fn begin(
    cluster: &Cluster,
    marks: &Marks,
    round: u64,
    random: &mut Random,
) -> Vec<JoinHandle<(String, Ran)>> {
    let (afslet, port) = (&cluster.afslet, marks.at.port());
    let one = |number| {
        let name = format!("{round}-{number}");
        let pause = random.below(60);
        let script = format!(
            "echo {name} | nc 127.0.0.1 {port}; sleep 0.0{pause:02}; echo x > /tmp/x; wc -c < /in"
        );
        let start = StartRequest {
            network: Network::Host.into(),
            diff: match number % 2 {
                0 => DiffMode::None.into(),
                _ => DiffMode::Unspecified.into(),
            },
            // Until there is an afslet again.
            proxy_dispatch_max_retries: 1000,
            proxy_dispatch_backoff_ms: 5,
            ..afslet.sh(&script)
        };
        let mut frames = vec![frame(Payload::Start(start))];
        frames.extend(file("in", 0, &vec![7; 100_000]));
        let proxy = format!("http://{}", cluster.at);
        afslet.runtime.spawn(async move {
            let client = AfsletClient::connect(proxy).await.unwrap();
            (name, execute(client, frames).await)
        })
    };
    (0..RUNS).map(one).collect()
}

/// Hears from commands that they run, outside of everything that is killed.
struct Marks {
    at: SocketAddr,
    heard: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Marks {
    fn listen(afslet: &Afslet) -> Self {
        let listener = afslet.runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.unwrap();
        let (at, heard) = (listener.local_addr().unwrap(), Arc::default());
        let ours: Arc<Mutex<BTreeMap<String, usize>>> = Arc::clone(&heard);
        afslet.runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut name = String::new();
                // One that was killed in the middle of its word has run all the same.
                let _ = stream.read_to_string(&mut name).await;
                *ours.lock().unwrap().entry(name.trim().into()).or_default() += 1;
            }
        });
        Self { at, heard }
    }

    fn times(&self, name: &str) -> usize {
        self.heard.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// Runs that ran more than once.
    fn twice(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let twice = heard
            .iter()
            .filter(|(name, times)| !name.is_empty() && **times > 1);
        twice.map(|(name, _)| name.clone()).collect()
    }
}
