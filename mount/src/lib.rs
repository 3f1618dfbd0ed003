//! Flist as a directory: EROFS on FUSE blobs, pure FUSE, writable union.
