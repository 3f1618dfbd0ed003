//! `diff`: the Flists that a Job's runs left. What is in them, `ls` and `cat` show by their digest.

use super::args::Diff;
use super::cluster::{Cluster, get, list};
use super::fault::{Fault, Kind};
use crate::output::{self, Show};
use anyhow::Result;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use lamina_crds::conditions::find;
use lamina_crds::{Flist, Job};
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
    output::print(&kept, args.output.output)
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
    fn why_there_is_none_is_said() {
        let none = kept(&job(false), &[]).unwrap_err();
        assert!(none.message.contains("keepDiff is false"), "{none}");
        let yet = kept(&job(true), &[]).unwrap_err();
        assert!(yet.message.contains("yet"), "{yet}");
    }
}
