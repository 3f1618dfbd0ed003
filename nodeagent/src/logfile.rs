//! The daemons' log: one file that several processes append to, bounded.
//!
//! Every process looks before it writes. Who finds the file too long renames it to `.1`, in the place of
//! the one before, under a lock on the file itself; everybody else notices that the name means another
//! file and opens that. What is written by one call goes to one file, whole; nothing is lost.

use rustix::fs::{FlockOperation, flock};
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Length at which a log is put aside: with the one before, twice this much is kept.
pub const LEN_MAX: u64 = 16 << 20;

/// An open log.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    len_max: u64,
    follow: Follow,
    file: Mutex<File>,
}

/// What else shall end up in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Nothing but what is appended here.
    Nothing,
    /// This process's standard output and error: panics, and what its children inherit.
    Stdio,
}

impl LogFile {
    /// Opens the log at `path`, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, len_max: u64, follow: Follow) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            len_max,
            follow,
            file: Mutex::new(open(path)?),
        })
    }

    /// The log at `path` if standard error goes there: a daemon started by hand logs to its terminal.
    pub fn of_stderr(path: &Path) -> Option<Self> {
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?);
        let same = is_same(
            &stderr.metadata().ok()?,
            &std::fs::symlink_metadata(path).ok()?,
        );
        same.then(|| Self::open(path, LEN_MAX, Follow::Stdio).ok())?
    }

    /// Makes `file` the one that `path` means, short enough to go on with.
    fn renew(&self, file: &mut File) -> io::Result<()> {
        let current = std::fs::symlink_metadata(&self.path);
        let is_current = match &current {
            Ok(named) => is_same(named, &file.metadata()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(_) => true,
        };
        if is_current && file.metadata()?.len() < self.len_max {
            return Ok(());
        }
        if is_current {
            self.put_aside()?;
        }
        *file = open(&self.path)?;
        if self.follow == Follow::Stdio {
            nix::unistd::dup2_stdout(&*file)?;
            nix::unistd::dup2_stderr(&*file)?;
        }
        Ok(())
    }

    /// Renames the log, unless somebody else just did. The lock is on an opening of its own: those
    /// that were inherited share theirs.
    fn put_aside(&self) -> io::Result<()> {
        let long = open(&self.path)?;
        flock(&long, FlockOperation::LockExclusive)?;
        let found = long.metadata()?;
        if found.len() < self.len_max || !is_same(&found, &std::fs::symlink_metadata(&self.path)?) {
            return Ok(());
        }
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        std::fs::rename(&self.path, aside)
    }
}

impl Write for &LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be renewed is better too long than silent.
        let _ = self.renew(&mut file);
        file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn a_long_log_is_put_aside_once_and_the_older_one_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = LogFile::open(&path, 100, Follow::Nothing).unwrap();
        for line in 0..35 {
            writeln!(&log, "line {line:04}").unwrap();
        }
        let [now, before] = [read(&path), read(&dir.path().join("log.1"))];
        assert!(now.len() < 110 && before.len() < 110, "{now}{before}");
        assert!(now.ends_with("line 0034\n"));
        let lines: Vec<_> = before.lines().chain(now.lines()).collect();
        assert!(lines.is_sorted() && lines.len() >= 10, "{lines:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn several_writers_lose_no_line_between_two_files() {
        const WRITERS: usize = 4;
        const LINES: usize = 500;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        // Once only is it put aside: everything must be in one of the two.
        let len_max = (WRITERS * LINES * 10 * 2 / 3) as u64;
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let path = &path;
                scope.spawn(move || {
                    let mut log = &LogFile::open(path, len_max, Follow::Nothing).unwrap();
                    for line in 0..LINES {
                        let line = format!("{writer} {line:07}\n");
                        log.write_all(line.as_bytes()).unwrap();
                    }
                });
            }
        });
        let both = read(&dir.path().join("log.1")) + &read(&path);
        let mut lines: Vec<_> = both.lines().collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), WRITERS * LINES);
        assert!(lines.iter().all(|line| line.len() == 9));
    }

    #[test]
    fn a_log_that_somebody_removed_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = LogFile::open(&path, 1000, Follow::Nothing).unwrap();
        writeln!(&log, "before").unwrap();
        std::fs::remove_file(&path).unwrap();
        writeln!(&log, "after").unwrap();
        assert_eq!(read(&path), "after\n");
    }
}
