//! News of nodes: one whose server works for the first time, one whose server has not worked for a minute, one that is gone,
//! one with other labels. Who keeps data on nodes looks again then, and not only when its pause is over.
//!
//! A server that restarts is no news: an upgrade of all of them would have every object looked at for each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher::watcher};
use kube::{Api, ResourceExt as _, core::PartialObjectMeta};

use super::{SELECTOR, is_ready};

/// News that come together are told as one.
const TOGETHER: Duration = Duration::from_secs(2);
/// A server that was not ready for so long does not restart: its node is lost for now.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// Between two looks whether one is.
const LOOK_EVERY: Duration = Duration::from_secs(5);

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
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        let mut is_news = tokio::select! {
            next = seen.next() => match next {
                Some(first) => known.note(first, Instant::now()),
                None => return,
            },
            _ = looks.tick() => known.lost(Instant::now()),
        };
        if !is_news {
            continue;
        }
        tokio::time::sleep(TOGETHER).await;
        while let Some(Some(next)) = seen.next().now_or_never() {
            is_news |= known.note(next, Instant::now());
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
    /// Nodes whose server was ready once, and was not lost since.
    served: BTreeSet<String>,
    /// Of them, those whose server is not ready, since when.
    silent: BTreeMap<String, Instant>,
    /// While all nodes are listed: those that came by.
    listed: BTreeSet<String>,
    /// The same of nodes with a server, while all servers are.
    listed_servers: BTreeSet<String>,
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone())
}

impl Known {
    /// Takes in what was seen; whether it is news.
    fn note(&mut self, seen: Result<Seen, watcher::Error>, now: Instant) -> bool {
        match seen {
            Ok(Seen::Server(event)) => match *event {
                Event::Apply(pod) => self.server(&pod, is_ready(&pod), now),
                Event::Delete(pod) => self.server(&pod, false, now),
                Event::Init => {
                    self.listed_servers.clear();
                    false
                }
                Event::InitApply(pod) => {
                    self.listed_servers.extend(node_of(&pod));
                    self.server(&pod, is_ready(&pod), now)
                }
                Event::InitDone => {
                    // Those that went while nobody watched.
                    for node in self.served.difference(&self.listed_servers) {
                        self.silent.entry(node.clone()).or_insert(now);
                    }
                    false
                }
            },
            Ok(Seen::Node(event)) => self.node(*event),
            Err(error) => {
                tracing::warn!(%error, "watching nodes");
                false
            }
        }
    }

    fn server(&mut self, pod: &Pod, is_ready: bool, now: Instant) -> bool {
        let Some(node) = node_of(pod) else {
            return false;
        };
        if is_ready {
            self.silent.remove(&node);
            return self.served.insert(node);
        }
        if self.served.contains(&node) {
            self.silent.entry(node).or_insert(now);
        }
        false
    }

    /// Whether servers were not ready for so long now that their nodes are lost. Each is news once, and again when it is
    /// back.
    fn lost(&mut self, now: Instant) -> bool {
        let (silent, served) = (&mut self.silent, &mut self.served);
        let before = silent.len();
        silent.retain(|node, since| {
            let is_lost = now.saturating_duration_since(*since) >= LOST_AFTER;
            if is_lost {
                served.remove(node);
            }
            !is_lost
        });
        silent.len() < before
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
        self.silent.remove(name);
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
            assert_eq!(known.note(Ok(event), Instant::now()), is_news, "{why}");
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
            assert_eq!(known.note(Ok(event), Instant::now()), is_news, "{why}");
        }
    }

    #[test]
    fn a_server_that_is_not_ready_for_a_minute_is_news_once_and_one_that_restarts_is_none() {
        let (mut known, began) = (Known::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        let server = |known: &mut Known, ready: &str, seconds| {
            known.note(Ok(self::server("a", ready)), at(seconds))
        };
        assert!(server(&mut known, "True", 0));
        // It restarts: ready again within the minute, however often it says that it is not.
        assert!(!server(&mut known, "False", 10));
        assert!(!server(&mut known, "False", 40));
        assert!(!known.lost(at(69)));
        assert!(!server(&mut known, "True", 69));
        assert!(!known.lost(at(200)));
        // It is lost, and told once.
        assert!(!server(&mut known, "False", 300));
        assert!(!server(&mut known, "Unknown", 330));
        assert!(!known.lost(at(359)));
        assert!(known.lost(at(360)));
        assert!(!known.lost(at(1000)));
        assert!(!server(&mut known, "False", 1000));
        assert!(!known.lost(at(2000)));
        assert!(server(&mut known, "True", 2000), "it is back");
        // One whose pod is gone is as one that is not ready; one whose node is gone was told.
        let Seen::Server(event) = self::server("a", "True") else {
            unreachable!()
        };
        let Event::Apply(pod) = *event else {
            unreachable!()
        };
        let deleted = Seen::Server(Box::new(Event::Delete(pod)));
        assert!(!known.note(Ok(deleted), at(2001)));
        assert!(known.note(Ok(seen(Event::Delete, "a", "1")), at(2002)));
        assert!(!known.lost(at(3000)));
    }

    #[test]
    fn a_server_that_went_while_nobody_watched_is_lost_after_a_minute() {
        let (mut known, began) = (Known::default(), Instant::now());
        let list = |known: &mut Known, nodes: &[&str], seconds| {
            let now = began + Duration::from_secs(seconds);
            let mut is_news = known.note(Ok(Seen::Server(Box::new(Event::Init))), now);
            for node in nodes {
                let Seen::Server(event) = server(node, "True") else {
                    unreachable!()
                };
                let Event::Apply(pod) = *event else {
                    unreachable!()
                };
                let listed = Seen::Server(Box::new(Event::InitApply(pod)));
                is_news |= known.note(Ok(listed), now);
            }
            is_news | known.note(Ok(Seen::Server(Box::new(Event::InitDone))), now)
        };
        assert!(list(&mut known, &["a", "b"], 0));
        assert!(!list(&mut known, &["a"], 10));
        assert!(!known.lost(began + Duration::from_secs(69)));
        assert!(known.lost(began + Duration::from_secs(70)));
        assert!(!list(&mut known, &["a"], 80));
        assert!(list(&mut known, &["a", "b"], 90), "it is back");
    }
}
