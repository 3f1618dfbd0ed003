//! Whole steps against a fake API server and a fake proxy.

use lamina_crds::conditions::find;
use lamina_proto::afsletpb::EndReason;
use serde_json::{Value, json};
use tonic::Code;

use super::fake::{FakeProxy, Fate, KEPT};
use super::*;
use crate::cluster::testing::FakeApi;

const AT: &str = "/apis/lamina.dev/v1alpha1/namespaces/team/jobs/work";
const STATUS: &str = "/apis/lamina.dev/v1alpha1/namespaces/team/jobs/work/status";

/// A job in a cluster, and an operator.
struct Scene {
    api: FakeApi,
    ctx: Ctx,
    proxy: FakeProxy,
    job: Value,
}

impl Scene {
    async fn new(spec: Value, fates: &[Fate]) -> Self {
        let mut job = json!({
            "apiVersion": "lamina.dev/v1alpha1", "kind": "Job",
            "metadata": {
                "name": "work", "namespace": "team", "uid": "u1", "generation": 1, "resourceVersion": "7",
                "finalizers": [FINALIZER],
            },
            "spec": { "source": { "image": "alpine" } },
        });
        let more = spec.as_object().unwrap().clone();
        job["spec"].as_object_mut().unwrap().extend(more);
        let (api, proxy) = (FakeApi::default(), FakeProxy::start(fates).await);
        let ctx = operator(&api, &proxy);
        Self {
            api,
            ctx,
            proxy,
            job,
        }
    }

    /// One look at the object, which changed, and what is written becomes its status.
    async fn step(&mut self) -> Result<Duration, Fault> {
        let version = &mut self.job["metadata"]["resourceVersion"];
        *version = json!((version.as_str().unwrap().parse::<u32>().unwrap() + 1).to_string());
        self.look().await
    }

    async fn look(&mut self) -> Result<Duration, Fault> {
        self.api.answer(AT, self.job.clone());
        let job: Job = serde_json::from_value(self.job.clone()).unwrap();
        let result = step(&job, &self.ctx).await;
        if self.api.wrote(STATUS) {
            self.job["status"] = self.api.last_write(STATUS)["status"].clone();
        }
        result
    }

    /// Waits for the end of a run, and looks.
    async fn next(&mut self) -> Result<Duration, Fault> {
        self.ctx.runs.news().notified().await;
        self.step().await
    }

    /// Another operator takes over.
    fn replace_operator(&mut self) {
        self.ctx = operator(&self.api, &self.proxy);
    }

    fn status(&self) -> JobStatus {
        serde_json::from_value(self.job["status"].clone()).unwrap()
    }

    /// Status and reason of a condition.
    fn said(&self, kind: &str) -> (String, String) {
        let status = self.status();
        let said =
            find(&status.conditions, kind).unwrap_or_else(|| panic!("no {kind}: {status:?}"));
        (said.status.clone(), said.reason.clone())
    }

