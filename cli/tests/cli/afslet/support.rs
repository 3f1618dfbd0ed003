//! An afslet with its node, a packed image of busybox, and a client of it.

use crate::machine::{Machine, kill, text, wait_until};
use crate::node::connect;
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsletpb::execute_request::Payload as Asked;
use lamina_proto::afsletpb::execute_response::Payload;
use lamina_proto::afsletpb::{
    Accepted, Done, ExecuteRequest, ExecuteResponse, FileChunk, FileEntryBegin, FileEntryEnd,
    FileType, GetRuntimeStatusRequest, GetRuntimeStatusResponse, Result as RunResult, StartRequest,
};
use lamina_proto::lamina::v1::FlistSource;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// A run's processes are killed within a second of its time's or its client's end; a machine that does much else beside may
/// take five.
pub(crate) const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// What a run gave.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) accepted: Option<Accepted>,
    pub(crate) out: String,
    pub(crate) error: String,
    pub(crate) result: Option<RunResult>,
    pub(crate) tar: Vec<u8>,
    pub(crate) done: Option<Done>,
    /// The kinds of frames in the order they came, each once in a row.
    pub(crate) kinds: Vec<&'static str>,
    pub(crate) status: Option<Status>,
}

impl Ran {
    pub(crate) fn take(&mut self, payload: Payload) {
        let kind = match payload {
            Payload::Log(log) => {
                match log.source.as_str() {
                    "stdout" => self.out += &log.message,
                    _ => self.error += &log.message,
                }
                "log"
            }
            Payload::Result(result) => {
                self.result = Some(result);
                "result"
            }
            Payload::TarHeader(_) => "tar_header",
            Payload::TarChunk(chunk) => {
                self.tar.extend(chunk.data);
                "tar_chunk"
            }
            Payload::Done(done) => {
                self.done = Some(done);
                "done"
            }
            Payload::Accepted(accepted) => {
                self.accepted = Some(accepted);
                "accepted"
            }
        };
        if self.kinds.last() != Some(&kind) {
            self.kinds.push(kind);
        }
    }

    /// The status it ended with.
    pub(crate) fn code(&self) -> Code {
        self.status.as_ref().map_or(Code::Ok, Status::code)
    }

    pub(crate) fn said(&self) -> &str {
        self.status.as_ref().map_or("", Status::message)
    }

    pub(crate) fn result(&self) -> &RunResult {
        self.result
            .as_ref()
            .unwrap_or_else(|| panic!("no result: {self:?}"))
    }

    /// What tar(1) lists of the changes.
    pub(crate) fn listing(&self) -> String {
        let mut tar = Command::new("tar")
            .args(["-tvzf", "-", "--numeric-owner", "--full-time"])
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = tar.stdin.take().unwrap();
        let bytes = self.tar.clone();
        let writer = std::thread::spawn(move || input.write_all(&bytes));
        let listed = tar.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(listed.status.success());
        text(&listed.stdout)
    }
}

