//! Children that are kept running until the tree is asked to end.

use super::authority::Authority;
use crate::sys;
use anyhow::{Context, Result, bail};
use lamina_discovery::daemon::{asked_to_end, stopped};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Pause before a child that ended is started again; doubles while it ends soon.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A child that lived this long had started well.
const LIVED: Duration = Duration::from_secs(30);
/// From SIGTERM to SIGKILL: more than a role gives the calls under way.
const END_DEADLINE: Duration = Duration::from_secs(25);
/// Between two questions whether a role is ready.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// For one such question.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// Between two looks at the certificates.
const RENEW_EVERY: Duration = Duration::from_secs(3600);

/// One child's command.
#[derive(Debug, Clone)]
pub(super) struct Program {
    role: &'static str,
    path: PathBuf,
    words: Vec<OsString>,
}

impl Program {
    pub(super) fn new(role: &'static str, path: PathBuf, words: Vec<OsString>) -> Self {
        Self { role, path, words }
    }

    fn start(&self) -> Result<Child> {
        let mut command = Command::new(&self.path);
        command.args(&self.words).kill_on_drop(true);
        sys::end_with_parent(command.as_std_mut());
        command
            .spawn()
            .with_context(|| format!("start lamina {}", self.role))
    }

    /// Keeps it running; `Err` when it cannot even be started. On `stop` it is asked to end and waited for.
    async fn keep(self, stop: watch::Receiver<bool>) -> Result<()> {
        let mut pause = PAUSE;
        loop {
            let (mut child, began) = (self.start()?, Instant::now());
            tokio::select! {
                ended = child.wait() => {
                    let status = ended.with_context(|| format!("wait for lamina {}", self.role))?;
                    if began.elapsed() >= LIVED {
                        pause = PAUSE;
                    }
                    tracing::warn!(role = self.role, %status, ?pause, "it ended and is started again");
                }
                () = stopped(stop.clone()) => {
                    end(self.role, &mut child).await;
                    return Ok(());
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopped(stop.clone()) => return Ok(()),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

async fn end(role: &str, child: &mut Child) {
    let pid = child
        .id()
        .and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid
        && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
    {
        tracing::warn!(role, %error, "ask it to end");
    }
    if tokio::time::timeout(END_DEADLINE, child.wait())
        .await
        .is_err()
    {
        tracing::warn!(role, "it did not end when asked and is killed");
        if let Err(error) = child.kill().await {
            tracing::warn!(role, %error, "kill it");
        }
    }
}

/// All children.
pub(super) struct Tree {
    children: JoinSet<Result<()>>,
    stop: watch::Sender<bool>,
    asked: watch::Receiver<bool>,
}

impl Tree {
    /// Starts them, in this order.
    pub(super) fn start(programs: Vec<Program>) -> Self {
        let (stop, ask) = (watch::Sender::new(false), watch::Sender::new(false));
        let asked = ask.subscribe();
        tokio::spawn(asked_to_end(ask));
        let mut children = JoinSet::new();
        for program in programs {
            children.spawn(program.keep(stop.subscribe()));
        }
        Self {
            children,
            stop,
            asked,
        }
    }

    /// Whether all of them say that they are ready, in time; `false` when the tree was asked to end before.
    pub(super) async fn ready(&mut self, at: &[SocketAddr], deadline: Duration) -> Result<bool> {
        let all = async {
            for address in at {
                while !is_ready(*address).await {
                    tokio::time::sleep(ASK_EVERY).await;
                }
            }
        };
        tokio::select! {
            () = all => Ok(true),
            () = stopped(self.asked.clone()) => Ok(false),
            Some(ended) = self.children.join_next() => ended.context("keep a role running")?.map(|()| false),
            () = tokio::time::sleep(deadline) => bail!(
                "not everything answers within {deadline:?}: what the roles say above tells why"
            ),
        }
    }

    /// Until the tree is asked to end.
    ///
    /// # Errors
    /// When a child cannot be started any more.
    pub(super) async fn run(&mut self, authority: Option<Authority>) -> Result<()> {
        tokio::select! {
            () = stopped(self.asked.clone()) => Ok(()),
            Some(ended) = self.children.join_next() => ended.context("keep a role running")?,
            () = renew(authority) => Ok(()),
        }
    }

    /// Ends every child.
    pub(super) async fn end(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.children.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::warn!("{error:#}");
            }
        }
    }
}

/// Renews certificates for ever.
async fn renew(authority: Option<Authority>) {
    let Some(authority) = authority else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        if let Err(error) = authority.renew() {
            tracing::warn!("{error:#}; tried again in an hour");
        }
    }
}

/// Whether `/readyz` there is 200.
async fn is_ready(at: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(at).await.ok()?;
        let request = b"GET /readyz HTTP/1.1\r\nHost: lamina\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.ok()?;
        first.ends_with(b" 200").then_some(())
    };
    matches!(tokio::time::timeout(ASK_DEADLINE, ask).await, Ok(Some(())))
}
