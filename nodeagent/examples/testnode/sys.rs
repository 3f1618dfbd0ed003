//! mmap for the reader: a bad page must kill it with SIGBUS, as it would a user.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A file mapped for reading.
pub(crate) struct Mapping {
    start: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes (at least one).
    pub(crate) fn new(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: a fresh private read-only mapping of an open descriptor.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, len })
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for `len` bytes until drop; the file is read-only.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range mapped in `new`, unmapped once.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
