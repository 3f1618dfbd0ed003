//! A tiny language for file system cases: one command per `;`, each making one
//! system call below a root directory and noting its answer.
//!
//! Words: `N255` is a name of 255 letters, `LONG` a path of more than 4,096
//! bytes. Descriptors are kept in numbered slots (`hold 0 path flags`).

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Runs scripts below `root` and keeps what they saw.
pub(crate) struct Machine<'a> {
    root: &'a Path,
    slots: Vec<Option<OwnedFd>>,
    noted_inode: u64,
    log: String,
}

type Answer = Result<String, Errno>;

fn done(result: Result<(), Errno>) -> Answer {
    result.map(|()| "ok".to_owned())
}

impl<'a> Machine<'a> {
    /// Runs `script` and returns one line per command: `command -> answer`.
    pub(crate) fn run(root: &'a Path, script: &str) -> String {
        let mut machine = Machine {
            root,
            slots: (0..4).map(|_| None).collect(),
            noted_inode: 0,
            log: String::new(),
        };
        for command in script.split(';').map(str::trim).filter(|c| !c.is_empty()) {
            let answer = machine.command(command);
            let text = match answer {
                Ok(text) => text,
                Err(errno) => format!("{errno:?}"),
            };
            writeln!(machine.log, "{command} -> {text}").expect("writing to a string");
        }
        become_user(0, 0);
        rustix::process::umask(Mode::empty());
        machine.log
    }

