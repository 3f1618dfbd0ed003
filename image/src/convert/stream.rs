//! A layer's bytes on their way to the tar reader: counted, hashed, bounded.
//!
//! ```text
//! stored ─ Checked(size, digest) ─ decompressed ─ Plain(hash) ─ tar
//! ```
//! [`LayerStream::finish`] says whether everything was what was announced;
//! nothing read before it may be trusted.

use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};

use lamina_flist::Sha256Digest;
use sha2::{Digest as _, Sha256};

use crate::decompress::decompressed;
use crate::limits::Limits;
use crate::source::SourceLayer;

/// Bytes handed to the tar reader at once.
const BUFFER: usize = 256 << 10;

/// Why a layer's bytes are refused.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// They cannot be read or decompressed.
    #[error("read the layer")]
    Read(#[source] io::Error),
    /// Another length than announced.
    #[error("the layer has {got} bytes, its descriptor says {want}")]
    WrongSize {
        /// Announced.
        want: u64,
        /// Received, at least.
        got: u64,
    },
    /// Not the bytes that were asked for.
    #[error("the layer has digest {got}, expected {want}")]
    WrongDigest {
        /// Asked for.
        want: Sha256Digest,
        /// Received.
        got: Sha256Digest,
    },
    /// Not the tar the config names.
    #[error("the unpacked layer has diff id {got}, expected {want}")]
    WrongDiffId {
        /// In the config.
        want: Sha256Digest,
        /// Received.
        got: Sha256Digest,
    },
    /// Bytes after the end of the compressed stream.
    #[error("something follows the end of the compressed layer")]
    TrailingData,
}

/// The plain tar of one layer.
pub(super) struct LayerStream<'a> {
    plain: Box<dyn Read + Send + 'a>,
    stored: Arc<Mutex<Checked<'a>>>,
    layer: SourceLayer,
    hash: Sha256,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    ended: bool,
}

impl<'a> LayerStream<'a> {
    /// `on_bytes` hears about stored bytes as they arrive.
    pub(super) fn open(
        input: Box<dyn Read + Send>,
        layer: &SourceLayer,
        limits: &Limits,
        on_bytes: impl FnMut(u64) + Send + 'a,
    ) -> Result<Self, StreamError> {
        let stored = Arc::new(Mutex::new(Checked {
            input,
            size: layer.size,
            hash: layer.digest.map(|_| Sha256::new()),
            have: 0,
            digest: None,
            on_bytes: Box::new(on_bytes),
        }));
        let plain = match decompressed(Shared(Arc::clone(&stored)), limits) {
            Ok(plain) => plain,
            Err(error) => return Err(blame(&stored, layer).unwrap_or(StreamError::Read(error))),
        };
        Ok(Self {
            plain,
            stored,
            layer: layer.clone(),
            hash: Sha256::new(),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            ended: false,
        })
    }

    /// After a failure: whether the stored bytes themselves are not what was
    /// announced, which then is the better explanation. Reads the rest of them.
    pub(super) fn blame(&self) -> Option<StreamError> {
        blame(&self.stored, &self.layer)
    }

    /// Reads what is left and compares everything.
    pub(super) fn finish(mut self) -> Result<(), StreamError> {
        loop {
            let n = match self.fill_buf() {
                Ok(buf) => buf.len(),
                Err(error) => return Err(self.blame().unwrap_or(StreamError::Read(error))),
            };
            if n == 0 {
                break;
            }
            self.consume(n);
        }
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if !stored.is_complete() {
            return Err(StreamError::TrailingData);
        }
        stored.compare(&self.layer)?;
        let got = Sha256Digest::from_bytes(self.hash.finalize().into());
        let want = self.layer.diff_id;
        if got != want {
            return Err(StreamError::WrongDiffId { want, got });
        }
        Ok(())
    }
}

fn blame(stored: &Mutex<Checked<'_>>, layer: &SourceLayer) -> Option<StreamError> {
    let mut stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = vec![0; BUFFER];
    while !stored.is_complete() {
        // Ends at the size announced; what cannot be read explains nothing.
        match stored.read(&mut buffer) {
            Err(_) if stored.have > stored.size => break,
            Err(_) => return None,
            Ok(_) => {}
        }
    }
    stored.compare(layer).err()
}

impl Read for LayerStream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for LayerStream<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end && !self.ended {
            let n = self.plain.read(&mut self.buffer)?;
            self.hash.update(&self.buffer[..n]);
            (self.start, self.end, self.ended) = (0, n, n == 0);
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }
}

/// Counts and hashes stored bytes; stops what is longer than announced.
struct Checked<'a> {
    input: Box<dyn Read + Send>,
    size: u64,
    /// Until the end is seen.
    hash: Option<Sha256>,
    have: u64,
    /// Once the end is seen; a layer without digest gets that of nothing.
    digest: Option<Sha256Digest>,
    on_bytes: Box<dyn FnMut(u64) + Send + 'a>,
}

impl Checked<'_> {
    fn is_complete(&self) -> bool {
        self.digest.is_some()
    }

    fn compare(&self, layer: &SourceLayer) -> Result<(), StreamError> {
        if self.have != layer.size {
            return Err(StreamError::WrongSize {
                want: layer.size,
                got: self.have,
            });
        }
        match (layer.digest, self.digest) {
            (Some(want), Some(got)) if got != want => Err(StreamError::WrongDigest { want, got }),
            _ => Ok(()),
        }
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.have += n as u64;
        if self.have > self.size {
            let (want, got) = (self.size, self.have);
            return Err(io::Error::other(StreamError::WrongSize { want, got }));
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&buf[..n]);
        }
        if n == 0 && !buf.is_empty() && self.digest.is_none() {
            let hash = self.hash.take().unwrap_or_default();
            self.digest = Some(Sha256Digest::from_bytes(hash.finalize().into()));
        }
        (self.on_bytes)(n as u64);
        Ok(n)
    }
}

/// The decoder's end of the stored bytes.
struct Shared<'a>(Arc<Mutex<Checked<'a>>>);

impl Read for Shared<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(buf)
    }
}
