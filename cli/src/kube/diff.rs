//! `diff`: the Flists that a Job's runs left, and what is different in them from what a run began with. What is in
//! them, `ls` and `cat` show by their digest.

use super::args::Diff;
use super::cluster::{Cluster, get, list};
use super::fault::{Fault, Kind, of_node};
use super::node::Nodes;
use super::tree::{FIRST, NEXT, docker_config, is_digest, late, named, server};
use crate::cmd::{DiffLine, DiffReport};
use crate::output::{self, Show};
use anyhow::Result;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use lamina_crds::conditions::find;
use lamina_crds::pull_secrets::merged;
use lamina_crds::{Flist, Job, JobRun};
use lamina_proto::lamina::v1::{CompareTreesRequest, Source, TreeDifference};
use serde::Serialize;

/// By this label the operator marks what a Job left, by the other whose it is of its runs.
const JOB_LABEL: &str = "lamina.dev/job";
const INDEX_LABEL: &str = "lamina.dev/job-index";

#[derive(Debug, Serialize, PartialEq, Eq)]
struct Kept {
    flists: Vec<Line>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
struct Line {
    index: i32,
    flist: String,
    ready: bool,
    entries: i64,
    bytes: i64,
    digest: String,
}

impl Show for Kept {
    fn table(&self) -> String {
        let rows: Vec<_> = self
            .flists
            .iter()
            .map(|one| {
                [
                    one.index.to_string(),
                    one.flist.clone(),
                    if one.ready { "True" } else { "False" }.to_owned(),
                    one.entries.to_string(),
                    output::size(one.bytes.unsigned_abs()),
                    one.digest.clone(),
                ]
            })
            .collect();
        output::columns(
            ["INDEX", "FLIST", "READY", "ENTRIES", "SIZE", "DIGEST"],
            &rows,
        )
    }
}

pub(crate) async fn diff(cluster: &Cluster, args: &Diff) -> Result<()> {
    let jobs = Api::<Job>::namespaced(cluster.client.clone(), &cluster.namespace);
    let what = format!("jobs.lamina.dev {} in {}", args.job, cluster.namespace);
    let job = get(&jobs, &what, &args.job).await?;
    let api = Api::<Flist>::namespaced(cluster.client.clone(), &cluster.namespace);
    let what = format!("flists.lamina.dev in {}", cluster.namespace);
    // Not by the label of the name: a long one has none.
    let marked = ListParams::default().labels(INDEX_LABEL);
    let flists = list(&api, &what, &marked).await?;
    let kept = kept(&job, &flists)?;
    let Some(index) = args.index else {
        return output::print(&kept, args.output.output);
    };
    let line = kept.of(index)?;
    let from = began_with(cluster, &job, &line.flist).await?;
    let node = args.node.as_deref();
    let differences = compare(cluster, &job, line, from, node).await?;
    output::print(&DiffReport { differences }, args.output.output)
}

/// What the run began with that left this Flist. Of one that an older operator watched, what the Job names now.
async fn began_with(cluster: &Cluster, job: &Job, flist: &str) -> Result<Source, Fault> {
    let base = run_that_left(job, flist).and_then(|run| run.base.as_deref());
    if let Some(base) = base.filter(|base| is_digest(base)) {
        return Ok(named(base, None, Vec::new()));
    }
    let source = &job.spec.source;
    if let Some(image) = &source.image {
        let mut configs = Vec::with_capacity(source.pull_secrets.len());
        for secret in &source.pull_secrets {
            let config = docker_config(cluster, &secret.name).await?;
            configs.push((secret.name.clone(), config));
        }
        let merged = merged(&configs);
        let merged = merged.map_err(|bad| Fault::new(Kind::Usage, bad.to_string()))?;
        return Ok(named(image, None, merged));
    }
    let name = source.flist.clone().unwrap_or_default();
    let api = Api::<Flist>::namespaced(cluster.client.clone(), &cluster.namespace);
    let what = format!("flists.lamina.dev {name} in {}", cluster.namespace);
    let flist = get(&api, &what, &name).await?;
    let status = flist.status.unwrap_or_default();
    let source = flist.spec.source.flist.map(|from| from.digest);
    match status.digest.or(source) {
        Some(digest) => Ok(named(&digest, None, Vec::new())),
        None => Err(Fault::new(
            Kind::NotFound,
            format!("the Flist {name}, on which the Job runs, has no digest yet"),
        )),
    }
}

/// Asks the node that ran it, which has both, or another one.
async fn compare(
    cluster: &Cluster,
    job: &Job,
    line: &Line,
    from: Source,
    node: Option<&str>,
) -> Result<Vec<DiffLine>, Fault> {
    let nodes = Nodes::find(cluster).await?;
    let ran = node
        .is_none()
        .then(|| run_that_left(job, &line.flist)?.node.clone());
    let ran: Vec<String> = ran.flatten().into_iter().collect();
    let server = match nodes.ready(&ran) {
        Ok(mut ready) if !ran.is_empty() => ready.swap_remove(0),
        _ => server(&nodes, &line.digest, node).await?,
    };
    let mut dialled = nodes.dial(&server).await?;
    let what = format!("compare {} with what it was made of", line.flist);
    let request = CompareTreesRequest {
        old: Some(from),
        new: Some(named(&line.digest, None, Vec::new())),
    };
    let failed = |status: tonic::Status| of_node(&server.node, &what, &status);
    let slow = |_| late(&server.node, &what);
    let answer = tokio::time::timeout(FIRST, dialled.client.compare_trees(request)).await;
    let mut answers = answer.map_err(slow)?.map_err(failed)?.into_inner();
    let mut lines = Vec::new();
    loop {
        let next = tokio::time::timeout(NEXT, answers.message()).await;
        match next.map_err(slow)?.map_err(failed)? {
            Some(answer) => lines.extend(answer.differences.into_iter().map(changed)),
            None => return Ok(lines),
        }
    }
}

fn run_that_left<'a>(job: &'a Job, flist: &str) -> Option<&'a JobRun> {
    let runs = &job.status.as_ref()?.runs;
    runs.iter().find(|run| run.flist.as_deref() == Some(flist))
}

