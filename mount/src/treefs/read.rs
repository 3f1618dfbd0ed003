//! Reads of files: which runs a request touches, and putting them together.
//!
//! Nearly every read is one run, handed through without a copy. A read across
//! runs (sparse files) is gathered; it must be complete, since the kernel takes
//! a short answer for the end of the file and fills up with zeros.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use lamina_flist::{FileSpan, SpanSource};

use super::{ReadDone, TreeFs, TreeFsError};

impl TreeFs {
    /// Reads up to `size` bytes at `offset`: fewer only at the end of the file.
    /// Calls `done` exactly once, on this thread or another.
    pub fn read_at<D>(&self, ino: u64, offset: u64, size: u32, done: D)
    where
        D: FnOnce(Result<&[u8], TreeFsError>) + Send + 'static,
    {
        let runs = match self.runs(ino, offset, size) {
            Ok(runs) => runs,
            Err(error) => return done(Err(error)),
        };
        match runs.as_slice() {
            [] => done(Ok(&[])),
            [run] => self.one(
                run,
                Box::new(|result| done(result.map_err(TreeFsError::Data))),
            ),
            _ => self.several(&runs, done),
        }
    }

    /// The runs of the request, cut to it.
    fn runs(&self, ino: u64, offset: u64, size: u32) -> Result<Vec<FileSpan>, TreeFsError> {
        let inode = self.file(ino)?;
        let end = offset.saturating_add(u64::from(size)).min(inode.size());
        let mut runs = Vec::new();
        let mut at = offset;
        while at < end {
            let Some(span) = self.flist.span_at(&inode, at)? else {
                break;
            };
            let run = cut(span, at, end);
            at += run.len;
            runs.push(run);
        }
        Ok(runs)
    }

    /// Hands one run's bytes to `done`.
    fn one(&self, run: &FileSpan, done: ReadDone) {
        match &run.source {
            SpanSource::Inline(bytes) => done(Ok(bytes)),
            SpanSource::Hole => done(Ok(&vec![0; run.len as usize])),
            SpanSource::Blob { blob, offset } => {
                self.blobs.read_at(*blob, *offset, run.len as u32, done);
            }
        }
    }

    fn several<D>(&self, runs: &[FileSpan], done: D)
    where
        D: FnOnce(Result<&[u8], TreeFsError>) + Send + 'static,
    {
        let total = runs.iter().map(|run| run.len as usize).sum();
        let gather = Arc::new(Mutex::new(Gather {
            buffer: vec![0; total],
            waiting: runs.len(),
            error: None,
            done: Some(done),
        }));
        let mut start = 0;
        for run in runs {
            let gather = Arc::clone(&gather);
            let at = start;
            start += run.len as usize;
            self.one(
                run,
                Box::new(move |result| Gather::arrived(&gather, at, result)),
            );
        }
    }
}

fn cut(span: FileSpan, at: u64, end: u64) -> FileSpan {
    let skip = at - span.start;
    let len = (span.len - skip).min(end - at);
    let source = match span.source {
        SpanSource::Hole => SpanSource::Hole,
        SpanSource::Inline(bytes) => {
            SpanSource::Inline(bytes.slice(skip as usize..(skip + len) as usize))
        }
        SpanSource::Blob { blob, offset } => SpanSource::Blob {
            blob,
            offset: offset + skip,
        },
    };
    FileSpan {
        start: at,
        len,
        source,
    }
}

/// Parts of one read on their way.
struct Gather<D> {
    buffer: Vec<u8>,
    waiting: usize,
    error: Option<io::Error>,
    done: Option<D>,
}

impl<D: FnOnce(Result<&[u8], TreeFsError>)> Gather<D> {
    fn arrived(this: &Mutex<Self>, at: usize, result: io::Result<&[u8]>) {
        let mut gather = this.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(bytes) => gather.buffer[at..at + bytes.len()].copy_from_slice(bytes),
            Err(error) => gather.error = Some(error),
        }
        gather.waiting -= 1;
        if gather.waiting > 0 {
            return;
        }
        let done = gather.done.take().expect("the last part arrives once");
        match gather.error.take() {
            None => done(Ok(&gather.buffer)),
            Some(error) => done(Err(TreeFsError::Data(error))),
        }
    }
}
