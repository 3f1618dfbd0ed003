//! Where the tree file system reads blob bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::blobfs::BlobFs;

/// Takes the outcome of a read: exactly the bytes asked for, or an error.
pub type ReadDone = Box<dyn FnOnce(io::Result<&[u8]>) + Send>;

/// Reads blobs by their index in the flist's blob table.
pub trait BlobRead: Send + Sync + 'static {
    /// Reads `len` bytes at `offset` and calls `done` exactly once, on this
    /// thread or another. Missing bytes are an error, never zeros.
    fn read_at(&self, blob: u16, offset: u64, len: u32, done: ReadDone);
}

/// Blobs of the node's cache, filled on demand: shared with the blob file
/// system, which names them by node id.
#[derive(Debug)]
pub struct CachedBlobs {
    blobs: Arc<BlobFs>,
    inos: Vec<u64>,
}

impl CachedBlobs {
    /// `inos` are the blobs' node ids in the flist's order.
    pub fn new(blobs: Arc<BlobFs>, inos: Vec<u64>) -> Self {
        Self { blobs, inos }
    }
}

impl BlobRead for CachedBlobs {
    fn read_at(&self, blob: u16, offset: u64, len: u32, done: ReadDone) {
        let Some(&ino) = self.inos.get(usize::from(blob)) else {
            return done(Err(no_blob(blob)));
        };
        self.blobs
            .read_at(ino, offset, len, move |result| match result {
                Ok(bytes) if bytes.len() == len as usize => done(Ok(bytes)),
                Ok(_) => done(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => done(Err(io::Error::other(error))),
            });
    }
}

/// Complete blobs in plain files, in the flist's order.
#[derive(Debug)]
pub struct BlobFiles(pub Vec<File>);

impl BlobRead for BlobFiles {
    fn read_at(&self, blob: u16, offset: u64, len: u32, done: ReadDone) {
        let Some(file) = self.0.get(usize::from(blob)) else {
            return done(Err(no_blob(blob)));
        };
        let mut buffer = vec![0; len as usize];
        match file.read_exact_at(&mut buffer, offset) {
            Ok(()) => done(Ok(&buffer)),
            Err(error) => done(Err(error)),
        }
    }
}

fn no_blob(blob: u16) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("the flist has no blob {blob}"),
    )
}
