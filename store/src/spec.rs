//! A store and the part of the hash space it owns: `00-7f=s3://bucket`, or just a URL for all of it.
//!
//! Objects go to every store whose range holds the first byte of their name. Giving a range twice makes
//! replicas; together the ranges must cover 00-ff.

use std::fmt;
use std::str::FromStr;

use crate::url::{StoreUrl, StoreUrlError};

/// First bytes of object names, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShardRange {
    first: u8,
    last: u8,
}

impl ShardRange {
    /// Everything.
    pub const ALL: Self = Self {
        first: 0,
        last: 0xff,
    };

    /// `first..=last`, or `None` when that is empty.
    pub fn new(first: u8, last: u8) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Whether objects whose name starts with `byte` belong here.
    pub fn contains(&self, byte: u8) -> bool {
        (self.first..=self.last).contains(&byte)
    }
}

impl fmt::Display for ShardRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}-{:02x}", self.first, self.last)
    }
}

impl FromStr for ShardRange {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        let byte = |part: &str| {
            let mut value = [0];
            hex::decode_to_slice(part, &mut value)
                .ok()
                .map(|()| value[0])
        };
        text.split_once('-')
            .and_then(|(first, last)| Self::new(byte(first)?, byte(last)?))
            .ok_or_else(|| StoreUrlError::BadRange(text.to_owned()))
    }
}

/// A store's URL and the range it owns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreSpec {
    /// Which objects.
    pub range: ShardRange,
    /// Where.
    pub url: StoreUrl,
}

impl StoreSpec {
    /// A store for everything.
    pub fn all(url: StoreUrl) -> Self {
        Self {
            range: ShardRange::ALL,
            url,
        }
    }

    /// The same without secrets.
    #[must_use]
    pub fn strip_credentials(&self) -> Self {
        Self {
            range: self.range,
            url: self.url.strip_credentials(),
        }
    }

    /// The text of the spec, password included.
    pub fn expose(&self) -> String {
        self.prefix() + &self.url.expose()
    }

    fn prefix(&self) -> String {
        if self.range == ShardRange::ALL {
            String::new()
        } else {
            format!("{}=", self.range)
        }
    }
}

impl fmt::Display for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix(), self.url)
    }
}

impl FromStr for StoreSpec {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        let text = text.trim();
        match text.split_once('=') {
            Some((range, url)) if !range.contains(['/', ':']) => Ok(Self {
                range: range.parse()?,
                url: url.parse()?,
            }),
            _ => Ok(Self::all(text.parse()?)),
        }
    }
}

/// The first byte that no range holds, if any.
pub(crate) fn first_gap<'a>(ranges: impl Iterator<Item = &'a ShardRange>) -> Option<u8> {
    let ranges: Vec<_> = ranges.collect();
    (0..=u8::MAX).find(|byte| !ranges.iter().any(|range| range.contains(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_prefix_reads_back() {
        let spec: StoreSpec = "00-7F=s3://bucket/p?endpoint=http://127.0.0.1:1"
            .parse()
            .unwrap();
        assert_eq!(spec.range, ShardRange::new(0, 0x7f).unwrap());
        assert_eq!(
            spec.to_string(),
            "00-7f=s3://bucket/p?endpoint=http://127.0.0.1:1"
        );
        assert_eq!(spec.to_string().parse::<StoreSpec>().unwrap(), spec);
    }

    #[test]
    fn equals_sign_inside_a_url_or_path_is_not_a_range() {
        assert_eq!(
            "/srv/a=b".parse::<StoreSpec>().unwrap().range,
            ShardRange::ALL
        );
        assert_eq!(
            "s3://b?region=x".parse::<StoreSpec>().unwrap().range,
            ShardRange::ALL
        );
    }

    #[test]
    fn bad_ranges_are_named() {
        for text in [
            "80-7f=dir:///a",
            "0-7=dir:///a",
            "zz-ff=dir:///a",
            "=dir:///a",
            "00=dir:///a",
        ] {
            let error = text.parse::<StoreSpec>().unwrap_err();
            assert!(
                matches!(error, StoreUrlError::BadRange(_)),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn gap_in_ranges_is_found() {
        let ranges = [
            ShardRange::new(0, 0x7f).unwrap(),
            ShardRange::new(0x81, 0xff).unwrap(),
        ];
        assert_eq!(first_gap(ranges.iter()), Some(0x80));
        assert_eq!(first_gap([ShardRange::ALL].iter()), None);
    }
}
