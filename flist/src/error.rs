//! Named reasons: why a flist was refused, why one could not be built.

use crate::blob::BlobMapError;

/// Why bytes are not a flist this version can use, or not a safe one.
///
/// Inodes are named by nid; `nid * 32` is the offset in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlistError {
    // --- the file ---
    /// The file ends before something it must contain.
    #[error("the file is truncated ({0})")]
    Truncated(&'static str),
    /// Not a flist.
    #[error("not a flist (bad magic)")]
    BadMagic,
    /// Written by a newer Lamina.
    #[error("flist format version {0} is not supported; this is version 1")]
    UnsupportedVersion(u32),
    /// The header's checksum does not match its bytes.
    #[error("the flist header is corrupt (checksum)")]
    HeaderChecksum,
    /// A reserved header field is not zero, or a flag is unknown.
    #[error("the flist header uses a reserved field at byte {0}")]
    HeaderReserved(usize),
    /// The header says another length than the file has.
    #[error("the flist says it is {want} bytes long, but it is {got}")]
    LengthMismatch {
        /// Length in the header.
        want: u64,
        /// Length of the file.
        got: u64,
    },
    /// More sections than a header can hold.
    #[error("the flist has {0} sections, more than a header can hold")]
    TooManySections(u32),
    /// Sections are not in ascending order of kind, or one comes twice.
    #[error("section {0} is out of order or there twice")]
    SectionOrder(u32),
    /// A section does not begin where the one before ends (a gap, an overlap).
    #[error("section {kind} begins at {offset}, but the one before ends at {expected}")]
    SectionOffset {
        /// Its kind.
        kind: u32,
        /// Where it begins.
        offset: u64,
        /// Where it must begin.
        expected: u64,
    },
    /// A section reaches past the end of the file.
    #[error("section {0} reaches past the end of the file")]
    SectionPastEnd(u32),
    /// A section that must be there is not.
    #[error("section {0} is missing")]
    SectionMissing(u32),
    /// A section's flags are wrong for its kind.
    #[error("section {0} has wrong flags")]
    SectionFlags(u32),
    /// A required section of a kind this version does not know.
    #[error("section {0} is required but unknown; a newer Lamina wrote this flist")]
    UnknownRequiredSection(u32),
    /// A section's bytes are not those its digest names.
    #[error("section {0} is corrupt (digest)")]
    SectionDigest(u32),
    /// A section's length is not what its content asks for.
    #[error("section {0} has a wrong length")]
    SectionLength(u32),
    /// A reserved field of a table is not zero.
    #[error("record {index} of section {kind} uses a reserved field")]
    RecordReserved {
        /// Section kind.
        kind: u32,
        /// Record.
        index: u64,
    },
    /// The metadata is not the JSON it should be.
    #[error("the flist's metadata is not valid: {0}")]
    BadMeta(String),

    // --- the superblock ---
    /// No EROFS superblock.
    #[error("no EROFS superblock at byte 1024")]
    NotErofs,
    /// The superblock's checksum is wrong.
    #[error("the EROFS superblock is corrupt (checksum)")]
    SuperblockChecksum,
    /// Feature flags are not exactly ours.
    #[error("unsupported EROFS features {0:#x}")]
    UnsupportedFeatures(u32),
    /// A superblock field has a value a flist cannot have.
    #[error("unsupported EROFS superblock (byte {0})")]
    UnsupportedSuperblock(usize),
    /// The tree's blocks are not its section's.
    #[error("the EROFS superblock says {blocks} blocks, but the tree section has {section}")]
    BlocksMismatch {
        /// In the superblock.
        blocks: u32,
        /// In the section.
        section: u64,
    },
    /// The device table does not describe the blob table.
    #[error("device {0} does not match the blob table")]
    DeviceMismatch(u32),
    /// The superblock counts other inodes than the tree has.
    #[error("the superblock says {want} inodes, but the tree has {got}")]
    InodeCount {
        /// In the superblock.
        want: u64,
        /// Found.
        got: u64,
    },

    // --- inodes ---
    /// A nid outside the tree.
    #[error("nid {0} is outside the tree")]
    NidOutOfRange(u64),
    /// A compressed inode.
    #[error("inode {0} is compressed")]
    CompressedInode(u64),
    /// An inode format other than those of the subset.
    #[error("inode {nid} has unsupported format {format:#x}")]
    UnsupportedInode {
        /// The inode.
        nid: u64,
        /// `i_format`.
        format: u16,
    },
    /// A reserved inode field is set, or the stored inode number is wrong.
    #[error("inode {0} uses a reserved field")]
    InodeReserved(u64),
    /// An unknown file type.
    #[error("inode {nid} has bad mode {mode:#o}")]
    BadMode {
        /// The inode.
        nid: u64,
        /// `i_mode`.
        mode: u16,
    },
    /// Nanoseconds of one billion or more.
    #[error("inode {nid} has {nanos} nanoseconds")]
    BadTime {
        /// The inode.
        nid: u64,
        /// `i_mtime_nsec`.
        nanos: u32,
    },
    /// The inode crosses a block.
    #[error("inode {0} crosses a block")]
    InodeCrossesBlock(u64),
    /// Inline data crosses a block.
    #[error("inline data of inode {0} crosses a block")]
    InlineCrossesBlock(u64),
    /// A data layout that does not go with the inode's type or size.
    #[error("inode {0} has a data layout that its type or size does not allow")]
    BadLayout(u64),
    /// Two things use the same bytes of the tree.
    #[error("inode {nid} uses bytes at {offset} that something else uses")]
    Overlap {
        /// The inode.
        nid: u64,
        /// Offset in the file.
        offset: u64,
    },
    /// Bytes of the tree that nothing uses are not zero.
    #[error("unused bytes of the tree at {0} are not zero")]
    NonZeroPadding(u64),
    /// A link count that is not the number of names (or 2 + subdirectories).
    #[error("inode {nid} has link count {got}, but should have {want}")]
    BadNlink {
        /// The inode.
        nid: u64,
        /// What it should be.
        want: u32,
        /// What it is.
        got: u32,
    },
    /// A symlink that is empty, longer than 4,095 bytes or contains NUL.
    #[error("inode {0} is a symlink with a bad target (empty, over 4095 bytes, or with NUL)")]
    BadSymlink(u64),
    /// A whiteout, opaque directory or link to another layer outside a layer.
    #[error("inode {0} is something that only a layer may contain")]
    LayerOnly(u64),
    /// An operation on an inode of the wrong type.
    #[error("inode {nid} is not a {wanted}")]
    WrongType {
        /// The inode.
        nid: u64,
        /// What was wanted.
        wanted: &'static str,
    },

    // --- extended attributes ---
    /// Attributes reach past their area, or the area past the tree.
    #[error("xattrs of inode {0} overrun their space")]
    XattrOverrun(u64),
    /// Shared attributes or a name filter.
    #[error("inode {0} uses shared xattrs or a name filter")]
    SharedXattrs(u64),
    /// A name EROFS cannot mean.
    #[error("inode {0} has an xattr with a bad name")]
    XattrName(u64),
    /// Attributes are not in ascending order, or one comes twice.
    #[error("xattrs of inode {0} are out of order or there twice")]
    XattrOrder(u64),
    /// Padding between attributes is not zero.
    #[error("xattr padding of inode {0} is not zero")]
    XattrPadding(u64),
    /// More bytes of attributes than the limit.
    #[error("inode {nid} has {bytes} bytes of xattrs, more than the limit")]
    XattrTooLarge {
        /// The inode.
        nid: u64,
        /// Names and values.
        bytes: u64,
    },
    /// An attribute of overlayfs or of Lamina itself.
    #[error("inode {0} has a reserved xattr (trusted.overlay.* or trusted.lamina.*)")]
    ReservedXattr(u64),

    // --- directories ---
    /// A directory block that cannot be read.
    #[error("directory {0} has a malformed block")]
    BadDirectoryBlock(u64),
    /// An entry with an unknown file type.
    #[error("directory {directory} has an entry of unknown type {kind}")]
    BadEntryType {
        /// The directory.
        directory: u64,
        /// The type.
        kind: u8,
    },
    /// An entry whose type is not its inode's.
    #[error("directory {directory} has an entry whose type is not that of inode {nid}")]
    EntryTypeMismatch {
        /// The directory.
        directory: u64,
        /// The inode.
        nid: u64,
    },
    /// A name that is empty, too long, or contains `/` or NUL.
    #[error("directory {directory} has a bad name: {reason}")]
    BadName {
        /// The directory.
        directory: u64,
        /// Why.
        reason: crate::name::NameError,
    },
    /// Names are not in order.
    #[error("directory {0} is not sorted")]
    Unsorted(u64),
    /// A name comes twice.
    #[error("directory {0} has a name twice")]
    DuplicateName(u64),
    /// No `.` or no `..` entry.
    #[error("directory {0} lacks `.` or `..`")]
    MissingDots(u64),
    /// `.` is not the directory itself.
    #[error("`.` of directory {0} is another inode")]
    WrongSelf(u64),
    /// `..` is not the directory's parent.
    #[error("`..` of directory {0} is not its parent")]
    WrongParent(u64),
    /// A directory is inside itself.
    #[error("directory {0} is inside itself")]
    DirectoryCycle(u64),
    /// A directory has two names.
    #[error("directory {0} has two names")]
    DirectoryLinkedTwice(u64),
    /// The root is not a directory.
    #[error("the root is not a directory")]
    RootNotDirectory,
    /// A path that cannot be followed.
    #[error("too many levels of symbolic links")]
    SymlinkLoop,
    /// No such entry.
    #[error("no such file or directory")]
    NotFound,

    // --- file data ---
    /// Blocks outside the tree or every blob.
    #[error("data of inode {0} lies outside its blob or the tree")]
    DataOutOfRange(u64),
    /// A chunk format that is not the one for the file's size.
    #[error("inode {nid} has chunk format {format:#x}, which is not the one for its size")]
    BadChunkFormat {
        /// The inode.
        nid: u64,
        /// The format.
        format: u32,
    },
    /// A chunk index with a reserved field or an inconsistent device.
    #[error("chunk index {index} of inode {nid} is not valid")]
    BadChunkIndex {
        /// The inode.
        nid: u64,
        /// Which index.
        index: u64,
    },

    // --- blobs, chunks, packs ---
    /// A blob's record is not valid.
    #[error("blob {0} has a bad record (empty, unaligned, or entries out of the table)")]
    BadBlob(u32),
    /// A blob's entries are not a blob map.
    #[error("blob {blob}: {reason}")]
    BadBlobMap {
        /// Which blob.
        blob: u32,
        /// Why.
        reason: BlobMapError,
    },
    /// A blob's id is not the digest of its map.
    #[error("blob {0} has an id that is not the digest of its map")]
    BlobIdMismatch(u32),
    /// An entry names a chunk that is not there.
    #[error("blob {blob} names chunk {chunk}, which does not exist")]
    ChunkOutOfRange {
        /// Which blob.
        blob: u32,
        /// Which chunk.
        chunk: u32,
    },
    /// An entry's length is not its chunk's.
    #[error("blob {blob} gives chunk {chunk} another length than the chunk table")]
    EntryLength {
        /// Which blob.
        blob: u32,
        /// Which chunk.
        chunk: u32,
    },
    /// A chunk record is not valid.
    #[error("chunk {0} has a bad record (length or codec)")]
    BadChunk(u32),
    /// A chunk's stored bytes are not inside its pack.
    #[error("chunk {0} lies outside its pack")]
    ChunkOutOfPack(u32),
    /// A chunk names a pack that is not there.
    #[error("chunk {chunk} names pack {pack}, which does not exist")]
    PackOutOfRange {
        /// Which chunk.
        chunk: u32,
        /// Which pack.
        pack: u32,
    },
    /// A chunk's plain bytes are too many for its stored ones.
    #[error("chunk {0} would grow more than the limit when decompressed")]
    CompressionRatio(u32),
    /// A pack record is not valid.
    #[error("pack {0} has a bad record")]
    BadPack(u32),
    /// An embedded pack lies outside its section or overlaps another.
    #[error("embedded pack {0} lies outside its section or overlaps another")]
    EmbeddedPackRange(u32),
    /// The access profile names entries that are not there.
    #[error("range {0} of the access profile names entries that do not exist")]
    ProfileRange(u64),
    /// A file's list in the hints does not follow the one before.
    #[error("the lists of file {0} of the hints are out of order")]
    HintList(u64),
    /// The hints name entries that are not there.
    #[error("range {0} of the hints names entries that do not exist")]
    HintRange(u64),
    /// The hints' ranges are not sorted.
    #[error("place {0} in the order of the hints' ranges is wrong")]
    HintOrder(u64),
    /// The hints name a file that is not there.
    #[error("edge {0} of the hints names a file that does not exist")]
    HintEdge(u64),

    // --- limits ---
    /// More of something than the limits allow.
    #[error("the flist has more {what} than the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// A path longer or deeper than the limits.
    #[error("a path below directory {0} is longer or deeper than the limit")]
    TooDeep(u64),
}

