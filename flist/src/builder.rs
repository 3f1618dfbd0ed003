//! Builds a flist file: tree, tables, metadata, header.
//!
//! Deterministic: the same inputs give the same bytes.

use crate::blob::{BlobEntry, BlobLayout};
use crate::check::tables::check_tables;
use crate::chunk::{ChunkRecord, PackRecord};
use crate::erofs::writer::{Blob, TreeKind, write};
use crate::error::{BuildError, FlistError};
use crate::header::{HEADER_LEN, Header, Section, kind};
use crate::hints::HintTable;
use crate::id::{BlobId, FlistDigest};
use crate::limits::Limits;
use crate::meta::{FlistMeta, META_MAX};
use crate::profile::Profile;
use crate::tables::{write_blobs, write_chunks, write_packs};
use crate::tree::Tree;

/// The packs of a layer that are stored in its file, behind everything else.
///
/// The builder needs only their length and digest; the caller writes the
/// bytes between [`FlistHead::bytes`] and [`FlistHead::tail`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedPacks {
    /// Bytes of all packs.
    pub len: u64,
    /// BLAKE3 of all packs' bytes.
    pub digest: [u8; 32],
}

/// A section of a kind this version does not know, kept as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraSection {
    /// Its kind.
    pub kind: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A finished flist without its embedded packs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlistHead {
    /// The file's bytes; with embedded packs, what comes before them.
    pub bytes: Vec<u8>,
    /// What comes behind the embedded packs; empty without them.
    pub tail: Vec<u8>,
    /// The flist's digest.
    pub digest: FlistDigest,
}

/// What a flist is made of.
///
/// Blobs without bytes (a layer of nothing but small files) are left out, and
/// the blob numbers of files, profile and hints adjusted.
#[derive(Debug, Clone)]
pub struct FlistBuilder {
    /// The tree; its files refer to `blobs` by index.
    pub tree: Tree,
    /// Blob address spaces; their entries refer to `chunks`.
    pub blobs: Vec<BlobLayout>,
    /// The chunk table; records refer to `packs`.
    pub chunks: Vec<ChunkRecord>,
    /// The pack table.
    pub packs: Vec<PackRecord>,
    /// Metadata.
    pub meta: FlistMeta,
    /// Access profile.
    pub profile: Option<Profile>,
    /// Which files need which others.
    pub hints: Option<HintTable>,
    /// Packs stored behind the flist in the same file.
    pub embedded: Option<EmbeddedPacks>,
    /// Sections of kinds this crate does not know, ascending: what a program
    /// keeps with its own flists.
    pub extra: Vec<ExtraSection>,
    /// Whether this is one layer: only then may the tree have whiteouts,
    /// opaque directories and links to layers below.
    pub is_layer: bool,
    /// What is refused.
    pub limits: Limits,
}

impl FlistBuilder {
    /// A flist of `tree` with empty tables and metadata.
    pub fn new(tree: Tree) -> Self {
        Self {
            tree,
            blobs: Vec::new(),
            chunks: Vec::new(),
            packs: Vec::new(),
            meta: FlistMeta::default(),
            profile: None,
            hints: None,
            embedded: None,
            extra: Vec::new(),
            is_layer: false,
            limits: Limits::default(),
        }
    }

    /// Encodes everything. With [`EmbeddedPacks`], the file is the head's
    /// bytes, the packs' and the head's tail.
    pub fn build(mut self) -> Result<FlistHead, BuildError> {
        self.drop_empty_blobs();
        if let Some(hints) = &self.hints {
            let size = hints.check_size(&self.limits);
            size.map_err(BuildError::BadTables)?;
        }
        let blobs = self.identify_blobs()?;
        let addressed: Vec<Blob> = blobs
            .iter()
            .map(|&(id, layout)| Blob {
                id,
                len: layout.len,
            })
            .collect();
        let tree_kind = if self.is_layer {
            TreeKind::Layer
        } else {
            TreeKind::Merged
        };
        let image = write(&self.tree, tree_kind, &addressed, &self.limits)?;
        let tables = Tables {
            blobs: write_blobs(&blobs),
            chunks: write_chunks(&self.chunks),
            packs: write_packs(&self.packs),
            profile: self.profile.as_ref().map(Profile::write),
            hints: self.hints.as_ref().map(HintTable::write),
            embedded_len: self.embedded.map(|e| e.len),
        };
        check_tables(&tables.parts(), &self.limits).map_err(BuildError::BadTables)?;
        let sections = vec![
            (kind::BLOBS, tables.blobs),
            (kind::CHUNKS, tables.chunks),
            (kind::PACKS, tables.packs),
        ];
        let assembler = Assembler {
            is_layer: self.is_layer,
            meta: &self.meta,
            profile: tables.profile,
            hints: tables.hints,
            embedded: self.embedded,
            extra: self.extra,
        };
        assembler.assemble(image, sections)
    }

    fn identify_blobs(&self) -> Result<Vec<(BlobId, &BlobLayout)>, BuildError> {
        let identify = |(blob, layout)| identify(blob, layout, &self.chunks);
        let blobs = (0u32..).zip(&self.blobs).map(identify);
        blobs
            .collect::<Result<_, _>>()
            .map_err(BuildError::BadTables)
    }

