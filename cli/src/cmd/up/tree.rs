//! Children that are kept running until the tree is asked to end: those that need others first, then the others.

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
/// From SIGTERM to SIGKILL: more than any role takes, an afslet that tells its clients that their runs were killed included.
const END_DEADLINE: Duration = Duration::from_secs(40);
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
    ends: Ends,
}

/// When a child is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// It needs others to end well.
    First,
    /// Others need it.
    Last,
}

impl Program {
    pub(super) fn new(role: &'static str, path: PathBuf, words: Vec<OsString>, ends: Ends) -> Self {
        Self {
            role,
            path,
            words,
            ends,
        }
    }

    fn start(&self) -> Result<Child> {
        let mut command = Command::new(&self.path);
        // Ctrl-C is for the tree's first process, which ends the others in their order.
        command
            .args(&self.words)
            .process_group(0)
            .kill_on_drop(true);
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

/// Some of the children, which are ended together.
struct Group {
    children: JoinSet<Result<()>>,
    stop: watch::Sender<bool>,
}

impl Group {
    fn start(programs: impl Iterator<Item = Program>) -> Self {
        let stop = watch::Sender::new(false);
        let mut children = JoinSet::new();
        for program in programs {
            children.spawn(program.keep(stop.subscribe()));
        }
        Self { children, stop }
    }

    /// Until one of them cannot be kept running; for ever where there is none.
    async fn failed(&mut self) -> Result<()> {
        match self.children.join_next().await {
            Some(ended) => ended.context("keep a role running")?,
            None => std::future::pending().await,
        }
    }

    async fn end(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.children.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::warn!("{error:#}");
            }
        }
    }
}

/// All children.
pub(super) struct Tree {
    first: Group,
    last: Group,
    asked: watch::Receiver<bool>,
}

impl Tree {
    /// Starts them.
    pub(super) fn start(programs: Vec<Program>) -> Self {
        let ask = watch::Sender::new(false);
        let asked = ask.subscribe();
        tokio::spawn(asked_to_end(ask));
        let (last, first): (Vec<_>, Vec<_>) = programs
            .into_iter()
            .partition(|program| program.ends == Ends::Last);
        Self {
            last: Group::start(last.into_iter()),
            first: Group::start(first.into_iter()),
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
            failed = self.first.failed() => failed.map(|()| false),
            failed = self.last.failed() => failed.map(|()| false),
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
            failed = self.first.failed() => failed,
            failed = self.last.failed() => failed,
            () = renew(authority) => Ok(()),
        }
    }

    /// Ends every child: an afslet has the node unmount its images.
    pub(super) async fn end(self) {
        self.first.end().await;
        self.last.end().await;
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