/// Why a flist could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// More blobs than the format or the limits allow.
    #[error("{0} blobs are too many for one flist")]
    TooManyBlobs(usize),
    /// More entries than the limits allow.
    #[error("the tree has more than {0} entries")]
    TooManyEntries(u64),
    /// A path longer or deeper than the limits allow.
    #[error("{0} is longer or deeper than the limit")]
    TooDeep(String),
    /// Tree and blobs need more than 2^32 - 1 blocks of 4 KiB.
    #[error("tree and blobs together exceed 16 TiB, what EROFS can address")]
    AddressSpace,
    /// Permission bits or nanoseconds out of range.
    #[error("{0} has permission bits or a time out of range")]
    BadMetadata(String),
    /// Whiteout, opaque directory or link to a lower layer outside a layer.
    #[error("{0} is something that only a layer may contain")]
    LayerOnly(String),
    /// A character device 0:0 in a layer, where that means a whiteout.
    #[error("{0} is a character device 0:0, which in a layer means a whiteout")]
    AmbiguousWhiteout(String),
    /// Device numbers beyond 12 + 20 bits.
    #[error("{0} has a device number that Linux cannot have")]
    BadDevice(String),
    /// A symlink that is empty, longer than 4,095 bytes or contains NUL.
    #[error("{0} is a symlink with a bad target (empty, over 4095 bytes, or with NUL)")]
    BadSymlink(String),
    /// A regular file whose data does not fit its blob.
    #[error("{path} cannot be stored: {reason}")]
    BadFile {
        /// Which file.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// An attribute name EROFS cannot hold.
    #[error("{path} has xattr {name}, whose name EROFS cannot hold")]
    XattrName {
        /// Which entry.
        path: String,
        /// Which attribute.
        name: String,
    },
    /// An attribute of overlayfs or of Lamina itself.
    #[error("{path} has xattr {name}, which is reserved")]
    ReservedXattr {
        /// Which entry.
        path: String,
        /// Which attribute.
        name: String,
    },
    /// Attributes that are too large.
    #[error("{path} has too many bytes of xattrs (at {name})")]
    XattrTooLarge {
        /// Which entry.
        path: String,
        /// Which attribute.
        name: String,
    },
    /// The blob, chunk and pack tables are not consistent.
    #[error("the tables are not consistent: {0}")]
    BadTables(FlistError),
    /// The metadata is too large.
    #[error("the metadata is {0} bytes long, more than the limit")]
    MetaTooLarge(usize),
    /// An extra section's kind is one this version knows, or comes twice.
    #[error("extra section {0} is of a known kind or there twice")]
    BadExtraSection(u32),
}
