//! `up`: all of Lamina on one machine, as one process tree.
//!
//! ```text
//! lamina up ─┬─ lamina discovery     unless --join names others
//!            ├─ lamina node ─ ─ ─ ─  holder, mount daemon, agent: mounts outlive the tree
//!            ├─ lamina afslet        commands, unless --no-execution
//!            └─ lamina proxy         finds a place for each
//! ```
//! Always: what ends is started again, with longer pauses each time; a tree whose first process is killed ends; one that
//! is asked to ends commands first and then what they stand on; both sides of every connection show a certificate, of an
//! authority that is made at the first start.

pub(super) mod authority;
mod tree;

use crate::{args, daemon, exit};
use anyhow::{Context, Result, bail};
use authority::Authority;
use lamina_discovery::NodeId;
use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tree::{Ends, Program, Tree};

/// The authority's directory, in the state directory.
pub(super) const AUTHORITY: &str = "authority";
/// Says where the proxy is, in the state directory: `lamina exec` and `lamina status` look there.
pub(super) const PROXY_FILE: &str = "proxy";
/// Where the node mounts for others, in the state directory.
const MOUNTS: &str = "mounts";
/// Where discovery serves, and its metrics.
const DISCOVERY: (u16, u16) = (7070, 7071);
/// Where the node serves, and its metrics.
const NODE: (u16, u16) = (7150, 7151);
/// Where commands are run, and metrics.
const AFSLET: (u16, u16) = (7170, 7171);
/// Where places are found for them, and metrics.
const PROXY: (u16, u16) = (7180, 7181);
/// For runs under way when the tree is to end: as long as other calls have, and less than a proxy gives them, so that clients
/// are told what became of theirs.
const DRAIN: &str = "20s";
/// Until everything answers. A first start makes keys and probes the kernel; nothing is converted in it.
const START_DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn up(args: &args::Up) -> Result<()> {
    if !args.join.is_empty() && args.tls_dir.is_none() {
        bail!(exit::Usage(
            "--join needs --tls-dir: a certificate of the authority that the others believe".into()
        ));
    }
    let name = args.name.clone().map_or_else(super::node::own_name, Ok)?;
    check_name(&name)?;
    check(args)?;
    // One thread: the kernel ends children with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(args, &name))
}

/// Refuses what no later try would mend.
fn check(args: &args::Up) -> Result<()> {
    for at in &args.join {
        if let Err(why) = lamina_discovery::node_id::check_endpoint(at) {
            bail!(exit::Usage(format!("--join {at}: {why}")));
        }
    }
    if let Some(dir) = &args.tls_dir {
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let path = dir.join(name);
            std::fs::metadata(&path).with_context(|| format!("--tls-dir: {}", path.display()))?;
        }
    }
    for at in &args.afslets {
        if let Err(why) = lamina_discovery::node_id::check_endpoint(at) {
            bail!(exit::Usage(format!("--afslet {at}: {why}")));
        }
    }
    let discovery = args.join.is_empty().then_some(DISCOVERY);
    let execution = (!args.no_execution).then_some([AFSLET, PROXY]);
    let ports = discovery
        .into_iter()
        .chain([NODE])
        .chain(execution.into_iter().flatten());
    for port in ports.flat_map(|(service, metrics)| [service, metrics]) {
        let at = SocketAddr::new(args.address, port);
        std::net::TcpListener::bind(at).map_err(|error| not_ours(at, error))?;
    }
    Ok(())
}

/// Why nothing can be served there, and what to do.
fn not_ours(at: SocketAddr, error: std::io::Error) -> anyhow::Error {
    let context = match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => {
            let own = format!(
                "--address {}: this machine has no such address; give one that `ip address` shows",
                at.ip()
            );
            return anyhow::Error::new(error).context(exit::Usage(own));
        }
        std::io::ErrorKind::AddrInUse => {
            format!("listen on {at}: is another `lamina up` running there?")
        }
        _ => format!("listen on {at}"),
    };
    anyhow::Error::new(error).context(context)
}

/// Gives another machine a certificate of this one's authority.
pub(crate) fn certify(args: &args::Certify) -> Result<()> {
    check_name(&args.name)?;
    let until = authority::certify(&args.state.join(AUTHORITY), &args.name, &args.dir)?;
    println!("{}: {}, for {until} days", args.dir.display(), args.name);
    Ok(())
}

/// Refuses names that say what a certificate's holder may do.
fn check_name(name: &str) -> Result<()> {
    let why = match NodeId::parse(name) {
        Ok(_) if name.ends_with(".lamina.internal") => "names in lamina.internal are for services",
        Ok(_) => return Ok(()),
        Err(why) => why,
    };
    bail!(exit::Usage(format!("the node name {name:?}: {why}")))
}