    fn path(&self, word: &str) -> PathBuf {
        if word == "LONG" {
            return self.root.join("x/".repeat(2100));
        }
        let parts = word.split('/').map(|part| match part.strip_prefix('N') {
            Some(count) if !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit()) => {
                "n".repeat(count.parse().expect("digits"))
            }
            _ => part.to_owned(),
        });
        let mut relative = parts.collect::<Vec<_>>().join("/");
        if relative == "." {
            relative = String::new();
        }
        let mut full = self.root.as_os_str().to_owned();
        full.push("/");
        full.push(relative);
        PathBuf::from(full)
    }

    /// What a slot holds; `EBADF` when filling it failed.
    fn slot(&self, word: &str) -> Result<&OwnedFd, Errno> {
        self.slots[number(word) as usize]
            .as_ref()
            .ok_or(Errno::BADF)
    }

    fn keep(&mut self, word: &str, fd: OwnedFd) {
        self.slots[number(word) as usize] = Some(fd);
    }

    fn command(&mut self, command: &str) -> Answer {
        let words: Vec<&str> = command.split_whitespace().collect();
        let arg = |i: usize| *words.get(i).unwrap_or(&"");
        match words[0] {
            "as" => {
                become_user(number(arg(1)) as u32, number(arg(2)) as u32);
                Ok("ok".to_owned())
            }
            "umask" => {
                rustix::process::umask(mode(arg(1)));
                Ok("ok".to_owned())
            }
            "open" | "hold" | "close" | "tmpfile" | "linkfd" => self.descriptors(&words),
            "write" | "read" | "append" | "ftruncate" | "fallocate" | "fsync" | "seek" | "mmap"
            | "fchmod" | "fchown" | "fstat" | "readmmap" | "flock" => self.on_slot(&words),
            "setxattr" | "getxattr" | "removexattr" | "listxattr" => self.xattrs(&words),
            "stat" | "lstat" | "access" | "ls" | "ino" | "sameino" | "samefile" | "readlink"
            | "cat" | "statfs" => self.look(&words),
            _ => self.change(&words),
        }
    }

    fn descriptors(&mut self, words: &[&str]) -> Answer {
        let arg = |i: usize| *words.get(i).unwrap_or(&"");
        match words[0] {
            "open" => {
                let perm = if arg(3).is_empty() { "644" } else { arg(3) };
                let opened = rustix::fs::open(self.path(arg(1)), open_flags(arg(2)), mode(perm));
                done(opened.map(drop))
            }
            "hold" => {
                let perm = if arg(4).is_empty() { "644" } else { arg(4) };
                let fd = rustix::fs::open(self.path(arg(2)), open_flags(arg(3)), mode(perm))?;
                self.keep(arg(1), fd);
                Ok("ok".to_owned())
            }
            "tmpfile" => {
                let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
                let fd = rustix::fs::open(self.path(arg(2)), flags, mode(arg(3)))?;
                self.keep(arg(1), fd);
                Ok("ok".to_owned())
            }
            "linkfd" => {
                use std::os::fd::AsRawFd;
                let link = format!("/proc/self/fd/{}", self.slot(arg(1))?.as_raw_fd());
                let to = self.path(arg(2));
                done(rustix::fs::linkat(
                    CWD,
                    link,
                    CWD,
                    to,
                    AtFlags::SYMLINK_FOLLOW,
                ))
            }
            _ => {
                self.slots[number(arg(1)) as usize] = None;
                Ok("ok".to_owned())
            }
        }
    }

    fn on_slot(&self, words: &[&str]) -> Answer {
        let arg = |i: usize| *words.get(i).unwrap_or(&"");
        let fd = self.slot(arg(1))?;
        match words[0] {
            "write" => {
                let data = arg(3).as_bytes();
                Ok(rustix::io::pwrite(fd, data, number(arg(2)))?.to_string())
            }
            "append" => Ok(rustix::io::write(fd, arg(2).as_bytes())?.to_string()),
            "read" => {
                let mut data = vec![0_u8; number(arg(3)) as usize];
                let len = rustix::io::pread(fd, &mut data, number(arg(2)))?;
                Ok(String::from_utf8_lossy(&data[..len])
                    .escape_debug()
                    .to_string())
            }
            "ftruncate" => done(rustix::fs::ftruncate(fd, number(arg(2)))),
            "fallocate" => done(rustix::fs::fallocate(
                fd,
                fallocate_flags(arg(2)),
                number(arg(3)),
                number(arg(4)),
            )),
            "fsync" => done(rustix::fs::fsync(fd)),
            "seek" => {
                let from = match arg(2) {
                    "data" => rustix::fs::SeekFrom::Data(number(arg(3))),
                    "hole" => rustix::fs::SeekFrom::Hole(number(arg(3))),
                    _ => rustix::fs::SeekFrom::End(0),
                };
                Ok(rustix::fs::seek(fd, from)?.to_string())
            }
            "mmap" => done(crate::sys::mmap_write(
                fd.as_fd(),
                number(arg(2)),
                arg(3).as_bytes(),
            )),
            "readmmap" => {
                crate::sys::mmap_read(fd.as_fd(), number(arg(2)), number(arg(3)) as usize)
                    .map(|data| String::from_utf8_lossy(&data).escape_debug().to_string())
            }
            "fchmod" => done(rustix::fs::fchmod(fd, mode(arg(2)))),
            "fchown" => done(rustix::fs::fchown(fd, uid(arg(2)), gid(arg(3)))),
            "flock" => done(rustix::fs::flock(
                fd,
                rustix::fs::FlockOperation::NonBlockingLockExclusive,
            )),
            _ => Ok(describe(&rustix::fs::fstat(fd)?, arg(2))),
        }
    }

    fn xattrs(&self, words: &[&str]) -> Answer {
        let arg = |i: usize| *words.get(i).unwrap_or(&"");
        let path = self.path(arg(1));
        match words[0] {
            "setxattr" => {
                let flags = match arg(4) {
                    "create" => XattrFlags::CREATE,
                    "replace" => XattrFlags::REPLACE,
                    _ => XattrFlags::empty(),
                };
                let value = match arg(3).strip_prefix('*') {
                    Some(count) => vec![b'v'; number(count) as usize],
                    None => arg(3).as_bytes().to_vec(),
                };
                done(rustix::fs::lsetxattr(path, arg(2), &value, flags))
            }
            "getxattr" => {
                let mut value = vec![0_u8; 70_000];
                let len = rustix::fs::lgetxattr(path, arg(2), &mut value)?;
                Ok(String::from_utf8_lossy(&value[..len])
                    .escape_debug()
                    .to_string())
            }
            "removexattr" => done(rustix::fs::lremovexattr(path, arg(2))),
            _ => {
                let mut names = vec![0_u8; 70_000];
                let len = rustix::fs::llistxattr(path, &mut names)?;
                let names = String::from_utf8_lossy(&names[..len]).into_owned();
                let mut names: Vec<&str> = names.split('\0').filter(|n| !n.is_empty()).collect();
                names.sort_unstable();
                Ok(names.join(","))
            }
        }
    }

    fn look(&mut self, words: &[&str]) -> Answer {
        let arg = |i: usize| *words.get(i).unwrap_or(&"");
        let path = self.path(arg(1));
        match words[0] {
            "stat" => Ok(describe(&rustix::fs::stat(path)?, arg(2))),
            "lstat" => Ok(describe(&rustix::fs::lstat(path)?, arg(2))),
            "statfs" => Ok(rustix::fs::statfs(path)?.f_namelen.to_string()),
            "access" => {
                let mut access = Access::EXISTS;
                for letter in arg(2).chars() {
                    access |= match letter {
                        'r' => Access::READ_OK,
                        'w' => Access::WRITE_OK,
                        _ => Access::EXEC_OK,
                    };
                }
                done(rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS))
            }
            "ino" => {
                self.noted_inode = rustix::fs::lstat(path)?.st_ino;
                Ok("noted".to_owned())
            }
            "sameino" => Ok((rustix::fs::lstat(path)?.st_ino == self.noted_inode).to_string()),
            "samefile" => {
                let other = rustix::fs::lstat(self.path(arg(2)))?;
                let this = rustix::fs::lstat(path)?;
                Ok(((this.st_dev, this.st_ino) == (other.st_dev, other.st_ino)).to_string())
            }
            "readlink" => {
                let target = rustix::fs::readlink(path, Vec::new())?;
                Ok(target.to_string_lossy().into_owned())
            }
            "cat" => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let fd = rustix::fs::open(path, flags, Mode::empty())?;
                let mut data = [0_u8; 64];
                let len = rustix::io::read(&fd, &mut data)?;
                Ok(String::from_utf8_lossy(&data[..len])
                    .escape_debug()
                    .to_string())
            }
            _ => list(&path),
        }
    }

    fn change(&self, words: &[&str]) -> Answer {
        let arg = |i: usize| *words.get(i).unwrap_or(&"");
        let path = self.path(arg(1));
        match words[0] {
            "mkdir" => done(rustix::fs::mkdir(path, mode(arg(2)))),
            "rmdir" => done(rustix::fs::rmdir(path)),
            "unlink" => done(rustix::fs::unlink(path)),
            "link" => done(rustix::fs::link(path, self.path(arg(2)))),
            "linkfollow" => done(rustix::fs::linkat(
                CWD,
                path,
                CWD,
                self.path(arg(2)),
                AtFlags::SYMLINK_FOLLOW,
            )),
            "symlink" => {
                let target = match arg(1) {
                    "T4095" => "t".repeat(4095),
                    "T4096" => "t".repeat(4096),
                    other => other.to_owned(),
                };
                done(rustix::fs::symlink(target, self.path(arg(2))))
            }
            "rename" => {
                let flags = match arg(3) {
                    "noreplace" => RenameFlags::NOREPLACE,
                    "exchange" => RenameFlags::EXCHANGE,
                    "whiteout" => RenameFlags::WHITEOUT,
                    _ => RenameFlags::empty(),
                };
                let to = self.path(arg(2));
                done(rustix::fs::renameat_with(CWD, path, CWD, to, flags))
            }
            "chmod" => done(rustix::fs::chmod(path, mode(arg(2)))),
            "chown" => done(rustix::fs::chown(path, uid(arg(2)), gid(arg(3)))),
            "lchown" => done(rustix::fs::chownat(
                CWD,
                path,
                uid(arg(2)),
                gid(arg(3)),
                AtFlags::SYMLINK_NOFOLLOW,
            )),
            "truncate" => done(
                nix::unistd::truncate(&path, length(arg(2)))
                    .map_err(|errno| Errno::from_raw_os_error(errno as i32)),
            ),
            "utimes" | "lutimes" => {
                let times = Timestamps {
                    last_access: timespec(arg(2)),
                    last_modification: timespec(arg(3)),
                };
                let flags = if words[0] == "lutimes" {
                    AtFlags::SYMLINK_NOFOLLOW
                } else {
                    AtFlags::empty()
                };
                done(rustix::fs::utimensat(CWD, path, &times, flags))
            }
            "mknod" => done(make_node(&path, arg(2), arg(3), arg(4), arg(5))),
            other => panic!("no such command: {other}"),
        }
    }
}

