//! Which byte ranges to ask for, so that few requests bring all chunks. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ChunkSource;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Bytes of the pack.
    pub(super) range: Range<u64>,
    /// Positions in the list of wanted chunks; never empty, all of one pack.
    pub(super) chunks: Vec<usize>,
}

impl Span {
    pub(super) fn single(wanted: &[ChunkSource], at: usize) -> Self {
        let start = u64::from(wanted[at].chunk.offset);
        Self {
            range: start..start + u64::from(wanted[at].chunk.stored_len),
            chunks: vec![at],
        }
    }
}

/// Spans in the order in which their first chunk is wanted. Chunks of a pack join one span while the gap
/// is at most `gap_max` and the span at most `span_max`.
pub(super) fn plan(wanted: &[ChunkSource], gap_max: u32, span_max: u32) -> Vec<Span> {
    let mut by_pack: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (at, source) in wanted.iter().enumerate() {
        by_pack.entry(source.pack.id).or_default().push(at);
    }
    let mut spans: Vec<Span> = Vec::new();
    for (_, mut chunks) in by_pack {
        chunks.sort_by_key(|at| (wanted[*at].chunk.offset, *at));
        let mut open: Option<Span> = None;
        for at in chunks {
            let single = Span::single(wanted, at);
            match &mut open {
                Some(span) if joins(&span.range, &single.range, gap_max, span_max) => {
                    span.range.end = span.range.end.max(single.range.end);
                    span.chunks.push(at);
                }
                _ => spans.extend(open.replace(single)),
            }
        }
        spans.extend(open);
    }
    spans.sort_by_key(|span| span.chunks.iter().copied().min());
    spans
}

fn joins(span: &Range<u64>, next: &Range<u64>, gap_max: u32, span_max: u32) -> bool {
    let near = next.start <= span.end + u64::from(gap_max);
    near && next.end.max(span.end) - span.start <= u64::from(span_max)
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

    #[test]
    fn near_chunks_share_a_request_and_far_ones_do_not() {
        let wanted = [source(1, 100, 50), source(1, 0, 90), source(1, 1000, 10)];
        let spans = plan(&wanted, 20, 4096);
        assert_eq!(
            spans,
            [
                Span {
                    range: 0..150,
                    chunks: vec![1, 0]
                },
                Span {
                    range: 1000..1010,
                    chunks: vec![2]
                }
            ]
        );
    }

    #[test]
    fn a_span_never_grows_past_its_limit() {
        let wanted: Vec<_> = (0..10).map(|n| source(1, n * 100, 100)).collect();
        for span in plan(&wanted, 0, 250) {
            assert!(span.range.end - span.range.start <= 250);
        }
    }

    #[test]
    fn the_same_chunk_twice_and_two_packs_are_fine() {
        let wanted = [source(2, 0, 10), source(1, 0, 10), source(2, 0, 10)];
        let spans = plan(&wanted, 0, 100);
        assert_eq!(
            spans[0],
            Span {
                range: 0..10,
                chunks: vec![0, 2]
            }
        );
        assert_eq!(
            spans[1],
            Span {
                range: 0..10,
                chunks: vec![1]
            }
        );
    }

    #[test]
    fn a_chunk_longer_than_a_span_still_gets_one() {
        assert_eq!(
            plan(&[source(1, 5, 500)], 0, 100),
            [Span {
                range: 5..505,
                chunks: vec![0]
            }]
        );
    }
}
