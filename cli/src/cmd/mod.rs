//! One module per family of verbs; each verb is a function from its arguments to `Result<()>`.

mod afslet;
mod compare;
mod convert;
mod discovery;
mod doctor;
mod exec;
mod explore;
mod foreground;
mod gc;
mod inspect;
mod maintain;
mod mount;
mod mounts;
mod named;
mod node;
mod out;
mod pack;
mod proxy;
mod reach;
mod run;
mod status;
mod stores;
mod up;
mod write;

pub(crate) use compare::{DiffLine, DiffReport};
pub(crate) use explore::{mode_text, shown, time_text};
pub(crate) use run::sandbox_spawner;

use crate::args::{Cli, Command};
use anyhow::{Context, Result};
use clap::CommandFactory;

/// Runs one verb.
pub(crate) fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Pack(args) => {
            crate::sys::bound_heap();
            pack::pack(&args)
        }
        Command::Convert(args) => {
            crate::sys::bound_heap();
            convert::convert(&args)
        }
        Command::Mount(args) => mount::mount(&args),
        Command::Umount(args) => mount::umount(&args),
        Command::Run(args) => run::run(&args),
        Command::Mounts(args) => mounts::mounts(&args),
        Command::Prefetch(args) => mount::prefetch(&args),
        Command::Unpack(args) => write::unpack(&args),
        Command::Cat(args) => write::cat(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Tree(args) => explore::tree(&args),
        Command::Ls(args) => explore::ls(&args),
        Command::Diff(args) => compare::diff(&args),
        Command::Du(args) => compare::du(&args),
        Command::Clone(args) => maintain::clone(&args),
        Command::Config(args) => maintain::config(&args),
        Command::Verify(args) => maintain::verify(&args),
        Command::Gc(args) => gc::gc(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Node(args) => node::node(args),
        Command::Discovery(args) => discovery::discovery(args),
        Command::Afslet(args) => afslet::afslet(args),
        Command::Proxy(args) => proxy::proxy(args),
        Command::Exec(args) => exec::exec(&args),
        Command::Status(args) => status::status(&args),
        Command::Up(args) => up::up(&args),
        Command::Certify(args) => up::certify(&args),
        Command::K8s(args) => runtime()?.block_on(crate::kube::run(&args)),
        Command::Completions(args) => {
            clap_complete::generate(
                args.shell,
                &mut Cli::command(),
                "lamina",
                &mut std::io::stdout(),
            );
            Ok(())
        }
        Command::Man(args) => std::fs::create_dir_all(&args.dir)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.dir))
            .with_context(|| format!("write man pages into {}", args.dir.display())),
        Command::Mountd(args) => crate::daemon::run(&args),
    }
}

/// The runtime of verbs that talk to stores and registries.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the I/O runtime")
}
