//! What differs between two file systems, by path.
//!
//! Compares trees and chunk lists only: no file content is read. Content is
//! equal when sizes are and the same chunks are at the same places, which for
//! equal bytes they are, since cuts depend on the bytes alone.

use std::collections::{BTreeMap, HashMap};

use lamina_flist::{
    ChunkId, FileContent, FileData, Flist, FlistError, Limits, NodeId, NodeKind, Tree,
};

use crate::content_map::{ContentMap, MissingError};

/// Why two flists cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A flist.
    #[error("read the flist")]
    Flist(#[from] FlistError),
    /// A flist.
    #[error(transparent)]
    Missing(#[from] MissingError),
    /// More than may be held in memory.
    #[error("its paths have more than {0} bytes together")]
    TooLarge(u64),
}

/// How much of each side may be held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffLimits {
    /// Names; one takes about half a kibibyte.
    pub entries_max: u64,
    /// Bytes of all paths together; each takes twice as much.
    pub path_bytes_max: u64,
}

/// What happened to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// The same content is at another path now.
    RenamedFrom(Vec<u8>),
    /// Both have it, with these differences.
    Changed(Vec<Aspect>),
}

/// In what an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Aspect {
    /// File, directory, link, device, ...
    Type,
    /// Permission bits.
    Mode,
    /// User or group.
    Owner,
    /// Modification time.
    Time,
    /// Extended attributes.
    Xattrs,
    /// Bytes of a file.
    Content,
    /// Target of a symbolic link.
    Target,
    /// Device number.
    Device,
    /// Which names are the same file.
    Links,
}

impl Aspect {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Time => "time",
            Self::Xattrs => "xattrs",
            Self::Content => "content",
            Self::Target => "target",
            Self::Device => "device",
            Self::Links => "links",
        }
    }
}

impl Change {
    /// In one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::RenamedFrom(_) => "renamed",
            Self::Changed(_) => "changed",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where, without a leading slash.
    pub path: Vec<u8>,
    /// What.
    pub change: Change,
}

/// A fingerprint of content: equal exactly for equal bytes.
type Content = [u8; 32];

struct Side<'f> {
    tree: Tree,
    map: ContentMap<'f>,
    flist: &'f Flist,
    paths: BTreeMap<Vec<u8>, NodeId>,
    /// First path of every node.
    first: HashMap<NodeId, Vec<u8>>,
}

impl<'f> Side<'f> {
    fn new(flist: &'f Flist, path_bytes_max: u64) -> Result<Self, DiffError> {
        let tree = flist.to_tree()?;
        let (mut paths, mut bytes) = (BTreeMap::new(), 0);
        for (path, id) in tree.walk() {
            bytes += path.len() as u64;
            if bytes > path_bytes_max {
                return Err(DiffError::TooLarge(path_bytes_max));
            }
            paths.insert(path, id);
        }
        let mut first = HashMap::new();
        for (path, id) in &paths {
            first.entry(*id).or_insert_with(|| path.clone());
        }
        Ok(Self {
            tree,
            map: ContentMap::new(flist)?,
            flist,
            paths,
            first,
        })
    }

    fn content(&self, file: &FileContent) -> Result<Content, DiffError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&file.size.to_le_bytes());
        if let FileData::Inline(bytes) = &file.data {
            hasher.update(bytes);
        }
        for placed in self.map.chunks(file)? {
            let chunk = self.map.source(&placed)?.chunk;
            hasher.update(&placed.offset.to_le_bytes());
            hasher.update(&placed.skip.to_le_bytes());
            hasher.update(&placed.take.to_le_bytes());
            hasher.update(chunk.id.as_bytes());
        }
        Ok(*hasher.finalize().as_bytes())
    }

    fn file(&self, id: NodeId) -> Option<&FileContent> {
        match &self.tree.node(id).kind {
            NodeKind::File(file) => Some(file),
            _ => None,
        }
    }
}

/// As [`diff`], of flists that anybody made.
///
/// # Errors
/// When a flist is damaged, or has more than the limits allow.
pub fn diff_within(
    old: &Flist,
    new: &Flist,
    limits: &DiffLimits,
) -> Result<Vec<Difference>, DiffError> {
    for flist in [old, new] {
        flist.check(&Limits {
            entries_max: limits.entries_max,
            ..Limits::default()
        })?;
    }
    let side = |flist| Side::new(flist, limits.path_bytes_max);
    differences(&side(old)?, &side(new)?)
}

/// The differences from `old` to `new`, in path order.
///
/// # Errors
/// When a flist is damaged.
pub fn diff(old: &Flist, new: &Flist) -> Result<Vec<Difference>, DiffError> {
    differences(&Side::new(old, u64::MAX)?, &Side::new(new, u64::MAX)?)
}

