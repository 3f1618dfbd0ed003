//! `lamina discovery` as a process.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::machine::{DEADLINE, Machine};

/// A replica; killed when a test fails before it ended.
struct Replica {
    child: Child,
    http: SocketAddr,
}

impl Replica {
    fn start(machine: &Machine) -> Self {
        // Free when asked; a port that is taken meanwhile fails the start, which says so.
        let free = || {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
        };
        let (listen, http) = (free(), free());
        let child = Command::new(env!("CARGO_BIN_EXE_lamina"))
            .args(["discovery", "--insecure", "--listen", &listen.to_string()])
            .args(["--http", &http.to_string()])
            .current_dir(machine.path("state"))
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { child, http }
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // One that has ended is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_serves_metrics_and_health_and_ends_when_asked() {
    let machine = Machine::new();
    let mut replica = Replica::start(&machine);
    let began = Instant::now();
    while !replica
        .get("/readyz")
        .is_some_and(|ready| ready.contains("200 OK"))
    {
        assert!(began.elapsed() < DEADLINE, "it is not ready");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let metrics = replica.get("/metrics").unwrap();
    assert!(metrics.contains("lamina_discovery_nodes 0"), "{metrics}");
    let pid = rustix::process::Pid::from_child(&replica.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(replica.child.wait().unwrap().success());
}

#[test]
fn it_does_not_serve_anybody_by_mistake() {
    let machine = Machine::new();
    let said = machine.fails(2, &["discovery"]);
    assert!(said.contains("--tls-dir"), "{said}");
    machine.fails(2, &["discovery", "--insecure", "--tls-dir", "/tls"]);
    let said = machine.fails(2, &["discovery", "--insecure", "--ttl", "1s"]);
    assert!(said.contains("3s or more"), "{said}");
    let said = machine.fails(
        3,
        &[
            "discovery",
            "--tls-dir",
            "/nowhere",
            "--listen",
            "127.0.0.1:0",
        ],
    );
    assert!(said.contains("tls.crt"), "{said}");
}
