//! What a file system is: trees, chunks, the flist file.
