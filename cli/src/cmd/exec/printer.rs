//! Our standard output and error, written by a thread: who reads them slowly makes the run wait, and nothing else.

use anyhow::{Context, Result};
use std::io::Write;
use tokio::sync::{mpsc, oneshot};

/// Messages that wait for who reads.
const WAITING_MAX: usize = 4;

/// What a command wrote.
pub(super) struct Text {
    pub(super) is_error: bool,
    pub(super) bytes: Vec<u8>,
}

/// The thread; it ends with this, when all is written or nobody reads any more.
pub(super) struct Printer {
    texts: mpsc::Sender<Text>,
    done: oneshot::Receiver<()>,
}

impl Printer {
    pub(super) fn start() -> Result<Self> {
        let (texts, waiting) = mpsc::channel(WAITING_MAX);
        let (ended, done) = oneshot::channel();
        let work = move || {
            write_all(waiting);
            // Nobody waits when we are interrupted.
            let _ = ended.send(());
        };
        let thread = std::thread::Builder::new().name("printer".into());
        thread.spawn(work).context("start writing logs")?;
        Ok(Self { texts, done })
    }

    /// Whether there still is somebody who reads.
    pub(super) async fn print(&self, text: Text) -> bool {
        self.texts.send(text).await.is_ok()
    }

    /// Returns when all is written.
    pub(super) async fn finish(self) {
        drop(self.texts);
        // Ended in any case.
        let _ = self.done.await;
    }
}

fn write_all(mut texts: mpsc::Receiver<Text>) {
    while let Some(text) = texts.blocking_recv() {
        let written = match text.is_error {
            true => write(std::io::stderr().lock(), &text.bytes),
            false => write(std::io::stdout().lock(), &text.bytes),
        };
        if written.is_err() {
            return;
        }
    }
}

/// At once: nothing waits for a line to be full.
fn write(mut to: impl Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
