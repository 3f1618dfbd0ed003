//! What starts on other nodes read, by discovery: asked for, and told.
//!
//! Best effort: without an answer a start goes its own way. What others tell is a hint, whatever it says.

use lamina_flist::{FlistDigest, ProfileRange};
use lamina_proto::lamina::v1::{GetProfileRequest, ProfileRange as Told, PutProfileRequest};

use super::Member;

impl Member {
    /// What starts of a flist read elsewhere, in the order of first use; nothing when nobody knows.
    pub(crate) async fn profile(&self, flist: &FlistDigest) -> Vec<ProfileRange> {
        let request = GetProfileRequest {
            digest: flist.to_string(),
            entrypoint: Vec::new(),
        };
        let answer = self.discovery.get_profile(request).await;
        let told = answer.map_or_else(
            |error| {
                tracing::debug!(%error, %flist, "ask what starts elsewhere read");
                Vec::new()
            },
            |answer| answer.ranges,
        );
        told.into_iter().filter_map(range).collect()
    }

    /// Tells others what a start read that is over; `watched` are the blobs of which every read was seen.
    pub(crate) async fn tell_profile(
        &self,
        flist: &FlistDigest,
        start: &[ProfileRange],
        watched: &[u16],
    ) {
        let request = PutProfileRequest {
            digest: flist.to_string(),
            entrypoint: Vec::new(),
            ranges: start.iter().copied().map(told_range).collect(),
            watched_blobs: watched.iter().map(|blob| (*blob).into()).collect(),
            node_id: self.node().to_string(),
        };
        if let Err(error) = self.discovery.put_profile(request).await {
            tracing::debug!(%error, %flist, "tell what a start read");
        }
    }
}

/// As it is told.
pub(crate) fn told_range(range: ProfileRange) -> Told {
    Told {
        blob: range.blob.into(),
        first_entry: range.first_entry,
        count: range.count,
    }
}

fn range(told: Told) -> Option<ProfileRange> {
    Some(ProfileRange {
        blob: told.blob.try_into().ok()?,
        first_entry: told.first_entry,
        count: told.count,
    })
}
