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
    /// More than an archive may have.
    #[error("it has more than {max} bytes")]
    TooLong {
        /// The limit.
        max: u64,
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

/// What is known beforehand of a layer's bytes.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// Stored bytes; `None` where nobody said.
    pub(super) size: Option<u64>,
    /// Most stored bytes.
    pub(super) size_max: u64,
    /// Digest of the stored bytes.
    pub(super) digest: Option<Sha256Digest>,
    /// Digest of the plain tar.
    pub(super) diff_id: Option<Sha256Digest>,
}

impl From<&SourceLayer> for Expected {
    fn from(layer: &SourceLayer) -> Self {
        Self {
            size: Some(layer.size),
            size_max: layer.size,
            digest: layer.digest,
            diff_id: Some(layer.diff_id),
        }
    }
}

impl Expected {
    fn too_long(&self, got: u64) -> StreamError {
        match self.size {
            Some(want) => StreamError::WrongSize { want, got },
            None => StreamError::TooLong { max: self.size_max },
        }
    }
}

/// What the bytes turned out to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Digest of the stored bytes, if one was expected or asked for.
    pub(super) digest: Option<Sha256Digest>,
    /// Digest of the plain tar.
    pub(super) diff_id: Sha256Digest,
    /// Stored bytes.
    pub(super) size: u64,
}

/// The plain tar of one layer.
pub(super) struct LayerStream<'a> {
    plain: Box<dyn Read + Send + 'a>,
    stored: Arc<Mutex<Checked<'a>>>,
    expected: Expected,
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
        expected: Expected,
        limits: &Limits,
        on_bytes: impl FnMut(u64) + Send + 'a,
    ) -> Result<Self, StreamError> {
        let stored = Arc::new(Mutex::new(Checked {
            input,
            // A layer that has no digest at its source needs none; an archive's is recorded.
            hash: (expected.digest.is_some() || expected.diff_id.is_none()).then(Sha256::new),
            expected: expected.clone(),
            have: 0,
            digest: None,
            on_bytes: Box::new(on_bytes),
        }));
        let plain = match decompressed(Shared(Arc::clone(&stored)), limits) {
            Ok(plain) => plain,
            Err(error) => return Err(blame(&stored).unwrap_or(StreamError::Read(error))),
        };
        Ok(Self {
            plain,
            stored,
            expected,
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
        blame(&self.stored)
    }

    /// Reads what is left and compares everything.
    pub(super) fn finish(mut self) -> Result<Seen, StreamError> {
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
        stored.compare()?;
        let got = Sha256Digest::from_bytes(self.hash.finalize().into());
        if let Some(want) = self.expected.diff_id
            && got != want
        {
            return Err(StreamError::WrongDiffId { want, got });
        }
        Ok(Seen {
            digest: stored.digest,
            diff_id: got,
            size: stored.have,
        })
    }
}

fn blame(stored: &Mutex<Checked<'_>>) -> Option<StreamError> {
    let mut stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = vec![0; BUFFER];
    while !stored.is_complete() {
        // Ends at the size announced; what cannot be read explains nothing.
        match stored.read(&mut buffer) {
            Err(_) if stored.have > stored.expected.size_max => break,
            Err(_) => return None,
            Ok(_) => {}
        }
    }
    stored.compare().err()
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
    expected: Expected,
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

    fn compare(&self) -> Result<(), StreamError> {
        let size = self.expected.size.unwrap_or(self.have);
        if self.have != size || self.have > self.expected.size_max {
            return Err(self.expected.too_long(self.have));
        }
        match (self.expected.digest, self.digest) {
            (Some(want), Some(got)) if got != want => Err(StreamError::WrongDigest { want, got }),
            _ => Ok(()),
        }
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.have += n as u64;
        if self.have > self.expected.size_max {
            return Err(io::Error::other(self.expected.too_long(self.have)));
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
