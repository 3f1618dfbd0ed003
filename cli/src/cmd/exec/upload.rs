//! Files of this machine on their way into the run's root: read by a thread, a piece at a time, as they are wanted.
//!
//! Always: a link is sent as a link, whatever it points to, also when it takes a directory's place while we look; what
//! cannot be read, or be named, ends the upload, and the run with it.

use super::frame;
use crate::args::exec::Exec;
use crate::{exit, output};
use anyhow::{Context, Result, anyhow, bail};
use lamina_proto::afsletpb::execute_request::Payload;
use lamina_proto::afsletpb::{
    ExecuteRequest, FileChunk, FileEntryBegin, FileEntryEnd, FileType, StartRequest,
};
use rustix::fs::{AtFlags, CWD, Dir, FileType as Kind, Mode, OFlags, Stat};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};

/// Bytes of a file in one frame.
const PIECE: usize = 256 << 10;
/// Frames that wait to be sent.
const WAITING_MAX: usize = 4;
/// Most bytes of a file that says it has none, as those of /proc do: what is there is only known by reading, and some never end.
const UNSIZED_MAX: u64 = 16 << 20;
/// Directories within each other: each holds a descriptor.
const DEPTH_MAX: usize = 256;

/// What is to be uploaded, and where to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    local: PathBuf,
    inside: String,
    is_directory: bool,
}

/// Everything that was typed.
pub(super) fn sources(args: &Exec) -> Result<Vec<Source>> {
    let uploads = args.upload.iter().map(|typed| directory(typed));
    let files = args.file.iter().map(|typed| file(typed));
    uploads.chain(files).collect()
}

fn directory(typed: &str) -> Result<Source> {
    let (local, inside) = match typed.rfind(":/") {
        Some(at) => (Path::new(&typed[..at]), Some(typed[at + 1..].to_owned())),
        None => (Path::new(typed), None),
    };
    let found = std::fs::canonicalize(local)
        .with_context(|| format!("--upload {typed}: find {}", local.display()))?;
    if !found.is_dir() {
        bail!(exit::Usage(format!(
            "--upload {typed}: {} is no directory; give --file {}:/PATH for a file",
            local.display(),
            local.display()
        )));
    }
    let inside = match inside {
        Some(inside) => inside,
        None => match found.file_name() {
            Some(name) => format!("/{}", utf8(name.as_encoded_bytes(), &found, "its name")?),
            None => "/".to_owned(),
        },
    };
    checked(typed, &inside)?;
    Ok(Source {
        local: found,
        inside,
        is_directory: true,
    })
}

fn file(typed: &str) -> Result<Source> {
    let at = typed
        .rfind(":/")
        .ok_or_else(|| exit::Usage(format!("--file {typed}: say where to, FILE:/PATH")))?;
    let (local, inside) = (PathBuf::from(&typed[..at]), typed[at + 1..].to_owned());
    checked(typed, &inside)?;
    let found = std::fs::metadata(&local);
    let found = found.with_context(|| format!("--file {typed}: find {}", local.display()))?;
    if !found.is_file() {
        bail!(exit::Usage(format!(
            "--file {typed}: {} is no file",
            local.display()
        )));
    }
    Ok(Source {
        local,
        inside,
        is_directory: false,
    })
}

fn checked(typed: &str, inside: &str) -> Result<()> {
    match inside.split('/').any(|name| name == "..") {
        true => bail!(exit::Usage(format!(
            "{typed}: `..` cannot be in the path inside"
        ))),
        false => Ok(()),
    }
}

/// `what` of the thing at `at`, which the wire has as text.
fn utf8(bytes: &[u8], at: &Path, what: &str) -> Result<String> {
    let text = std::str::from_utf8(bytes).map_err(|_| {
        let (at, bytes) = (at.display(), bytes.escape_ascii());
        exit::Usage(format!("upload {at}: {what} is not UTF-8: \"{bytes}\""))
    })?;
    Ok(text.to_owned())
}

/// An upload that goes on.
pub(super) struct Uploading(oneshot::Receiver<Failed>);

