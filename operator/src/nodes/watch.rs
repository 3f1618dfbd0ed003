//! News of nodes: one whose server works for the first time, one that is gone, one with other labels. Who keeps data on
//! nodes looks again then, and not only when its pause is over.
//!
//! A server that restarts is no news: an upgrade of all of them would have every object looked at for each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher::watcher};
use kube::{Api, ResourceExt as _, core::PartialObjectMeta};

use super::{SELECTOR, is_ready};

/// News that come together are told as one.
const TOGETHER: Duration = Duration::from_secs(2);

/// Tells of news for ever.
pub(crate) async fn watch(client: kube::Client, namespace: &str, tell: impl Fn()) {
    let servers = watcher::Config::default().labels(SELECTOR);
    let pods = watcher(Api::<Pod>::namespaced(client.clone(), namespace), servers)
        .default_backoff()
        .map(|event| event.map(|event| Seen::Server(Box::new(event))));
    // Of nodes only the labels count.
    let nodes = Api::<PartialObjectMeta<Node>>::all(client);
    let nodes = watcher(nodes, watcher::Config::default())
        .default_backoff()
        .map(|event| event.map(|event| Seen::Node(Box::new(event))));
    let mut seen = futures::stream::select(pods.boxed(), nodes.boxed());
    let mut known = Known::default();
    while let Some(first) = seen.next().await {
        let mut is_news = known.note(first);
        if !is_news {
            continue;
        }
        tokio::time::sleep(TOGETHER).await;
        while let Some(Some(next)) = seen.next().now_or_never() {
            is_news |= known.note(next);
        }
        tell();
    }
}

/// What a watch says.
enum Seen {
    Server(Box<Event<Pod>>),
    Node(Box<Event<PartialObjectMeta<Node>>>),
}

/// The nodes as they were last seen.
#[derive(Debug, Default)]
struct Known {
    labels: BTreeMap<String, BTreeMap<String, String>>,
    /// Nodes whose server was ready once.
    served: BTreeSet<String>,
    /// While all nodes are listed: those that came by.
    listed: BTreeSet<String>,
}

impl Known {
    /// Takes in what was seen; whether it is news.
    fn note(&mut self, seen: Result<Seen, watcher::Error>) -> bool {
        match seen {
            Ok(Seen::Server(event)) => match *event {
                Event::Apply(pod) | Event::InitApply(pod) => self.server(&pod),
                _ => false,
            },
            Ok(Seen::Node(event)) => self.node(*event),
            Err(error) => {
                tracing::warn!(%error, "watching nodes");
                false
            }
        }
    }

    fn server(&mut self, pod: &Pod) -> bool {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        match node.filter(|_| is_ready(pod)) {
            Some(node) => self.served.insert(node),
            None => false,
        }
    }

    fn node(&mut self, event: Event<PartialObjectMeta<Node>>) -> bool {
        match event {
            Event::Apply(node) => self.labelled(&node),
            Event::Delete(node) => self.gone(&node.name_any()),
            Event::Init => {
                self.listed.clear();
                false
            }
            Event::InitApply(node) => {
                self.listed.insert(node.name_any());
                self.labelled(&node)
            }
            Event::InitDone => {
                let is_gone = |name: &&String| !self.listed.contains(*name);
                let gone: Vec<String> = self.labels.keys().filter(is_gone).cloned().collect();
                let mut is_news = false;
                for name in gone {
                    is_news |= self.gone(&name);
                }
                is_news
            }
        }
    }

    /// Labels count on nodes that can be used.
    fn labelled(&mut self, node: &PartialObjectMeta<Node>) -> bool {
        let (name, labels) = (node.name_any(), node.labels().clone());
        let before = self.labels.insert(name.clone(), labels.clone());
        before.is_some_and(|before| before != labels) && self.served.contains(&name)
    }

    fn gone(&mut self, name: &str) -> bool {
        self.labels.remove(name);
        self.served.remove(name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn server(node: &str, ready: &str) -> Seen {
        let pod = json!({
            "metadata": { "name": format!("lamina-node-{node}") },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        });
        Seen::Server(Box::new(Event::Apply(serde_json::from_value(pod).unwrap())))
    }

    fn node(name: &str, zone: &str) -> PartialObjectMeta<Node> {
        let node = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": { "name": name, "labels": { "zone": zone } },
        });
        serde_json::from_value(node).unwrap()
    }

    fn seen(
        event: fn(PartialObjectMeta<Node>) -> Event<PartialObjectMeta<Node>>,
        name: &str,
        zone: &str,
    ) -> Seen {
        Seen::Node(Box::new(event(node(name, zone))))
    }

    #[test]
    fn a_node_is_news_when_its_server_works_and_when_it_goes() {
        let mut known = Known::default();
        for (event, is_news, why) in [
            (seen(Event::Apply, "a", "1"), false, "no server"),
            (server("a", "False"), false, "not ready"),
            (server("a", "True"), true, "ready"),
            (server("a", "True"), false, "known"),
            (server("a", "False"), false, "restarts"),
            (server("a", "True"), false, "restarted"),
            (seen(Event::Apply, "a", "1"), false, "the same"),
            (seen(Event::Apply, "a", "2"), true, "moved"),
            (seen(Event::Delete, "a", "2"), true, "gone"),
            (seen(Event::Delete, "a", "2"), false, "gone before"),
            (server("a", "True"), true, "back"),
        ] {
            assert_eq!(known.note(Ok(event)), is_news, "{why}");
        }
    }

    #[test]
    fn a_node_that_went_unseen_is_missed_at_the_next_listing() {
        let mut known = Known::default();
        for (event, is_news, why) in [
            (Seen::Node(Box::new(Event::Init)), false, "begins"),
            (seen(Event::InitApply, "a", "1"), false, "a"),
            (seen(Event::InitApply, "b", "1"), false, "b"),
            (Seen::Node(Box::new(Event::InitDone)), false, "first list"),
            (server("a", "True"), true, "a works"),
            (server("b", "True"), true, "b works"),
            (Seen::Node(Box::new(Event::Init)), false, "lists again"),
            (seen(Event::InitApply, "b", "1"), false, "b stays"),
            (Seen::Node(Box::new(Event::InitDone)), true, "a is gone"),
            (Seen::Node(Box::new(Event::Init)), false, "again"),
            (seen(Event::InitApply, "b", "1"), false, "b stays"),
            (Seen::Node(Box::new(Event::InitDone)), false, "nothing new"),
        ] {
            assert_eq!(known.note(Ok(event)), is_news, "{why}");
        }
    }
}
