//! Machines on a switch: network namespaces, each behind a cable of its own that is as fast as asked for.
//!
//! ```text
//! a machine   eth0 --tbf--> <--tbf-- to-N   switch (a bridge)
//! ```
//!
//! Namespaces have no names: each is held by a process that ends when this one does, whatever ends it. Nothing of the
//! host's network is touched.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What is sent at once beyond the rate, and how long a queue may get: as of a switch's port.
const BURST_MS: u32 = 5;
const QUEUE: &str = "50ms";

/// A switch and the cables to it.
pub(crate) struct Network {
    switch: Namespace,
    machines: u8,
}

impl Network {
    pub(crate) fn new() -> Self {
        let switch = Namespace::new();
        let add = "link add name bridge type bridge forward_delay 0";
        switch.run("ip", add);
        switch.run("ip", "link set bridge up");
        Self {
            switch,
            machines: 0,
        }
    }

    /// One more machine; `mbit`: what its cable carries each way.
    pub(crate) fn machine(&mut self, mbit: Option<u32>) -> Place {
        let namespace = Namespace::new();
        self.machines += 1;
        // 198.18.0.0/15 is reserved for benchmarks of network devices (RFC 2544).
        let address = Ipv4Addr::new(198, 18, 64, self.machines);
        let (port, inside) = (format!("to-{}", self.machines), namespace.path());
        let switch = &self.switch;
        let add = format!("link add name {port} type veth peer name eth0 netns {inside}");
        switch.run("ip", &add);
        switch.run("ip", &format!("link set {port} master bridge up"));
        namespace.run("ip", &format!("address add {address}/24 dev eth0"));
        namespace.run("ip", "link set lo up");
        namespace.run("ip", "link set eth0 up");
        if let Some(mbit) = mbit {
            let burst = mbit * 1000 / 8 * BURST_MS;
            let shape = |device: &str| {
                format!(
                    "qdisc add dev {device} root tbf rate {mbit}mbit burst {burst} latency {QUEUE}"
                )
            };
            switch.run("tc", &shape(&port));
            namespace.run("tc", &shape("eth0"));
        }
        Place { namespace, address }
    }
}

/// One machine's place in the network.
pub(crate) struct Place {
    namespace: Namespace,
    pub(crate) address: Ipv4Addr,
}

impl Place {
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// A program to be run there, with the host's file systems.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// Runs `ip` or `tc` there, which must succeed.
    pub(crate) fn run(&self, program: &str, words: &str) {
        self.namespace.run(program, words);
    }

    /// Does something on a thread that is there; the threads it starts are, too.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = self.namespace.path();
        let visiting = std::thread::spawn(move || {
            let there = File::open(path).unwrap();
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(there.as_fd(), kind).unwrap();
            work()
        });
        visiting.join().unwrap()
    }

    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        let at = self.at(port);
        self.inside(move || TcpListener::bind(at).unwrap())
    }

    /// Nothing arrives or leaves any more, and nobody is told.
    pub(crate) fn cut(&self) {
        self.run("ip", "link set eth0 down");
    }

    /// Undoes [`Self::cut`].
    pub(crate) fn join(&self) {
        self.run("ip", "link set eth0 up");
    }
}

/// A network namespace; it goes with its last process.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces: run it as root"
        );
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1) of util-linux");
        // It says something when it is there.
        let mut said = [0];
        let stdout = holder.stdout.as_mut().unwrap();
        stdout.read_exact(&mut said).expect("a network namespace");
        Self(holder)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let there = format!("--net={}", self.path());
        command.arg(there).arg("--").arg(program);
        command
    }

    fn run(&self, program: &str, words: &str) {
        let mut command = self.command(program);
        let done = command.args(words.split(' ')).output().unwrap();
        assert!(done.status.success(), "{program} {words}: {done:?}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
