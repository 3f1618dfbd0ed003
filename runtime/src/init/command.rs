//! The command's own process: from the init's copy to the program.

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};

use crate::spawner::{Failed, Step};
use crate::spec::{Spec, WindowSize};
use crate::sys::{process, tty};

/// Where programs are looked for when the environment does not say.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What `execve` takes, made before there is a process that cannot fail loudly.
pub(super) struct Program {
    /// Where it may be, first choice first.
    paths: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    pub(super) fn new(spec: &Spec) -> Result<Self, Failed> {
        let strings = |list: &[Vec<u8>]| -> Result<Vec<CString>, Failed> {
            let one = |bytes: &Vec<u8>| CString::new(bytes.clone()).map_err(std::io::Error::from);
            list.iter()
                .map(one)
                .collect::<Result<_, _>>()
                .step("take the command line")
        };
        let argv = strings(&spec.argv)?;
        let Some(name) = spec.argv.first().filter(|name| !name.is_empty()) else {
            return Err(std::io::Error::other("it is empty")).step("take the command line");
        };
        let paths = match name.contains(&b'/') {
            true => vec![name.clone()],
            false => search(spec).map(|dir| [dir, b"/", name].concat()).collect(),
        };
        Ok(Self {
            paths: strings(&paths)?,
            argv,
            env: strings(&spec.env)?,
        })
    }

    /// Becomes the program; returns why that is not possible.
    fn run(&self) -> Errno {
        let mut why = Errno::ENOENT;
        for path in &self.paths {
            match process::exec(path, &self.argv, &self.env) {
                Errno::ENOENT | Errno::ENOTDIR => {}
                // Found, but not for us: a later directory may have one that is.
                Errno::EACCES => why = Errno::EACCES,
                other => return other,
            }
        }
        why
    }
}

fn search(spec: &Spec) -> impl Iterator<Item = &[u8]> {
    let set = spec
        .env
        .iter()
        .find_map(|entry| entry.strip_prefix(b"PATH="));
    let path = set.unwrap_or(PATH);
    // An empty part would mean the working directory: a surprise, so it means nothing here.
    path.split(|byte| *byte == b':')
        .filter(|part| !part.is_empty())
}

/// What the command's standard files are.
pub(super) enum Standard {
    /// Given ones.
    Files([OwnedFd; 3]),
    /// A terminal of the sandbox's own.
    Terminal { master: OwnedFd, terminal: OwnedFd },
}

impl Standard {
    pub(super) fn terminal(size: WindowSize) -> Result<Self, Failed> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master =
            rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).step("make a terminal")?;
        let terminal = tty::terminal_of(master.as_fd()).step("make a terminal")?;
        tty::set_window_size(terminal.as_fd(), size).step("size the terminal")?;
        Ok(Self::Terminal { master, terminal })
    }

    fn take(&self) -> std::io::Result<()> {
        match self {
            Self::Files(files) => {
                let mut numbered = (0..).zip(files);
                numbered.try_for_each(|(number, file)| process::put_at(file.as_fd(), number))
            }
            Self::Terminal { terminal, .. } => {
                tty::control(terminal.as_fd())?;
                (0..3).try_for_each(|number| process::put_at(terminal.as_fd(), number))
            }
        }
    }
}

/// The command, running or about to.
pub(super) struct Command {
    pid: i32,
    /// Says why the program cannot be run; closed when it runs.
    trouble: Option<std::fs::File>,
    master: Option<OwnedFd>,
}

impl Command {
    pub(super) fn spawn(program: &Program, standard: Standard) -> Result<Self, Failed> {
        let (trouble, told) = std::io::pipe().step("make a pipe")?;
        match process::fork().step("start the command's process")? {
            0 => {
                let why = begin(&standard).err().unwrap_or_else(|| program.run());
                let mut told = told;
                // The init is there as long as we are.
                let _ = told.write_all(&(why as i32).to_le_bytes());
                process::exit(1)
            }
            pid => Ok(Self {
                pid,
                trouble: Some(std::fs::File::from(OwnedFd::from(trouble))),
                master: match standard {
                    Standard::Files(_) => None,
                    Standard::Terminal { master, .. } => Some(master),
                },
            }),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn master(&self) -> Option<BorrowedFd<'_>> {
        self.master.as_ref().map(AsFd::as_fd)
    }

    /// Forgets the terminal: once the supervisor has let go of it, it must be gone.
    pub(super) fn give_away_master(&mut self) {
        self.master = None;
    }

    /// Why it cannot be run, once it has ended; `None` when it ran.
    pub(super) fn take_trouble(&mut self) -> Option<i32> {
        let mut errno = [0; 4];
        let mut trouble = self.trouble.take()?;
        trouble.read_exact(&mut errno).ok()?;
        Some(i32::from_le_bytes(errno))
    }
}

/// The last steps before the program: a session and standard files of its own, nothing else inherited.
fn begin(standard: &Standard) -> Result<(), Errno> {
    let done = || -> std::io::Result<()> {
        rustix::process::setsid()?;
        standard.take()?;
        process::default_signals();
        process::close_on_exec_from(3)
    };
    done().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}
