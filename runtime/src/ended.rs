//! How a command ended, and the exit code by which people know it.

/// Lamina itself failed.
pub const EXIT_FAILED: u8 = 125;
/// The command cannot be run.
pub const EXIT_NOT_RUNNABLE: u8 = 126;
/// There is no such command.
pub const EXIT_NOT_FOUND: u8 = 127;
/// Killed with SIGKILL: by a limit, by whoever.
pub const EXIT_KILLED: u8 = 128 + 9;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(u8),
    /// By a signal.
    Signaled(u8),
    /// With its whole sandbox: by its supervisor, or for want of memory.
    Killed,
    /// It never ran, for this reason of `execve(2)`.
    NotRun {
        /// Why.
        errno: i32,
    },
}

impl Ended {
    pub(crate) fn of_status(status: i32) -> Self {
        match libc::WIFSIGNALED(status) {
            true => Self::Signaled(low_byte(libc::WTERMSIG(status))),
            false => Self::Exited(low_byte(libc::WEXITSTATUS(status))),
        }
    }

    /// As shells and other container tools have it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
            Self::Killed => EXIT_KILLED,
            Self::NotRun { errno } => match errno {
                libc::ENOENT | libc::ENOTDIR => EXIT_NOT_FOUND,
                _ => EXIT_NOT_RUNNABLE,
            },
        }
    }
}

/// Most characters of a program's name that are repeated.
const NAME_MAX: usize = 256;

/// Why a program cannot be run, for people: `errno` alone does not say what was looked for.
pub fn not_run(program: &str, errno: i32) -> String {
    let why = std::io::Error::from_raw_os_error(errno);
    let name: String = program.chars().take(NAME_MAX).collect();
    let why = match (errno, program.contains('/')) {
        (libc::ENOENT, false) => format!("there is no {name:?} in a directory of PATH"),
        (libc::ENOENT, true) => format!("{name:?}, or what it is to be run by: {why}"),
        _ => format!("{name:?}: {why}"),
    };
    format!("the command cannot be run: {why}")
}

/// Both are seven or eight bits of the status.
fn low_byte(number: i32) -> u8 {
    number.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_be_run_is_named() {
        for (program, errno, said) in [
            (
                "nosuch",
                libc::ENOENT,
                "there is no \"nosuch\" in a directory of PATH",
            ),
            (
                "/a b",
                libc::ENOENT,
                "\"/a b\", or what it is to be run by: No such file",
            ),
            ("/etc", libc::EACCES, "\"/etc\": Permission denied"),
        ] {
            let why = not_run(program, errno);
            assert!(why.contains(said), "{why}");
        }
        assert!(not_run(&"x".repeat(1 << 20), libc::E2BIG).len() < 1000);
    }

    #[test]
    fn exit_codes_are_those_people_know() {
        let cases = [
            (Ended::of_status(0), 0),
            (Ended::of_status(3 << 8), 3),
            (Ended::of_status(15), 143),
            (Ended::of_status(9), 137),
            // With a core.
            (Ended::of_status(0x8b), 139),
            (Ended::Killed, 137),
            (
                Ended::NotRun {
                    errno: libc::ENOENT,
                },
                127,
            ),
            (
                Ended::NotRun {
                    errno: libc::EACCES,
                },
                126,
            ),
            (
                Ended::NotRun {
                    errno: libc::ENOEXEC,
                },
                126,
            ),
        ];
        for (ended, code) in cases {
            assert_eq!(ended.exit_code(), code, "{ended:?}");
        }
    }
}
