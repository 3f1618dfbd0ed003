//! One knob of the C library's heap.

/// Makes every block of 128 KiB or more a mapping of its own, for ever.
///
/// `fuser` allocates a zeroed buffer of 16 MiB per thread of which a few
/// kilobytes are touched. glibc raises its mapping threshold once such a block
/// is freed; the next buffers then come from the heap and are zeroed by hand:
/// 20 MB resident instead of none. musl always maps large blocks.
pub(crate) fn map_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        const THRESHOLD: libc::c_int = 128 * 1024;
        // SAFETY: mallopt takes two integers, touches only the allocator's own
        // settings and may be called at any time.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, THRESHOLD);
            // Threads here allocate little: one arena for all of them.
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}
