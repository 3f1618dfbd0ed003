//! Targets that must not be mounted on: a mount there would hide what serves it.
//!
//! Decided by paths alone, so mounts of directories the other way round (a store bound from below the
//! target) are not seen.

use crate::agent::AgentConfig;
use crate::agent::failure::{Result, refused};
use crate::api::{FailureKind, MountCall};
use lamina_store::StoreSpec;
use lamina_store::url::Place;
use std::path::{Path, PathBuf};

/// Refuses a target that would hide Lamina's directories or a `dir://` store of the flist, whose own
/// stores are `named`.
pub(crate) fn check(config: &AgentConfig, named: &[String], call: &MountCall) -> Result<()> {
    let own = [
        ("run directory", config.instance.dir()),
        ("cache", &config.cache),
        ("state directory", &config.state),
    ];
    for (what, dir) in own {
        refuse_hiding(what, dir, &call.target)?;
    }
    // Inside these, everything is ours.
    for (what, dir) in &own[..2] {
        let resolved = resolved(dir);
        if call.target.starts_with(&resolved) {
            let message = format!("lies in Lamina's {what} {}", dir.display());
            return Err(unusable(&call.target, &message));
        }
    }
    let stores = match call.stores.is_empty() {
        true => named,
        false => &call.stores,
    };
    for root in stores.iter().filter_map(|url| directory(url)) {
        refuse_hiding("store", &root, &call.target)?;
    }
    Ok(())
}

fn refuse_hiding(what: &str, dir: &Path, target: &Path) -> Result<()> {
    if !resolved(dir).starts_with(target) {
        return Ok(());
    }
    let message = match what {
        "store" => format!("holds the flist's store {}", dir.display()),
        _ => format!("holds Lamina's {what} {}", dir.display()),
    };
    Err(unusable(target, &message))
}

fn unusable(target: &Path, why: &str) -> crate::api::Failure {
    let target = target.display();
    let message =
        format!("{target} {why}, which a mount there would hide: mount on another directory");
    refused(FailureKind::Invalid, message)
}

/// Without symbolic links as far as it exists.
fn resolved(dir: &Path) -> PathBuf {
    let mut known = dir.ancestors();
    known
        .find_map(|known| {
            let rest = dir.strip_prefix(known).ok()?;
            Some(known.canonicalize().ok()?.join(rest))
        })
        .unwrap_or_else(|| dir.to_owned())
}

/// The directory of a `dir://` store; other stores, and what cannot be understood, are not hidden.
fn directory(url: &str) -> Option<PathBuf> {
    match url.parse::<StoreSpec>().ok()?.url.place() {
        Place::Dir(root) => Some(root.clone()),
        _ => None,
    }
}