/// A node and an afslet; both end with it.
pub(crate) struct Afslet {
    serving: Option<Child>,
    node: Option<Child>,
    more: Vec<String>,
    pub(crate) listen: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) digest: String,
    pub(crate) runtime: tokio::runtime::Runtime,
    // Last: torn down when nobody serves any more.
    pub(crate) machine: Machine,
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Afslet {
    pub(crate) fn new(more: &[&str]) -> Self {
        let machine = Machine::new();
        let script = r"
            set -e
            mkdir -p img/bin img/etc img/tmp img/srv img/root img/usr/lib
            cp /bin/busybox img/bin/busybox
            for name in $(img/bin/busybox --list); do [ -e img/bin/$name ] || ln -s busybox img/bin/$name; done
            printf 'root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n' > img/etc/passwd
            chown 33:34 img/srv; chmod 1777 img/tmp; echo kept > img/etc/file; ln -s usr/lib img/lib
        ";
        let made = Command::new("bash")
            .args(["-c", script])
            .current_dir(machine.path(""))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        machine.ok(&[
            "pack",
            "img",
            "-o",
            "x.fl",
            "-s",
            &machine.store(),
            "--publish",
        ]);
        let digest = machine.json(&["inspect", "x.fl"])["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        machine.dir("kubelet/plugins");
        let mut afslet = Self {
            serving: None,
            node: None,
            more: more.iter().map(|word| (*word).to_owned()).collect(),
            listen: free(),
            http: free(),
            digest,
            runtime: tokio::runtime::Runtime::new().unwrap(),
            machine,
        };
        afslet.start_node();
        afslet.start();
        afslet
    }

    fn command(&self, role: &str) -> Command {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.machine.path(&format!("{role}.log")))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamina"));
        command
            .arg(role)
            .arg("--run-dir")
            .arg(self.machine.path("run"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(log);
        command
    }

    pub(crate) fn start_node(&mut self) {
        let mut command = self.command("node");
        command
            .arg("--state")
            .arg(self.machine.path("state"))
            .arg("--kubelet-dir")
            .arg(self.machine.path("kubelet"))
            .args(["--store", &self.machine.store(), "--node-name", "one"]);
        self.node = Some(command.spawn().unwrap());
        let socket = self.machine.path("run/node.sock");
        assert!(
            wait_until(|| connect(&self.runtime, &socket).is_some()),
            "{}",
            self.logs()
        );
    }

    pub(crate) fn start(&mut self) {
        let mut command = self.command("afslet");
        command
            .args(["--listen", &self.listen.to_string()])
            .args(["--metrics", &self.http.to_string(), "--node", "one"])
            .arg("--node-socket")
            .arg(self.machine.path("run/node.sock"))
            .arg("--volumes")
            .arg(self.machine.path("kubelet/plugins/afslet"))
            .args(&self.more);
        self.serving = Some(command.spawn().unwrap());
        let ready = || {
            self.get("/readyz")
                .is_some_and(|said| said.contains("200 OK"))
        };
        assert!(wait_until(ready), "{}", self.logs());
    }

    pub(crate) fn logs(&self) -> String {
        let read =
            |name: &str| std::fs::read_to_string(self.machine.path(name)).unwrap_or_default();
        format!(
            "{}\n{}\n{}",
            read("node.log"),
            read("afslet.log"),
            self.machine.log()
        )
    }

    pub(crate) fn pid(&self) -> i32 {
        self.serving.as_ref().unwrap().id().cast_signed()
    }

    /// SIGKILL, as a container runtime does it.
    pub(crate) fn kill(&mut self) {
        let mut serving = self.serving.take().unwrap();
        serving.kill().unwrap();
        serving.wait().unwrap();
    }

    pub(crate) fn kill_node(&mut self) {
        let mut node = self.node.take().unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
    }

    /// SIGTERM.
    pub(crate) fn ask_to_end(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// How it ended.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.serving.take().unwrap().wait().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream
            .set_read_timeout(Some(crate::machine::DEADLINE))
            .ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    pub(crate) fn client(&self) -> AfsletClient<Channel> {
        let endpoint = format!("http://{}", self.listen);
        let connected = self.runtime.block_on(AfsletClient::connect(endpoint));
        connected.unwrap_or_else(|error| panic!("{error}: {}", self.logs()))
    }

    pub(crate) fn status(&self) -> GetRuntimeStatusResponse {
        let mut client = self.client();
        let asked = client.get_runtime_status(GetRuntimeStatusRequest {});
        self.runtime.block_on(asked).unwrap().into_inner()
    }

    /// A `start` of the packed image with room for anything a test does.
    pub(crate) fn start_request(&self, command: &[&str]) -> StartRequest {
        StartRequest {
            command: command.iter().map(|&word| word.into()).collect(),
            cpu_cores: 1,
            memory_mb: 64,
            flist: Some(FlistSource {
                digest: self.digest.clone(),
                ..FlistSource::default()
            }),
            ..StartRequest::default()
        }
    }

    pub(crate) fn sh(&self, script: &str) -> StartRequest {
        self.start_request(&["sh", "-c", script])
    }

    /// Sends these frames and ends the stream.
    pub(crate) fn execute(&self, frames: Vec<ExecuteRequest>) -> Ran {
        let client = self.client();
        self.runtime.block_on(execute(client, frames))
    }

    pub(crate) fn run(&self, start: StartRequest) -> Ran {
        self.execute(vec![frame(Asked::Start(start))])
    }

    /// A run whose answers are read by the caller; it has said `on` when this returns.
    pub(crate) fn running(&self, script: &str) -> Streaming<ExecuteResponse> {
        let script = format!("echo on; {script}");
        let mut client = self.client();
        let frames = vec![frame(Asked::Start(self.sh(&script)))];
        self.runtime.block_on(async {
            let asked = client.execute(futures::stream::iter(frames)).await;
            let mut answers = asked.unwrap().into_inner();
            let mut ran = Ran::default();
            while ran.out.is_empty() {
                ran.take(answers.message().await.unwrap().unwrap().payload.unwrap());
            }
            assert_eq!(ran.out, "on\n");
            answers
        })
    }

    /// The rest of a run.
    pub(crate) fn rest(&self, mut answers: Streaming<ExecuteResponse>) -> Ran {
        self.runtime.block_on(async {
            let mut ran = Ran::default();
            collect(&mut answers, &mut ran).await;
            ran
        })
    }

    /// Cgroups of sandboxes of the machine, in any hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<String> {
        let home = self.machine.path("run/sandboxes");
        let id = lamina_flist::ChunkId::of(home.as_os_str().as_encoded_bytes()).to_string();
        let name = format!("lamina-{}-*", &id[..8]);
        let found = Command::new("find")
            .args(["/sys/fs/cgroup", "-type", "d", "-name", &name])
            .output()
            .unwrap();
        text(&found.stdout).lines().map(str::to_owned).collect()
    }

    /// Nothing of a run is there any more: no place taken, cgroup, file or mount but those of images.
    pub(crate) fn assert_nothing_left(&self) {
        self.assert_nothing_left_but(0);
    }

    /// The same, with so many sandboxes made ahead.
    pub(crate) fn assert_nothing_left_but(&self, ready: usize) {
        assert!(
            wait_until(|| self.status().running_containers == 0),
            "{}",
            self.logs()
        );
        let cgroups = || {
            let mut names = self.cgroups();
            let name = |path: &mut String| *path = path.rsplit('/').next().unwrap().to_owned();
            names.iter_mut().for_each(name);
            names.sort_unstable();
            names.dedup();
            names.len()
        };
        assert!(wait_until(|| cgroups() == ready), "{:?}", self.cgroups());
        let sandboxes = self.machine.path("run/sandboxes");
        let slots = std::fs::read_dir(&sandboxes)
            .into_iter()
            .flatten()
            .flatten();
        for slot in slots {
            let names = std::fs::read_dir(slot.path()).unwrap().flatten();
            let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
            assert_eq!(names, ["lock"]);
        }
        let mounted = self.machine.mounted();
        assert!(
            !mounted.iter().any(|at| at.starts_with(&sandboxes)),
            "{mounted:?}"
        );
    }

    /// Files in the directories of afslet and node; neither what is mounted there, nor the places of sandboxes, of which
    /// those that are free are kept.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let found = Command::new("find")
            .args([self.machine.path("run"), self.machine.path("kubelet")])
            .args([
                "-xdev",
                "-mindepth",
                "1",
                "-path",
                "*/sandboxes/*",
                "-prune",
                "-o",
                "-print",
            ])
            .output()
            .unwrap();
        text(&found.stdout).lines().map(str::to_owned).collect()
    }

    /// Mounts of images.
    pub(crate) fn images(&self) -> usize {
        let volumes = self.machine.path("kubelet/plugins/afslet");
        let mounted = self.machine.mounted();
        mounted.iter().filter(|at| at.starts_with(&volumes)).count()
    }
}

impl Drop for Afslet {
    fn drop(&mut self) {
        for mut child in [self.serving.take(), self.node.take()]
            .into_iter()
            .flatten()
        {
            kill(child.id().cast_signed());
            let _ = child.wait();
        }
        // Those of sandboxes that were ready are left to the next afslet of the machine; there is none.
        let _ = wait_until(|| {
            let left = self.cgroups();
            for at in &left {
                // Busy until its processes, which are killed, are gone.
                let _ = std::fs::remove_dir(at);
            }
            left.is_empty()
        });
    }
}

pub(crate) async fn execute(mut client: AfsletClient<Channel>, frames: Vec<ExecuteRequest>) -> Ran {
    let mut ran = Ran::default();
    match client.execute(futures::stream::iter(frames)).await {
        Ok(answers) => collect(&mut answers.into_inner(), &mut ran).await,
        Err(status) => ran.status = Some(status),
    }
    ran
}

pub(crate) async fn collect(answers: &mut Streaming<ExecuteResponse>, ran: &mut Ran) {
    loop {
        match answers.message().await {
            Ok(Some(frame)) => ran.take(frame.payload.expect("a frame has something in it")),
            Ok(None) => return,
            Err(status) => {
                ran.status = Some(status);
                return;
            }
        }
    }
}

pub(crate) fn frame(payload: Asked) -> ExecuteRequest {
    ExecuteRequest {
        payload: Some(payload),
    }
}

/// The frames of a file.
pub(crate) fn file(path: &str, mode: u32, data: &[u8]) -> Vec<ExecuteRequest> {
    let begin = FileEntryBegin {
        path: path.into(),
        r#type: FileType::File.into(),
        mode,
        ..FileEntryBegin::default()
    };
    let chunks = data.chunks(100_000).map(|part| {
        let data = part.to_vec();
        frame(Asked::FileChunk(FileChunk { data }))
    });
    let mut frames = vec![frame(Asked::FileBegin(begin))];
    frames.extend(chunks);
    frames.push(frame(Asked::FileEnd(FileEntryEnd {})));
    frames
}

/// The frames of a directory or link.
pub(crate) fn entry(begin: FileEntryBegin) -> Vec<ExecuteRequest> {
    vec![
        frame(Asked::FileBegin(begin)),
        frame(Asked::FileEnd(FileEntryEnd {})),
    ]
}

/// Processes of `sleep` with this argument.
pub(crate) fn sleepers(argument: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let is_it = |line: &Vec<u8>| {
        let mut words = line.split(|byte| *byte == 0);
        words.next() == Some(b"sleep") && words.any(|word| word == argument.as_bytes())
    };
    lines.filter(is_it).count()
}

/// A process, whatever becomes of its number: with when it was started, in ticks since boot.
pub(crate) type Process = (i32, u64);

/// Everything that a process has started and that has not ended.
pub(crate) fn descendants(pid: i32) -> Vec<Process> {
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        let threads = std::fs::read_dir(format!("/proc/{parent}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let list = std::fs::read_to_string(thread.path().join("children"));
            let children = list.unwrap_or_default();
            for child in children.split_whitespace().map(|pid| pid.parse().unwrap()) {
                parents.push(child);
                found.extend(began(child).map(|began| (child, began)));
            }
        }
    }
    found
}

pub(crate) fn is_alive(&(pid, when): &Process) -> bool {
    began(pid) == Some(when)
}

/// When a process was started; `None` for one that has ended (`proc_pid_stat(5)`).
fn began(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok())?
}
