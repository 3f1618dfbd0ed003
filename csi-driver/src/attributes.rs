//! What a volume shows and how, as people write it: `volumeAttributes` of inline volumes and static
//! `PersistentVolumes`, parameters of `StorageClasses`. Pure.
//!
//! Parsed once, here; [`Attributes::to_context`] is its inverse. A key that is not known is refused with
//! the nearest one that is, so that a typing error never mounts something else silently.

mod nearest;
pub mod quantity;
mod value;

use std::collections::HashMap;

use lamina_proto::lamina::v1::{OverlayMedium, PullPolicy, Warm};
use thiserror::Error;

pub use value::FlistRef;

/// Attribute that names an image.
pub const IMAGE: &str = "lamina.dev/image";
/// Attribute that names a flist.
pub const FLIST: &str = "lamina.dev/flist";
const MODE: &str = "mode";
const SUB_PATH: &str = "subPath";
const PREFETCH: &str = "prefetch";
const PULL_POLICY: &str = "pullPolicy";
const OVERLAY_SIZE: &str = "overlaySize";
const OVERLAY_MEDIUM: &str = "overlayMedium";
const PLATFORM: &str = "platform";

/// Every attribute there is.
pub const KEYS: [&str; 9] = [
    IMAGE,
    FLIST,
    MODE,
    SUB_PATH,
    PREFETCH,
    PULL_POLICY,
    OVERLAY_SIZE,
    OVERLAY_MEDIUM,
    PLATFORM,
];

/// Of them, those that say what a volume shows; the others say how.
pub const SOURCE_KEYS: [&str; 4] = [IMAGE, FLIST, SUB_PATH, PLATFORM];

/// Keys that Kubernetes adds by itself begin so: about the pod, and of provisioners.
const FOREIGN: [&str; 2] = ["csi.storage.k8s.io/", "storage.kubernetes.io/"];

/// Changes a writable volume may hold when nothing else is said.
pub const OVERLAY_DEFAULT: u64 = 1 << 30;

/// What a volume shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// A registry reference.
    Image(String),
    /// A flist, by digest or by the name of an object.
    Flist(FlistRef),
}

/// Whether files can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// No.
    #[default]
    Ro,
    /// Yes; changes are dropped with the mount.
    Rw {
        /// Most bytes of changes.
        overlay_bytes_max: u64,
        /// What holds them.
        medium: OverlayMedium,
    },
}

/// Everything that can be said about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// What it shows.
    pub from: From,
    /// Whether files can be changed.
    pub mode: Mode,
    /// Directory of the source to show; empty: its root.
    pub sub_path: String,
    /// What is fetched before anybody asks.
    pub prefetch: Warm,
    /// When tags are resolved.
    pub pull_policy: PullPolicy,
    /// os/arch[/variant]; empty: the node's own.
    pub platform: String,
}

/// Why attributes were refused, for the person who wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AttributeError {
    /// A key that is none of ours.
    #[error("volume attribute {key:?} is not known{}", nearest::hint(.nearest.as_ref()))]
    Unknown {
        /// As it was written, shortened.
        key: String,
        /// What was probably meant.
        nearest: Option<&'static str>,
    },
    /// A value that cannot be used.
    #[error("volume attribute {key}: {why}")]
    Value {
        /// Whose value.
        key: &'static str,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// Nothing says what to show.
    #[error(
        "nothing says what to mount: set the volume attribute {IMAGE} (a registry reference) or {FLIST} (name of a Flist, or a digest)"
    )]
    NoSource,
    /// Too much says what to show.
    #[error("both {IMAGE} and {FLIST} are set: a volume shows one of them, remove the other")]
    TwoSources,
}

