//! A signal that came when the command had ended: it is ours then, and ends what is still to be done.

use lamina_runtime::Ended;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Which signal ends us, if one does.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<AtomicU8>);

impl Stop {
    /// Ends us, with the exit code of this signal.
    pub(super) fn ask(&self, signal: u8) {
        self.0.store(signal, Ordering::Relaxed);
    }

    pub(super) fn asked(&self) -> Option<Ended> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(Ended::Signaled(signal)),
        }
    }
}

/// Writes until we are to end.
pub(super) struct Stoppable<W> {
    pub(super) out: W,
    pub(super) stop: Stop,
}

impl<W: Write> Write for Stoppable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stop.asked() {
            Some(_) => Err(io::Error::other("ended by a signal")),
            None => self.out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_once_we_are_to_end() {
        let stop = Stop::default();
        let mut out = Stoppable {
            out: Vec::new(),
            stop: stop.clone(),
        };
        out.write_all(b"x").unwrap();
        stop.ask(15);
        out.write_all(b"y").unwrap_err();
        assert_eq!(
            (out.out.as_slice(), stop.asked().map(Ended::exit_code)),
            (&b"x"[..], Some(143))
        );
    }
}
