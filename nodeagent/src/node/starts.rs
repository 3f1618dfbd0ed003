//! Tells discovery again what starts on this node read: replicas keep that in memory alone.
//!
//! A replica that did not know this node was started again, maybe all of them were: it is asked what it knows of the
//! starts last learnt here, and told the rest. Always: bounded, and spread over time, because every node of the cluster
//! does it then; the first of them tells what all know.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lamina_discovery::Random;
use lamina_discovery::client::Client;
use lamina_proto::lamina::v1::PutProfileRequest;

use crate::agent::profile::ProfileDir;

/// Those learnt last: what is started now, and not what ever was.
const KEPT_MAX: usize = 64;
/// Within this time of each other nodes of a cluster ask: ten thousand of them are 500 calls a second.
const WITHIN: Duration = Duration::from_secs(20);

/// Waits and tells for as long as it is polled.
pub(super) async fn tell_again(client: Arc<Client>, node: String, state: PathBuf) {
    let (mut told, mut random) = (client.told_whole(), Random::new());
    while told.changed().await.is_ok() {
        let part = random.below(1000) as u32;
        tokio::time::sleep(WITHIN * part / 1000).await;
        told.mark_unchanged();
        let (node, state) = (node.clone(), state.clone());
        let kept = tokio::task::spawn_blocking(move || kept(&node, &state)).await;
        let Ok(kept) = kept else {
            return;
        };
        if !kept.is_empty() {
            let count = client.put_profiles_again(&kept).await;
            tracing::debug!(count, "told discovery again what starts read");
        }
    }
}

/// What starts read, as it is told. Of none is said that it is a start that is over: that counts what it did without.
fn kept(node: &str, state: &std::path::Path) -> Vec<PutProfileRequest> {
    let latest = ProfileDir::of(state).latest(KEPT_MAX);
    let told = latest.into_iter().map(|(digest, profile)| {
        let ranges = profile.ranges.into_iter();
        PutProfileRequest {
            digest: digest.to_string(),
            ranges: ranges.map(crate::agent::told_range).collect(),
            node_id: node.to_owned(),
            ..PutProfileRequest::default()
        }
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_flist::{FlistDigest, ProfileRange};

    #[test]
    fn the_starts_learnt_last_are_told_and_no_more() {
        let state = tempfile::tempdir().unwrap();
        assert!(kept("a", state.path()).is_empty(), "no directory yet");
        let dir = ProfileDir::open(state.path()).unwrap();
        let digest = |n: usize| FlistDigest::of(&n.to_be_bytes());
        let began = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for n in 0..KEPT_MAX + 6 {
            let range = ProfileRange {
                blob: 1,
                first_entry: n as u32,
                count: 2,
            };
            dir.learn(&digest(n), &[range], Some(&[1])).unwrap();
            let path = state.path().join(format!("profiles/{}.json", digest(n)));
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(began + Duration::from_secs(n as u64))
                .unwrap();
        }
        std::fs::write(state.path().join("profiles/junk.json"), "{}").unwrap();
        let told = kept("a", state.path());
        assert_eq!(told.len(), KEPT_MAX);
        assert_eq!(told[0].digest, digest(KEPT_MAX + 5).to_string());
        assert_eq!(told[0].ranges[0].first_entry, KEPT_MAX as u32 + 5);
        assert_eq!(
            (told[0].node_id.as_str(), told[0].watched_blobs.len()),
            ("a", 0)
        );
        assert!(told.iter().all(|one| one.digest != digest(5).to_string()));
    }
}
