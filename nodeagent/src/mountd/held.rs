//! The descriptors this daemon serves, kept in the holder as well, whichever
//! holder it is at the time.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::holder::{HolderClient, HolderError};

/// What must outlive this process, by name.
#[derive(Debug)]
pub(super) struct Held {
    run_dir: PathBuf,
    connections: Mutex<BTreeMap<String, Arc<Vec<OwnedFd>>>>,
}

impl Held {
    pub(super) fn new(run_dir: &Path) -> Arc<Self> {
        Arc::new(Self {
            run_dir: run_dir.to_owned(),
            connections: Mutex::default(),
        })
    }

    /// Takes over what a predecessor left under a name.
    pub(super) fn adopt(&self, name: &str) -> Result<Option<Arc<Vec<OwnedFd>>>, HolderError> {
        let Some(devices) = self.holder()?.get(name)? else {
            return Ok(None);
        };
        let devices = Arc::new(devices);
        self.lock().insert(name.to_owned(), Arc::clone(&devices));
        Ok(Some(devices))
    }

    /// Gives descriptors to the holder.
    pub(super) fn put(
        &self,
        name: &str,
        devices: Vec<OwnedFd>,
    ) -> Result<Arc<Vec<OwnedFd>>, HolderError> {
        let devices = Arc::new(devices);
        self.lock().insert(name.to_owned(), Arc::clone(&devices));
        self.holder()?.put(name, &devices)?;
        Ok(devices)
    }

    /// Lets go of a connection, here and in the holder.
    pub(super) fn remove(&self, name: &str) -> Result<(), HolderError> {
        self.lock().remove(name);
        self.holder()?.remove(name)
    }

    /// Names in the holder that begin with `prefix`.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>, HolderError> {
        let mut names = self.holder()?.list()?;
        names.retain(|name| name.starts_with(prefix));
        Ok(names)
    }

    /// Watches the holder. If it dies, serving goes on, and the next holder of
    /// this run directory gets everything as soon as it listens.
    pub(super) fn watch(self: &Arc<Self>, first: HolderClient) -> io::Result<()> {
        /// A new holder is started by people or by the node's supervisor.
        const RETRY: Duration = Duration::from_millis(100);
        let held = Arc::clone(self);
        let watch = move || {
            let mut holder = first;
            loop {
                holder.wait_until_gone();
                tracing::warn!("the holder is gone; looking for the next one");
                holder = loop {
                    match held.give_all() {
                        Ok(next) => break next,
                        Err(error) => tracing::debug!(%error, "no holder yet"),
                    }
                    std::thread::sleep(RETRY);
                };
            }
        };
        std::thread::Builder::new()
            .name("holder-watch".into())
            .spawn(watch)
            .map(drop)
    }

    fn give_all(&self) -> Result<HolderClient, HolderError> {
        let holder = self.holder()?;
        for (name, devices) in self.lock().iter() {
            holder.put(name, devices)?;
        }
        Ok(holder)
    }

    /// A connection of its own for each use: answers never mix.
    fn holder(&self) -> Result<HolderClient, HolderError> {
        HolderClient::connect(&self.run_dir)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Vec<OwnedFd>>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
