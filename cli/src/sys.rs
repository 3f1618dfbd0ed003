//! One knob of the C library's heap.
#![allow(unsafe_code)]

/// Keeps memory that was given back from staying resident: glibc gives every thread an arena of its
/// own and never maps blocks of a size it has seen freed, so that a converter of many threads and
/// buffers held twice what it used. Costs some 5 % of its time.
pub(crate) fn bound_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes two integers, touches only the allocator's own settings and may be
        // called at any time.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 2);
            libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10);
        }
    }
}