/// With the frames' sender, so that they do not end before the call is given up.
type Failed = (anyhow::Error, mpsc::Sender<ExecuteRequest>);

impl Uploading {
    /// Returns when it failed; never when it did not.
    pub(super) async fn failed(self) -> anyhow::Error {
        match self.0.await {
            Ok((error, frames)) => {
                // The call is given up a moment later, and must not end before.
                std::mem::forget(frames);
                error
            }
            Err(_) => std::future::pending().await,
        }
    }
}

/// Begins to read.
pub(super) fn begin(
    start: StartRequest,
    sources: Vec<Source>,
) -> Result<(Uploading, mpsc::Receiver<ExecuteRequest>)> {
    let (frames, sent) = mpsc::channel(WAITING_MAX);
    let (failed, failure) = oneshot::channel();
    let work = move || {
        let mut upload = Upload {
            frames,
            path: Vec::new(),
        };
        let done = upload.all(start, &sources);
        match done {
            Ok(()) | Err(Stop::Gone) => {}
            // Nobody waits for it when the run has ended before.
            Err(Stop::Failed(error)) => drop(failed.send((error, upload.frames))),
        }
    };
    let thread = std::thread::Builder::new().name("upload".into());
    thread.spawn(work).context("start uploading")?;
    Ok((Uploading(failure), sent))
}

/// Why an upload stops.
enum Stop {
    /// Nobody wants more of it.
    Gone,
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

struct Upload {
    frames: mpsc::Sender<ExecuteRequest>,
    /// Names from an uploaded directory on, for messages.
    path: Vec<String>,
}

impl Upload {
    fn all(&mut self, start: StartRequest, sources: &[Source]) -> Result<(), Stop> {
        self.send(Payload::Start(start))?;
        for source in sources {
            self.path = vec![source.local.display().to_string()];
            match source.is_directory {
                true => self.top(source)?,
                false => self.single(source)?,
            }
        }
        Ok(())
    }

    fn send(&self, payload: Payload) -> Result<(), Stop> {
        let sent = self.frames.blocking_send(frame(payload));
        sent.map_err(|_| Stop::Gone)
    }

    fn failed(&self, what: &str, error: rustix::io::Errno) -> Stop {
        let error = std::io::Error::from(error);
        let error = anyhow!(error).context(format!("upload {}: {what}", self.path.join("/")));
        Stop::Failed(error)
    }

    /// A directory that was named: itself may be reached by links.
    fn top(&mut self, source: &Source) -> Result<(), Stop> {
        let opened = rustix::fs::open(&source.local, DIRECTORY, Mode::empty());
        let opened = opened.map_err(|error| self.failed("open it", error))?;
        let stat = rustix::fs::fstat(&opened).map_err(|error| self.failed("look at it", error))?;
        let inside = source.inside.trim_end_matches('/');
        if !inside.is_empty() {
            self.entry(inside, FileType::Dir, &stat, String::new())?;
        }
        self.directory(&opened, inside)
    }

    fn single(&mut self, source: &Source) -> Result<(), Stop> {
        let opened = rustix::fs::openat(CWD, &source.local, OFlags::NONBLOCK | READ, Mode::empty());
        let opened = opened.map_err(|error| self.failed("open it", error))?;
        self.file(opened, &source.inside)
    }

    fn directory(&mut self, opened: &OwnedFd, inside: &str) -> Result<(), Stop> {
        if self.path.len() > DEPTH_MAX {
            let why = anyhow!(
                "upload {}: more than {DEPTH_MAX} directories within each other",
                self.path[0]
            );
            return Err(why.into());
        }
        for name in self.names(opened)? {
            self.path.push(name.clone());
            self.child(opened.as_fd(), &name, &format!("{inside}/{name}"))?;
            self.path.pop();
        }
        Ok(())
    }

