//! `os/arch[/variant]`, and which of an index's manifests fits one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image is built for, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    #[serde(rename = "architecture")]
    pub arch: String,
    /// `v7`, `v8`, ...; empty when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform; expected os/arch or os/arch/variant, as in linux/arm64")]
pub struct PlatformError(String);

impl Platform {
    /// The platform this program runs on.
    pub fn host() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self {
            os: "linux".to_owned(),
            arch: arch.to_owned(),
            variant: String::new(),
        }
    }

    /// How well `offered` serves this wish: `None` not at all, higher is better.
    pub fn fit(&self, offered: &Self) -> Option<u8> {
        if self.os != offered.os || self.arch != offered.arch {
            return None;
        }
        match (self.plain_variant(), offered.plain_variant()) {
            (a, b) if a == b => Some(3),
            ("", _) => Some(1),
            (_, "") => Some(2),
            // An older ARM variant runs on a newer one.
            (a, b) if self.arch == "arm" && b < a => Some(1),
            _ => None,
        }
    }

    /// `arm64/v8` is how some tools write `arm64`, `amd64/v1` `amd64`.
    fn plain_variant(&self) -> &str {
        match (self.arch.as_str(), self.variant.as_str()) {
            ("arm64", "v8") | ("amd64", "v1") => "",
            (_, variant) => variant,
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |p: &&str| {
            !p.is_empty() && p.len() < 32 && p.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(word) {
            return Err(PlatformError(text.chars().take(100).collect()));
        }
        let variant = parts.get(2).copied().unwrap_or_default().to_owned();
        Ok(Self {
            os: parts[0].to_owned(),
            arch: parts[1].to_owned(),
            variant,
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn variants_fit_by_rank() {
        for (want, offered, fit) in [
            ("linux/amd64", "linux/amd64", Some(3)),
            ("linux/arm64", "linux/arm64/v8", Some(3)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm/v7", "linux/arm", Some(2)),
            ("linux/arm", "linux/arm/v7", Some(1)),
            ("linux/amd64", "windows/amd64", None),
            ("linux/amd64", "linux/arm64", None),
        ] {
            assert_eq!(p(want).fit(&p(offered)), fit, "{want} <- {offered}");
        }
    }

    #[test]
    fn texts_that_are_no_platform_are_refused() {
        for bad in [
            "",
            "linux",
            "linux/",
            "a/b/c/d",
            "li nux/amd64",
            "linux//v8",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        assert_eq!(p("linux/arm/v7").to_string(), "linux/arm/v7");
    }
}
