//! Roughly which entries of a blob somebody has: a bit for each of 256 sections of its map, set when any entry of the
//! section is there (`proto/lamina/v1/partials.proto`). Small enough to be told every second, fine enough to be worth
//! asking for.

/// How many there are.
pub const SECTIONS: u32 = 256;
/// Bytes of them.
pub const SECTIONS_LEN: usize = SECTIONS as usize / 8;

/// The bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sections([u8; SECTIONS_LEN]);

impl Sections {
    /// Of a blob of so many entries, of which those are there that `has` says.
    pub fn of(entries: u32, has: impl Fn(u32) -> bool) -> Self {
        let mut sections = Self::default();
        let size = size(entries);
        for section in 0..entries.div_ceil(size) {
            let first = section * size;
            let mut of_it = first..first.saturating_add(size).min(entries);
            if of_it.any(&has) {
                sections.0[(section / 8) as usize] |= 1 << (section % 8);
            }
        }
        sections
    }

    /// As they travel; `None` if it is another number of bytes.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// As they travel.
    pub fn as_bytes(&self) -> &[u8; SECTIONS_LEN] {
        &self.0
    }

    /// Whether an entry of a blob of so many may be there.
    pub fn may_have(&self, entries: u32, entry: u32) -> bool {
        let section = entry / size(entries);
        let byte = self.0.get((section / 8) as usize);
        entry < entries && byte.is_some_and(|byte| byte & (1 << (section % 8)) != 0)
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}

/// Entries of a section.
fn size(entries: u32) -> u32 {
    entries.div_ceil(SECTIONS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_never_missed_and_empty_sections_are_told() {
        for entries in [1, 2, 255, 256, 257, 1000, 100_000] {
            for entry in [0, entries / 3, entries - 1] {
                let sections = Sections::of(entries, |at| at == entry);
                assert!(sections.may_have(entries, entry));
                let is_beside = |other: u32| other / size(entries) == entry / size(entries);
                for other in [0, entries / 2, entries - 1] {
                    assert_eq!(sections.may_have(entries, other), is_beside(other));
                }
            }
            assert!(!Sections::default().may_have(entries, 0));
            let full = Sections([0xff; SECTIONS_LEN]);
            assert!(full.may_have(entries, entries - 1) && !full.may_have(entries, entries));
        }
        assert!(Sections::of(0, |_| true).is_empty());
        assert!(!Sections([0xff; SECTIONS_LEN]).may_have(0, 0));
        assert_eq!(Sections::parse(&[0; 31]), None);
        let one = Sections::of(9, |at| at == 8);
        assert_eq!(Sections::parse(one.as_bytes()), Some(one));
    }
}
