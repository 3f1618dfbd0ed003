//! Which byte ranges to ask for, so that few requests bring all chunks. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use lamina_flist::{ChunkRecord, PackRecord};

use super::ChunkSource;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) pack: PackRecord,
    /// Bytes of the pack.
    pub(super) range: Range<u64>,
    /// Chunks in it with their positions in the list of wanted ones; never empty.
    pub(super) chunks: Vec<(usize, ChunkRecord)>,
}

/// What one request may hold at most, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) gap: u32,
    pub(super) stored: u32,
    pub(super) plain: u32,
}

impl Span {
    pub(super) fn single(at: usize, chunk: ChunkRecord, pack: PackRecord) -> Self {
        let start = u64::from(chunk.offset);
        Self {
            pack,
            range: start..start + u64::from(chunk.stored_len),
            chunks: vec![(at, chunk)],
        }
    }

    fn plain_len(&self) -> u64 {
        self.chunks
            .iter()
            .map(|(_, chunk)| u64::from(chunk.len))
            .sum()
    }
}

/// Spans in the order in which their first chunk is wanted. Chunks of a pack join one span within the
/// limits; one chunk alone may exceed them.
pub(super) fn plan(wanted: &[ChunkSource], limits: &Limits) -> Vec<Span> {
    let mut by_pack: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (at, source) in wanted.iter().enumerate() {
        by_pack.entry(source.pack.id).or_default().push(at);
    }
    let mut spans: Vec<Span> = Vec::new();
    for (_, mut chunks) in by_pack {
        chunks.sort_by_key(|at| (wanted[*at].chunk.offset, *at));
        let mut open: Option<(Span, u64)> = None; // with its plain length
        for at in chunks {
            let single = Span::single(at, wanted[at].chunk, wanted[at].pack);
            let len = single.plain_len();
            match &mut open {
                Some((span, plain)) if joins(&span.range, *plain, &single.range, len, limits) => {
                    span.range.end = span.range.end.max(single.range.end);
                    span.chunks.extend(single.chunks);
                    *plain += len;
                }
                _ => spans.extend(open.replace((single, len)).map(|(span, _)| span)),
            }
        }
        spans.extend(open.map(|(span, _)| span));
    }
    spans.sort_by_key(|span| span.chunks.iter().map(|(at, _)| *at).min());
    spans
}

fn joins(span: &Range<u64>, plain: u64, next: &Range<u64>, len: u64, limits: &Limits) -> bool {
    let near = next.start <= span.end + u64::from(limits.gap);
    let stored_fits = next.end.max(span.end) - span.start <= u64::from(limits.stored);
    near && stored_fits && plain + len <= u64::from(limits.plain)
}

#[cfg(test)]
mod tests {
    use lamina_flist::{ChunkId, ChunkRecord, Codec, PackId, PackRecord, Sha256Digest};

    use super::*;

    fn source(pack: u8, offset: u32, stored_len: u32) -> ChunkSource {
        let id = PackId::of(&[pack]);
        ChunkSource {
            chunk: ChunkRecord {
                id: ChunkId::of(&[pack]),
                pack: 0,
                offset,
                stored_len,
                len: stored_len,
                codec: Codec::Raw,
            },
            pack: PackRecord {
                id,
                sha256: Sha256Digest::from_bytes([0; 32]),
                len: 1 << 20,
                embedded_at: None,
            },
        }
    }

    fn limits(gap: u32, stored: u32) -> Limits {
        Limits {
            gap,
            stored,
            plain: 1 << 20,
        }
    }

    /// Range and positions of each span.
    fn planned(wanted: &[ChunkSource], limits: &Limits) -> Vec<(Range<u64>, Vec<usize>)> {
        let brief = |span: Span| (span.range, span.chunks.iter().map(|(at, _)| *at).collect());
        plan(wanted, limits).into_iter().map(brief).collect()
    }

    #[test]
    fn near_chunks_share_a_request_and_far_ones_do_not() {
        let wanted = [source(1, 100, 50), source(1, 0, 90), source(1, 1000, 10)];
        assert_eq!(
            planned(&wanted, &limits(20, 4096)),
            [(0..150, vec![1, 0]), (1000..1010, vec![2])]
        );
    }

    #[test]
    fn a_span_never_grows_past_its_limits() {
        let wanted: Vec<_> = (0..10).map(|n| source(1, n * 100, 100)).collect();
        for (range, _) in planned(&wanted, &limits(0, 250)) {
            assert!(range.end - range.start <= 250);
        }
        let tight = Limits {
            plain: 300,
            ..limits(0, 100_000)
        };
        let sizes: Vec<_> = planned(&wanted, &tight)
            .iter()
            .map(|(_, chunks)| chunks.len())
            .collect();
        assert_eq!(
            sizes,
            [3, 3, 3, 1],
            "well compressed chunks do not add up to much memory"
        );
    }

    #[test]
    fn the_same_chunk_twice_and_two_packs_are_fine() {
        let wanted = [source(2, 0, 10), source(1, 0, 10), source(2, 0, 10)];
        assert_eq!(
            planned(&wanted, &limits(0, 100)),
            [(0..10, vec![0, 2]), (0..10, vec![1])]
        );
    }

    #[test]
    fn a_chunk_longer_than_a_span_still_gets_one() {
        assert_eq!(
            planned(&[source(1, 5, 500)], &limits(0, 100)),
            [(5..505, vec![0])]
        );
    }
}
