//! The command line: what a person may type. No behaviour here.

pub(crate) mod afslet;
pub(crate) mod exec;
pub(crate) mod proxy;
pub(crate) mod run;

use clap::builder::{OsStringValueParser, RangedU64ValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Container file systems, instantly: pack, convert, mount.
#[derive(Debug, Parser)]
#[command(name = "lamina", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Say more on standard error (repeat for debug output)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  any other failure, and busy: a mount point or a cache in use
  2  usage: the command line or an input file is wrong
  3  not found: file, image, tag or stored object
  4  authentication or permission refused
  6  unavailable: a store, registry or daemon cannot be reached
  7  timeout: a deadline passed
  8  integrity: bytes do not match their digest, or a file is damaged
  10 resource exhausted: disk, cache or a limit is full";

const EXEC_HELP: &str = "\
Examples:
  lamina exec docker.io/library/python:3.13-slim -- python3 -c 'print(1)'
  lamina exec --upload job --diff changes.tar.gz IMAGE -- python3 /job/train.py

Exit codes:
  the command's own
  2        the command line cannot be understood
  125      Lamina failed, or no node has room; standard error says why
  126      the command cannot be run
  127      there is no such command
  128 + N  signal N ended the command, or lamina exec itself: 130 is Ctrl-C
  137      it was killed: --timeout, --memory, a limit of the node; standard error says which";

const MOUNTS_HELP: &str = "\
Columns:
  STATE     mounted; degraded: data that is missing cannot be had, a line below says why; detached:
            unmounted, and served to those who still have files open
  MODE      how the kernel reads it; `lamina doctor` says what this machine can do
  ACCESS    ro, or rw for a mount with an upper directory
  LOCAL OF  bytes of its files that are on this machine, of all
  FETCHED   bytes that were brought here since it was mounted; PEERS of them from other nodes
  READS     what the kernel asked Lamina for; what it had in memory it did not ask for
  HITS      of them, answered from this machine without waiting; FAILED ended with an I/O error
  PROFILE   what prefetch follows: recorded here, shared by other nodes, static: computed when the image
            was converted, none";

const STATUS_HELP: &str = "\
Columns:
  AFSLET      node that runs commands; open: takes them, draining: takes no more, unreachable: a line below
              says why
  RUNS        commands that run on it now; CPU and MEMORY: reserved by them, of what it may give
  LAYERSTORE  node that keeps image layers for the others; IMAGES: those it has all layers of";

const RUN_EXIT_CODES: &str = "\
Exit codes:
  the command's own
  2        the command line cannot be understood
  125      Lamina failed; standard error says where
  126      the command cannot be run
  127      there is no such command
  128 + N  a signal N ended the command
  137      it was killed: --timeout, --memory, or by somebody";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pack a directory into a flist and upload its chunks
    Pack(Pack),
    /// Convert a container image into a flist
    #[command(alias = "docker")]
    Convert(Convert),
    /// Mount a flist on a directory, lazily
    Mount(Mount),
    /// Unmount a directory mounted by `lamina mount`
    #[command(alias = "unmount")]
    Umount(Umount),
    /// Run a command in a fresh, writable copy of an image or flist, shut off from this machine
    #[command(after_help = RUN_EXIT_CODES)]
    Run(run::Run),
    /// List what Lamina has mounted on this machine, how much of it is here, and how well reads go
    #[command(after_help = MOUNTS_HELP)]
    Mounts(Mounts),
    /// Write a flist's whole tree into a directory (as root with owners, devices and setuid bits)
    Unpack(Unpack),
    /// Show a flist: digest, sizes, stores, tags, image config
    Inspect(Inspect),
    /// Draw a flist's directories as a tree
    Tree(Tree),
    /// List a directory inside a flist
    Ls(Ls),
    /// Print files inside a flist
    Cat(Cat),
    /// Compare two flists
    Diff(Diff),
    /// Logical, stored and shared size of flists
    Du(Du),
    /// Copy a flist's packs to other stores
    Clone(Clone),
    /// Show or change a flist's tags and stores
    Config(Config),
    /// Check every pack and chunk of a flist
    Verify(Verify),
    /// Fetch a mounted flist's data ahead of use
    Prefetch(Prefetch),
    /// Delete what no kept flist needs from stores
    Gc(Gc),
    /// Report what this machine can do, the mount mode chosen and why
    Doctor(Doctor),
    /// Serve a Kubernetes node: volumes for the CSI driver and the operator
    Node(Node),
    /// Serve discovery: which nodes live, what each of them holds, what images are
    Discovery(Discovery),
    /// Run commands for the cluster on this machine, in images that its `lamina node` mounts
    Afslet(afslet::Afslet),
    /// Take commands for the cluster, and find an afslet with room for each
    Proxy(proxy::Proxy),
    /// Run a command in an image on whichever node has room, as if it ran here: its output, its exit code, and
    /// if asked for the files that it changed
    #[command(after_help = EXEC_HELP)]
    Exec(Box<exec::Exec>),
    /// Show which nodes run commands and how busy they are, and which keep image layers, as a proxy sees them
    #[command(after_help = STATUS_HELP)]
    Status(proxy::Status),
    /// Run all of Lamina's services on this machine, as one process tree
    Up(Up),
    /// Sign the certificate of another machine, for its `lamina up --join`, with this machine's authority
    Certify(Certify),
    /// Print a shell completion script
    Completions(Completions),
    /// Write man pages into a directory
    Man(Man),
    /// Look at Lamina in a Kubernetes cluster; `kubectl lamina`, where this program has that name
    #[command(hide = true)]
    K8s(crate::kube::args::K8s),
    #[command(hide = true)]
    Mountd(Mountd),
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Output format
    #[arg(short, long = "output", value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Store for packs: dir://, s3://, gs://, az://, http(s)://, oci://; prefix `00-7f=` to shard; repeat to replicate
    #[arg(short, long = "store", value_name = "STORE", required = true)]
    pub(crate) stores: Vec<String>,
    #[command(flatten)]
    pub(crate) access: StoreAccess,
}

