//! One knob of the C library's heap, and children that end with us.
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

/// Has the kernel send the command's process SIGTERM when the thread that started it ends, however that happens.
pub(crate) fn end_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: between fork and exec only a system call is made, which allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
                .map_err(Into::into)
        });
    }
}
