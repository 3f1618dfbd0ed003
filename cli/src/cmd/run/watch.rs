//! Until the command ends: our signals are handed on, time is kept, and the end is explained. Later ones end us.

use super::files::{Relay, Terminal};
use super::stop::Stop;
use crate::args::run::Run;
use crate::output;
use anyhow::{Context, Result};
use lamina_runtime::cgroup::Usage;
use lamina_runtime::ended::not_run;
use lamina_runtime::{Ended, Running, Signaller};
use std::time::Instant;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How it ended, and why.
pub(super) struct Outcome {
    pub(super) ended: Ended,
    pub(super) timed_out: bool,
    /// Whether its output could be.
    pub(super) written: Result<()>,
}

/// Signals that are the command's business when they come to us.
const HANDED_ON: [u8; 6] = [
    libc::SIGINT as u8,
    libc::SIGTERM as u8,
    libc::SIGHUP as u8,
    libc::SIGQUIT as u8,
    libc::SIGUSR1 as u8,
    libc::SIGUSR2 as u8,
];

pub(super) fn watch(
    mut running: Running,
    relay: Relay,
    deadline: Option<Instant>,
    stop: &Stop,
) -> Result<Outcome> {
    let copying = relay.start(&mut running)?;
    let signaller = running.signaller().context("watch the command")?;
    hand_on_signals(signaller, stop.clone(), copying.terminal()?)?;
    let ended = running.wait(deadline).context("wait for the command")?;
    let timed_out = ended.is_none();
    if timed_out {
        running.kill();
    }
    let ended = match ended {
        Some(ended) => ended,
        None => running
            .wait(None)
            .context("wait for the command's end")?
            .context("the command did not end")?,
    };
    Ok(Outcome {
        ended,
        timed_out,
        written: copying.finish(stop),
    })
}

/// A thread that does so until this process ends. When this returns, no signal ends us before the command has ended.
fn hand_on_signals(signaller: Signaller, stop: Stop, terminal: Option<Terminal>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("start waiting for signals")?;
    let noted = |kind| {
        let _runtime = runtime.enter();
        signal(kind).context("wait for signals")
    };
    let resized = noted(SignalKind::window_change())?;
    let mut others = Vec::new();
    for number in HANDED_ON {
        others.push((noted(SignalKind::from_raw(number.into()))?, number));
    }
    let wait = async move {
        let each = others
            .into_iter()
            .map(|(signal, number)| hand_on(&signaller, &stop, signal, number));
        tokio::join!(futures::future::join_all(each), resize(terminal, resized));
    };
    let thread = std::thread::Builder::new().name("signals".into());
    let started = thread.spawn(move || runtime.block_on(wait));
    started.map(drop).context("wait for signals")
}

async fn hand_on(signaller: &Signaller, stop: &Stop, mut signal: Signal, number: u8) {
    while signal.recv().await.is_some() {
        // There is no command any more.
        if signaller.signal(number.into()).is_err() {
            stop.ask(number);
        }
    }
}

async fn resize(terminal: Option<Terminal>, mut resized: Signal) {
    while resized.recv().await.is_some() {
        if let Some(terminal) = &terminal {
            terminal.resize();
        }
    }
}

/// What of a run that has ended its exit code cannot say.
pub(super) struct Found<'a> {
    /// What was to run.
    pub(super) program: &'a str,
    pub(super) used: Usage,
    /// Changes could still be made.
    pub(super) has_room: bool,
}

/// Says which limit was hit, as an afslet does.
pub(super) fn explain(args: &Run, outcome: &Outcome, found: &Found<'_>) {
    let used = &found.used;
    if let Ended::NotRun { errno } = outcome.ended {
        eprintln!(
            "error: {}",
            output::printable(&not_run(found.program, errno))
        );
    }
    if let (true, Some(timeout)) = (outcome.timed_out, args.limits.timeout) {
        eprintln!("error: timed out after {timeout:?}: killed");
    }
    if used.out_of_memory_kills > 0 {
        let limit = args
            .limits
            .memory
            .map_or("this machine's".to_owned(), output::size);
        eprintln!("error: out of memory: a process was killed: --memory is {limit}");
    }
    if used.pids_refused > 0 {
        eprintln!("error: too many processes: --pids is {}", args.limits.pids);
    }
    // One that fills it and succeeds needed no more.
    if !found.has_room && outcome.ended.exit_code() != 0 {
        let most = output::size(args.limits.disk);
        eprintln!("error: its changes fill what they may: --disk is {most}");
    }
}
