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

/// What went through the stored side.
#[derive(Default)]
struct Stored {
    bytes: u64,
    digest: Option<Sha256Digest>,
}

/// The plain tar of one layer.
pub(super) struct LayerStream<'a> {
    plain: Box<dyn Read + Send + 'a>,
    stored: Arc<Mutex<Stored>>,
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
        let stored = Arc::new(Mutex::new(Stored::default()));
        let checked = Checked {
            input,
            size: layer.size,
            hash: layer.digest.map(|_| Sha256::new()),
            have: 0,
            stored: Arc::clone(&stored),
            on_bytes,
        };
        let plain = decompressed(checked, limits).map_err(StreamError::Read)?;
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

    /// Reads what is left and compares everything.
    pub(super) fn finish(mut self) -> Result<(), StreamError> {
        loop {
            let n = self.fill_buf().map_err(StreamError::Read)?.len();
            if n == 0 {
                break;
            }
            self.consume(n);
        }
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let (want, got) = (self.layer.size, stored.bytes);
        if got < want {
            // The codec was content before the end, or the source was short.
            return Err(match stored.digest {
                None if self.layer.digest.is_some() => StreamError::TrailingData,
                _ => StreamError::WrongSize { want, got },
            });
        }
        if let Some(want) = self.layer.digest {
            let got = stored.digest.ok_or(StreamError::TrailingData)?;
            if got != want {
                return Err(StreamError::WrongDigest { want, got });
            }
        }
        let got = Sha256Digest::from_bytes(self.hash.finalize().into());
        let want = self.layer.diff_id;
        if got != want {
            return Err(StreamError::WrongDiffId { want, got });
        }
        Ok(())
    }
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
struct Checked<F> {
    input: Box<dyn Read + Send>,
    size: u64,
    hash: Option<Sha256>,
    have: u64,
    stored: Arc<Mutex<Stored>>,
    on_bytes: F,
}

impl<F: FnMut(u64)> Read for Checked<F> {
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
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        stored.bytes = self.have;
        if n == 0 && !buf.is_empty() {
            let digest = self
                .hash
                .take()
                .map(|h| Sha256Digest::from_bytes(h.finalize().into()));
            stored.digest = stored.digest.or(digest);
        }
        drop(stored);
        (self.on_bytes)(n as u64);
        Ok(n)
    }
}
