//! Real servers as child processes: installed on demand by `scripts/tools.sh`, on a free port of this
//! machine, killed when dropped.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to listen; generous, since the machine may be compiling.
const START: Duration = Duration::from_mins(1);

/// The program of a tool, installed if it is missing (that may take minutes, once).
pub(crate) fn tool(name: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/tools.sh");
    let out = Command::new(&script)
        .arg(name)
        .stderr(Stdio::inherit())
        .output()
        .expect("scripts/tools.sh runs");
    assert!(
        out.status.success(),
        "scripts/tools.sh {name} failed: this test needs it"
    );
    PathBuf::from(String::from_utf8(out.stdout).expect("a path").trim())
}

/// A running server and its files.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    pub(crate) folder: tempfile::TempDir,
}

impl Server {
    /// Starts what `command` makes of a free port and an empty folder; waits until it listens.
    pub(crate) fn start(command: impl Fn(u16, &Path) -> Command) -> Self {
        let mut last = String::new();
        for _ in 0..3 {
            let folder = tempfile::tempdir().expect("temporary folder");
            let port = free_port();
            let log = std::fs::File::create(folder.path().join("log")).expect("log file");
            let mut command = command(port, folder.path());
            command
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("log"))
                .stderr(log);
            let child = command
                .spawn()
                .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
            let mut server = Self {
                child,
                port,
                folder,
            };
            if server.listens() {
                return server;
            }
            last = std::fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
        }
        panic!("the server did not start: {last}");
    }

    fn listens(&mut self) -> bool {
        let until = Instant::now() + START;
        while Instant::now() < until {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return false; // somebody else took the port, or it cannot run
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
