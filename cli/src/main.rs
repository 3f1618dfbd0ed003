//! `lamina`: every verb for a person at a terminal, and the daemons' roles.

mod args;
mod cmd;
mod daemon;
mod exit;
mod kube;
mod logs;
mod output;
mod progress;
mod sys;
mod tiers;

use std::process::ExitCode;

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
    logs::begin(args.verbose.max(service.into()), daemon::log(&args));
    match cmd::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