fn differences(old: &Side<'_>, new: &Side<'_>) -> Result<Vec<Difference>, DiffError> {
    let mut out = BTreeMap::new();
    for (path, id) in &old.paths {
        let change = match new.paths.get(path) {
            None => Change::Removed,
            Some(other) => match compare(old, *id, new, *other)? {
                aspects if aspects.is_empty() => continue,
                aspects => Change::Changed(aspects),
            },
        };
        out.insert(path.clone(), change);
    }
    let added = new
        .paths
        .keys()
        .filter(|path| !old.paths.contains_key(*path));
    out.extend(added.map(|path| (path.clone(), Change::Added)));
    find_renames(old, new, &mut out)?;
    Ok(out
        .into_iter()
        .map(|(path, change)| Difference { path, change })
        .collect())
}

fn compare(
    old: &Side<'_>,
    old_id: NodeId,
    new: &Side<'_>,
    new_id: NodeId,
) -> Result<Vec<Aspect>, DiffError> {
    let (before, after) = (old.tree.node(old_id), new.tree.node(new_id));
    let mut out = Vec::new();
    let mut note = |differs: bool, aspect| out.extend(differs.then_some(aspect));
    match (&before.kind, &after.kind) {
        (NodeKind::Directory(_), NodeKind::Directory(_))
        | (NodeKind::Fifo, NodeKind::Fifo)
        | (NodeKind::Socket, NodeKind::Socket) => {}
        (NodeKind::File(was), NodeKind::File(is)) => {
            let differs = was.size != is.size || old.content(was)? != new.content(is)?;
            note(differs, Aspect::Content);
        }
        (NodeKind::Symlink(was), NodeKind::Symlink(is)) => note(was != is, Aspect::Target),
        (NodeKind::CharDevice(was), NodeKind::CharDevice(is))
        | (NodeKind::BlockDevice(was), NodeKind::BlockDevice(is)) => {
            note(was != is, Aspect::Device);
        }
        _ => note(true, Aspect::Type),
    }
    let (before, after) = (&before.meta, &after.meta);
    note(before.perm != after.perm, Aspect::Mode);
    note(
        (before.uid, before.gid) != (after.uid, after.gid),
        Aspect::Owner,
    );
    note(before.mtime != after.mtime, Aspect::Time);
    note(before.xattrs != after.xattrs, Aspect::Xattrs);
    note(
        old.first.get(&old_id) != new.first.get(&new_id),
        Aspect::Links,
    );
    Ok(out)
}

/// An added file with the bytes of exactly one removed file is that one.
fn find_renames(
    old: &Side<'_>,
    new: &Side<'_>,
    changes: &mut BTreeMap<Vec<u8>, Change>,
) -> Result<(), DiffError> {
    let mut removed: HashMap<Content, Vec<Vec<u8>>> = HashMap::new();
    for (path, change) in changes.iter() {
        // Empty files are equal without meaning anything.
        let file = old
            .paths
            .get(path)
            .and_then(|id| old.file(*id))
            .filter(|f| f.size > 0);
        if let (Change::Removed, Some(file)) = (change, file) {
            removed
                .entry(old.content(file)?)
                .or_default()
                .push(path.clone());
        }
    }
    let mut renames = Vec::new();
    for (path, change) in changes.iter() {
        let file = new
            .paths
            .get(path)
            .and_then(|id| new.file(*id))
            .filter(|f| f.size > 0);
        if let (Change::Added, Some(file)) = (change, file)
            && let Some(from) = removed.get_mut(&new.content(file)?)
            && let Some(from) = from.pop()
        {
            renames.push((path.clone(), from));
        }
    }
    for (path, from) in renames {
        changes.remove(&from);
        changes.insert(path, Change::RenamedFrom(from));
    }
    Ok(())
}

/// How large a file system is, seen three ways. All in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Names.
    pub entries: u64,
    /// Sizes of regular files added up, hard links once.
    pub logical: u64,
    /// Plain bytes of the distinct chunks.
    pub distinct: u64,
    /// What the distinct chunks take in packs.
    pub stored: u64,
    /// Of `stored`, what `others` refer to as well.
    pub shared: u64,
    /// Bytes of small files in the flist itself.
    pub inline: u64,
}

/// Adds a flist up; `others` are flists whose chunks count as shared.
///
/// # Errors
/// When a flist is damaged.
pub fn usage(flist: &Flist, others: &[Flist]) -> Result<Usage, DiffError> {
    let side = Side::new(flist, u64::MAX)?;
    let mut usage = Usage {
        entries: side.paths.len() as u64,
        ..Usage::default()
    };
    for id in side.first.keys() {
        if let Some(file) = side.file(*id) {
            usage.logical += file.size;
            if let FileData::Inline(bytes) = &file.data {
                usage.inline += bytes.len() as u64;
            }
        }
    }
    let others: std::collections::HashSet<ChunkId> = others
        .iter()
        .flat_map(Flist::chunks)
        .map(|c| c.id)
        .collect();
    let mut seen = std::collections::HashSet::new();
    for chunk in side.flist.chunks().filter(|c| seen.insert(c.id)) {
        usage.distinct += u64::from(chunk.len);
        usage.stored += u64::from(chunk.stored_len);
        if others.contains(&chunk.id) {
            usage.shared += u64::from(chunk.stored_len);
        }
    }
    Ok(usage)
}
