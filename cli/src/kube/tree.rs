//! `ls` and `cat`: into an image or a flist through a node, without a pod.

use super::args::{Cat, Ls, Pull};
use super::cluster::{Cluster, get};
use super::fault::{Fault, Kind, of_node};
use super::node::{Dialled, Nodes, Server};
use crate::cmd::{mode_text, shown, time_text};
use crate::output::{self, Show};
use anyhow::Result;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use lamina_crds::pull_secrets::KEY;
use lamina_proto::lamina::v1::read_tree_response::Part;
use lamina_proto::lamina::v1::source::From;
use lamina_proto::lamina::v1::{
    FlistInfo, FlistSource, ImageSource, PullPolicy, ReadTreeRequest, ReadTreeResponse, Source,
    TreeEntry,
};
use serde::Serialize;
use std::str::FromStr;
use std::time::Duration;

/// A node that has to convert the image first takes this long at most.
pub(crate) const FIRST: Duration = Duration::from_secs(900);
/// Between two pieces.
pub(crate) const NEXT: Duration = Duration::from_secs(60);

/// `IMAGE:/PATH`, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImagePath {
    pub(crate) image: String,
    pub(crate) path: String,
}

impl FromStr for ImagePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A reference holds `:` before a port or a tag, never before a slash.
        match text.split_once(":/") {
            Some(("", _)) => Err("the image is missing before `:/`".into()),
            Some((image, path)) if !image.contains("//") && !path.starts_with('/') => Ok(Self {
                image: image.to_owned(),
                path: format!("/{path}"),
            }),
            _ => Err(format!(
                "`{text}` is not IMAGE:/PATH, e.g. python:3.13:/etc"
            )),
        }
    }
}

/// What a person named: a flist by its digest, else an image.
pub(crate) async fn source(cluster: &Cluster, image: &str, pull: &Pull) -> Result<Source, Fault> {
    let docker_config_json = match &pull.pull_secret {
        Some(name) => docker_config(cluster, name).await?,
        None => Vec::new(),
    };
    Ok(named(image, pull.platform.as_deref(), docker_config_json))
}

pub(crate) fn named(image: &str, platform: Option<&str>, docker_config_json: Vec<u8>) -> Source {
    let from = match is_digest(image) {
        true => From::Flist(FlistSource {
            digest: image.to_owned(),
            ..FlistSource::default()
        }),
        false => From::Image(ImageSource {
            reference: image.to_owned(),
            platform: platform.unwrap_or_default().to_owned(),
            pull_policy: PullPolicy::IfNotPresent.into(),
            docker_config_json,
        }),
    };
    Source { from: Some(from) }
}

pub(crate) fn is_digest(image: &str) -> bool {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    image.len() == 64 && image.chars().all(hex)
}

pub(crate) async fn docker_config(cluster: &Cluster, name: &str) -> Result<Vec<u8>, Fault> {
    let api = Api::<Secret>::namespaced(cluster.client.clone(), &cluster.namespace);
    let what = format!("secrets {name} in {}", cluster.namespace);
    let secret = get(&api, &what, name).await?;
    let data = secret.data.unwrap_or_default().remove(KEY);
    data.map(|bytes| bytes.0).ok_or_else(|| {
        let why = format!("Secret {name} is not a pull secret: it has no key {KEY}");
        Fault::new(Kind::Usage, why)
    })
}

/// A ready node: the one named, else one that has the image, else the first.
pub(crate) async fn server(
    nodes: &Nodes,
    image: &str,
    node: Option<&str>,
) -> Result<Server, Fault> {
    let names: Vec<String> = node.map(str::to_owned).into_iter().collect();
    let mut ready = nodes.ready(&names)?;
    for (place, server) in ready.iter().enumerate().take(4) {
        if ready.len() == 1 {
            break;
        }
        let flists = nodes.flists(server).await?.flists;
        if has(&flists, image) {
            return Ok(ready.swap_remove(place));
        }
    }
    Ok(ready.swap_remove(0))
}

fn has(flists: &[FlistInfo], image: &str) -> bool {
    flists
        .iter()
        .any(|flist| flist.digest == image || flist.reference == image)
}

/// A path being read, and the connection it comes through.
struct Reading {
    node: String,
    what: String,
    stream: tonic::Streaming<ReadTreeResponse>,
    first: bool,
    _node: Dialled,
}

impl Reading {
    async fn begin(
        cluster: &Cluster,
        at: &ImagePath,
        node: Option<&str>,
        pull: &Pull,
    ) -> Result<Self, Fault> {
        let source = source(cluster, &at.image, pull).await?;
        let nodes = Nodes::find(cluster).await?;
        let server = server(&nodes, &at.image, node).await?;
        let mut dialled = nodes.dial(&server).await?;
        let request = ReadTreeRequest {
            source: Some(source),
            path: at.path.clone(),
        };
        let what = format!("read {}:{}", at.image, at.path);
        let stream = match tokio::time::timeout(FIRST, dialled.client.read_tree(request)).await {
            Ok(answer) => answer.map_err(|status| of_node(&server.node, &what, &status))?,
            Err(_) => return Err(late(&server.node, &what)),
        };
        Ok(Self {
            node: server.node,
            what,
            stream: stream.into_inner(),
            first: true,
            _node: dialled,
        })
    }

