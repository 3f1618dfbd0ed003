//! `image|tag|os|arch|variant`: one image for one platform, by name.
//!
//! Spellings that name the same image give the same key, so that what a node announces and what another one asks
//! for meet: the image as docker completes it (`docker.io/library/debian`), the tag or the pinned digest, the
//! platform with its defaults.

use std::fmt;
use std::sync::Arc;

use lamina_image::{ImageRef, Platform};

/// Reference, tag and platform; a reference alone is bounded at 1,024 bytes.
const KEY_MAX: usize = 1_280;
/// Parts of a key.
const PARTS: usize = 5;

/// A checked key in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageKey(Arc<str>);

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedImage {
    /// Where it is; with a digest where one was given.
    pub reference: ImageRef,
    /// What for.
    pub platform: Platform,
}

/// A text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImageKeyError(String);

impl NamedImage {
    /// Reads the parts as requests carry them; empty ones have defaults.
    ///
    /// # Errors
    /// When they name no image or no platform.
    pub fn new(
        image: &str,
        tag: &str,
        [os, arch, variant]: [&str; 3],
    ) -> Result<Self, ImageKeyError> {
        let bad = |error: &dyn fmt::Display| ImageKeyError(error.to_string());
        let text = match tag {
            "" => image.to_owned(),
            digest if digest.starts_with("sha256:") => format!("{image}@{digest}"),
            tag => format!("{image}:{tag}"),
        };
        let reference: ImageRef = text.parse().map_err(|error| bad(&error))?;
        let host = Platform::host();
        let os = if os.is_empty() { "linux" } else { os };
        let arch = if arch.is_empty() { &host.arch } else { arch };
        let variant = match (arch, variant) {
            // How some tools write the plain ones.
            ("arm64", "v8") | ("amd64", "v1") | (_, "") => String::new(),
            (_, variant) => format!("/{variant}"),
        };
        let platform = format!("{os}/{arch}{variant}");
        let platform = platform.parse().map_err(|error| bad(&error))?;
        Ok(Self {
            reference,
            platform,
        })
    }

    /// Its key.
    pub fn key(&self) -> ImageKey {
        let (reference, platform) = (&self.reference, &self.platform);
        ImageKey(
            format!(
                "{}/{}|{}|{}|{}|{}",
                reference.registry(),
                reference.repository(),
                reference.selector(),
                platform.os,
                platform.arch,
                platform.variant
            )
            .into(),
        )
    }
}

impl ImageKey {
    /// Reads a key.
    ///
    /// # Errors
    /// When it has not five parts, or they name no image.
    pub fn parse(text: &str) -> Result<Self, ImageKeyError> {
        if text.len() > KEY_MAX {
            return Err(ImageKeyError(format!("it has more than {KEY_MAX} bytes")));
        }
        let parts: Vec<&str> = text.split('|').collect();
        let &[image, tag, os, arch, variant] = parts.as_slice() else {
            return Err(ImageKeyError(format!(
                "it has {} of {PARTS} parts; expected image|tag|os|arch|variant",
                parts.len()
            )));
        };
        Ok(NamedImage::new(image, tag, [os, arch, variant])?.key())
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_image_are_one_key() {
        let arch = Platform::host().arch;
        let key = format!("docker.io/library/debian|latest|linux|{arch}|");
        for text in [
            "debian||||".to_owned(),
            "debian|latest|linux||".to_owned(),
            "debian:latest||linux||".to_owned(),
            "docker.io/library/debian|latest|||".to_owned(),
            key.clone(),
        ] {
            assert_eq!(ImageKey::parse(&text).unwrap().as_str(), key, "{text}");
        }
        let digest = format!("sha256:{}", "ab".repeat(32));
        let pinned = ImageKey::parse(&format!("q.io/x|{digest}|linux|arm64|v8")).unwrap();
        assert_eq!(pinned.as_str(), format!("q.io/x|{digest}|linux|arm64|"));
        let other = ImageKey::parse("q.io/x|1|linux|arm|v7").unwrap();
        assert_eq!(other.as_str(), "q.io/x|1|linux|arm|v7");
    }

    #[test]
    fn what_names_no_image_is_refused() {
        let long = format!("{}||||", "a".repeat(2000));
        for bad in [
            "",
            "debian",
            "a|b|c|d",
            "a|b|c|d|e|f",
            "|1|linux|amd64|",
            "A|1|||",
            "a|b c|||",
            "a|1|li nux|amd64|",
            "a:1|2|||",
            &long,
        ] {
            assert!(ImageKey::parse(bad).is_err(), "{bad}");
        }
    }
}
