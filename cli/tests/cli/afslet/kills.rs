//! Proxy, afslet and its node's agent, killed at two hundred moments while runs go on. Always: nothing is left after the
//! next start, every client is told, nothing that was accepted runs twice, and what comes then works.

use super::support::{Afslet, Ran, descendants, execute, file, frame, is_alive};
use crate::exec::Cluster;
use crate::machine::{kill, wait_until};
use futures::future::join_all;
use lamina_discovery::Random;
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsletpb::execute_request::Payload;
use lamina_proto::afsletpb::{DiffMode, ExecuteRequest, Network, StartRequest};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

/// Rounds of kills, unless `LAMINA_TEST_KILLS` says otherwise.
const KILLS: u64 = 200;
/// Runs that are under way at each kill.
const RUNS: u64 = 4;
/// Kills fall within this time from the runs' start: about what they take.
const MOMENTS: Duration = Duration::from_millis(150);
/// Every so often `lamina node` is killed, too.
const NODE_EVERY: u64 = 10;
const SEED: u64 = 0x6b69_6c6c;
/// At the same time, each with its part of the rounds; in them every set of victims has its turns.
const CLUSTERS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Proxy,
    Afslet,
    Agent,
}

/// Who is killed in a round, by turns.
fn victims(round: u64) -> &'static [Victim] {
    use Victim::{Afslet, Agent, Proxy};
    match round % 4 {
        0 => &[Afslet, Agent],
        1 => &[Proxy],
        2 => &[Proxy, Afslet],
        _ => &[Proxy, Afslet, Agent],
    }
}