    /// What is in a directory, in order.
    fn names(&self, opened: &OwnedFd) -> Result<Vec<String>, Stop> {
        let read = |error| self.failed("read it", error);
        let mut names = Vec::new();
        for entry in Dir::read_from(opened).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let at = Path::new(&self.path.join("/")).join(OsStr::from_bytes(name));
                names.push(utf8(name, &at, "its name")?);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn child(&mut self, home: BorrowedFd<'_>, name: &str, inside: &str) -> Result<(), Stop> {
        let stat = rustix::fs::statat(home, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|error| self.failed("look at it", error))?;
        let open = |flags| rustix::fs::openat(home, name, flags | OFlags::NOFOLLOW, Mode::empty());
        match Kind::from_raw_mode(stat.st_mode) {
            Kind::Directory => {
                let opened = open(DIRECTORY).map_err(|error| self.failed("open it", error))?;
                let stat = rustix::fs::fstat(&opened);
                let stat = stat.map_err(|error| self.failed("look at it", error))?;
                self.entry(inside, FileType::Dir, &stat, String::new())?;
                self.directory(&opened, inside)
            }
            Kind::RegularFile => {
                let opened = open(OFlags::NONBLOCK | READ);
                self.file(
                    opened.map_err(|error| self.failed("open it", error))?,
                    inside,
                )
            }
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(home, name, Vec::new());
                let target = target.map_err(|error| self.failed("read the link", error))?;
                let at = self.path.join("/");
                let target = utf8(target.as_bytes(), Path::new(&at), "where the link points")?;
                self.entry(inside, FileType::Symlink, &stat, target)
            }
            _ => {
                let path = output::printable(&self.path.join("/"));
                eprintln!("warning: {path} is no file, directory or link: left out");
                Ok(())
            }
        }
    }

    fn entry(
        &self,
        inside: &str,
        kind: FileType,
        stat: &Stat,
        symlink_target: String,
    ) -> Result<(), Stop> {
        self.begin(inside, kind, stat, symlink_target)?;
        self.send(Payload::FileEnd(FileEntryEnd {}))
    }

    fn begin(
        &self,
        inside: &str,
        kind: FileType,
        stat: &Stat,
        symlink_target: String,
    ) -> Result<(), Stop> {
        let mode = match stat.st_mode & 0o7777 {
            // To the contract 0 says nothing; with the type beside it, it says that nobody may.
            0 => stat.st_mode,
            mode => mode,
        };
        self.send(Payload::FileBegin(FileEntryBegin {
            path: inside.to_owned(),
            r#type: kind.into(),
            mode,
            uid: 0,
            gid: 0,
            mtime_unix: stat.st_mtime,
            symlink_target,
        }))
    }

    /// As much of it as there was when it was opened; of one that says it is empty, what reading gives.
    fn file(&mut self, opened: OwnedFd, inside: &str) -> Result<(), Stop> {
        let stat = rustix::fs::fstat(&opened).map_err(|error| self.failed("look at it", error))?;
        if Kind::from_raw_mode(stat.st_mode) != Kind::RegularFile {
            let why = anyhow!("upload {}: it is no file any more", self.path.join("/"));
            return Err(why.into());
        }
        self.begin(inside, FileType::File, &stat, String::new())?;
        let most = match u64::try_from(stat.st_size).unwrap_or(0) {
            0 => UNSIZED_MAX,
            size => size,
        };
        let mut file = File::from(opened).take(most);
        loop {
            let mut data = Vec::new();
            let piece = file.by_ref().take(PIECE as u64).read_to_end(&mut data);
            piece.with_context(|| format!("upload {}: read it", self.path.join("/")))?;
            if data.is_empty() {
                break;
            }
            self.send(Payload::FileChunk(FileChunk { data }))?;
        }
        if stat.st_size == 0 && file.limit() == 0 {
            let most = output::size(UNSIZED_MAX);
            let why = "it says that it is empty, and reading it gives";
            let why = anyhow!("upload {}: {why} {most} and more", self.path.join("/"));
            return Err(why.into());
        }
        self.send(Payload::FileEnd(FileEntryEnd {}))
    }
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = READ.union(OFlags::DIRECTORY);

#[cfg(test)]
mod tests;
