//! How a run ended, as its client is told. Pure.

use lamina_proto::afsletpb::{EndReason, Result as RunResult, Usage};
use lamina_runtime::{Ended, cgroup, ended};

use crate::limits::size;
use crate::order::Bounds;

/// Why we ended a run ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    TimedOut,
    LogLimit,
    Drained,
    /// It ended well, and what it changed could not be kept: why is for who tried to say.
    NotKept,
    /// The client is gone: nobody is told.
    Gone,
}

/// What is known when a run has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) ended: Ended,
    pub(crate) cause: Option<Cause>,
    pub(crate) used: cgroup::Usage,
    /// Changes could still be made.
    pub(crate) has_room: bool,
    pub(crate) times: Times,
    pub(crate) log_bytes: u64,
}

/// Microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) image: u64,
    pub(crate) startup: u64,
    pub(crate) wall: u64,
}

impl Outcome {
    pub(crate) fn reason(&self) -> EndReason {
        let was_killed = matches!(self.ended, Ended::Killed | Ended::Signaled(9));
        let code = self.ended.exit_code();
        match (self.cause, self.ended) {
            (Some(Cause::TimedOut), _) => EndReason::TimedOut,
            (Some(Cause::LogLimit), _) => EndReason::LogLimit,
            (Some(Cause::Drained), _) => EndReason::Drained,
            (Some(Cause::NotKept), _) => EndReason::NotKept,
            // Nobody is told.
            (Some(Cause::Gone), _) => EndReason::Unspecified,
            // Of a shell whose child was killed, the shell's code is all that says so.
            (None, _) if self.used.out_of_memory_kills > 0 && (was_killed || code == 137) => {
                EndReason::OutOfMemory
            }
            (None, Ended::NotRun { .. }) => EndReason::NotRun,
            (None, Ended::Exited(_)) => EndReason::Exited,
            (None, Ended::Signaled(_) | Ended::Killed) => EndReason::Signalled,
        }
    }

    /// As the client is told; `program` is what was to run, if it could not be.
    pub(crate) fn result(&self, bounds: &Bounds, program: &str) -> RunResult {
        let reason = self.reason();
        let exit_code = self.ended.exit_code();
        let success = self.is_success();
        RunResult {
            success,
            exit_code: exit_code.into(),
            error: match success {
                true => String::new(),
                false => self.explained(reason, bounds, program),
            },
            reason: reason.into(),
            signal: match self.ended {
                Ended::Signaled(signal) => signal.into(),
                Ended::Killed => 9,
                _ => 0,
            },
            usage: Some(self.usage()),
            kept: None,
        }
    }

    /// By itself, with exit code 0.
    pub(crate) fn is_success(&self) -> bool {
        self.reason() == EndReason::Exited && self.ended.exit_code() == 0
    }

    fn explained(&self, reason: EndReason, bounds: &Bounds, program: &str) -> String {
        let memory = format!("memory_mb is {} MiB", bounds.memory_mb);
        let mut said = vec![match reason {
            EndReason::TimedOut => format!("timed out after {:?}: killed", bounds.timeout),
            EndReason::LogLimit => {
                let most = size(bounds.log_bytes);
                format!("it wrote more than {most} of logs: killed")
            }
            EndReason::Drained => "the afslet was told to end: killed".to_owned(),
            EndReason::NotKept => "what it changed could not be kept".to_owned(),
            EndReason::OutOfMemory => format!("out of memory: a process was killed: {memory}"),
            EndReason::NotRun => match self.ended {
                Ended::NotRun { errno } => ended::not_run(program, errno),
                _ => "the command cannot be run".to_owned(),
            },
            EndReason::Signalled => match self.ended {
                Ended::Signaled(signal) => format!("signal {signal} ended it"),
                _ => "it was killed".to_owned(),
            },
            EndReason::Exited | EndReason::Unspecified => {
                format!("it ended with exit code {}", self.ended.exit_code())
            }
        }];
        if self.used.out_of_memory_kills > 0 && reason != EndReason::OutOfMemory {
            said.push(format!("a process was killed for want of memory: {memory}"));
        }
        if self.used.pids_refused > 0 {
            said.push(format!("too many processes: pids_max is {}", bounds.pids));
        }
        if !self.has_room {
            said.push(format!(
                "its changes fill what they may: disk_mb is {} MiB",
                bounds.disk_mb
            ));
        }
        said.join("; ")
    }