#[test]
fn kills_at_any_moment_leave_nothing_and_run_nothing_twice() {
    let kills = std::env::var("LAMINA_TEST_KILLS").map_or(KILLS, |times| times.parse().unwrap());
    std::thread::scope(|scope| {
        let ours = |of| (of..kills).step_by(CLUSTERS);
        let clusters: Vec<_> = (0..CLUSTERS as u64)
            .map(|of| scope.spawn(move || kill_for(ours(of), SEED + of)))
            .collect();
        for cluster in clusters {
            if let Err(panic) = cluster.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// These rounds on a machine of their own.
fn kill_for(rounds: impl Iterator<Item = u64>, seed: u64) {
    let options = ["--warm", "1", "--cpu", "64", "--allow-host-network"];
    let mut cluster = Cluster::before(Afslet::new(&options));
    let marks = Marks::listen(&cluster.afslet);
    let mut random = Random::from_seed(seed);
    let mut files = None;
    let mut ends = Ends::default();
    for round in rounds {
        let victims = victims(round);
        let runs = begin(&cluster, &marks, round, &mut random);
        let mortal = descendants(cluster.afslet.pid());
        let agent = kill_all(&mut cluster, victims, round, &mut random);
        let ran = cluster.afslet.runtime.block_on(join_all(runs));
        for (name, ran) in ran.into_iter().map(Result::unwrap) {
            ends.take(&name, &ran, marks.times(&name), victims);
        }
        let afslet = &cluster.afslet;
        if victims.contains(&Victim::Agent) {
            let now = || afslet.machine.daemon("agent");
            let is_new = || now().is_some_and(|now| now != agent);
            assert!(wait_until(is_new), "{}", afslet.logs());
        }
        if victims.contains(&Victim::Afslet) {
            assert!(wait_until(|| !mortal.iter().any(is_alive)), "{mortal:?}");
        }
        for at in [afslet.listen, cluster.at] {
            let frames = vec![frame(Payload::Start(afslet.sh("echo again")))];
            let ran = afslet.runtime.block_on(call(at, frames));
            assert_eq!(ran.out, "again\n", "{at}: {ran:?}\n{}", afslet.logs());
        }
        afslet.assert_nothing_left_but(1);
        assert_eq!(afslet.images(), 1, "{:?}", afslet.machine.mounted());
        let now = afslet.names();
        assert_eq!(files.get_or_insert_with(|| now.clone()), &now, "{round}");
    }
    println!("seed {seed:#x}: {ends:?}");
    assert!(ends.done > 0 && ends.by_afslet > 0, "{ends:?}");
    assert!(ends.by_proxy > 0, "{ends:?}");
    assert_eq!(marks.twice(), Vec::<String>::new());
}

/// How runs ended.
#[derive(Debug, Default)]
struct Ends {
    done: u64,
    /// Cut off by the end of their afslet, or of their proxy.
    by_afslet: u64,
    by_proxy: u64,
}

impl Ends {
    /// Counts one that ran so many times; it may end like that.
    fn take(&mut self, name: &str, ran: &Ran, times: usize, victims: &[Victim]) {
        let at = || format!("{victims:?}, {name}: ran {times} times, {ran:?}");
        if ran.done.is_some() {
            assert!(times == 1 && ran.result().success, "{}", at());
            assert_eq!(ran.out, "100000\n", "{}", at());
            self.done += 1;
            return;
        }
        assert!(times <= 1, "{}", at());
        // What the library finds of a connection that broke has a source, and a code that depends on where it broke.
        let is_broken = ran
            .status
            .as_ref()
            .is_some_and(|said| said.source().is_some());
        assert!(is_broken || ran.code() == Code::Unavailable, "{}", at());
        if ran.said().contains("is not tried again") {
            assert!(!is_broken && victims.contains(&Victim::Afslet), "{}", at());
            assert!(ran.accepted.is_some(), "{}", at());
            self.by_afslet += 1;
        } else {
            // While there is a proxy, whoever was not accepted is given to the next life of the afslet.
            assert!(victims.contains(&Victim::Proxy), "{}", at());
            self.by_proxy += 1;
        }
    }
}

/// Kills each victim at a moment of its own and starts it again; the agent is by its holder. Gives the
/// agent that there was.
fn kill_all(cluster: &mut Cluster, victims: &[Victim], round: u64, random: &mut Random) -> i32 {
    let agent = cluster.afslet.machine.daemon("agent").unwrap();
    let at = |victim: &Victim| (random.up_to(MOMENTS), *victim);
    let mut moments: Vec<_> = victims.iter().map(at).collect();
    moments.sort_unstable();
    let mut passed = Duration::ZERO;
    for (moment, victim) in moments {
        // What is tested is this moment: nothing is waited for.
        std::thread::sleep(moment.saturating_sub(passed));
        passed = moment;
        match victim {
            Victim::Proxy => cluster.kill_proxy(),
            Victim::Afslet => cluster.afslet.kill(),
            Victim::Agent => kill(agent),
        }
    }
    if round % NODE_EVERY == NODE_EVERY - 1 {
        cluster.afslet.kill_node();
        cluster.afslet.start_node();
    }
    if victims.contains(&Victim::Afslet) {
        cluster.afslet.start();
    }
    if victims.contains(&Victim::Proxy) {
        cluster.start_proxy();
    }
    agent
}

/// A run by a connection of its own; one that cannot be made is `Unavailable`, as for any client.
async fn call(at: SocketAddr, frames: Vec<ExecuteRequest>) -> Ran {
    match AfsletClient::connect(format!("http://{at}")).await {
        Ok(client) => execute(client, frames).await,
        Err(error) => Ran {
            status: Some(Status::unavailable(error.to_string())),
            ..Ran::default()
        },
    }
}

/// Begins runs through the proxy; each says its name to `marks` when its command runs, and writes and reads files.
fn begin(
    cluster: &Cluster,
    marks: &Marks,
    round: u64,
    random: &mut Random,
) -> Vec<JoinHandle<(String, Ran)>> {
    let (afslet, port, proxy) = (&cluster.afslet, marks.at.port(), cluster.at);
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
        let run = async move { (name, call(proxy, frames).await) };
        afslet.runtime.spawn(run)
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
