//! Terminals: a pair of the sandbox's own, its size, and which session it controls.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

/// The terminal behind an open `/dev/ptmx`.
pub(crate) fn terminal_of(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: reads one int through a pointer that lives for the call.
    let done = unsafe {
        libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCSPTLCK as _,
            &raw const unlocked,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes flags by value and returns a new descriptor, which is ours alone.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Tells a terminal its size; the processes in its foreground get SIGWINCH.
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn set_window_size(terminal: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: reads one winsize through a pointer that lives for the call.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &raw const size) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The size of a terminal.
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn window_size(terminal: BorrowedFd<'_>) -> io::Result<WindowSize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: writes one winsize through a pointer that lives for the call.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ as _, &raw mut size) };
    match done {
        0 => Ok(WindowSize {
            rows: size.ws_row,
            columns: size.ws_col,
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a terminal the controlling one of the calling process's session.
pub(crate) fn control(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes an integer by value.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A terminal as it was, put back when this is dropped.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: libc::termios,
}

impl RawMode {
    /// Hands every key on as it is typed, interrupts, too.
    ///
    /// # Errors
    /// `ENOTTY` when it is no terminal.
    pub fn enter(terminal: BorrowedFd<'_>) -> io::Result<Self> {
        let terminal = terminal.try_clone_to_owned()?;
        // SAFETY: a termios is plain numbers; all zero is a valid one.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: writes one termios through a pointer that lives for the call.
        if unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut raw = before;
        // SAFETY: changes the termios it is given and nothing else.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        set(&terminal, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that has gone away needs nothing put back.
        let _ = set(&self.terminal, &self.before);
    }
}

fn set(terminal: &OwnedFd, to: &libc::termios) -> io::Result<()> {
    // SAFETY: reads one termios through a pointer that lives for the call.
    match unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, to) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