    fn drop_empty_blobs(&mut self) {
        if self.blobs.iter().all(|blob| blob.len > 0) {
            return;
        }
        let mut kept = 0;
        let renumber = |blob: &BlobLayout| {
            let number = kept;
            kept += u16::from(blob.len > 0);
            number
        };
        let numbers: Vec<u16> = self.blobs.iter().map(renumber).collect();
        // A number that is out of range stays so, and is refused later.
        let new = |old: u16| numbers.get(usize::from(old)).copied().unwrap_or(u16::MAX);
        self.tree.map_blobs(new);
        let hinted = self.hints.iter_mut().flat_map(|hints| &mut hints.files);
        let hinted = hinted.flat_map(|file| &mut file.ranges);
        let profiled = self.profile.iter_mut().flat_map(|p| &mut p.ranges);
        for range in profiled.chain(hinted) {
            range.blob = new(range.blob);
        }
        self.blobs.retain(|blob| blob.len > 0);
    }
}

/// A blob's id, or which of its entries is wrong.
fn identify<'a>(
    blob: u32,
    layout: &'a BlobLayout,
    chunks: &[ChunkRecord],
) -> Result<(BlobId, &'a BlobLayout), FlistError> {
    let missing = |entry: &&BlobEntry| entry.chunk as usize >= chunks.len();
    if let Some(entry) = layout.entries.iter().find(missing) {
        let chunk = entry.chunk;
        return Err(FlistError::ChunkOutOfRange { blob, chunk });
    }
    let map = layout.map_bytes(chunks).ok_or(FlistError::BadBlob(blob))?;
    Ok((BlobId::of(&map), layout))
}

/// The encoded tables.
struct Tables {
    blobs: Vec<u8>,
    chunks: Vec<u8>,
    packs: Vec<u8>,
    profile: Option<Vec<u8>>,
    hints: Option<Vec<u8>>,
    embedded_len: Option<u64>,
}

impl Tables {
    fn parts(&self) -> crate::check::tables::Parts<'_> {
        crate::check::tables::Parts {
            blobs: &self.blobs,
            chunks: &self.chunks,
            packs: &self.packs,
            profile: self.profile.as_deref(),
            hints: self.hints.as_deref(),
            embedded_len: self.embedded_len,
        }
    }
}

/// Puts sections behind a tree and the header before it.
pub(crate) struct Assembler<'a> {
    pub(crate) is_layer: bool,
    pub(crate) meta: &'a FlistMeta,
    pub(crate) profile: Option<Vec<u8>>,
    pub(crate) hints: Option<Vec<u8>>,
    pub(crate) embedded: Option<EmbeddedPacks>,
    pub(crate) extra: Vec<ExtraSection>,
}

impl Assembler<'_> {
    /// `image` is the file up to the tree's end, `tables` the sections from
    /// blobs to packs.
    pub(crate) fn assemble(
        mut self,
        mut image: Vec<u8>,
        mut tables: Vec<(u32, Vec<u8>)>,
    ) -> Result<FlistHead, BuildError> {
        let json = self.meta.to_json();
        if json.len() > META_MAX {
            return Err(BuildError::MetaTooLarge(json.len()));
        }
        // What readers would refuse (nesting) must not be written.
        FlistMeta::parse(&json).map_err(BuildError::BadTables)?;
        tables.push((kind::META, json));
        tables.extend(self.profile.take().map(|bytes| (kind::PROFILE, bytes)));

        let mut sections = vec![Section {
            kind: kind::TREE,
            required: true,
            offset: HEADER_LEN as u64,
            len: (image.len() - HEADER_LEN) as u64,
            digest: *blake3::hash(&image[HEADER_LEN..]).as_bytes(),
        }];
        for (kind, bytes) in tables {
            sections.push(section(kind, &bytes, &sections));
            image.extend_from_slice(&bytes);
        }
        if let Some(packs) = self.embedded {
            sections.push(Section {
                kind: kind::EMBEDDED,
                required: true,
                offset: image.len() as u64,
                len: packs.len,
                digest: packs.digest,
            });
        }
        let mut tail = self.append_rest(&mut sections)?;
        let header = Header {
            is_layer: self.is_layer,
            sections,
        };
        let header = header.write();
        image[..HEADER_LEN].copy_from_slice(&header);
        if self.embedded.is_none() {
            image.append(&mut tail);
        }
        Ok(FlistHead {
            bytes: image,
            tail,
            digest: FlistDigest::of(&header),
        })
    }

    /// The sections behind the embedded packs' place: hints and unknown ones.
    fn append_rest(&mut self, sections: &mut Vec<Section>) -> Result<Vec<u8>, BuildError> {
        let mut rest = Vec::new();
        let mut add = |kind, bytes: &[u8]| {
            let mut record = section(kind, bytes, sections);
            record.required = false;
            sections.push(record);
            rest.extend_from_slice(bytes);
            Header::fits(sections.len())
        };
        if let Some(hints) = self.hints.take() {
            add(kind::HINTS, &hints);
        }
        let mut last = kind::LAST_KNOWN;
        for extra in &self.extra {
            if extra.kind <= last || !add(extra.kind, &extra.bytes) {
                return Err(BuildError::BadExtraSection(extra.kind));
            }
            last = extra.kind;
        }
        Ok(rest)
    }
}

fn section(kind: u32, bytes: &[u8], before: &[Section]) -> Section {
    Section {
        kind,
        required: kind::is_required(kind),
        offset: before.last().map_or(HEADER_LEN as u64, Section::end),
        len: bytes.len() as u64,
        digest: *blake3::hash(bytes).as_bytes(),
    }
}
