//! The command's standard files: pipes or a terminal inside, ours outside, and threads that copy between them.
//!
//! Ours are never handed in: a file or a terminal of this machine could be read, cut or typed into from inside.

use super::stop::Stop;
use crate::args::run::Run;
use anyhow::{Context, Result};
use lamina_runtime::spec::WindowSize;
use lamina_runtime::{RawMode, Running, Standard};
use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

/// Of a terminal, when ours is none.
const SIZE: WindowSize = WindowSize {
    rows: 24,
    columns: 80,
};

/// The size of our terminal.
pub(super) fn own_size() -> WindowSize {
    let size = lamina_runtime::window_size(io::stdout().as_fd());
    // A terminal that nobody told its size has none.
    size.ok().filter(|size| size.rows > 0).unwrap_or(SIZE)
}

/// Our ends, until the command runs.
pub(super) enum Relay {
    Pipes {
        input: Option<PipeWriter>,
        output: PipeReader,
        error: PipeReader,
    },
    Terminal {
        interactive: bool,
    },
}

impl Relay {
    /// Ours, and those of the command unless it has a terminal.
    pub(super) fn new(args: &Run) -> Result<(Self, Option<Standard>)> {
        if args.tty {
            let interactive = args.interactive;
            return Ok((Self::Terminal { interactive }, None));
        }
        let (input, theirs) = match args.interactive {
            true => {
                let (reader, writer) = io::pipe().context("make a pipe")?;
                (Some(writer), reader.into())
            }
            false => (
                None,
                File::open("/dev/null").context("open /dev/null")?.into(),
            ),
        };
        let (output, their_output) = io::pipe().context("make a pipe")?;
        let (error, their_error) = io::pipe().context("make a pipe")?;
        let standard = Standard {
            input: theirs,
            output: their_output.into(),
            error: their_error.into(),
        };
        let ours = Self::Pipes {
            input,
            output,
            error,
        };
        Ok((ours, Some(standard)))
    }

    /// Copies from now on.
    pub(super) fn start(self, running: &mut Running) -> Result<Copying> {
        match self {
            Self::Pipes {
                input,
                output,
                error,
            } => {
                if let Some(input) = input {
                    copy_input(input)?;
                }
                let (copying, copied) = mpsc::channel();
                copy("standard output", output, io::stdout(), copying.clone())?;
                copy("standard error", error, io::stderr(), copying)?;
                Ok(Copying {
                    copied,
                    terminal: None,
                    _raw: None,
                })
            }
            Self::Terminal { interactive } => {
                let terminal = running
                    .take_terminal()
                    .context("get the command's terminal")?;
                let terminal = File::from(terminal);
                let clone = || terminal.try_clone().context("share the terminal");
                let mut raw = None;
                if interactive {
                    let stdin = io::stdin();
                    if stdin.is_terminal() {
                        raw =
                            Some(RawMode::enter(stdin.as_fd()).context("read keys as they come")?);
                    }
                    copy_input(clone()?)?;
                }
                let (copying, copied) = mpsc::channel();
                copy("standard output", clone()?, io::stdout(), copying)?;
                Ok(Copying {
                    copied,
                    terminal: Some(terminal.into()),
                    _raw: raw,
                })
            }
        }
    }
}

/// Threads that copy; our terminal is as it was when this is dropped.
pub(super) struct Copying {
    /// What could not be written; closed when all is copied.
    copied: Receiver<anyhow::Error>,
    terminal: Option<OwnedFd>,
    _raw: Option<RawMode>,
}

impl Copying {
    /// The command's terminal, to tell it its size.
    pub(super) fn terminal(&self) -> Result<Option<Terminal>> {
        let clone = |terminal: &OwnedFd| terminal.try_clone().map(Terminal);
        self.terminal
            .as_ref()
            .map(clone)
            .transpose()
            .context("share the terminal")
    }

    /// Waits until all that the command wrote has been written, or we are to end; whether it could be. The command has ended, so
    /// there is an end of it, if somebody reads.
    pub(super) fn finish(self, stop: &Stop) -> Result<()> {
        /// Between two looks for a signal.
        const PAUSE: Duration = Duration::from_millis(100);
        let mut failed = None;
        while stop.asked().is_none() {
            match self.copied.recv_timeout(PAUSE) {
                Ok(error) => failed = Some(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// The command's terminal.
pub(super) struct Terminal(OwnedFd);

impl Terminal {
    /// Ours has another size now.
    pub(super) fn resize(&self) {
        // It may have gone with the command.
        let _ = lamina_runtime::set_window_size(self.0.as_fd(), own_size());
    }
}

/// Ends with its input, or when nobody reads any more; the writer then sees that, too.
fn copy(
    name: &str,
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    copying: Sender<anyhow::Error>,
) -> Result<()> {
    let failed = format!("write the command's {name}");
    let work = move || {
        match pump(&mut from, &mut to) {
            // Who does not read what we write wants no more of it.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                // Of standard input nobody wants to know.
                let _ = copying.send(anyhow::Error::new(error).context(failed));
            }
            _ => {}
        }
    };
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop).context("start copying")
}

/// Nobody waits for this one: our standard input may never end.
fn copy_input(to: impl Write + Send + 'static) -> Result<()> {
    copy("standard input", io::stdin(), to, mpsc::channel().0)
}

/// Writes what was read at once, so that nothing waits for a line to be full; fails when it cannot.
fn pump(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The end of a terminal is one.
            Err(_) => return Ok(()),
        };
        to.write_all(&buffer[..read])?;
        to.flush()?;
    }
}
