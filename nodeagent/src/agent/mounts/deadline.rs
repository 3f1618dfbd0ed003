//! How long the caller of a mount waits. Work that is not done by then is undone, not finished for
//! nobody.

use crate::agent::failure::{Result, refused};
use crate::api::{FailureKind, MountCall, clock_ms};
use std::time::Duration;

/// The end of a caller's patience; there may be none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Option<u64>);

impl Deadline {
    pub(super) fn of(call: &MountCall) -> Self {
        Self(call.deadline_ms)
    }

    /// What is left of it, if it has an end.
    pub(super) fn left(self) -> Option<Duration> {
        let left = self.0?.saturating_sub(clock_ms());
        Some(Duration::from_millis(left))
    }

    /// Refuses to go on when the time is over; `done` says after what.
    pub(super) fn check(self, done: &str) -> Result<()> {
        if self.0.is_none_or(|end| clock_ms() < end) {
            return Ok(());
        }
        let message = format!(
            "the time given was over after {done}; nothing was left mounted. Try again, or give \
             more time (--timeout)"
        );
        Err(refused(FailureKind::Timeout, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_passed_is_a_timeout_and_none_never_passes() {
        Deadline(None).check("waiting").unwrap();
        Deadline(Some(u64::MAX)).check("waiting").unwrap();
        let late = Deadline(Some(clock_ms())).check("waiting").unwrap_err();
        assert_eq!(late.kind, FailureKind::Timeout);
        assert_eq!(Deadline(Some(1)).left(), Some(Duration::ZERO));
        assert_eq!(Deadline(None).left(), None);
        assert!(late.message.contains("waiting"), "{late}");
    }
}
