use serde_json::json;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "reads well with json!")]
fn spec(extra: serde_json::Value) -> JobSpec {
    let mut spec = json!({ "source": { "image": "alpine" } });
    let more = extra.as_object().unwrap().clone();
    spec.as_object_mut().unwrap().extend(more);
    serde_json::from_value(spec).unwrap()
}

fn ran(outcome: JobOutcome) -> How {
    How::Ran(Box::new(Ran {
        outcome,
        exit_code: Some(i32::from(outcome != JobOutcome::Succeeded)),
        log: "last words\n".into(),
        ..Ran::lost("exit code 1")
    }))
}

/// A job as it is looked at again and again.
struct Scene {
    spec: JobSpec,
    status: JobStatus,
    live: BTreeSet<i32>,
    second: i64,
}

impl Scene {
    fn new(extra: serde_json::Value) -> Self {
        Self {
            spec: spec(extra),
            status: JobStatus::default(),
            live: BTreeSet::new(),
            second: 0,
        }
    }

    /// Looks after these attempts ended so.
    fn look(&mut self, ended: &[(i32, How)]) -> (Option<How>, Next) {
        let ended: Vec<Ended> = ended
            .iter()
            .map(|(attempt, how)| Ended {
                attempt: *attempt,
                at: at(self.second),
                how: how.clone(),
            })
            .collect();
        let look = Look {
            spec: &self.spec,
            ended: &ended,
            live: &self.live,
            now: at(self.second),
        };
        let refusal = settle(&mut self.status, &look);
        let next = decide(&mut self.status, &look);
        for one in &ended {
            self.live.remove(&one.attempt);
        }
        (refusal, next)
    }

    /// Begins what may begin; the attempts and their indexes.
    fn begin(&mut self) -> Vec<(i32, i32)> {
        let (_, next) = self.look(&[]);
        let Next::Begin(indexes) = next else {
            return Vec::new();
        };
        let begun = record(&mut self.status, &self.spec, &indexes, at(self.second));
        self.live.extend(begun.iter().map(|run| run.attempt));
        begun.iter().map(|run| (run.attempt, run.index)).collect()
    }
}

#[test]
fn every_index_runs_once_and_no_more_at_a_time_than_may() {
    let mut scene = Scene::new(json!({ "completions": 3, "parallelism": 2 }));
    assert_eq!(scene.begin(), [(1, 0), (2, 1)]);
    assert_eq!(scene.begin(), []);
    assert_eq!(scene.status.phase, Some(JobPhase::Running));
    let (_, next) = scene.look(&[(2, ran(JobOutcome::Succeeded))]);
    assert_eq!(next, Next::Begin(vec![2]));
    assert_eq!(scene.begin(), [(3, 2)]);
    assert_eq!(scene.status.summary.as_deref(), Some("1/3"));
    let all = [
        (1, ran(JobOutcome::Succeeded)),
        (3, ran(JobOutcome::Succeeded)),
    ];
    scene.second = 75;
    assert_eq!(scene.look(&all).1, Next::Over);
    let status = &scene.status;
    assert_eq!(status.outcome, Some(JobOutcome::Succeeded));
    assert_eq!((status.active, status.succeeded, status.failed), (0, 3, 0));
    assert_eq!(status.succeeded_indexes.as_deref(), Some("0-2"));
    assert_eq!(status.duration.as_deref(), Some("1m15s"));
    assert_eq!(status.log_tail.as_deref(), Some("last words\n"));
    // A success tells its log once, as the job's.
    assert!(status.runs.iter().all(|run| run.log_tail.is_none()));
}

#[test]
fn a_failure_is_tried_again_after_a_pause_as_often_as_the_spec_says() {
    let mut scene = Scene::new(json!({ "retries": 1 }));
    assert_eq!(scene.begin(), [(1, 0)]);
    let (_, next) = scene.look(&[(1, ran(JobOutcome::TimedOut))]);
    assert_eq!(next, Next::Wait(Some(Duration::from_secs(1))));
    scene.second = 1;
    assert_eq!(scene.begin(), [(2, 0)], "another attempt of the same index");
    assert_eq!(scene.look(&[(2, ran(JobOutcome::OOMKilled))]).1, Next::Over);
    let status = &scene.status;
    assert_eq!(status.outcome, Some(JobOutcome::OOMKilled));
    assert_eq!((status.failed, status.exit_code), (2, Some(1)));
    assert_eq!(status.runs[0].log_tail.as_deref(), Some("last words\n"));
}

