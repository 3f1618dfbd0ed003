//! What another node asks for, checked.

use std::time::Duration;

use lamina_flist::{BlobId, Sha256Digest};
use lamina_proto::lamina::v1::ReadChunksRequest;
use tonic::Status;

/// Entries of one request: 64 MiB at the average chunk size.
pub(super) const ENTRIES_MAX: usize = 1024;
/// Longest wait for what is not here yet.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Entries of a blob of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) layer: Sha256Digest,
    pub(super) blob: BlobId,
    /// Ascending, each once, at least one.
    pub(super) entries: Vec<u32>,
    /// For what is not here yet.
    pub(super) wait: Duration,
}

impl Wanted {
    pub(super) fn parse(request: &ReadChunksRequest) -> Result<Self, Status> {
        let layer = request.layer_digest.parse();
        let layer = layer.map_err(|error| bad(&format!("layer_digest: {error}")))?;
        let blob = <[u8; 32]>::try_from(request.blob.as_slice());
        let blob = blob.map_err(|_| bad("blob: a blob id has 32 bytes"))?;
        let mut entries = Vec::new();
        let mut next = 0;
        for range in &request.entries {
            let end = range.first.checked_add(range.count);
            let end = end.filter(|_| range.count > 0 && range.first >= next);
            let end = end.ok_or_else(|| bad("entries: they are not ascending ranges"))?;
            if range.count as usize > ENTRIES_MAX - entries.len() {
                return Err(bad("entries: more than 1024 of them"));
            }
            entries.extend(range.first..end);
            next = end;
        }
        match entries.is_empty() {
            true => Err(bad("entries: none")),
            false => Ok(Self {
                layer,
                blob: BlobId::from_bytes(blob),
                entries,
                wait: Duration::from_millis(request.wait_ms.into()).min(WAIT_MAX),
            }),
        }
    }
}

fn bad(why: &str) -> Status {
    Status::invalid_argument(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_proto::lamina::v1::EntryRange;

    fn request(ranges: &[(u32, u32)]) -> ReadChunksRequest {
        let range = |&(first, count): &(u32, u32)| EntryRange { first, count };
        ReadChunksRequest {
            layer_digest: format!("sha256:{}", "ab".repeat(32)),
            blob: vec![7; 32],
            entries: ranges.iter().map(range).collect(),
            wait_ms: 50_000,
        }
    }

    #[test]
    fn requests_are_taken_apart_and_nothing_strange_is_taken() {
        let wanted = Wanted::parse(&request(&[(3, 2), (5, 1), (9, 1)])).unwrap();
        assert_eq!(wanted.entries, [3, 4, 5, 9]);
        assert_eq!(wanted.wait, WAIT_MAX);
        assert_eq!(wanted.blob, BlobId::from_bytes([7; 32]));
        assert!(Wanted::parse(&request(&[(u32::MAX - 1, 1)])).is_ok());
        assert!(Wanted::parse(&request(&[(0, 1024)])).is_ok());
        let strange: [&[(u32, u32)]; 8] = [
            &[],
            &[(1, 0)],
            &[(0, 1025)],
            &[(0, 1000), (1000, 25)],
            &[(5, 2), (6, 1)],
            &[(5, 1), (4, 1)],
            &[(u32::MAX, 1)],
            &[(1, u32::MAX)],
        ];
        for ranges in strange {
            let refused = Wanted::parse(&request(ranges)).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{ranges:?}");
            assert!(refused.message().starts_with("entries:"), "{refused}");
        }
        let good = request(&[(0, 1)]);
        let digest = ReadChunksRequest {
            layer_digest: "sha256:ab".into(),
            ..good.clone()
        };
        let blob = ReadChunksRequest {
            blob: vec![7; 31],
            ..good
        };
        for (request, field) in [(digest, "layer_digest:"), (blob, "blob:")] {
            let refused = Wanted::parse(&request).unwrap_err();
            assert!(refused.message().starts_with(field), "{refused}");
        }
    }
}
