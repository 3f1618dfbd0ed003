//! The control socket: requests to calls, refusals to replies.

use std::sync::Arc;

use crossbeam_channel::Sender;
use lamina_flist::ProfileRange;
use lamina_mount::blobfs::BlobFs;

use super::alive::Alive;
use super::blobs::{Blobs, Refusal};
use super::fill_link::FillLink;
use super::protocol::{ErrorKind, MountdStats, Reply, Request, Touched, Watch};
use super::trees::Trees;

/// Everything a request may touch.
pub(super) struct Control {
    pub(super) blobs: Arc<Blobs>,
    pub(super) trees: Trees,
    pub(super) alive: Alive,
    pub(super) fs: Arc<BlobFs>,
    pub(super) link: Arc<FillLink>,
    /// Tells the daemon to end.
    pub(super) stop: Sender<()>,
}

impl Control {
    pub(super) fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Ping => Reply::Done,
            Request::RegisterBlobs(blobs) => reply(self.blobs.register(blobs), Reply::Blobs),
            Request::Unregister(ids) => done(self.blobs.unregister(&ids)),
            Request::ListBlobs => Reply::Blobs(self.blobs.list()),
            Request::ListMounts => Reply::Mounts(self.blobs.mounts()),
            Request::PutMountRecord(record) => done(self.blobs.put_mount(record)),
            Request::RemoveMountRecord { id } => done(self.blobs.remove_mount(&id)),
            Request::MountTree(tree) => done(self.trees.mount(tree)),
            Request::Watch { at } => watches(self.alive.watch(&at).map(|watch| vec![watch])),
            Request::ListWatches => watches(self.alive.list()),
            Request::Stats => Reply::Stats(self.stats()),
            Request::RecordTouches { name, blobs } => {
                self.fs.record_touches(&name, blobs);
                Reply::Done
            }
            Request::Touches { name } => Reply::Touches(self.touches(&name)),
            Request::ForgetTouches { name } => {
                self.fs.forget_touches(&name);
                Reply::Done
            }
            Request::Shutdown { force } => self.shutdown(force),
        }
    }

    fn stats(&self) -> MountdStats {
        MountdStats {
            pid: std::process::id(),
            agent_connected: self.link.is_connected(),
            fills_pending: self.link.pending() as u64,
            blobs: self.fs.stats().into_iter().collect(),
        }
    }

    fn touches(&self, name: &str) -> Option<Vec<Touched>> {
        let wire = |range: ProfileRange| (range.blob, range.first_entry, range.count);
        Some(self.fs.touches(name)?.into_iter().map(wire).collect())
    }

    fn shutdown(&self, force: bool) -> Reply {
        let mounts = self.blobs.mounts();
        if let (false, Some(record)) = (force, mounts.first()) {
            return Reply::Failed {
                kind: ErrorKind::InUse,
                message: format!("{} mounts exist, such as {}", mounts.len(), record.id),
            };
        }
        // A full channel: somebody asked before.
        let _ = self.stop.try_send(());
        Reply::Done
    }
}

fn watches(result: std::io::Result<Vec<Watch>>) -> Reply {
    let refusal = |error| Refusal::new(ErrorKind::Internal, format!("watch mounts: {error}"));
    reply(result.map_err(refusal), Reply::Watches)
}

fn done(result: Result<(), Refusal>) -> Reply {
    reply(result, |()| Reply::Done)
}

fn reply<T>(result: Result<T, Refusal>, good: impl FnOnce(T) -> Reply) -> Reply {
    match result {
        Ok(value) => good(value),
        Err(Refusal { kind, message }) => Reply::Failed { kind, message },
    }
}