fn changed(difference: TreeDifference) -> DiffLine {
    let from = (difference.change == "renamed").then_some(difference.renamed_from.as_slice());
    DiffLine::new(
        &difference.path,
        &difference.change,
        from,
        difference.aspects,
    )
}

impl Kept {
    fn of(&self, index: i32) -> Result<&Line, Fault> {
        let line = self.flists.iter().find(|line| line.index == index);
        line.ok_or_else(|| {
            let known: Vec<String> = self
                .flists
                .iter()
                .map(|line| line.index.to_string())
                .collect();
            let why = format!(
                "no run of index {index} has left a Flist; there are those of {}",
                known.join(", ")
            );
            Fault::new(Kind::NotFound, why)
        })
    }
}

/// Those of this very Job, and those that it was told to let go of.
fn kept(job: &Job, flists: &[Flist]) -> Result<Kept, Fault> {
    let is_of = |flist: &&Flist| {
        let owners = flist.owner_references();
        let is_owned = owners
            .iter()
            .any(|owner| Some(&owner.uid) == job.uid().as_ref());
        let label = flist.labels().get(JOB_LABEL);
        is_owned || (owners.is_empty() && label == Some(&job.name_any()))
    };
    let mut lines: Vec<Line> = flists.iter().filter(is_of).map(line).collect();
    lines.sort_by_key(|line| line.index);
    if lines.is_empty() {
        return Err(Fault::new(Kind::NotFound, why_none(job)));
    }
    Ok(Kept { flists: lines })
}

fn line(flist: &Flist) -> Line {
    let status = flist.status.clone().unwrap_or_default();
    let index = flist.labels().get(INDEX_LABEL);
    let ready = find(&status.conditions, "Ready");
    let source = flist.spec.source.flist.as_ref();
    Line {
        index: index.and_then(|text| text.parse().ok()).unwrap_or(0),
        flist: flist.name_any(),
        ready: ready.is_some_and(|ready| ready.status == "True"),
        entries: status.entries.unwrap_or(0),
        bytes: status.bytes.unwrap_or(0),
        digest: source.map_or_else(String::new, |from| from.digest.clone()),
    }
}

