//! `lamina`: every verb for a person at a terminal, and the daemons' roles.

mod args;
mod cmd;
mod daemon;
mod exit;
mod kube;
mod output;
mod progress;
mod sys;
mod tiers;

use lamina_nodeagent::logfile::LogFile;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

fn main() -> ExitCode {
    if let Some(code) = cmd::sandbox_spawner() {
        return code;
    }
    let args = kube::parse();
    // Nobody sits before a service to ask for more.
    let service = matches!(
        args.command,
        args::Command::Node(_)
            | args::Command::Discovery(_)
            | args::Command::Afslet(_)
            | args::Command::Proxy(_)
            | args::Command::Up(_)
    );
    init_logs(args.verbose.max(service.into()), daemon::log(&args));
    match cmd::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

/// Logs go to standard error, of daemons to their bounded file; `RUST_LOG` overrides the `-v` count.
fn init_logs(verbose: u8, log: Option<LogFile>) {
    // fuser warns of every message we leave to its default answer, and anybody may send those.
    let default = match verbose {
        0 => "warn,fuser=error",
        1 => "info,fuser=error",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(match log {
            Some(log) => BoxMakeWriter::new(Arc::new(log)),
            None => BoxMakeWriter::new(std::io::stderr),
        })
        .init();
}