#[derive(Debug, Args, Clone)]
pub(crate) struct StoreAccess {
    /// File with store credentials (KEY=VALUE lines, as the environment would give)
    #[arg(long, value_name = "FILE", env = "LAMINA_STORE_CREDENTIALS")]
    pub(crate) credentials: Option<PathBuf>,
}

/// A number of threads or tasks: none does nothing, and thousands only fail to start.
fn at_most(max: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=max)
}

#[derive(Debug, Args)]
pub(crate) struct PackTuning {
    /// zstd level, 1 to 19
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) level: i32,
    /// Worker threads, 1 to 256 (default: all cores)
    #[arg(long, value_name = "N", value_parser = at_most(256))]
    pub(crate) threads: Option<usize>,
    /// Keep passwords found in store URLs inside the flist
    #[arg(long)]
    pub(crate) keep_credentials: bool,
    /// Tag to record in the flist, KEY=VALUE; repeatable
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Pack {
    /// Directory to pack
    pub(crate) dir: PathBuf,
    /// Flist to write
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) tuning: PackTuning,
    /// Do not cross file system boundaries
    #[arg(long)]
    pub(crate) one_file_system: bool,
    /// Also upload the flist itself to the stores
    #[arg(long)]
    pub(crate) publish: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// Image: a registry reference, `oci:DIR[:TAG]` or `docker-archive:FILE`
    pub(crate) source: String,
    /// Flist to write
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) tuning: PackTuning,
    /// Platform, `os/arch[/variant]` (default: this machine's)
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Registry user name (default: the docker configuration)
    #[arg(long, short = 'u')]
    pub(crate) username: Option<String>,
    /// Read the registry password from standard input
    #[arg(long, requires = "username")]
    pub(crate) password_stdin: bool,
    /// Speak plain HTTP to the registry (loopback registries always do)
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Also write one self-contained `.afslyr` file per layer into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) layers: Option<PathBuf>,
    /// Layers converted at once, 1 to 64
    #[arg(long, value_name = "N", value_parser = at_most(64))]
    pub(crate) parallel_layers: Option<usize>,
    /// Refuse a layer that expands further than this; one that is mostly zeros may need more
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) decompression_ratio_max: u64,
    /// Do not compute what to fetch ahead: the command's access profile and the hints
    #[arg(long)]
    pub(crate) no_profile: bool,
    /// Also upload the flist itself to the stores
    #[arg(long)]
    pub(crate) publish: bool,
}

