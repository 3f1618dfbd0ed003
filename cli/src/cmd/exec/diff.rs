//! `--diff`: what the command changed, in a file that is there whole, or not at all.

use crate::cmd::out;
use crate::exit;
use anyhow::{Context, Result, bail};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file that is being written.
pub(super) struct Diff {
    out: PathBuf,
    file: NamedTempFile,
    written: u64,
}

impl Diff {
    /// Says before anything runs that there is no place for it.
    pub(super) fn create(out: &Path) -> Result<Self> {
        let target = out::of_changes(out)?;
        let file = NamedTempFile::new_in(out::folder(&target));
        Ok(Self {
            file: file.with_context(|| format!("write changes to {}", out.display()))?,
            out: target,
            written: 0,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.with_context(|| format!("write changes to {}", self.out.display()))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Puts it where it should be. `size` is what the afslet says it is; 0: it does not say.
    pub(super) fn finish(self, size: u64) -> Result<()> {
        let out = self.out.display();
        if self.written == 0 || (size != 0 && size != self.written) {
            bail!(exit::Damaged(format!(
                "changes: {} of {size} bytes came; {out} is not written",
                self.written
            )));
        }
        let kept = self.file.persist(&self.out);
        kept.with_context(|| format!("write changes to {out}"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("d.tar.gz");
        let entries = || std::fs::read_dir(dir.path()).unwrap().count();
        for (bytes, size, kept) in [(&b"abc"[..], 4, false), (b"", 0, false), (b"abc", 3, true)] {
            let mut diff = Diff::create(&out).unwrap();
            diff.write(bytes).unwrap();
            assert!(!out.exists());
            assert_eq!(diff.finish(size).is_ok(), kept);
            assert_eq!((out.exists(), entries()), (kept, usize::from(kept)));
        }
        assert_eq!(std::fs::read(&out).unwrap(), b"abc");
        let mut again = Diff::create(&out).unwrap();
        again.write(b"other").unwrap();
        drop(again);
        assert_eq!(
            (std::fs::read(&out).unwrap(), entries()),
            (b"abc".to_vec(), 1)
        );
        assert!(Diff::create(dir.path()).is_err());
        assert!(Diff::create(&dir.path().join("none/d")).is_err());
    }
}
