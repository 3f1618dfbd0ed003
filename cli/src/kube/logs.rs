//! `logs`: the last lines of a Job's runs, as its status has them. A Job has no pod whose log could be read.

use super::args::Logs;
use super::cluster::{Cluster, get};
use super::fault::{Fault, Kind};
use anyhow::Result;
use kube::Api;
use lamina_crds::{Job, JobOutcome, JobStatus};
use std::io::Write as _;

pub(crate) async fn logs(cluster: &Cluster, args: &Logs) -> Result<()> {
    let api = Api::<Job>::namespaced(cluster.client.clone(), &cluster.namespace);
    let what = format!("jobs.lamina.dev {} in {}", args.job, cluster.namespace);
    let job = get(&api, &what, &args.job).await?;
    let status = job.status.unwrap_or_default();
    let (about, log) = chosen(&status, args.attempt)?;
    eprintln!("{about}");
    let mut out = std::io::stdout().lock();
    // The operator leaves control characters out of it.
    out.write_all(log.as_bytes())?;
    if !log.is_empty() && !log.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Whose log it is, and the log.
fn chosen(status: &JobStatus, attempt: Option<i32>) -> Result<(String, &str), Fault> {
    let Some(attempt) = attempt else {
        return last(status);
    };
    let run = status.runs.iter().find(|run| run.attempt == attempt);
    let run = run.ok_or_else(|| {
        let known: Vec<String> = status
            .runs
            .iter()
            .map(|run| run.attempt.to_string())
            .collect();
        let known = match known.is_empty() {
            true => "there is none".to_owned(),
            false => format!("it has {}", known.join(", ")),
        };
        not_there(format!(
            "the status has no attempt {attempt} any more, or not yet: {known}"
        ))
    })?;
    let log = run.log_tail.as_deref();
    match (run.outcome, log) {
        (None, _) => Err(not_there(format!("attempt {attempt} has not ended yet"))),
        (Some(JobOutcome::Succeeded), None) => Err(not_there(format!(
            "attempt {attempt} succeeded: of these only the log of the run that ended last is kept"
        ))),
        (Some(outcome), log) => {
            let about = format!(
                "index {}, attempt {attempt}: {}",
                run.index,
                outcome.as_str()
            );
            let place = ended(&about, run.node.as_deref(), run.exit_code);
            Ok((place, log.unwrap_or_default()))
        }
    }
}

/// The run that ended last.
fn last(status: &JobStatus) -> Result<(String, &str), Fault> {
    match (&status.log_tail, status.exit_code) {
        (None, None) => {
            let why = status
                .reason
                .as_deref()
                .unwrap_or("the operator has not looked at it");
            Err(not_there(format!("no run has ended yet ({why})")))
        }
        (log, code) => {
            let about = ended("the run that ended last", status.node.as_deref(), code);
            Ok((about, log.as_deref().unwrap_or_default()))
        }
    }
}

fn ended(about: &str, node: Option<&str>, exit_code: Option<i32>) -> String {
    let node = node.map_or_else(String::new, |node| format!(" on node {node}"));
    let code = exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
    crate::output::printable(&format!("{about}{node}{code}"))
}

fn not_there(why: String) -> Fault {
    Fault::new(Kind::NotFound, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status() -> JobStatus {
        serde_json::from_value(json!({
            "exitCode": 0, "node": "n2", "logTail": "all is well\n",
            "runs": [
                { "attempt": 1, "index": 0, "outcome": "Failed", "exitCode": 3, "node": "n1", "logTail": "no such file\n" },
                { "attempt": 2, "index": 0, "outcome": "Succeeded", "exitCode": 0, "node": "n2" },
                { "attempt": 3, "index": 1 },
            ],
        }))
        .unwrap()
    }

    #[test]
    fn the_log_of_the_last_run_or_of_the_one_that_is_named_is_shown() {
        let status = status();
        let (about, log) = chosen(&status, None).unwrap();
        assert_eq!(about, "the run that ended last on node n2, exit code 0");
        assert_eq!(log, "all is well\n");
        let (about, log) = chosen(&status, Some(1)).unwrap();
        assert_eq!(about, "index 0, attempt 1: Failed on node n1, exit code 3");
        assert_eq!(log, "no such file\n");
    }

    #[test]
    fn a_log_that_is_not_there_is_told_why() {
        for (attempt, why) in [
            (Some(2), "only the log of the run that ended last is kept"),
            (Some(3), "attempt 3 has not ended yet"),
            (Some(4), "it has 1, 2, 3"),
        ] {
            let fault = chosen(&status(), attempt).unwrap_err();
            assert_eq!(fault.kind, Kind::NotFound);
            assert!(fault.message.contains(why), "{fault}");
        }
        let waits = JobStatus {
            reason: Some("NoRoom".into()),
            ..JobStatus::default()
        };
        let fault = chosen(&waits, None).unwrap_err();
        assert_eq!(fault.message, "no run has ended yet (NoRoom)");
    }
}