/// A directory that the daemons use, too, which have another working directory.
fn absolute_dir() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(std::path::absolute)
}

/// How the kernel is given the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum ModeArg {
    /// The best this kernel supports
    #[default]
    Auto,
    /// EROFS, file-backed (Linux 6.12 and later)
    Erofs,
    /// EROFS over loop devices
    ErofsLoop,
    /// FUSE for the whole tree
    Fuse,
}

#[derive(Debug, Args)]
pub(crate) struct Instance {
    /// Cache directory; each has daemons of its own
    #[arg(
        long,
        value_name = "DIR",
        env = "LAMINA_CACHE_DIR",
        default_value = "/var/lib/lamina/cache",
        value_parser = absolute_dir()
    )]
    pub(crate) cache: PathBuf,
    /// Directory of sockets and live state
    #[arg(
        long,
        value_name = "DIR",
        env = "LAMINA_RUN_DIR",
        default_value = "/run/lamina",
        value_parser = absolute_dir()
    )]
    pub(crate) run_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// Flist to mount
    pub(crate) flist: PathBuf,
    /// Directory to mount on
    pub(crate) dir: PathBuf,
    /// Writable union: changes are kept below this directory
    #[arg(long, value_name = "UPPER")]
    pub(crate) rw: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) instance: Instance,
    /// Most bytes the cache may hold, e.g. 10GiB
    #[arg(long, value_name = "SIZE", value_parser = crate::output::parse_cache_size)]
    pub(crate) cache_size: Option<u64>,
    /// Drop cached data not used for this long, e.g. 30d
    #[arg(long, value_name = "TIME", value_parser = crate::output::parse_duration)]
    pub(crate) cache_expire: Option<std::time::Duration>,
    /// Way of mounting
    #[arg(long, value_enum, default_value_t)]
    pub(crate) mode: ModeArg,
    /// Read from these stores instead of those named in the flist
    #[arg(short, long = "store", value_name = "STORE")]
    pub(crate) stores: Vec<String>,
    #[command(flatten)]
    pub(crate) access: StoreAccess,
    /// Stay in the foreground; unmount on Ctrl-C
    #[arg(short, long)]
    pub(crate) foreground: bool,
    /// Allow device files and setuid programs on the mount
    #[arg(long)]
    pub(crate) trusted: bool,
    /// Do not prefetch along the access profile
    #[arg(long)]
    pub(crate) no_prefetch: bool,
    /// Give up when the mount is not ready after this long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = crate::output::parse_duration)]
    pub(crate) timeout: std::time::Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Umount {
    /// Directory to unmount
    pub(crate) dir: PathBuf,
    /// Detach even when busy: who has files open goes on reading until they are closed
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) instance: RunDir,
    /// Give up after this long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = crate::output::parse_duration)]
    pub(crate) timeout: std::time::Duration,
}

