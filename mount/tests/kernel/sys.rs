//! Memory maps of the files under test.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Writes through a shared mapping of the file.
pub(crate) fn mmap_write(fd: BorrowedFd<'_>, offset: u64, data: &[u8]) -> Result<(), Errno> {
    // SAFETY: the file belongs to this test alone and is at least as long as
    // what is written; nobody shortens it while it is mapped.
    let mut map = unsafe { memmap2::MmapOptions::new().map_mut(fd.as_raw_fd()) }
        .map_err(|error| errno(&error))?;
    let offset = offset as usize;
    map[offset..offset + data.len()].copy_from_slice(data);
    map.flush().map_err(|error| errno(&error))
}

/// Reads through a shared mapping of the file.
pub(crate) fn mmap_read(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
    // SAFETY: as above, and nothing writes while the bytes are copied out.
    let map = unsafe { memmap2::MmapOptions::new().map(fd.as_fd().as_raw_fd()) }
        .map_err(|error| errno(&error))?;
    let offset = offset as usize;
    Ok(map[offset..(offset + len).min(map.len())].to_vec())
}

/// Keeps a file mapped with no descriptor open.
pub(crate) fn map_file(path: &std::path::Path) -> memmap2::Mmap {
    let file = std::fs::File::open(path).expect("open");
    // SAFETY: the file belongs to this test alone and is not shortened.
    unsafe { memmap2::Mmap::map(&file) }.expect("mmap")
}

struct Stream(*mut libc::DIR);

impl Stream {
    fn open(path: &std::path::Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL");
        // SAFETY: a NUL-terminated path that lives across the call.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!stream.is_null(), "opendir {path:?}");
        Self(stream)
    }

    fn next(&mut self) -> Option<(std::ffi::CString, i64)> {
        // SAFETY: the stream is open; the entry is valid until the next call on
        // it and is copied before that. `telldir` takes the same stream.
        unsafe {
            let entry = libc::readdir64(self.0);
            if entry.is_null() {
                return None;
            }
            let name = std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()).to_owned();
            Some((name, libc::telldir(self.0)))
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: open, and not used after.
        unsafe { libc::closedir(self.0) };
    }
}

/// Every name with what `telldir` said after it.
pub(crate) fn list_with_offsets(path: &std::path::Path) -> Vec<(std::ffi::CString, i64)> {
    let mut stream = Stream::open(path);
    std::iter::from_fn(|| stream.next()).collect()
}

/// The names from a place on that `telldir` told another stream.
pub(crate) fn list_from(path: &std::path::Path, offset: i64) -> Vec<std::ffi::CString> {
    let mut stream = Stream::open(path);
    // SAFETY: the stream is open.
    unsafe { libc::seekdir(stream.0, offset as libc::c_long) };
    std::iter::from_fn(|| stream.next())
        .map(|(name, _)| name)
        .collect()
}