fn become_user(uid: u32, gid: u32) {
    // Effective ids of this thread only; back to root first, to be allowed to.
    let keep = None::<Uid>;
    let set_uid = |id| rustix::thread::set_thread_res_uid(keep, Uid::from_raw(id), keep);
    set_uid(0).expect("the saved user id is root");
    rustix::thread::set_thread_groups(&[]).expect("root sets groups");
    let keep = None::<Gid>;
    rustix::thread::set_thread_res_gid(keep, Gid::from_raw(gid), keep).expect("root sets groups");
    set_uid(uid).expect("root sets users");
}

fn number(word: &str) -> u64 {
    let (digits, unit) = match word.strip_suffix('k') {
        Some(digits) => (digits, 1024),
        None => (word, 1),
    };
    digits
        .parse::<u64>()
        .unwrap_or_else(|_| panic!("a number, not {word:?}"))
        * unit
}

fn length(word: &str) -> i64 {
    match word.strip_prefix('-') {
        Some(word) => -number(word).cast_signed(),
        None => number(word).cast_signed(),
    }
}

fn mode(word: &str) -> Mode {
    Mode::from_raw_mode(u32::from_str_radix(word, 8).unwrap_or_else(|_| panic!("a mode: {word:?}")))
}

fn uid(word: &str) -> Option<Uid> {
    (word != "-").then(|| Uid::from_raw(number(word) as u32))
}

