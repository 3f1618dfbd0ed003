//! Why an agent cannot start: `agent.error` in the instance's directory, for who waits for it.
//!
//! An agent that fails leaves its error and is started again; one that serves removes it. So the file
//! counts failures in a row: one may be bad luck (a mount daemon that was killed at the same moment),
//! several are a cause that only the user can mend.

use super::failure::{chain_kind, failure};
use crate::api::{Failure, clock_ms};
use crate::instance::Instance;
use crate::rundir;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// Failures in a row that are no bad luck any more; they follow each other within 100 ms.
const ROW: u32 = 3;
/// Longest message kept, and file read.
const MESSAGE_MAX: usize = 4096;
const FILE_MAX: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Trouble {
    /// When, by [`clock_ms`].
    at_ms: u64,
    /// Failures in a row.
    row: u32,
    failure: Failure,
}

/// Leaves an agent's error for who waits. Best effort: the log has it, too.
pub(crate) fn leave(instance: &Instance, error: &anyhow::Error) {
    let row = read(instance).map_or(0, |before| before.row);
    let mut failure = failure(chain_kind(error), error.as_ref());
    failure
        .message
        .truncate(failure.message.floor_char_boundary(MESSAGE_MAX));
    let trouble = Trouble {
        at_ms: clock_ms(),
        row: row.saturating_add(1),
        failure,
    };
    if let Err(error) = write(instance, &trouble) {
        tracing::warn!(%error, "leave the error for those who wait");
    }
}

/// Forgets what earlier agents left.
pub fn forget(instance: &Instance) {
    // Mostly it is not there.
    let _ = std::fs::remove_file(path(instance));
}

/// Why no agent serves although it was started again and again, also after `since_ms` (by
/// [`clock_ms`]).
pub fn since(instance: &Instance, since_ms: u64) -> Option<Failure> {
    let trouble = read(instance)?;
    (trouble.row >= ROW && trouble.at_ms >= since_ms).then_some(trouble.failure)
}

fn path(instance: &Instance) -> PathBuf {
    instance.dir().join("agent.error")
}

/// Whole or not at all. Agents do not run beside each other while they start.
fn write(instance: &Instance, trouble: &Trouble) -> io::Result<()> {
    rundir::replace_file(&path(instance), &serde_json::to_vec(trouble)?)
}

fn read(instance: &Instance) -> Option<Trouble> {
    let file = File::open(path(instance)).ok()?;
    let mut text = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FailureKind;
    use anyhow::Context;

    #[test]
    fn failures_in_a_row_are_told_those_who_began_to_wait_before() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::at(dir.path().to_owned());
        let error = Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull))
            .context("open the cache")
            .unwrap_err();
        let began = clock_ms();
        for _ in 1..ROW {
            leave(&instance, &error);
            assert!(since(&instance, began).is_none());
        }
        leave(&instance, &error);
        let told = since(&instance, began).unwrap();
        assert_eq!(told.kind, FailureKind::Exhausted);
        assert!(told.message.contains("open the cache: "), "{told}");
        assert!(since(&instance, clock_ms() + 1).is_none(), "old news");
        forget(&instance);
        assert!(since(&instance, began).is_none());
    }
}
