//! The user ids of sandboxes: each has a range of the host's that nobody else has.

/// Ids in a sandbox: what images use, the system's 65,536.
pub const IDS_PER_SANDBOX: u32 = 65_536;
/// First id given to sandboxes: above what accounts, subordinate ids and other container managers use
/// (`systemd-nspawn` ends at 1,879,048,191, but takes what is free from 524,288 on).
const FIRST: u32 = 0x7000_0000;
/// Sandboxes at most: the last range ends below 2^31, as some programs need.
pub const SANDBOXES_MAX: u32 = 4_000;

/// Ids of the host that are the ids 0, 1, … of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    first: u32,
}

impl IdRange {
    /// The range of a sandbox by its number; `None` when there are no so many.
    pub fn of_slot(slot: u32) -> Option<Self> {
        let first = FIRST + slot.checked_mul(IDS_PER_SANDBOX)?;
        (slot < SANDBOXES_MAX).then_some(Self { first })
    }

    /// The host's id of 0.
    pub fn first(self) -> u32 {
        self.first
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        IDS_PER_SANDBOX
    }

    /// The host's id of an id inside, if it has one.
    pub fn to_host(self, id: u32) -> Option<u32> {
        (id < IDS_PER_SANDBOX).then(|| self.first + id)
    }

    /// The id inside that one of the host is, if it is any.
    pub fn to_inside(self, id: u32) -> Option<u32> {
        id.checked_sub(self.first)
            .filter(|inside| *inside < IDS_PER_SANDBOX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_meet_and_stay_below_two_to_the_31() {
        let first = IdRange::of_slot(0).unwrap();
        let second = IdRange::of_slot(1).unwrap();
        assert_eq!(first.to_host(IDS_PER_SANDBOX), None);
        assert_eq!(first.to_host(65_535).map(|id| id + 1), second.to_host(0));
        assert_eq!(second.to_inside(first.first()), None);
        assert_eq!(second.to_inside(second.first() + 7), Some(7));
        let last = IdRange::of_slot(SANDBOXES_MAX - 1).unwrap();
        assert!(last.to_host(65_535).is_some_and(|id| id < 1 << 31));
        assert_eq!(IdRange::of_slot(SANDBOXES_MAX), None);
    }
}
