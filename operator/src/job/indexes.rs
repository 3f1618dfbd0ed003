//! A set of indexes as a status has it: `0-4,7`.

use std::collections::BTreeSet;
use std::fmt;

/// Indexes of runs, from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// What `text` names of the indexes below `end`; what makes no sense in it names none.
    pub(crate) fn parse(text: &str, end: i32) -> Self {
        let mut all = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else {
                continue;
            };
            all.extend(first.max(0)..=last.min(end - 1));
        }
        Self(all)
    }

    pub(crate) fn insert(&mut self, index: i32) -> bool {
        self.0.insert(index)
    }

    pub(crate) fn contains(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    pub(crate) fn count(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_written_as_it_is_read() {
        for text in ["", "0", "0-4,7", "1,3,5-9"] {
            assert_eq!(Indexes::parse(text, 10).to_string(), text);
        }
        let mut all = Indexes::parse("0-1,3", 10);
        assert!(all.insert(2) && !all.insert(3));
        assert_eq!((all.to_string().as_str(), all.count()), ("0-3", 4));
    }

    #[test]
    fn what_makes_no_sense_names_no_index() {
        for (text, expected) in [
            ("0-2000000000", "0-9"),
            ("-5", ""),
            ("a,3,4-b,9-7", "3"),
            ("12", ""),
        ] {
            assert_eq!(Indexes::parse(text, 10).to_string(), expected, "{text}");
        }
    }
}
