//! Which file of an image needs which others, directly.
//!
//! A program needs its loader and libraries, a script what runs it, a Python
//! module what it imports, an interpreter what it opens before any program.
//! Computed from the merged tree and what the layers' content showed when it
//! passed ([`Scans`]); never fails, only gets smaller; every part of it is
//! bounded, since all of its input comes from the image.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use lamina_flist::{FileContent, FileData, NodeId, NodeKind, Tree};
use serde_json::Value;

use super::libraries::Libraries;
use super::listing::Minor;
use super::modules::Modules;
use super::scan::{FileScan, Scans, scan_whole};
use super::start::Start;
use super::view::View;

/// Files of a graph; as many as a flist's hints may have.
const FILES_MAX: usize = 1 << 20;
/// What one file needs.
pub(super) const NEEDS_MAX: usize = 4096;
/// What all files need.
const NEEDS_TOTAL_MAX: usize = 6 << 20;
/// Bytes of import lists that are looked through, those of equal files each
/// time; a large image has a few MiB.
const LISTS_BYTES_MAX: usize = 256 << 20;
/// A file up to this size is taken whole; of a larger one what loading touches.
pub(super) const WHOLE_BYTES_MAX: u64 = 8 << 20;
/// Of larger files that nothing is known of.
const HEAD_BYTES: u64 = 2 << 20;

/// A file of the graph.
pub(super) struct GraphFile {
    pub(super) node: NodeId,
    /// What is read of it, in order.
    pub(super) parts: Vec<Range<u64>>,
    /// Indexes of files, in order of first use.
    pub(super) needs: Vec<u32>,
}

/// The graph of one tree.
pub struct Graph {
    pub(super) files: Vec<GraphFile>,
    /// Where the image's command starts, in order.
    pub(super) starts: Vec<u32>,
}

impl Graph {
    /// The graph of `tree`, whose files' content was scanned into `scans` (one
    /// per blob) or is in the tree; `config` is the image config.
    pub fn new(tree: &Tree, scans: &[Scans], config: &Value) -> Self {
        let view = View::new(tree);
        let start = Start::of(config);
        let libraries = Libraries::new(&view, start.variable("LD_LIBRARY_PATH"));
        let mut builder = Builder {
            modules: Modules::new(&view),
            view,
            libraries,
            start,
            scans,
            files: Vec::new(),
            index: HashMap::new(),
            needs_left: NEEDS_TOTAL_MAX,
            programs: HashMap::new(),
            startups: HashMap::new(),
            lists_left: Cell::new(LISTS_BYTES_MAX),
        };
        builder.add_module_roots();
        // A script needs what runs it before what it imports.
        builder.programs_and_libraries();
        builder.sources();
        let starts = super::command::starts(&mut builder);
        let starts = starts.into_iter().filter_map(|node| builder.id(node));
        Self {
            starts: starts.collect(),
            files: builder.files,
        }
    }
}

/// The graph under construction.
pub(super) struct Builder<'a> {
    pub(super) view: View<'a>,
    pub(super) modules: Modules<'a>,
    pub(super) start: Start,
    pub(super) libraries: Libraries,
    scans: &'a [Scans],
    pub(super) files: Vec<GraphFile>,
    index: HashMap<NodeId, u32>,
    needs_left: usize,
    /// Interpreters of scripts, by first line.
    pub(super) programs: HashMap<String, Vec<NodeId>>,
    /// What interpreters open first, by version.
    pub(super) startups: HashMap<Minor, Vec<NodeId>>,
    /// Bytes of import lists that may still be looked through.
    pub(super) lists_left: Cell<usize>,
}

impl<'a> Builder<'a> {
    fn content(&self, node: NodeId) -> Option<&FileContent> {
        match &self.view.tree().node(node).kind {
            NodeKind::File(content) => Some(content),
            _ => None,
        }
    }

    /// What the content of a file says.
    pub(super) fn scan(&self, node: NodeId, name: &str) -> Option<Cow<'a, FileScan>> {
        match &self.content(node)?.data {
            FileData::Inline(bytes) => scan_whole(name.as_bytes(), bytes).map(Cow::Owned),
            FileData::Extent(extent) => {
                let scans = self.scans.get(usize::from(extent.blob))?;
                scans.get(extent.offset).map(Cow::Borrowed)
            }
            FileData::Sparse { .. } => None,
        }
    }

    /// A file's index; it gets one now if it has none.
    pub(super) fn id(&mut self, node: NodeId) -> Option<u32> {
        if let Some(id) = self.index.get(&node) {
            return Some(*id);
        }
        let size = self.content(node)?.size;
        let id = u32::try_from(self.files.len()).ok()?;
        if self.files.len() >= FILES_MAX {
            return None;
        }
        let end = if size <= WHOLE_BYTES_MAX {
            size
        } else {
            HEAD_BYTES
        };
        self.files.push(GraphFile {
            node,
            parts: Vec::from([Range { start: 0, end }]),
            needs: Vec::new(),
        });
        self.index.insert(node, id);
        Some(id)
    }

    /// Adds what a file needs behind what it is known to need.
    pub(super) fn need(&mut self, node: NodeId, needs: impl IntoIterator<Item = NodeId>) {
        let Some(id) = self.id(node) else { return };
        let mut known = std::mem::take(&mut self.files[id as usize].needs);
        let mut seen: HashSet<u32> = known.iter().copied().chain([id]).collect();
        for node in needs {
            if known.len() >= NEEDS_MAX || self.needs_left == 0 {
                break;
            }
            if let Some(need) = self.id(node).filter(|need| seen.insert(*need)) {
                known.push(need);
                self.needs_left -= 1;
            }
        }
        self.files[id as usize].needs = known;
    }
}

pub(super) fn has_suffix(name: &str, suffix: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| end == suffix)
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