async fn serve(args: &args::Up, name: &str) -> Result<()> {
    let authority = match args.tls_dir {
        Some(_) => None,
        None => Some(Authority::open(args.state.join(AUTHORITY), name)?),
    };
    let plugins = args.state.join(MOUNTS).join("plugins");
    std::fs::create_dir_all(&plugins).with_context(|| format!("make {}", plugins.display()))?;
    note_proxy(args)?;
    let (programs, watched) = programs(args, name)?;
    let mut tree = Tree::start(programs);
    let ready = tree.ready(&watched, START_DEADLINE).await;
    if ready.is_ok() {
        announce(args)?;
    }
    let ended = match ready {
        Ok(true) => tree.run(authority).await,
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    tree.end().await;
    ended
}

/// Has who sends commands from this machine find the proxy; where there is none, nothing is said.
fn note_proxy(args: &args::Up) -> Result<()> {
    let file = args.state.join(PROXY_FILE);
    let noted = match args.no_execution {
        false => {
            let at = SocketAddr::new(args.address, PROXY.0);
            std::fs::write(&file, format!("{at}\n"))
        }
        true => match std::fs::remove_file(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        },
    };
    noted.with_context(|| format!("note where the proxy is in {}", file.display()))
}

/// What runs, and the addresses whose `/readyz` says that it does.
fn programs(args: &args::Up, name: &str) -> Result<(Vec<Program>, Vec<SocketAddr>)> {
    let at = |port| SocketAddr::new(args.address, port);
    let own = args.state.join(AUTHORITY);
    let mut programs = Vec::new();
    let mut watched = Vec::new();
    let mut discovery = args.join.clone();
    if discovery.is_empty() {
        discovery.push(at(DISCOVERY.0).to_string());
        let mut words = Words::new("discovery");
        words.pair("--listen", at(DISCOVERY.0).to_string());
        words.pair("--http", at(DISCOVERY.1).to_string());
        words.pair("--tls-dir", tls(args, &own, "discovery"));
        words.each("--insecure-registry", &args.insecure_registries);
        programs.push(words.program()?);
        watched.push(at(DISCOVERY.1));
    }
    let mut words = Words::new("node");
    words.pair("--state", &args.state);
    words.pair("--run-dir", &args.instance.run_dir);
    words.pair("--node-name", name);
    words.pair("--listen", at(NODE.0).to_string());
    words.pair("--endpoint", at(NODE.0).to_string());
    words.pair("--http", at(NODE.1).to_string());
    words.pair("--tls-dir", tls(args, &own, "node"));
    words.each("--discovery", &discovery);
    words.each("--store", &args.stores);
    words.each("--insecure-registry", &args.insecure_registries);
    let cache = args.cache.clone();
    words.pair("--cache", cache.unwrap_or_else(|| args.state.join("cache")));
    if args.outside_pod {
        words.words.push("--outside-pod".into());
    }
    let mounts = args.state.join(MOUNTS);
    words.pair("--kubelet-dir", &mounts);
    programs.push(words.program()?);
    watched.push(at(NODE.1));
    if args.no_execution {
        return Ok((programs, watched));
    }
    let mut words = Words::new("afslet");
    words.pair("--listen", at(AFSLET.0).to_string());
    words.pair("--metrics", at(AFSLET.1).to_string());
    words.pair("--node-socket", args.instance.run_dir.join("node.sock"));
    words.pair("--node", name);
    words.pair("--volumes", mounts.join("plugins/afslet"));
    words.pair("--run-dir", &args.instance.run_dir);
    words.pair("--tls-dir", tls(args, &own, "afslet"));
    words.pair("--drain-timeout", DRAIN);
    programs.push(words.program()?);
    watched.push(at(AFSLET.1));
    let mut words = Words::new("proxy");
    words.pair("--listen", at(PROXY.0).to_string());
    words.pair("--http", at(PROXY.1).to_string());
    words.pair("--afslet", at(AFSLET.0).to_string());
    words.each("--afslet", &args.afslets);
    words.each("--discovery", &discovery);
    words.pair("--tls-dir", tls(args, &own, "proxy"));
    programs.push(words.program()?);
    watched.push(at(PROXY.1));
    Ok((programs, watched))
}

fn tls(args: &args::Up, own: &Path, role: &str) -> PathBuf {
    args.tls_dir.clone().unwrap_or_else(|| own.join(role))
}

fn announce(args: &args::Up) -> Result<()> {
    let at = |port| SocketAddr::new(args.address, port);
    let discovery = match args.join.is_empty() {
        true => format!(
            "{}, metrics http://{}/metrics",
            at(DISCOVERY.0),
            at(DISCOVERY.1)
        ),
        false => args.join.join(", "),
    };
    let execution = match args.no_execution {
        true => String::new(),
        false => format!(
            "commands   {}, status http://{}/status\n{}",
            at(PROXY.0),
            at(PROXY.1),
            found_with(args)?
        ),
    };
    let text = format!(
        "node       {}\n           {}, metrics http://{}/metrics\ndiscovery  {discovery}\n{execution}Ctrl-C ends it; mounts stay.\n",
        args.instance.run_dir.join("node.sock").display(),
        at(NODE.0),
        at(NODE.1)
    );
    // Services go on whether or not anybody reads this.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// What `lamina exec` must be told to find this, if anything.
fn found_with(args: &args::Up) -> Result<String> {
    let mut said = String::new();
    if args.state != daemon::state_dir()? {
        let state = args.state.display();
        said = format!("           lamina exec finds it with LAMINA_STATE_DIR={state}\n");
    }
    if args.tls_dir.is_some() {
        said.push_str(
            "           lamina exec needs --tls-dir, a certificate for user.lamina.internal\n",
        );
    }
    Ok(said)
}

/// A role's command line.
struct Words {
    role: &'static str,
    words: Vec<OsString>,
}

impl Words {
    fn new(role: &'static str) -> Self {
        Self {
            role,
            words: vec![role.into()],
        }
    }

    fn pair(&mut self, name: &str, value: impl Into<OsString>) {
        self.words.extend([name.into(), value.into()]);
    }

    fn each(&mut self, name: &str, values: &[String]) {
        for value in values {
            self.pair(name, value);
        }
    }

    fn program(self) -> Result<Program> {
        let path = std::env::current_exe().context("find this program's file")?;
        let ends = match self.role {
            "afslet" | "proxy" => Ends::First,
            _ => Ends::Last,
        };
        Ok(Program::new(self.role, path, self.words, ends))
    }
}