    fn events(&self) -> Vec<String> {
        self.api
            .bodies("/apis/events.k8s.io/v1/namespaces/team/events")
            .iter()
            .map(|event| event["reason"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn operator(api: &FakeApi, proxy: &FakeProxy) -> Ctx {
    let mut ctx = api.ctx();
    ctx.proxy.clone_from(&proxy.address);
    ctx
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn a_job_is_sent_and_its_end_is_in_its_status() {
    let spec = json!({
        "command": ["sh", "-c", "true"],
        "resources": { "cpu": "1500m", "memory": "1Gi" },
        "timeout": "5m",
        "env": [{ "name": "A", "value": "1" }],
        "files": [
            { "path": "/inline", "inline": "one" },
            { "path": "/map", "mode": 0o755, "configMap": { "name": "settings", "key": "a.conf" } },
            { "path": "/secret", "mode": 0o400, "secret": { "name": "hidden", "key": "word" } },
        ],
    });
    let mut scene = Scene::new(spec, &[Fate::Exit(0)]).await;
    scene.api.answer(
        "/api/v1/namespaces/team/configmaps/settings",
        json!({ "metadata": { "name": "settings" }, "data": { "a.conf": "two" } }),
    );
    scene.api.answer(
        "/api/v1/namespaces/team/secrets/hidden",
        json!({ "metadata": { "name": "hidden" }, "data": { "word": "dGhyZWU=" } }),
    );
    scene.step().await.unwrap();
    assert_eq!(scene.status().phase, Some(JobPhase::Running));
    assert_eq!(scene.status().active, 1);
    // It was written before it was sent, and only over what was read.
    let written = scene.api.last_write(STATUS);
    assert_eq!(written["metadata"]["resourceVersion"], "8");
    scene.next().await.unwrap();
    let status = scene.status();
    assert_eq!(status.phase, Some(JobPhase::Finished));
    assert_eq!(status.outcome, Some(JobOutcome::Succeeded));
    assert_eq!(
        (status.exit_code, status.node.as_deref()),
        (Some(0), Some("n1"))
    );
    assert_eq!(status.runs[0].base.as_deref(), Some("b1"));
    assert_eq!(status.log_tail.as_deref(), Some("hello\n"));
    assert_eq!(status.usage["cpuSeconds"], "1.250");
    assert_eq!(status.summary.as_deref(), Some("1/1"));
    assert_eq!(scene.said("Finished"), pair("True", "Succeeded"));
    assert_eq!(scene.said("Started"), pair("True", "Started"));
    let asked = &scene.proxy.asked()[0];
    let start = &asked.start;
    assert_eq!(start.image, "alpine");
    assert_eq!(start.entrypoint, ["sh", "-c", "true"]);
    assert_eq!(
        (start.cpu_cores, start.memory_mb, start.timeout_ms),
        (2, 1024, 300_000)
    );
    assert_eq!(asked.env("JOB_COMPLETION_INDEX"), Some("0"));
    assert_eq!(asked.env("A"), Some("1"));
    let file = |path: &str, mode, text: &str| (path.to_owned(), mode, text.as_bytes().to_vec());
    assert_eq!(
        asked.files,
        [
            file("/inline", 0o644, "one"),
            file("/map", 0o755, "two"),
            file("/secret", 0o400, "three")
        ]
    );
    assert_eq!(scene.events(), ["Started", "Finished"]);
}

#[tokio::test]
async fn indexes_run_side_by_side_and_what_fails_is_tried_again() {
    let spec = json!({ "completions": 3, "parallelism": 3, "retries": 1 });
    let fates = [Fate::Exit(0), Fate::Exit(3), Fate::Exit(0)];
    let mut scene = Scene::new(spec, &fates).await;
    scene.step().await.unwrap();
    assert_eq!(scene.status().active, 3);
    while scene.status().active > 0 {
        scene.next().await.unwrap();
    }
    let status = scene.status();
    assert_eq!((status.succeeded, status.failed), (2, 1), "{status:?}");
    let failed = status
        .runs
        .iter()
        .find(|run| run.exit_code == Some(3))
        .unwrap();
    assert_eq!(failed.outcome, Some(JobOutcome::Failed));
    assert_eq!(failed.log_tail.as_deref(), Some("hello\n"));
    let index = failed.index;
    // The pause after it is over.
    let ago = Timestamp::now().as_second() - 10;
    for run in scene.job["status"]["runs"].as_array_mut().unwrap() {
        run["finishedAt"] = json!(Timestamp::from_second(ago).unwrap().to_string());
    }
    scene.step().await.unwrap();
    while scene.status().outcome.is_none() {
        scene.next().await.unwrap();
    }
    assert_eq!(scene.said("Finished"), pair("True", "Succeeded"));
    let asked = scene.proxy.asked();
    assert_eq!(asked.len(), 4);
    assert_eq!(
        asked[3].env("JOB_COMPLETION_INDEX"),
        Some(&*index.to_string())
    );
    assert_eq!(asked[3].env("LAMINA_JOB_ATTEMPT"), Some("4"));
    assert!(scene.events().contains(&"RunFailed".to_owned()));
}

#[tokio::test]
async fn every_end_of_a_run_is_told_by_its_name() {
    for (fate, outcome) in [
        (Fate::Exit(3), "Failed"),
        (Fate::End(EndReason::TimedOut), "TimedOut"),
        (Fate::End(EndReason::OutOfMemory), "OOMKilled"),
        (Fate::Break, "Lost"),
    ] {
        let mut scene = Scene::new(json!({}), &[fate]).await;
        scene.step().await.unwrap();
        scene.next().await.unwrap();
        assert_eq!(scene.said("Finished"), pair("True", outcome));
        assert_eq!(scene.status().reason.as_deref(), Some(outcome));
        assert_eq!(
            scene.proxy.asked().len(),
            1,
            "{outcome} is not tried again unasked"
        );
    }
}

#[tokio::test]
async fn an_operator_that_takes_over_does_not_run_again_what_may_have_run() {
    for (retries, finished) in [(0, pair("True", "Lost")), (1, pair("False", "Unfinished"))] {
        let mut scene = Scene::new(json!({ "retries": retries }), &[Fate::Hang]).await;
        scene.step().await.unwrap();
        scene.replace_operator();
        scene.step().await.unwrap();
        assert_eq!(scene.said("Finished"), finished);
        assert_eq!(scene.status().runs[0].outcome, Some(JobOutcome::Lost));
        assert!(scene.proxy.asked().len() <= 1);
    }
}

#[tokio::test]
async fn nothing_is_begun_that_could_not_be_written_down() {
    let mut scene = Scene::new(json!({}), &[Fate::Exit(0)]).await;
    scene.api.refuse_writes();
    scene.step().await.unwrap_err();
    let seen = scene.ctx.runs.look("u1");
    let refused = |one: &plan::Ended| matches!(one.how, How::Refused(_));
    assert!(seen.ended.iter().all(refused), "{seen:?}");
    assert_eq!(seen.live.len(), seen.ended.len());
    assert!(scene.proxy.asked().is_empty());
}

// The API server had taken it and answered with an error: the attempt, of which nothing had begun, was counted as lost.
#[tokio::test]
async fn an_attempt_that_was_written_down_unknown_to_us_does_not_count() {
    let mut scene = Scene::new(json!({ "retries": 0 }), &[Fate::Exit(0)]).await;
    scene.api.lose_answers(true);
    scene.step().await.unwrap_err();
    assert_eq!(scene.status().active, 1, "it was written down");
    scene.api.lose_answers(false);
    let fault = scene.step().await.unwrap_err();
    assert_eq!((fault.reason, fault.is_work()), ("ApiServer", true));
    let status = scene.status();
    assert_eq!((status.failed, status.active, status.runs.len()), (0, 0, 0));
    assert!(scene.proxy.asked().is_empty());
    // When the pause is over it runs.
    scene.ctx.runs.forget("u1");
    scene.step().await.unwrap();
    scene.next().await.unwrap();
    assert_eq!(scene.said("Finished"), pair("True", "Succeeded"));
}

#[tokio::test]
async fn a_refused_run_waits_and_does_not_count() {
    let fates = [Fate::Refuse(Code::ResourceExhausted), Fate::Exit(0)];
    let mut scene = Scene::new(json!({}), &fates).await;
    scene.step().await.unwrap();
    let fault = scene.next().await.unwrap_err();
    assert_eq!((fault.reason, fault.is_work()), ("NoRoom", true));
    assert_eq!(scene.said("Started"), pair("False", "NoRoom"));
    assert_eq!((scene.status().failed, scene.status().active), (0, 0));
    // Its own write calls for a look: nothing is begun before the pause is over, and the reason stays.
    scene.step().await.unwrap();
    assert_eq!(scene.proxy.asked().len(), 1);
    assert_eq!(scene.status().reason.as_deref(), Some("NoRoom"));
    assert_eq!(scene.events(), ["Started", "NoRoom"]);
}

#[tokio::test]
async fn what_can_never_run_fails_at_once() {
    let mut scene = Scene::new(
        json!({ "retries": 5 }),
        &[Fate::Refuse(Code::InvalidArgument)],
    )
    .await;
    scene.step().await.unwrap();
    scene.next().await.unwrap();
    assert_eq!(scene.said("Finished"), pair("True", "Failed"));
    let status = scene.status();
    let said = find(&status.conditions, "Finished").unwrap();
    assert!(said.message.ends_with("refused"), "{}", said.message);
}

#[tokio::test]
async fn what_is_missing_is_named_and_nothing_is_sent() {
    let file = json!({ "files": [{ "path": "/a", "secret": { "name": "none", "key": "a" } }] });
    for (spec, reason) in [
        (file, "NoSuchSecret"),
        (json!({ "source": { "flist": "none" } }), "NoSuchFlist"),
        (json!({ "timeout": "0s" }), "InvalidSpec"),
    ] {
        let mut scene = Scene::new(spec, &[Fate::Exit(0)]).await;
        let fault = scene.step().await.unwrap_err();
        assert_eq!(fault.reason, reason);
        assert_eq!(scene.said("Started"), pair("False", reason));
        assert_eq!(scene.said("Admitted"), pair("True", "Admitted"));
        assert!(scene.proxy.asked().is_empty());
    }
    let mut scene = Scene::new(json!({}), &[Fate::Exit(0)]).await;
    scene.ctx.proxy = "127.0.0.1:1".into();
    let fault = scene.step().await.unwrap_err();
    assert_eq!(fault.reason, "ProxyUnreachable");
    assert!(
        fault
            .message
            .contains("the proxy 127.0.0.1:1 cannot be reached"),
        "{fault}"
    );
}

// Sixty-four files of one object of a mebibyte were all read before their size was looked at.
#[tokio::test]
async fn too_many_files_are_refused_before_the_rest_of_them_is_read() {
    let file = |number: usize, name: &str| {
        let named = json!({ "name": name, "key": "a" });
        json!({ "path": format!("/{number}"), "configMap": named })
    };
    let mut files: Vec<Value> = (0..9).map(|number| file(number, "large")).collect();
    files.push(file(9, "none"));
    let mut scene = Scene::new(json!({ "files": files }), &[Fate::Exit(0)]).await;
    scene.api.answer(
        "/api/v1/namespaces/team/configmaps/large",
        json!({ "metadata": { "name": "large" }, "data": { "a": "a".repeat(1 << 20) } }),
    );
    let fault = scene.step().await.unwrap_err();
    assert_eq!(fault.reason, "InvalidSpec", "{fault}");
    assert!(fault.message.contains("at most 8388608"), "{fault}");
}

#[tokio::test]
async fn a_flist_is_run_by_its_digest() {
    let spec = json!({ "source": { "flist": "tools" } });
    let mut scene = Scene::new(spec, &[Fate::Exit(0)]).await;
    let digest = "ab".repeat(32);
    scene.api.answer(
        "/apis/lamina.dev/v1alpha1/namespaces/team/flists/tools",
        json!({
            "apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": { "name": "tools" },
            "spec": { "source": { "image": { "reference": "alpine:3" } } },
            "status": { "digest": digest, "manifest": "sha256:cc", "stores": ["s3://bucket"] },
        }),
    );
    scene.step().await.unwrap();
    scene.next().await.unwrap();
    let start = scene.proxy.asked()[0].start.clone();
    let flist = start.flist.unwrap();
    assert_eq!(
        (flist.digest, flist.stores),
        (digest, vec!["s3://bucket".to_owned()])
    );
    assert_eq!(flist.image.unwrap().reference, "alpine@sha256:cc");
    assert_eq!(start.image, "");
}

/// Waits until the proxy noticed that the stream of a run is gone.
async fn until_gone(proxy: &FakeProxy, count: usize) {
    let waiting = async {
        while proxy.gone() < count {
            tokio::task::yield_now().await;
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, waiting).await.unwrap();
}

/// Waits until the proxy has this many runs.
async fn until_asked(proxy: &FakeProxy, count: usize) {
    let waiting = async {
        while proxy.asked().len() < count {
            tokio::task::yield_now().await;
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, waiting).await.unwrap();
}

#[tokio::test]
async fn a_suspended_job_ends_its_runs_and_goes_on_later() {
    let mut scene = Scene::new(json!({}), &[Fate::Hang, Fate::Exit(0)]).await;
    scene.step().await.unwrap();
    until_asked(&scene.proxy, 1).await;
    scene.job["spec"]["suspend"] = json!(true);
    scene.step().await.unwrap();
    until_gone(&scene.proxy, 1).await;
    assert_eq!(scene.said("Admitted"), pair("False", "Suspended"));
    assert_eq!(scene.status().phase, Some(JobPhase::Pending));
    scene.job["spec"]["suspend"] = json!(false);
    scene.step().await.unwrap();
    scene.next().await.unwrap();
    assert_eq!(scene.said("Finished"), pair("True", "Succeeded"));
    assert_eq!(scene.status().failed, 0);
}

#[tokio::test]
async fn a_deleted_job_ends_its_runs_and_is_let_go() {
    let mut scene = Scene::new(json!({}), &[Fate::Hang]).await;
    scene.step().await.unwrap();
    until_asked(&scene.proxy, 1).await;
    scene.job["metadata"]["deletionTimestamp"] = json!(Timestamp::now().to_string());
    scene.step().await.unwrap();
    until_gone(&scene.proxy, 1).await;
    assert_eq!(
        scene.api.last_write(AT)["metadata"]["finalizers"],
        json!([])
    );
}

#[tokio::test]
async fn a_new_job_of_a_queue_is_kueues_to_start() {
    let mut scene = Scene::new(json!({}), &[Fate::Exit(0)]).await;
    scene.job["metadata"]["labels"] = json!({ QUEUE_LABEL: "batch" });
    scene.step().await.unwrap();
    assert_eq!(scene.api.last_write(AT)["spec"], json!({ "suspend": true }));
    scene.job["spec"]["suspend"] = json!(true);
    scene.step().await.unwrap();
    assert!(scene.proxy.asked().is_empty());
    scene.job["spec"]["suspend"] = json!(false);
    scene.step().await.unwrap();
    scene.next().await.unwrap();
    assert_eq!(scene.said("Finished"), pair("True", "Succeeded"));
}

const WORKLOAD: &str = "/apis/kueue.x-k8s.io/v1beta2/namespaces/team/workloads/lamina-job-u1";
const WORKLOADS: &str = "/apis/kueue.x-k8s.io/v1beta2/namespaces/team/workloads";

impl Scene {
    /// A job of a queue, and an operator that knows of Kueue.
    async fn queued(spec: Value, fates: &[Fate]) -> Self {
        let mut scene = Self::new(spec, fates).await;
        scene.ctx.kueue = true;
        scene.job["metadata"]["labels"] = json!({ QUEUE_LABEL: "batch" });
        scene
    }

    /// What Kueue says of the Workload that was made.
    fn kueue_says(&self, conditions: &Value) {
        let mut workload = self.api.last_write(WORKLOADS);
        workload["metadata"]["uid"] = json!("w1");
        workload["status"] = json!({ "conditions": conditions });
        self.api.answer(WORKLOAD, workload);
    }

    fn deletions(&self) -> usize {
        let wanted = format!("DELETE {WORKLOAD}");
        let all = self.api.writes();
        all.iter().filter(|line| **line == wanted).count()
    }
}

#[tokio::test]
async fn a_job_of_a_queue_runs_when_kueue_admits_it_and_gives_back_its_quota() {
    let spec = json!({
        "completions": 3, "parallelism": 8, "resources": { "cpu": "1500m", "memory": "1Gi" },
    });
    let mut scene = Scene::queued(spec, &[Fate::Exit(0); 3]).await;
    scene.step().await.unwrap();
    let made = scene.api.last_write(WORKLOADS);
    assert_eq!(made["spec"]["queueName"], "batch");
    let set = &made["spec"]["podSets"][0];
    assert_eq!(set["count"], 3);
    let requests = &set["template"]["spec"]["containers"][0]["resources"]["requests"];
    assert_eq!(requests, &json!({ "cpu": "2", "memory": "1024Mi" }));
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u1");
    assert_eq!(scene.said("Admitted"), pair("False", "Queued"));
    scene.kueue_says(
        &json!([{ "type": "QuotaReserved", "status": "False", "message": "no quota" }]),
    );
    scene.step().await.unwrap();
    let status = scene.status();
    let said = find(&status.conditions, "Admitted").unwrap();
    assert_eq!(said.message, "it waits in the queue batch: no quota");
    assert!(scene.proxy.asked().is_empty());
    scene.kueue_says(&json!([{ "type": "Admitted", "status": "True" }]));
    scene.step().await.unwrap();
    assert_eq!(scene.said("Admitted"), pair("True", "Admitted"));
    while scene.status().phase != Some(JobPhase::Finished) {
        scene.next().await.unwrap();
    }
    assert_eq!(scene.proxy.asked().len(), 3);
    scene.step().await.unwrap();
    let finished = &scene.api.last_write(&format!("{WORKLOAD}/status"))["status"]["conditions"][0];
    assert_eq!(
        (&finished["type"], &finished["reason"]),
        (&json!("Finished"), &json!("Succeeded"))
    );
    assert_eq!(scene.events(), ["Queued", "Started", "Finished"]);
}

#[tokio::test]
async fn a_job_that_kueue_evicts_ends_its_runs_and_queues_up_again() {
    let mut scene = Scene::queued(json!({}), &[Fate::Hang, Fate::Exit(0)]).await;
    scene.step().await.unwrap();
    scene.kueue_says(&json!([{ "type": "Admitted", "status": "True" }]));
    scene.step().await.unwrap();
    until_asked(&scene.proxy, 1).await;
    scene.kueue_says(&json!([
        { "type": "Admitted", "status": "True" },
        { "type": "Evicted", "status": "True", "message": "preempted" },
    ]));
    scene.step().await.unwrap();
    until_gone(&scene.proxy, 1).await;
    assert_eq!(scene.said("Admitted"), pair("False", "Queued"));
    assert_eq!((scene.status().failed, scene.status().active), (0, 0));
    // Its quota is nobody else's before its runs have ended.
    assert_eq!(scene.deletions(), 0);
    scene.step().await.unwrap();
    assert_eq!(scene.deletions(), 1);
    scene.step().await.unwrap();
    assert_eq!(scene.api.bodies(WORKLOADS).len(), 2);
    scene.kueue_says(&json!([{ "type": "Admitted", "status": "True" }]));
    scene.step().await.unwrap();
    scene.next().await.unwrap();
    assert_eq!(scene.said("Finished"), pair("True", "Succeeded"));
}

#[tokio::test]
async fn a_suspended_job_of_a_queue_holds_no_quota() {
    let mut scene = Scene::queued(json!({}), &[Fate::Hang]).await;
    scene.step().await.unwrap();
    scene.kueue_says(&json!([{ "type": "Admitted", "status": "True" }]));
    scene.step().await.unwrap();
    until_asked(&scene.proxy, 1).await;
    scene.job["spec"]["suspend"] = json!(true);
    scene.step().await.unwrap();
    assert_eq!(scene.deletions(), 0);
    scene.step().await.unwrap();
    assert_eq!(scene.deletions(), 1);
    assert_eq!(scene.said("Admitted"), pair("False", "Suspended"));
    scene.step().await.unwrap();
    assert_eq!(scene.api.bodies(WORKLOADS).len(), 1);
}

#[tokio::test]
async fn a_job_that_asks_for_something_else_queues_up_again() {
    let mut scene = Scene::queued(json!({ "completions": 9 }), &[]).await;
    scene.step().await.unwrap();
    scene.kueue_says(&json!([]));
    scene.job["spec"]["parallelism"] = json!(4);
    scene.step().await.unwrap();
    assert_eq!(scene.deletions(), 1);
    scene.step().await.unwrap();
    let made = scene.api.last_write(WORKLOADS);
    assert_eq!(made["spec"]["podSets"][0]["count"], 4);
}

#[tokio::test]
async fn a_job_of_a_queue_in_a_cluster_without_kueue_says_so() {
    let mut scene = Scene::queued(json!({}), &[]).await;
    scene.api.refuse_creations(WORKLOADS);
    scene.step().await.unwrap_err();
    assert_eq!(scene.said("Admitted"), pair("False", "QueueUnavailable"));
    assert!(scene.proxy.asked().is_empty());
}

#[tokio::test]
async fn a_job_that_is_over_is_deleted_after_its_time() {
    let mut scene = Scene::new(json!({ "ttlSecondsAfterFinished": 60 }), &[Fate::Exit(0)]).await;
    scene.step().await.unwrap();
    scene.next().await.unwrap();
    let rest = scene.step().await.unwrap();
    assert!(
        rest > Duration::from_secs(50) && rest <= Duration::from_secs(60),
        "{rest:?}"
    );
    let ago = Timestamp::now().as_second() - 61;
    scene.job["status"]["finishedAt"] = json!(Timestamp::from_second(ago).unwrap().to_string());
    scene.job["metadata"]["resourceVersion"] = json!("99");
    scene.api.answer(AT, scene.job.clone());
    let job: Job = serde_json::from_value(scene.job.clone()).unwrap();
    step(&job, &scene.ctx).await.unwrap();
    assert!(scene.api.writes().contains(&format!("DELETE {AT}")));
    assert_eq!(scene.api.last_write(AT)["preconditions"]["uid"], "u1");
}

#[tokio::test]
async fn what_is_new_is_guarded_before_anything_runs() {
    let mut scene = Scene::new(json!({}), &[Fate::Exit(0)]).await;
    scene.job["metadata"]["finalizers"] = json!([]);
    scene.step().await.unwrap();
    assert_eq!(
        scene.api.last_write(AT)["metadata"]["finalizers"],
        json!([FINALIZER])
    );
    assert!(scene.proxy.asked().is_empty());
}

#[tokio::test]
async fn a_job_of_which_nothing_is_new_costs_nothing() {
    let mut scene = Scene::new(json!({}), &[Fate::Hang]).await;
    scene.step().await.unwrap();
    let job: Job = serde_json::from_value(scene.job.clone()).unwrap();
    // Who asked now would find nothing.
    scene.api.forget(AT);
    let rest = step(&job, &scene.ctx).await.unwrap();
    assert!(rest <= LOOK_AGAIN, "{rest:?}");
    assert_eq!(scene.ctx.runs.look("u1").live.len(), 1);
}

const FLISTS: &str = "/apis/lamina.dev/v1alpha1/namespaces/team/flists";
const KEPT_AT: &str = "/apis/lamina.dev/v1alpha1/namespaces/team/flists/work-0";

/// A store of this name.
fn answer_store(api: &FakeApi, name: &str) {
    api.answer(
        &format!("/apis/lamina.dev/v1alpha1/stores/{name}"),
        json!({ "metadata": { "name": name }, "spec": { "url": format!("s3://{name}/packs") } }),
    );
}

/// A job whose runs are kept in the store `main`.
async fn keeping(fates: &[Fate]) -> Scene {
    let spec = json!({ "keepDiff": true, "diffStores": ["main"], "retries": 1 });
    let scene = Scene::new(spec, fates).await;
    answer_store(&scene.api, "main");
    scene
}

#[tokio::test]
async fn what_a_run_left_is_a_flist_of_the_job() {
    let mut scene = keeping(&[Fate::Exit(0)]).await;
    answer_store(&scene.api, "other");
    scene.job["spec"]["source"] = json!({ "flist": "tools" });
    scene.api.answer(
        &format!("{FLISTS}/tools"),
        json!({
            "metadata": { "name": "tools" },
            "spec": { "source": { "archive": { "url": "https://web/a.tar" } }, "stores": ["other", "main"] },
            "status": { "digest": "d1", "stores": ["s3://other/packs"] },
        }),
    );
    scene.step().await.unwrap();
    scene.next().await.unwrap();
    let keep = scene.proxy.asked()[0].start.keep.clone().unwrap();
    assert_eq!(keep.stores, ["s3://main/packs"]);
    assert_eq!(keep.base_stores, ["s3://other/packs"]);
    let made = scene.api.last_write(FLISTS);
    assert_eq!(made["metadata"]["name"], "work-0");
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u1");
    assert_eq!(made["metadata"]["labels"]["lamina.dev/job"], "work");
    assert_eq!(made["metadata"]["labels"]["lamina.dev/job-index"], "0");
    assert_eq!(
        made["spec"]["source"],
        json!({ "flist": { "digest": KEPT } })
    );
    assert_eq!(made["spec"]["stores"], json!(["main", "other"]));
    let status = scene.status();
    assert_eq!(status.outcome, Some(JobOutcome::Succeeded));
    assert_eq!(status.runs[0].flist.as_deref(), Some("work-0"));
    assert_eq!(status.diff.as_deref(), Some("work-0"));
    assert_eq!(scene.events(), ["Started", "Kept", "Finished"]);
}

#[tokio::test]
async fn nothing_runs_whose_changes_have_no_place() {
    let mut scene = Scene::new(json!({ "keepDiff": true }), &[Fate::Exit(0)]).await;
    let fault = scene.step().await.unwrap_err();
    assert_eq!(fault.reason, "NoStore");
    assert_eq!(scene.said("Started"), pair("False", "NoStore"));
    let mut scene = keeping(&[Fate::Exit(0)]).await;
    scene.api.answer(
        KEPT_AT,
        json!({ "metadata": { "name": "work-0", "uid": "f1" }, "spec": { "source": { "flist": { "digest": KEPT } } } }),
    );
    let fault = scene.step().await.unwrap_err();
    assert_eq!(fault.reason, "FlistExists");
    assert!(fault.message.contains("work-0"), "{fault}");
    assert!(scene.proxy.asked().is_empty());
    assert!(!scene.api.wrote(KEPT_AT));
}

#[tokio::test]
async fn the_flist_of_an_earlier_attempt_makes_way_before_the_run_counts() {
    let mut scene = keeping(&[Fate::Exit(0)]).await;
    let owner =
        json!({ "apiVersion": "lamina.dev/v1alpha1", "kind": "Job", "name": "work", "uid": "u1" });
    scene.api.answer(
        KEPT_AT,
        json!({
            "metadata": { "name": "work-0", "uid": "f1", "ownerReferences": [owner] },
            "spec": { "source": { "flist": { "digest": "d0" } } },
        }),
    );
    scene.step().await.unwrap();
    let fault = scene.next().await.unwrap_err();
    assert!(fault.is_work(), "{fault:?}");
    assert!(scene.api.writes().contains(&format!("DELETE {KEPT_AT}")));
    assert_eq!((scene.status().active, scene.status().succeeded), (1, 0));
    assert!(!scene.api.wrote(FLISTS));
    // It is gone.
    scene.step().await.unwrap();
    assert!(scene.api.wrote(FLISTS));
    assert_eq!(scene.status().outcome, Some(JobOutcome::Succeeded));
    assert_eq!(scene.status().diff.as_deref(), Some("work-0"));
    assert_eq!(scene.proxy.asked().len(), 1, "it ran once");
}

#[tokio::test]
async fn a_run_that_was_not_kept_has_failed() {
    let mut scene = keeping(&[Fate::ExitOld(0)]).await;
    scene.step().await.unwrap();
    scene.next().await.unwrap();
    let status = scene.status();
    assert_eq!((status.succeeded, status.failed), (0, 1));
    let message = status.runs[0].message.clone().unwrap();
    assert!(message.contains("cannot keep changes"), "{message}");
    assert!(!scene.api.wrote(FLISTS));
    // Who keeps nothing needs nobody who can.
    let mut scene = Scene::new(json!({}), &[Fate::ExitOld(0)]).await;
    scene.step().await.unwrap();
    scene.next().await.unwrap();
    assert_eq!(scene.status().outcome, Some(JobOutcome::Succeeded));
    assert!(scene.proxy.asked()[0].start.keep.is_none());
}