#[test]
fn the_pause_doubles_up_to_its_limit() {
    let mut scene = Scene::new(json!({ "retries": 100 }));
    let mut pauses = Vec::new();
    for attempt in 1..=11 {
        assert_eq!(scene.begin(), [(attempt, 0)]);
        match scene.look(&[(attempt, ran(JobOutcome::Failed))]).1 {
            Next::Wait(Some(pause)) => {
                scene.second += i64::try_from(pause.as_secs()).unwrap();
                pauses.push(pause.as_secs());
            }
            next => panic!("{next:?}"),
        }
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
}

#[test]
fn what_nobody_watches_any_more_has_failed_and_is_not_run_again_unasked() {
    for (retries, expected) in [
        (0, Next::Over),
        (1, Next::Wait(Some(Duration::from_secs(1)))),
    ] {
        let mut scene = Scene::new(json!({ "retries": retries, "completions": 2 }));
        assert_eq!(scene.begin(), [(1, 0)]);
        // Another process has no runs.
        scene.live.clear();
        assert_eq!(scene.look(&[]).1, expected);
        assert_eq!(scene.status.runs[0].outcome, Some(JobOutcome::Lost));
        assert_eq!(scene.status.failed, 1);
    }
}

#[test]
fn a_refusal_counts_for_nothing() {
    let mut scene = Scene::new(json!({}));
    assert_eq!(scene.begin(), [(1, 0)]);
    let refused = How::Refused(Fault::new("NoRoom", "full"));
    let (refusal, next) = scene.look(&[(1, refused.clone())]);
    assert_eq!(refusal, Some(refused));
    assert_eq!(next, Next::Begin(vec![0]));
    assert_eq!((scene.status.failed, scene.status.active), (0, 0));
    assert_eq!(scene.begin(), [(2, 0)], "a number is never used twice");
}

#[test]
fn a_suspended_job_has_no_runs_and_begins_anew() {
    let mut scene = Scene::new(json!({ "completions": 2, "parallelism": 2 }));
    scene.begin();
    scene.look(&[(1, ran(JobOutcome::Succeeded))]);
    scene.spec.suspend = true;
    assert_eq!(scene.look(&[]).1, Next::Suspended);
    assert_eq!(scene.status.phase, Some(JobPhase::Pending));
    assert_eq!((scene.status.active, scene.status.failed), (0, 0));
    // Its end comes too late.
    scene.look(&[(2, ran(JobOutcome::Failed))]);
    assert_eq!(scene.status.failed, 0);
    scene.spec.suspend = false;
    assert_eq!(scene.begin(), [(3, 1)], "what succeeded stays done");
}

#[test]
fn the_end_of_a_job_ends_the_others() {
    let mut scene = Scene::new(json!({ "completions": 2, "parallelism": 2 }));
    scene.begin();
    assert_eq!(scene.look(&[(1, ran(JobOutcome::Failed))]).1, Next::Over);
    assert_eq!(scene.status.runs[1].outcome, Some(JobOutcome::Cancelled));
    assert_eq!(scene.status.outcome, Some(JobOutcome::Failed));
    assert_eq!(scene.look(&[]).1, Next::Over, "for ever");
}

#[test]
fn a_status_is_bounded() {
    let completions = 500;
    let mut scene =
        Scene::new(json!({ "completions": completions, "parallelism": 256, "retries": 100 }));
    while scene.status.outcome.is_none() {
        scene.second += 300;
        let begun = scene.begin();
        assert!(scene.status.runs.len() <= lamina_crds::RUNS_MAX);
        let end = |attempt: i32| match attempt % 7 {
            0 => ran(JobOutcome::Failed),
            _ => ran(JobOutcome::Succeeded),
        };
        let ended: Vec<(i32, How)> = begun
            .iter()
            .map(|(attempt, _)| (*attempt, end(*attempt)))
            .collect();
        scene.look(&ended);
        assert!(scene.status.runs.len() <= ENDED_MAX);
    }
    assert_eq!(scene.status.outcome, Some(JobOutcome::Succeeded));
    assert_eq!(scene.status.succeeded, completions);
}