fn gid(word: &str) -> Option<Gid> {
    (word != "-").then(|| Gid::from_raw(number(word) as u32))
}

fn open_flags(word: &str) -> OFlags {
    word.split(',').fold(OFlags::CLOEXEC, |flags, name| {
        flags
            | match name {
                "rd" => OFlags::RDONLY,
                "wr" => OFlags::WRONLY,
                "rw" => OFlags::RDWR,
                "creat" => OFlags::CREATE,
                "excl" => OFlags::EXCL,
                "trunc" => OFlags::TRUNC,
                "append" => OFlags::APPEND,
                "dir" => OFlags::DIRECTORY,
                "nofollow" => OFlags::NOFOLLOW,
                "nonblock" => OFlags::NONBLOCK,
                "path" => OFlags::PATH,
                "direct" => OFlags::DIRECT,
                "noatime" => OFlags::NOATIME,
                "sync" => OFlags::SYNC,
                other => panic!("no such flag: {other}"),
            }
    })
}

fn fallocate_flags(word: &str) -> FallocateFlags {
    match word {
        "keep" => FallocateFlags::KEEP_SIZE,
        "punch" => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        "zero" => FallocateFlags::ZERO_RANGE,
        _ => FallocateFlags::empty(),
    }
}

fn timespec(word: &str) -> Timespec {
    let (seconds, nanos) = match word {
        "omit" => (0, rustix::fs::UTIME_OMIT),
        "now" => (0, rustix::fs::UTIME_NOW),
        "bad" => (0, 2_000_000_000),
        _ => {
            let (seconds, nanos) = word.split_once('.').unwrap_or((word, "0"));
            (
                seconds.parse().expect("seconds"),
                nanos.parse().expect("ns"),
            )
        }
    };
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    }
}

fn make_node(path: &Path, kind: &str, perm: &str, major: &str, minor: &str) -> Result<(), Errno> {
    let (file_type, device) = match kind {
        "c" => (FileType::CharacterDevice, (major, minor)),
        "b" => (FileType::BlockDevice, (major, minor)),
        "p" => (FileType::Fifo, ("0", "0")),
        "s" => (FileType::Socket, ("0", "0")),
        _ => (FileType::RegularFile, ("0", "0")),
    };
    let device = rustix::fs::makedev(number(device.0) as u32, number(device.1) as u32);
    rustix::fs::mknodat(CWD, path, file_type, mode(perm), device)
}

/// The wanted fields of a stat, a letter each.
fn describe(stat: &rustix::fs::Stat, fields: &str) -> String {
    let mut text = String::new();
    for field in fields.chars() {
        let value = match field {
            't' => format!("{:?}", FileType::from_raw_mode(stat.st_mode)),
            'p' => format!("{:o}", stat.st_mode & 0o7777),
            'u' => format!("{}:{}", stat.st_uid, stat.st_gid),
            's' => stat.st_size.to_string(),
            'n' => stat.st_nlink.to_string(),
            'm' => format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec),
            'a' => format!("{}.{:09}", stat.st_atime, stat.st_atime_nsec),
            'r' => stat.st_rdev.to_string(),
            other => panic!("no such field: {other}"),
        };
        write!(text, "{field}={value} ").expect("writing to a string");
    }
    text.trim_end().to_owned()
}

fn list(path: &Path) -> Answer {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&fd)? {
        let entry = entry?;
        names.push(format!(
            "{}:{:?}",
            entry.file_name().to_string_lossy(),
            entry.file_type()
        ));
    }
    names.sort_unstable();
    Ok(names.join(","))
}