#[derive(Debug, Args)]
pub(crate) struct RunDir {
    /// Directory of sockets and live state
    #[arg(
        long,
        value_name = "DIR",
        env = "LAMINA_RUN_DIR",
        default_value = "/run/lamina",
        value_parser = absolute_dir()
    )]
    pub(crate) run_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Mounts {
    #[command(flatten)]
    pub(crate) instance: RunDir,
    /// Show where the bytes that were read came from instead: memory, this disk, other nodes, stores, registries
    #[arg(long)]
    pub(crate) tiers: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ReadAccess {
    /// Read from these stores instead of those named in the flist
    #[arg(short, long = "store", value_name = "STORE")]
    pub(crate) stores: Vec<String>,
    #[command(flatten)]
    pub(crate) access: StoreAccess,
}

#[derive(Debug, Args)]
pub(crate) struct Unpack {
    /// Flist to unpack
    pub(crate) flist: PathBuf,
    /// Directory to write into
    pub(crate) dir: PathBuf,
    /// Write into a directory that is not empty
    #[arg(long)]
    pub(crate) force: bool,
    /// Leave out device files
    #[arg(long)]
    pub(crate) no_devices: bool,
    /// Leave out setuid and setgid bits of files, and file capabilities
    #[arg(long)]
    pub(crate) no_setuid: bool,
    #[command(flatten)]
    pub(crate) read: ReadAccess,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Flist to show
    pub(crate) flist: PathBuf,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Tree {
    /// Flist to draw
    pub(crate) flist: PathBuf,
    /// Directory inside it
    #[arg(default_value = "/")]
    pub(crate) path: OsString,
    /// Deepest level drawn
    #[arg(short = 'L', long)]
    pub(crate) depth: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Flist to read
    pub(crate) flist: PathBuf,
    /// Path inside it
    #[arg(default_value = "/")]
    pub(crate) path: OsString,
    /// Mode, owner, size, time
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Everything below
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// Flist to read
    pub(crate) flist: PathBuf,
    /// Files inside it
    #[arg(required = true)]
    pub(crate) paths: Vec<OsString>,
    #[command(flatten)]
    pub(crate) read: ReadAccess,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// Older flist
    pub(crate) from: PathBuf,
    /// Newer flist
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Du {
    /// Flists to measure, together
    #[arg(required = true)]
    pub(crate) flists: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Clone {
    /// Flist whose packs are copied
    pub(crate) flist: PathBuf,
    /// Copy to these stores
    #[command(flatten)]
    pub(crate) to: StoreArgs,
    /// Read from these stores instead of those named in the flist
    #[arg(long = "from", value_name = "STORE")]
    pub(crate) from: Vec<String>,
    /// Flist to write that names the new stores
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Keep passwords found in store URLs inside the flist
    #[arg(long)]
    pub(crate) keep_credentials: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    /// Flist to show or change
    pub(crate) flist: PathBuf,
    /// Set a tag, KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set_tag: Vec<String>,
    /// Remove a tag
    #[arg(long, value_name = "KEY")]
    pub(crate) remove_tag: Vec<String>,
    /// Add a store
    #[arg(long, value_name = "STORE")]
    pub(crate) add_store: Vec<String>,
    /// Remove a store
    #[arg(long, value_name = "STORE")]
    pub(crate) remove_store: Vec<String>,
    /// Keep passwords found in store URLs inside the flist
    #[arg(long)]
    pub(crate) keep_credentials: bool,
    /// Write the changed flist here instead of in place
    #[arg(long = "out", value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Flist to check
    pub(crate) flist: PathBuf,
    /// Check only the flist file, fetch nothing
    #[arg(long)]
    pub(crate) no_data: bool,
    #[command(flatten)]
    pub(crate) read: ReadAccess,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Prefetch {
    /// A directory mounted by `lamina mount`
    pub(crate) dir: PathBuf,
    /// Paths inside it (default: everything)
    pub(crate) paths: Vec<String>,
    /// Only what the access profile names
    #[arg(long, conflicts_with = "paths")]
    pub(crate) profile: bool,
    #[command(flatten)]
    pub(crate) instance: RunDir,
    /// Give up after this long
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = crate::output::parse_duration)]
    pub(crate) timeout: std::time::Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Flists whose data is kept: files, or directories, searched with all below them
    #[arg(long, value_name = "FLIST", required_unless_present = "keep_none")]
    pub(crate) keep: Vec<PathBuf>,
    /// Keep nothing: empty the stores
    #[arg(long, conflicts_with = "keep")]
    pub(crate) keep_none: bool,
    /// Really delete; without it only what would go is shown
    #[arg(long)]
    pub(crate) delete: bool,
    /// Never delete objects younger than this (uploads may be under way)
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = crate::output::parse_duration)]
    pub(crate) grace: std::time::Duration,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) instance: Instance,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[allow(
    clippy::struct_field_names,
    reason = "a field is named as its option is: --node-name"
)]
pub(crate) struct Node {
    /// Directory of everything that outlives this process: cache, flists, volume records, own store
    #[arg(
        long,
        value_name = "DIR",
        env = "LAMINA_STATE_DIR",
        default_value = "/var/lib/lamina",
        value_parser = absolute_dir()
    )]
    pub(crate) state: PathBuf,
    /// Cache directory (default: `cache` in the state directory)
    #[arg(long, value_name = "DIR", env = "LAMINA_CACHE_DIR", value_parser = absolute_dir())]
    pub(crate) cache: Option<PathBuf>,
    /// Directory of sockets and live state; the service is on `node.sock` in it
    #[arg(
        long,
        value_name = "DIR",
        env = "LAMINA_RUN_DIR",
        default_value = "/run/lamina",
        value_parser = absolute_dir()
    )]
    pub(crate) run_dir: PathBuf,
    /// The kubelet's directory: volumes are mounted below `pods` and `plugins` in it, nowhere else
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet", value_parser = absolute_dir())]
    pub(crate) kubelet_dir: PathBuf,
    /// Store for packs and flists (default: `store` in the state directory); repeat to replicate
    #[arg(short, long = "store", value_name = "STORE")]
    pub(crate) stores: Vec<String>,
    /// Speak plain HTTP to this registry, HOST[:PORT]; repeatable (loopback registries always do)
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub(crate) insecure_registries: Vec<String>,
    /// Most bytes the cache may hold, e.g. 10GiB
    #[arg(long, value_name = "SIZE", value_parser = crate::output::parse_cache_size)]
    pub(crate) cache_size: Option<u64>,
    /// Name of the node (default: the machine's)
    #[arg(long = "node-name", value_name = "NAME", env = "NODE_NAME")]
    pub(crate) name: Option<String>,
    /// Also serve on TCP, to clients with a certificate of the authority
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Directory of tls.crt, tls.key and ca.crt; read again when they change
    #[arg(long, value_name = "DIR", value_parser = absolute_dir(), conflicts_with = "certificates_from")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// Ask the operator here for this node's certificate, and again before it ends; it is kept in `tls` in the state
    /// directory
    #[arg(long, value_name = "HOST:PORT", requires_all = ["listen", "token_file", "ca_file"])]
    pub(crate) certificates_from: Option<String>,
    /// The token of this pod that the certificate is given for
    #[arg(long, value_name = "FILE", requires = "certificates_from")]
    pub(crate) token_file: Option<PathBuf>,
    /// Whom to believe: certificates of authorities, PEM
    #[arg(long, value_name = "FILE", requires = "certificates_from")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Be part of the cluster that this discovery knows, HOST:PORT; repeatable. Images are read from registries
    /// once for all nodes, then from each other
    #[arg(long, value_name = "HOST:PORT", requires = "endpoint")]
    pub(crate) discovery: Vec<String>,
    /// Where other nodes reach what --listen serves
    #[arg(long, value_name = "IP:PORT", requires = "discovery")]
    pub(crate) endpoint: Option<String>,
    /// Most bytes of image layers kept for the cluster (default: 60 % of what the disk has for them, 1 TB at most)
    #[arg(long, value_name = "SIZE", value_parser = crate::output::parse_cache_size, requires = "discovery")]
    pub(crate) layers_size: Option<u64>,
    /// Without certificates: speak to discovery and nodes without TLS, and serve layers to anybody
    #[arg(long, requires = "discovery", conflicts_with_all = ["tls_dir", "certificates_from"])]
    pub(crate) insecure: bool,
    /// Serve /metrics, /healthz and /readyz here
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<std::net::SocketAddr>,
    /// Run the mount daemons as processes of the host, so that the end of this pod does not concern
    /// them; needs a privileged pod with hostPID
    #[arg(long)]
    pub(crate) outside_pod: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Discovery {
    /// Serve here
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:7070")]
    pub(crate) listen: std::net::SocketAddr,
    /// Directory of tls.crt, tls.key and ca.crt; read again when they change
    #[arg(long, value_name = "DIR", value_parser = absolute_dir(), required_unless_present = "insecure")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// Serve anybody, without TLS: every caller may report as any node
    #[arg(long, conflicts_with = "tls_dir")]
    pub(crate) insecure: bool,
    /// Serve /metrics, /healthz and /readyz here
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<std::net::SocketAddr>,
    /// A node is taken for dead this long after its last heartbeat, 3s or more
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = crate::output::parse_duration)]
    pub(crate) ttl: std::time::Duration,
    /// What an image is is asked again after this long
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = crate::output::parse_duration)]
    pub(crate) resolve_ttl: std::time::Duration,
    /// Speak plain HTTP to this registry, HOST[:PORT]; repeatable. Registries of this machine are asked only if
    /// named here
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub(crate) insecure_registries: Vec<String>,
    /// Docker configuration with what every caller may resolve images with (default: no credentials)
    #[arg(long, value_name = "FILE")]
    pub(crate) registry_config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Directory of everything that outlives this process
    #[arg(
        long,
        value_name = "DIR",
        env = "LAMINA_STATE_DIR",
        default_value = "/var/lib/lamina",
        value_parser = absolute_dir()
    )]
    pub(crate) state: PathBuf,
    /// Cache directory (default: `cache` in the state directory)
    #[arg(long, value_name = "DIR", env = "LAMINA_CACHE_DIR", value_parser = absolute_dir())]
    pub(crate) cache: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) instance: RunDir,
    /// Address everything is served on: ports 7070, 7071 (discovery), 7150, 7151 (node), 7170, 7171 (afslet), 7180, 7181
    /// (proxy)
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub(crate) address: std::net::IpAddr,
    /// Name of this node (default: the machine's)
    #[arg(long = "node-name", value_name = "NAME", env = "NODE_NAME")]
    pub(crate) name: Option<String>,
    /// Be a node of the cluster whose discovery is at HOST:PORT, instead of running one; repeatable
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) join: Vec<String>,
    /// Run no commands: neither an afslet nor a proxy
    #[arg(long)]
    pub(crate) no_execution: bool,
    /// Have commands run on this machine's afslet and on the one at HOST:PORT; repeatable
    #[arg(
        long = "afslet",
        value_name = "HOST:PORT",
        conflicts_with = "no_execution"
    )]
    pub(crate) afslets: Vec<String>,
    /// Directory of tls.crt, tls.key and ca.crt, from `lamina certify` on the first machine or from an authority of
    /// yours. The certificate names the node and, all in lamina.internal, node, peer, afslet and proxy; without --join
    /// also discovery
    #[arg(long, value_name = "DIR", value_parser = absolute_dir())]
    pub(crate) tls_dir: Option<PathBuf>,
    /// Run the mount daemons as processes of the host, for a privileged container with the host's processes
    #[arg(long)]
    pub(crate) outside_pod: bool,
    /// Store for packs and flists (default: `store` in the state directory); repeat to replicate
    #[arg(short, long = "store", value_name = "STORE")]
    pub(crate) stores: Vec<String>,
    /// Speak plain HTTP to this registry, HOST[:PORT]; repeatable (loopback registries always do)
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub(crate) insecure_registries: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Certify {
    /// The other machine's --node-name
    pub(crate) name: String,
    /// Directory that tls.crt, tls.key and ca.crt are written into, to be copied there
    pub(crate) dir: PathBuf,
    /// State directory of the `lamina up` that it is to join
    #[arg(
        long,
        value_name = "DIR",
        env = "LAMINA_STATE_DIR",
        default_value = "/var/lib/lamina",
        value_parser = absolute_dir()
    )]
    pub(crate) state: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Shell to complete for
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Directory the pages are written into
    pub(crate) dir: PathBuf,
}

/// Which of an instance's processes this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Holder,
    Mountd,
    Agent,
}

#[derive(Debug, Args)]
pub(crate) struct Mountd {
    #[arg(long, value_enum)]
    pub(crate) role: Role,
    #[arg(long)]
    pub(crate) run_dir: PathBuf,
    #[arg(long)]
    pub(crate) cache: PathBuf,
    #[arg(long)]
    pub(crate) state: PathBuf,
    /// Stay when nothing is mounted
    #[arg(long)]
    pub(crate) linger: bool,
    /// Leave the pod that the holder is started in
    #[arg(long)]
    pub(crate) outside_pod: bool,
}
