//! How much a flist may ask of a node.

/// Upper bounds for a flist, checked when one is built and by
/// [`crate::Flist::check`]. The defaults fit any real image and keep a hostile
/// one from costing more than a few seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Names in the tree.
    pub entries_max: u64,
    /// Directories from the root to an entry.
    pub depth_max: u32,
    /// Bytes of an entry's path (Linux `PATH_MAX`).
    pub path_max: u32,
    /// Bytes of all attribute names and values of one inode.
    pub xattr_bytes_max: u32,
    /// Bytes of one regular file.
    pub file_size_max: u64,
    /// Blobs.
    pub blobs_max: u32,
    /// Bytes of one blob's address space.
    pub blob_len_max: u64,
    /// Records in the chunk table, and entries of all blobs.
    pub chunks_max: u64,
    /// Records in the pack table.
    pub packs_max: u64,
    /// Plain bytes of a chunk for each stored one: what a decompression bomb
    /// may gain (the absolute size is bounded by the chunk maximum).
    pub ratio_max: u32,
    /// Files in the hints.
    pub hint_files_max: u32,
    /// Edges of the hints' files, and ranges of them.
    pub hint_edges_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries_max: 32 << 20,
            depth_max: 2048,
            path_max: 4096,
            xattr_bytes_max: 64 << 10,
            file_size_max: 1 << 58,
            blobs_max: 4096,
            blob_len_max: 8 << 40,
            chunks_max: 256 << 20,
            packs_max: 16 << 20,
            // 256 KiB of zeros is a frame of some 20 bytes: honest data may
            // reach this, so it bounds nonsense only.
            ratio_max: 32 << 10,
            hint_files_max: 1 << 20,
            hint_edges_max: 8 << 20,
        }
    }
}
