//! What a hostile image may cost us at most.
//!
//! Owns every bound that reading an image checks. Each field is configuration
//! with a default that real images stay far below; nothing here is a format
//! constant.

/// Bounds on one image conversion. All byte counts are bytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// One manifest or index document. Registries commonly refuse above 4 MiB.
    pub manifest_bytes_max: u64,
    /// One image config document.
    pub config_bytes_max: u64,
    /// Layers of one image (docker stops at 127, overlayfs at 500).
    pub layers_max: usize,
    /// Entries of one index.
    pub index_entries_max: usize,
    /// Compressed bytes of one layer.
    pub layer_bytes_max: u64,
    /// Uncompressed bytes of one layer.
    pub unpacked_bytes_max: u64,
    /// Uncompressed : compressed, checked once `ratio_floor_bytes` have come out.
    pub ratio_max: u64,
    /// Output below this is never called a bomb: small streams of zeros are normal.
    pub ratio_floor_bytes: u64,
    /// log2 of the largest zstd window; 27 is what zstd itself accepts by default.
    pub zstd_window_log_max: u32,
    /// What one layer tar may contain.
    pub tar: TarLimits,
}

/// Bounds on one layer tar.
#[derive(Debug, Clone)]
pub struct TarLimits {
    /// Entries, implicit parent directories included.
    pub entries_max: u64,
    /// Bytes of one PAX or GNU long-name record block (Go's reader: 1 MiB).
    pub extension_bytes_max: u64,
    /// Bytes of a whole path (`PATH_MAX`).
    pub path_bytes_max: usize,
    /// Components of a path.
    pub depth_max: usize,
    /// Bytes of one xattr value (`XATTR_SIZE_MAX`).
    pub xattr_value_max: usize,
    /// Bytes of all xattr names and values of one entry; a flist holds no more.
    pub xattr_total_max: usize,
    /// Logical bytes of one file, holes included.
    pub file_bytes_max: u64,
    /// Data segments of one sparse file.
    pub sparse_segments_max: usize,
    /// Data segments of all sparse files of the tar together; all are kept until the layer is done.
    pub sparse_segments_total_max: u64,
    /// Symbolic links followed below one entry's path, as in the kernel.
    pub symlinks_followed_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes_max: 4 << 20,
            config_bytes_max: 8 << 20,
            layers_max: 512,
            index_entries_max: 4096,
            layer_bytes_max: 256 << 30,
            unpacked_bytes_max: 512 << 30,
            ratio_max: 250,
            ratio_floor_bytes: 512 << 20,
            zstd_window_log_max: 27,
            tar: TarLimits::default(),
        }
    }
}

impl Default for TarLimits {
    fn default() -> Self {
        Self {
            entries_max: 20_000_000,
            extension_bytes_max: 1 << 20,
            path_bytes_max: 4096,
            depth_max: 1024,
            xattr_value_max: 65_536,
            xattr_total_max: 64 << 10,
            file_bytes_max: 8 << 40,
            sparse_segments_max: 1 << 20,
            sparse_segments_total_max: 4 << 20,
            symlinks_followed_max: 40,
        }
    }
}
