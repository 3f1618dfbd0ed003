//! How long a command takes to start and end in a sandbox: `p50 ROOT-DIRECTORY COMMAND [ROUNDS]`, as root.
//!
//! Four ways, one after the other in each round, so that all see the same machine: a plain spawn of the command in
//! this file system; namespaces, root and command all new; the same with a cgroup; and with a sandbox that was made
//! ahead and waits in its cgroup.

use lamina_mount::union::scratch::{Scratch, ScratchMedium, ScratchSpec};
use lamina_runtime::cgroup::{Cgroup, Cgroups, ResourceLimits};
use lamina_runtime::spec::{Identity, ProcessLimits};
use lamina_runtime::{Ended, IdRange, Prepare, Prepared, Spawner, Spec, Standard};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Bench {
    spawner: Spawner,
    image: File,
    cgroups: Cgroups,
    spec: Spec,
}

impl Bench {
    fn prepare(&self, cgroup: Option<&Cgroup>) -> Prepared {
        let prepare = Prepare {
            ids: IdRange::of_slot(0).unwrap(),
            own_network: true,
            cgroup,
        };
        self.spawner.prepare(&prepare).unwrap()
    }

    fn cgroup(&self) -> Cgroup {
        let limits = ResourceLimits {
            cpu_millis: Some(2000),
            memory_bytes: Some(256 << 20),
            pids: Some(100),
            ..ResourceLimits::default()
        };
        self.cgroups.create("lamina-p50", &limits).unwrap()
    }

    fn run(&self, prepared: Prepared) {
        let root = Scratch::build(&ScratchSpec {
            lower: self.image.as_fd(),
            user_namespace: prepared.user_namespace(),
            bytes_max: 64 << 20,
            files_max: 4096,
            medium: ScratchMedium::Memory,
            at: Path::new("/nowhere"),
        })
        .unwrap();
        let null = || {
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .unwrap()
                .into()
        };
        let standard = Standard {
            input: null(),
            output: null(),
            error: null(),
        };
        let mut running = prepared
            .start(&self.spec, root.root(), Some(&standard))
            .unwrap();
        assert_eq!(running.wait(None).unwrap(), Some(Ended::Exited(0)));
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, image, command, rest @ ..] = args.as_slice() else {
        panic!("usage: p50 ROOT-DIRECTORY COMMAND [ROUNDS]");
    };
    let rounds = rest.first().map_or(200, |rounds| rounds.parse().unwrap());
    let here = std::env::current_exe().unwrap();
    let spawner = here
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("lamina-spawner");
    let bench = Bench {
        spawner: Spawner::start(&spawner, &[]).unwrap(),
        image: File::open(image).unwrap(),
        cgroups: Cgroups::find().unwrap(),
        spec: Spec {
            argv: vec![command.clone().into_bytes()],
            env: Vec::new(),
            directory: b"/".to_vec(),
            user: Identity::default(),
            capabilities: Vec::new(),
            hostname: "p50".to_owned(),
            terminal: None,
            limits: ProcessLimits::default(),
            files: Vec::new(),
        },
    };
    let mut plain = Command::new(Path::new(image).join(command.trim_start_matches('/')));
    plain.stdin(Stdio::null()).stdout(Stdio::null());
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..rounds {
        let mut took = |way: usize, began: Instant| times[way].push(began.elapsed());
        let began = Instant::now();
        assert!(plain.status().unwrap().success());
        took(0, began);
        let began = Instant::now();
        bench.run(bench.prepare(None));
        took(1, began);
        let began = Instant::now();
        let cgroup = bench.cgroup();
        bench.run(bench.prepare(Some(&cgroup)));
        cgroup.remove().unwrap();
        took(2, began);
        let cgroup = bench.cgroup();
        let prepared = bench.prepare(Some(&cgroup));
        let began = Instant::now();
        bench.run(prepared);
        took(3, began);
        cgroup.remove().unwrap();
    }
    let names = [
        "plain spawn",
        "sandbox",
        "sandbox, cgroup",
        "sandbox made ahead",
    ];
    for (name, times) in names.iter().zip(&mut times) {
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
        println!(
            "{name:20} p50 {:.2} ms, p99 {:.2} ms, min {:.2} ms",
            at(50),
            at(99),
            at(0)
        );
    }
}