fn why_none(job: &Job) -> String {
    let name = job.name_any();
    match job.spec.keep_diff {
        true => format!("no run of the Job {name} has left a Flist yet"),
        false => format!("the Job {name} keeps nothing: spec.keepDiff is false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(keeps: bool) -> Job {
        serde_json::from_value(json!({
            "apiVersion": "lamina.dev/v1alpha1", "kind": "Job",
            "metadata": { "name": "work", "namespace": "team", "uid": "u1" },
            "spec": { "source": { "image": "a" }, "keepDiff": keeps },
        }))
        .unwrap()
    }

    fn flist(index: i32, owner: Option<&str>, job: &str) -> Flist {
        let owners: Vec<_> = owner
            .iter()
            .map(|uid| json!({ "apiVersion": "v", "kind": "Job", "name": job, "uid": uid }))
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "lamina.dev/v1alpha1", "kind": "Flist",
            "metadata": {
                "name": format!("{job}-{index}"), "ownerReferences": owners,
                "labels": { JOB_LABEL: job, INDEX_LABEL: index.to_string() },
            },
            "spec": { "source": { "flist": { "digest": format!("d{index}") } } },
            "status": { "entries": 3, "bytes": 2048, "conditions": [{
                "type": "Ready", "status": "True", "reason": "Ready", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }] },
        }))
        .unwrap()
    }

    #[test]
    fn a_jobs_flists_are_listed_by_index_and_nobody_elses() {
        let flists = [
            flist(10, Some("u1"), "work"),
            flist(2, Some("u1"), "work"),
            flist(1, None, "work"),
            flist(0, Some("u2"), "work"),
            flist(0, None, "other"),
        ];
        let kept = kept(&job(true), &flists).unwrap();
        let indexes: Vec<i32> = kept.flists.iter().map(|line| line.index).collect();
        assert_eq!(indexes, [1, 2, 10]);
        let table = kept.table();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[2], ["2", "work-2", "True", "3", "2.00", "KiB", "d2"]);
    }

    #[test]
    fn the_run_of_an_index_is_found_and_where_it_ran() {
        let flists = [flist(2, Some("u1"), "work")];
        let kept = kept(&job(true), &flists).unwrap();
        assert_eq!(kept.of(2).unwrap().flist, "work-2");
        let none = kept.of(1).unwrap_err();
        assert!(
            none.message.contains("index 1") && none.message.ends_with('2'),
            "{none}"
        );
        let mut job = job(true);
        assert_eq!(run_that_left(&job, "work-2"), None);
        let status = json!({ "runs": [
            { "attempt": 1, "index": 2, "node": "n1" },
            { "attempt": 2, "index": 2, "node": "n2", "flist": "work-2", "base": "b" },
        ] });
        job.status = Some(serde_json::from_value(status).unwrap());
        let run = run_that_left(&job, "work-2").unwrap();
        assert_eq!(
            (run.node.as_deref(), run.base.as_deref()),
            (Some("n2"), Some("b"))
        );
    }

    #[test]
    fn changes_are_shown_with_names_that_harm_no_terminal() {
        let line = |change: &str, aspects: &[&str]| {
            changed(TreeDifference {
                path: b"a/\x1bb".to_vec(),
                change: change.into(),
                renamed_from: b"old".to_vec(),
                aspects: aspects.iter().map(|&aspect| aspect.into()).collect(),
            })
        };
        let differences = vec![
            line("added", &[]),
            line("renamed", &[]),
            line("changed", &["mode", "content"]),
        ];
        let table = DiffReport { differences }.table();
        assert_eq!(
            table,
            "+ /a/\\u{1b}b\n> /a/\\u{1b}b (was /old)\n~ /a/\\u{1b}b (mode, content)"
        );
    }

    #[test]
    fn why_there_is_none_is_said() {
        let none = kept(&job(false), &[]).unwrap_err();
        assert!(none.message.contains("keepDiff is false"), "{none}");
        let yet = kept(&job(true), &[]).unwrap_err();
        assert!(yet.message.contains("yet"), "{yet}");
    }
}
