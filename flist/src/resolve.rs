//! Follows a path inside a flist, symbolic links included, never out of it.

use crate::erofs::FileType;
use crate::erofs::inode::Inode;
use crate::error::FlistError;
use crate::file::Flist;

/// Most symbolic links in one path, as Linux has it.
const LINKS_MAX: u32 = 40;

/// Which symbolic links a path follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowSymlinks {
    /// All, the last component's too (`stat`).
    Always,
    /// All but the last component's (`lstat`).
    NotLast,
}

impl Flist {
    /// The inode at `path`, as a process whose root is this tree would see
    /// it: absolute links start at the root, `..` never leaves it.
    pub fn resolve(&self, path: &[u8], follow: FollowSymlinks) -> Result<Inode, FlistError> {
        let mut at = vec![self.root()?];
        let mut todo: Vec<Vec<u8>> = Vec::new();
        push_parts(&mut todo, path);
        let mut links = 0;
        while let Some(part) = todo.pop() {
            let here = *at.last().expect("never empty");
            match part.as_slice() {
                // A trailing slash or dot asks for a directory.
                b"" | b"." if here.is_directory() => {}
                b".." if here.is_directory() => {
                    if at.len() > 1 {
                        at.pop();
                    }
                }
                name if here.is_directory() => {
                    let entry = self.lookup(&here, name)?;
                    let inode = self.inode(entry.ok_or(FlistError::NotFound)?.nid)?;
                    let is_link = inode.file_type() == FileType::Symlink;
                    if !is_link || (todo.is_empty() && follow == FollowSymlinks::NotLast) {
                        at.push(inode);
                        continue;
                    }
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(FlistError::SymlinkLoop);
                    }
                    let target = self.readlink(&inode)?;
                    if target.starts_with(b"/") {
                        at.truncate(1);
                    }
                    push_parts(&mut todo, target);
                }
                _ => return Err(FlistError::NotFound),
            }
        }
        Ok(*at.last().expect("never empty"))
    }
}

/// Pushes a path's components so that the first is popped first.
fn push_parts(todo: &mut Vec<Vec<u8>>, path: &[u8]) {
    // Leading and doubled slashes mean nothing, one at the end does.
    let trimmed = path.strip_suffix(b"/");
    if trimmed.is_some() {
        todo.push(b".".to_vec());
    }
    let parts = path.rsplit(|&b| b == b'/').filter(|part| !part.is_empty());
    todo.extend(parts.map(<[u8]>::to_vec));
}