    async fn next(&mut self) -> Result<Option<Part>, Fault> {
        let wait = if self.first { FIRST } else { NEXT };
        self.first = false;
        match tokio::time::timeout(wait, self.stream.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(answer))) => Ok(answer.part),
            Ok(Some(Err(status))) => Err(of_node(&self.node, &self.what, &status)),
            Err(_) => Err(late(&self.node, &self.what)),
        }
    }
}

pub(crate) fn late(node: &str, what: &str) -> Fault {
    Fault::new(
        Kind::Timeout,
        format!("node {node} took too long to {what}"),
    )
}

pub(crate) async fn cat(cluster: &Cluster, args: &Cat) -> Result<()> {
    let mut reading = Reading::begin(cluster, &args.path, args.node.as_deref(), &args.pull).await?;
    let mut directory = false;
    while let Some(part) = reading.next().await? {
        match part {
            Part::Data(bytes) => output::write_all(&bytes)?,
            Part::Entry(_) => directory = true,
        }
    }
    match directory {
        true => Err(Fault::new(Kind::Usage, format!("{} is a directory", args.path.path)).into()),
        false => Ok(()),
    }
}

pub(crate) async fn ls(cluster: &Cluster, args: &Ls) -> Result<()> {
    let mut reading = Reading::begin(cluster, &args.path, args.node.as_deref(), &args.pull).await?;
    let mut entries = Vec::new();
    while let Some(part) = reading.next().await? {
        match part {
            Part::Entry(entry) => entries.push(listed(&entry)),
            Part::Data(_) => {
                let why = format!("{} is a file; `cat` prints it", args.path.path);
                return Err(Fault::new(Kind::Usage, why).into());
            }
        }
    }
    let listing = Listing {
        long: args.long,
        entries,
    };
    output::print(&listing, args.output.output)
}

#[derive(Debug, Serialize)]
struct Listing {
    #[serde(skip)]
    long: bool,
    entries: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl Show for Listing {
    fn table(&self) -> String {
        if !self.long {
            let names: Vec<&str> = self.entries.iter().map(|one| one.name.as_str()).collect();
            return names.join("\n");
        }
        let rows: Vec<_> = self
            .entries
            .iter()
            .map(|one| {
                let target = one.target.as_ref().map(|target| format!(" -> {target}"));
                [
                    one.mode.clone(),
                    one.uid.to_string(),
                    one.gid.to_string(),
                    one.size.to_string(),
                    one.mtime.clone(),
                    format!("{}{}", one.name, target.unwrap_or_default()),
                ]
            })
            .collect();
        output::columns(["MODE", "UID", "GID", "SIZE", "MODIFIED", "NAME"], &rows)
    }
}

fn listed(entry: &TreeEntry) -> Listed {
    let target = (!entry.link_target.is_empty()).then(|| shown(&entry.link_target));
    Listed {
        name: shown(&entry.name),
        mode: mode_text(entry.mode),
        uid: entry.uid,
        gid: entry.gid,
        size: entry.size,
        mtime: time_text(entry.mtime_s),
        target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_and_a_path_are_told_apart() {
        let parsed = |text: &str| {
            let parsed = ImagePath::from_str(text)?;
            Ok::<_, String>((parsed.image, parsed.path))
        };
        let both = |image: &str, path: &str| Ok((image.to_owned(), path.to_owned()));
        assert_eq!(
            parsed("python:3.13:/etc/os-release"),
            both("python:3.13", "/etc/os-release")
        );
        assert_eq!(parsed("host:5000/a/b:/"), both("host:5000/a/b", "/"));
        assert_eq!(parsed("a@sha256:00:/b:/c"), both("a@sha256:00", "/b:/c"));
        for wrong in ["python:3.13", "/etc", ":/etc", "https://host/a:/etc"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_digest_names_a_flist_and_anything_else_an_image() {
        let of = |image: &str| named(image, None, Vec::new()).from.unwrap();
        assert!(matches!(of(&"0a".repeat(32)), From::Flist(_)));
        assert!(matches!(of(&"0A".repeat(32)), From::Image(_)));
        assert!(matches!(of("python:3.13"), From::Image(_)));
    }

    #[test]
    fn a_long_listing_shows_links_and_escapes_names() {
        let link = TreeEntry {
            name: b"sh\x1b".to_vec(),
            mode: 0o120_777,
            link_target: b"busybox".to_vec(),
            ..TreeEntry::default()
        };
        let listing = Listing {
            long: true,
            entries: vec![listed(&link)],
        };
        assert_eq!(
            output::unindented(&listing.table()),
            "\
MODE        UID  GID  SIZE  MODIFIED             NAME
lrwxrwxrwx  0    0    0     1970-01-01 00:00:00  sh\\u{1b} -> busybox"
        );
    }
}
