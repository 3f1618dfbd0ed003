//! The values of attributes, one function each: what is right is returned, what is wrong is said in words
//! that a person who wrote a pod can act on.

use lamina_proto::lamina::v1::{OverlayMedium, PullPolicy, Warm};

use super::quantity;

/// Longest registry reference looked at.
const REFERENCE_MAX: usize = 1024;
/// Longest path of the kernel.
const PATH_MAX: usize = 4095;
/// Below this not even a directory can be changed.
const OVERLAY_MIN: u64 = 64 << 10;

/// A flist, as an attribute names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlistRef {
    /// 64 hex digits, lower case.
    Digest(String),
    /// Name of a Flist object in the namespace of the pod.
    Name(String),
}

impl FlistRef {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Digest(text) | Self::Name(text) => text,
        }
    }
}

/// A text of others, short enough for a message and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(80)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if shown.len() < text.len() && text.chars().count() > 80 {
        shown.push('…');
    }
    shown
}

pub(super) fn image(text: &str) -> Result<String, String> {
    let example =
        "write it as in `image:` of a container, for example docker.io/library/python:3.13";
    if text.is_empty() {
        return Err(format!("is empty; {example}"));
    }
    if text.len() > REFERENCE_MAX {
        return Err(format!(
            "is longer than {REFERENCE_MAX} characters; {example}"
        ));
    }
    if text.contains("://") {
        return Err(format!("{:?} is a URL; {example}", shown(text)));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@+[]".contains(&b);
    if !text.bytes().all(plain) || text.starts_with(['/', ':', '@', '-', '.']) {
        return Err(format!(
            "{:?} is not a registry reference; {example}",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn flist(text: &str) -> Result<FlistRef, String> {
    let hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if hex {
        return Ok(FlistRef::Digest(text.to_ascii_lowercase()));
    }
    let label = |l: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        edge(l.as_bytes().first()) && edge(l.as_bytes().last()) && l.bytes().all(inner)
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(FlistRef::Name(text.to_owned()));
    }
    Err(format!(
        "{:?} is neither the name of a Flist in the pod's own namespace nor the 64 hex digits of a flist's digest",
        shown(text)
    ))
}

pub(super) fn writable(text: Option<&str>) -> Result<bool, String> {
    match text {
        None | Some("ro") => Ok(false),
        Some("rw") => Ok(true),
        Some(other) => Err(format!(
            "{:?} is not a mode; write ro (files cannot be changed) or rw (changes are dropped with the pod)",
            shown(other)
        )),
    }
}

pub(super) fn sub_path(text: &str) -> Result<String, String> {
    let advice =
        "write a directory inside the image without a leading slash, for example usr/share";
    if text.len() > PATH_MAX {
        return Err(format!("is longer than {PATH_MAX} bytes"));
    }
    if text.starts_with('/') {
        return Err(format!("{:?} is absolute; {advice}", shown(text)));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(format!(
            "{:?} leaves the image with `..`; {advice}",
            shown(text)
        ));
    }
    if text.contains(char::is_control) {
        return Err(format!(
            "{:?} has control characters; {advice}",
            shown(text)
        ));
    }
    let parts = text.split('/').filter(|part| !matches!(*part, "" | "."));
    Ok(parts.collect::<Vec<_>>().join("/"))
}

pub(super) fn prefetch(text: Option<&str>) -> Result<Warm, String> {
    match text {
        Some("none") => Ok(Warm::None),
        None | Some("profile") => Ok(Warm::Profile),
        Some("all") => Ok(Warm::All),
        Some(other) => Err(format!(
            "{:?} is not known; write none, profile (what earlier starts read) or all (every byte)",
            shown(other)
        )),
    }
}

pub(super) fn prefetch_name(warm: Warm) -> &'static str {
    match warm {
        Warm::None => "none",
        Warm::Profile => "profile",
        Warm::All => "all",
    }
}

pub(super) fn pull_policy(text: Option<&str>) -> Result<PullPolicy, String> {
    match text {
        None => Ok(PullPolicy::Unspecified),
        Some("IfNotPresent") => Ok(PullPolicy::IfNotPresent),
        Some("Always") => Ok(PullPolicy::Always),
        Some("Never") => Ok(PullPolicy::Never),
        Some(other) => Err(format!(
            "{:?} is not known; write IfNotPresent, Always or Never, as in a container",
            shown(other)
        )),
    }
}

pub(super) fn pull_policy_name(policy: PullPolicy) -> Option<&'static str> {
    match policy {
        PullPolicy::Unspecified => None,
        PullPolicy::IfNotPresent => Some("IfNotPresent"),
        PullPolicy::Always => Some("Always"),
        PullPolicy::Never => Some("Never"),
    }
}

pub(super) fn overlay_size(text: &str) -> Result<u64, String> {
    match quantity::bytes(text) {
        None => Err(format!(
            "{:?} is not a size; write a number of bytes or a quantity such as 512Mi or 2Gi",
            shown(text)
        )),
        Some(bytes) if bytes < OVERLAY_MIN => Err(format!(
            "{:?} is too small to change anything; give at least 64Ki",
            shown(text)
        )),
        Some(bytes) => Ok(bytes),
    }
}

pub(super) fn overlay_medium(text: &str) -> Result<OverlayMedium, String> {
    match text {
        "memory" => Ok(OverlayMedium::Memory),
        "disk" => Ok(OverlayMedium::Disk),
        other => Err(format!(
            "{:?} is not known; write memory (the pod's) or disk (the node's, reserved at once)",
            shown(other)
        )),
    }
}

pub(super) fn platform(text: &str) -> Result<String, String> {
    let part = |p: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        !p.is_empty() && p.len() <= 32 && p.bytes().all(plain)
    };
    let parts = text.split('/').count();
    if text.is_empty() || ((2..=3).contains(&parts) && text.split('/').all(part)) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{:?} is not a platform; write os/architecture, for example linux/arm64",
        shown(text)
    ))
}
