//! What the program says beside its results: of services and daemons lines with a time, of what a person typed plain warnings.

use lamina_nodeagent::logfile::LogFile;
use std::fmt::{self, Debug, Write as _};
use std::io::IsTerminal;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Begins to log: to standard error, of daemons to their bounded file. `RUST_LOG` overrides the `-v` count.
pub(crate) fn begin(verbose: u8, file: Option<LogFile>) {
    // fuser warns of every message we leave to its default answer, and anybody may send those.
    let default = match verbose {
        0 => "warn,fuser=error",
        1 => "info,fuser=error",
        _ => "debug",
    };
    let asked = tracing_subscriber::EnvFilter::try_from_default_env();
    let is_plain = verbose == 0 && file.is_none() && asked.is_err();
    let filter = asked.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(match file {
            Some(file) => BoxMakeWriter::new(Arc::new(file)),
            None => BoxMakeWriter::new(std::io::stderr),
        });
    match is_plain {
        true => subscriber.event_format(Plain).init(),
        false => subscriber.init(),
    }
}

/// As other warnings of a verb: no time, no module.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut words = Words::default();
        event.record(&mut words);
        let text = crate::output::printable(&words.text());
        writeln!(writer, "warning: {text}")
    }
}

/// What an event says: its message, what it is about, and why it happened.
#[derive(Default)]
struct Words {
    message: String,
    about: String,
    error: String,
}

impl Words {
    fn text(self) -> String {
        let mut text = self.message;
        if !self.about.is_empty() {
            text = format!("{text} ({})", self.about);
        }
        match self.error.is_empty() {
            true => text,
            false => format!("{text}: {}", self.error),
        }
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "error" => write!(self.error, "{value:?}"),
            name => {
                let comma = if self.about.is_empty() { "" } else { ", " };
                write!(self.about, "{comma}{name} {value:?}")
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Mutex, PoisonError};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_warning_of_a_verb_is_a_sentence() {
        let written = Written::default();
        let to = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Plain)
            .with_writer(move || to.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let error = io::Error::other("busy");
            tracing::warn!(%error, at = "/x", pid = 7, "take down a mount");
            tracing::warn!("one\u{1b}[31m");
        });
        let said = written.0.lock().unwrap();
        let said = std::str::from_utf8(&said).unwrap();
        assert_eq!(
            said,
            "warning: take down a mount (at /x, pid 7): busy\nwarning: one\\u{1b}[31m\n"
        );
    }
}