    fn usage(&self) -> Usage {
        Usage {
            wall_us: signed(self.times.wall),
            cpu_us: signed(self.used.cpu_us),
            memory_peak_bytes: signed(self.used.memory_peak_bytes),
            startup_us: signed(self.times.startup),
            image_us: signed(self.times.image),
            log_bytes: signed(self.log_bytes),
        }
    }
}

/// A count as the protocol has it.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const BOUNDS: Bounds = Bounds {
        cpu_cores: 1,
        memory_mb: 64,
        disk_mb: 10,
        pids: 20,
        timeout: Duration::from_secs(3),
        log_bytes: 1000,
    };

    fn outcome(ended: Ended) -> Outcome {
        Outcome {
            ended,
            cause: None,
            used: cgroup::Usage::default(),
            has_room: true,
            times: Times::default(),
            log_bytes: 0,
        }
    }

    fn out_of_memory(ended: Ended) -> Outcome {
        let mut outcome = outcome(ended);
        outcome.used.out_of_memory_kills = 1;
        outcome
    }

    fn because(cause: Cause) -> Outcome {
        Outcome {
            cause: Some(cause),
            ..outcome(Ended::Killed)
        }
    }

    #[test]
    fn reasons_are_told_apart_and_named() {
        let not_there = Ended::NotRun {
            errno: libc_enoent(),
        };
        for (outcome, reason, code, said) in [
            (outcome(Ended::Exited(0)), EndReason::Exited, 0, ""),
            (
                outcome(Ended::Exited(3)),
                EndReason::Exited,
                3,
                "exit code 3",
            ),
            (
                outcome(Ended::Signaled(15)),
                EndReason::Signalled,
                143,
                "signal 15",
            ),
            (
                outcome(Ended::Killed),
                EndReason::Signalled,
                137,
                "it was killed",
            ),
            (
                outcome(not_there),
                EndReason::NotRun,
                127,
                "\"/bin/x\", or what it is to be run by: No such file",
            ),
            (
                because(Cause::TimedOut),
                EndReason::TimedOut,
                137,
                "timed out after 3s",
            ),
            (
                because(Cause::LogLimit),
                EndReason::LogLimit,
                137,
                "1000 bytes of logs",
            ),
            (
                Outcome {
                    cause: Some(Cause::NotKept),
                    ..outcome(Ended::Exited(0))
                },
                EndReason::NotKept,
                0,
                "could not be kept",
            ),
            (
                because(Cause::Drained),
                EndReason::Drained,
                137,
                "told to end",
            ),
            (
                out_of_memory(Ended::Killed),
                EndReason::OutOfMemory,
                137,
                "memory_mb is 64",
            ),
            (
                out_of_memory(Ended::Exited(137)),
                EndReason::OutOfMemory,
                137,
                "memory_mb is 64",
            ),
            (
                out_of_memory(Ended::Exited(1)),
                EndReason::Exited,
                1,
                "want of memory: memory_mb is 64",
            ),
            (out_of_memory(Ended::Exited(0)), EndReason::Exited, 0, ""),
        ] {
            let result = outcome.result(&BOUNDS, "/bin/x");
            assert_eq!(result.reason, i32::from(reason), "{outcome:?}");
            assert_eq!(result.exit_code, code, "{outcome:?}");
            assert_eq!(result.success, said.is_empty(), "{outcome:?}");
            assert!(result.error.contains(said), "{}", result.error);
            assert_eq!(result.error.is_empty(), said.is_empty(), "{}", result.error);
        }
    }

    #[test]
    fn limits_that_were_hit_on_the_way_are_named() {
        let mut outcome = because(Cause::TimedOut);
        outcome.used.pids_refused = 7;
        outcome.has_room = false;
        let said = outcome.result(&BOUNDS, "/bin/x").error;
        for expected in ["timed out", "pids_max is 20", "disk_mb is 10"] {
            assert!(said.contains(expected), "{said}");
        }
    }

    fn libc_enoent() -> i32 {
        rustix::io::Errno::NOENT.raw_os_error()
    }
}