impl Attributes {
    /// Parses attributes as they come with a volume.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, keys in alphabetical order.
    pub fn parse(given: &HashMap<String, String>) -> Result<Self, AttributeError> {
        check_keys(given)?;
        let get = |key: &str| given.get(key).map(String::as_str);
        let from = match (get(IMAGE), get(FLIST)) {
            (Some(_), Some(_)) => return Err(AttributeError::TwoSources),
            (None, None) => return Err(AttributeError::NoSource),
            (Some(image), None) => From::Image(at(IMAGE, value::image(image))?),
            (None, Some(flist)) => From::Flist(at(FLIST, value::flist(flist))?),
        };
        Ok(Self {
            from,
            mode: mode(get(MODE), get(OVERLAY_SIZE), get(OVERLAY_MEDIUM))?,
            sub_path: at(SUB_PATH, value::sub_path(get(SUB_PATH).unwrap_or_default()))?,
            prefetch: at(PREFETCH, value::prefetch(get(PREFETCH)))?,
            pull_policy: at(PULL_POLICY, value::pull_policy(get(PULL_POLICY)))?,
            platform: at(PLATFORM, value::platform(get(PLATFORM).unwrap_or_default()))?,
        })
    }

    /// The attributes that parse to this, defaults left out: what a `PersistentVolume` carries.
    pub fn to_context(&self) -> HashMap<String, String> {
        let mut context = HashMap::new();
        let mut put = |key: &str, value: &str| context.insert(key.to_owned(), value.to_owned());
        match &self.from {
            From::Image(image) => put(IMAGE, image),
            From::Flist(flist) => put(FLIST, flist.as_str()),
        };
        if let Mode::Rw {
            overlay_bytes_max,
            medium,
        } = self.mode
        {
            put(MODE, "rw");
            put(OVERLAY_SIZE, &overlay_bytes_max.to_string());
            if medium == OverlayMedium::Disk {
                put(OVERLAY_MEDIUM, "disk");
            }
        }
        if !self.sub_path.is_empty() {
            put(SUB_PATH, &self.sub_path);
        }
        if self.prefetch != Warm::Profile {
            put(PREFETCH, value::prefetch_name(self.prefetch));
        }
        if let Some(name) = value::pull_policy_name(self.pull_policy) {
            put(PULL_POLICY, name);
        }
        if !self.platform.is_empty() {
            put(PLATFORM, &self.platform);
        }
        context
    }

    /// What it shows, for events and messages.
    pub fn source(&self) -> &str {
        match &self.from {
            From::Image(image) => image,
            From::Flist(flist) => flist.as_str(),
        }
    }
}

fn check_keys(given: &HashMap<String, String>) -> Result<(), AttributeError> {
    let unknown = given
        .keys()
        .filter(|key| !KEYS.contains(&key.as_str()))
        .filter(|key| !FOREIGN.iter().any(|prefix| key.starts_with(prefix)))
        .min();
    match unknown {
        None => Ok(()),
        Some(key) => Err(AttributeError::Unknown {
            key: value::shown(key),
            nearest: nearest::nearest(key, &KEYS),
        }),
    }
}

fn mode(
    mode: Option<&str>,
    size: Option<&str>,
    medium: Option<&str>,
) -> Result<Mode, AttributeError> {
    let size = at(OVERLAY_SIZE, size.map(value::overlay_size).transpose())?;
    let medium = medium.map(value::overlay_medium).transpose();
    let medium = at(OVERLAY_MEDIUM, medium)?;
    match (at(MODE, value::writable(mode))?, size, medium) {
        (true, size, medium) => Ok(Mode::Rw {
            overlay_bytes_max: size.unwrap_or(OVERLAY_DEFAULT),
            medium: medium.unwrap_or(OverlayMedium::Memory),
        }),
        (false, None, None) => Ok(Mode::Ro),
        (false, Some(_), _) => at(
            OVERLAY_SIZE,
            Err("bounds the changes of a writable volume: set mode: rw too, or remove it".into()),
        ),
        (false, None, Some(_)) => at(
            OVERLAY_MEDIUM,
            Err("holds the changes of a writable volume: set mode: rw too, or remove it".into()),
        ),
    }
}

fn at<T>(key: &'static str, value: Result<T, String>) -> Result<T, AttributeError> {
    value.map_err(|why| AttributeError::Value { key, why })
}

#[cfg(test)]
mod tests;
