//! What comes back, in its order: `accepted`, logs, the result, the changes, `done`.

use super::broken;
use super::diff::Diff;
use super::printer::Text;
use crate::output;
use anyhow::Result;
use lamina_proto::afsletpb::execute_response::Payload;
use lamina_proto::afsletpb::{Done, EndReason, ExecuteResponse, LogMessage, Result as RunResult};
use lamina_runtime::ended::EXIT_FAILED;

/// A run's answers until now.
pub(super) struct Answers {
    diff: Option<Diff>,
    result: Option<RunResult>,
    is_done: bool,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: u8,
    /// What an exit code cannot say.
    pub(super) why: Option<String>,
}

impl Answers {
    pub(super) fn new(diff: Option<Diff>) -> Self {
        Self {
            diff,
            result: None,
            is_done: false,
        }
    }

    /// Takes the next one; what is to be printed.
    pub(super) fn take(&mut self, answer: ExecuteResponse) -> Result<Option<Text>> {
        match answer.payload {
            Some(Payload::Log(log)) => return Ok(Some(text(log))),
            Some(Payload::Accepted(accepted)) => {
                tracing::info!(node = %accepted.node_id, request = %accepted.request_id, "accepted");
                if !accepted.accepted {
                    return Err(broken("it accepts the run and does not"));
                }
            }
            Some(Payload::Result(result)) => self.result = Some(result),
            Some(Payload::TarChunk(chunk)) => {
                if let Some(diff) = &mut self.diff {
                    diff.write(&chunk.data)?;
                }
            }
            Some(Payload::Done(done)) => self.finish(&done)?,
            // From a later version.
            Some(Payload::TarHeader(_)) | None => {}
        }
        Ok(None)
    }

    fn finish(&mut self, done: &Done) -> Result<()> {
        self.is_done = true;
        if let Some(diff) = self.diff.take() {
            diff.finish(u64::try_from(done.diff_bytes).unwrap_or(0))?;
        }
        if let Ok(left_out @ 1..) = u64::try_from(done.left_out) {
            let names = output::printable(&done.left_out_names.join(", "));
            let count = output::counted(left_out, "change");
            eprintln!("warning: {count} cannot be in a layer and were left out: {names}");
        }
        Ok(())
    }

    /// There are no more.
    pub(super) fn end(self) -> Result<Ended> {
        match (&self.result, self.is_done) {
            (Some(result), true) => Ok(ended(result)),
            (Some(_), false) => Err(broken("it ends before the changes did")),
            (None, _) => Err(broken("it ends without a result")),
        }
    }

    /// The call failed. A command that has ended, of which nothing more is wanted, has ended all the same.
    pub(super) fn broken(self, error: anyhow::Error) -> Result<Ended> {
        match (self.result, self.diff) {
            (Some(result), None) => {
                tracing::warn!("after the result: {error:#}");
                Ok(ended(&result))
            }
            _ => Err(error),
        }
    }
}

fn text(log: LogMessage) -> Text {
    Text {
        is_error: log.source == "stderr",
        bytes: match log.raw.is_empty() {
            true => log.message.into_bytes(),
            false => log.raw,
        },
    }
}

fn ended(result: &RunResult) -> Ended {
    let code = match (u8::try_from(result.exit_code), result.success) {
        (Ok(0), false) | (Err(_), _) => EXIT_FAILED,
        (Ok(code), _) => code,
    };
    let is_its_own = matches!(
        result.reason(),
        EndReason::Exited | EndReason::Signalled | EndReason::Unspecified
    );
    // How it ended by itself, its exit code says; which limits it hit, it does not.
    let why = match is_its_own {
        true => result
            .error
            .split_once("; ")
            .map_or("", |(_, limits)| limits),
        false => &*result.error,
    };
    let why = (!why.is_empty()).then(|| why.to_owned());
    Ended { code, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_proto::afsletpb::Accepted;

    fn result(exit_code: i32, success: bool, reason: EndReason) -> RunResult {
        RunResult {
            success,
            exit_code,
            error: "why".into(),
            reason: reason.into(),
            ..RunResult::default()
        }
    }

    fn answers(payloads: Vec<Payload>) -> Result<Answers> {
        let mut answers = Answers::new(None);
        for payload in payloads {
            let payload = Some(payload);
            answers.take(ExecuteResponse { payload })?;
        }
        Ok(answers)
    }

    #[test]
    fn exit_codes_are_the_commands_and_limits_are_named() {
        use EndReason as R;
        for (exit_code, success, reason, code, is_said) in [
            (0, true, R::Exited, 0, false),
            (3, false, R::Exited, 3, false),
            (143, false, R::Signalled, 143, false),
            (137, false, R::TimedOut, 137, true),
            (137, false, R::OutOfMemory, 137, true),
            (127, false, R::NotRun, 127, true),
            (126, false, R::NotRun, 126, true),
            (137, false, R::Drained, 137, true),
            (0, false, R::LogLimit, 125, true),
            (-1, false, R::Exited, 125, false),
            (256, true, R::Exited, 125, false),
        ] {
            let ended = ended(&result(exit_code, success, reason));
            assert_eq!(ended.code, code, "{reason:?} {exit_code}");
            assert_eq!(ended.why.is_some(), is_said, "{reason:?}");
        }
        let gave_up = RunResult {
            error: "it ended with exit code 2; too many processes".into(),
            ..result(2, false, R::Exited)
        };
        let why = ended(&gave_up).why;
        assert_eq!(why.as_deref(), Some("too many processes"));
    }

    #[test]
    fn a_run_without_an_end_has_failed() {
        let accepted = Payload::Accepted(Accepted {
            accepted: true,
            ..Accepted::default()
        });
        let result = Payload::Result(result(0, true, EndReason::Exited));
        let done = Payload::Done(Done::default());
        let whole = vec![accepted.clone(), result.clone(), done];
        assert_eq!(answers(whole).unwrap().end().unwrap().code, 0);
        assert!(answers(vec![accepted.clone()]).unwrap().end().is_err());
        let cut = || answers(vec![accepted.clone(), result.clone()]).unwrap();
        assert!(cut().end().is_err());
        let error = || anyhow::anyhow!("cut");
        assert_eq!(cut().broken(error()).unwrap().code, 0);
        assert!(answers(vec![accepted]).unwrap().broken(error()).is_err());
        assert!(answers(vec![Payload::Accepted(Accepted::default())]).is_err());
    }

    #[test]
    fn bytes_that_are_no_text_are_printed_as_they_are() {
        let log = |raw: &[u8]| LogMessage {
            source: "stderr".into(),
            message: "\u{fffd}".into(),
            raw: raw.into(),
        };
        let printed = text(log(&[0xff, 0]));
        assert_eq!((printed.is_error, printed.bytes), (true, vec![0xff, 0]));
        assert_eq!(text(log(&[])).bytes, "\u{fffd}".as_bytes());
    }
}
