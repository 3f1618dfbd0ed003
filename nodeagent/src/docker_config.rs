//! Credentials as docker writes them, of whoever mounted a volume: held in memory for as long as it is mounted.
//!
//! Always: never shown, and never part of what is written down. Who is asked with them is the layerstore that pulls the
//! volume's own layers, and by it the registry they are for.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};

/// The content of a docker `config.json`, or nothing.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DockerConfig(String);

impl DockerConfig {
    /// What is no text is nothing: no docker config is.
    pub(crate) fn new(json: Vec<u8>) -> Self {
        Self(String::from_utf8(json).unwrap_or_default())
    }

    /// Nobody's.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "***" })
    }
}

/// What the mounts of an image lend to those who read for them; it ends with the mount that lent it. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lent(Arc<Mutex<Vec<Weak<DockerConfig>>>>);

impl Lent {
    /// From now on, and while `config` is held by its mount.
    pub(crate) fn lend(&self, config: &Arc<DockerConfig>) {
        let mut lent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Arc::downgrade(config);
        lent.retain(|one| one.strong_count() > 0 && !one.ptr_eq(&new));
        lent.push(new);
    }

    /// What was lent last by a mount that is still there.
    pub(crate) fn latest(&self) -> Option<Arc<DockerConfig>> {
        let lent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lent.iter().rev().find_map(Weak::upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Arc<DockerConfig> {
        Arc::new(DockerConfig::new(text.into()))
    }

    #[test]
    fn what_is_lent_ends_with_the_mount_that_lent_it_and_is_not_shown() {
        let (lent, first, second) = (Lent::default(), config("secret 1"), config("secret 2"));
        assert_eq!(lent.latest(), None);
        lent.lend(&first);
        lent.lend(&second);
        lent.lend(&second);
        assert_eq!(lent.clone().latest().as_ref(), Some(&second));
        assert!(!format!("{lent:?}{second:?}").contains("secret"));
        drop(second);
        assert_eq!(lent.latest().as_ref(), Some(&first));
        drop(first);
        assert_eq!(lent.latest(), None);
        lent.lend(&config("gone"));
        assert_eq!(lent.latest(), None);
    }
}
