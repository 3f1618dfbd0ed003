//! A reader: random reads, mapped pages, walks and program starts on the test
//! image, every byte compared. Ends when its standard input does, and prints
//! one line of JSON; anything wrong is in `failures`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::content;
use crate::sys::Mapping;

/// Enough to understand what broke.
const FAILURES_KEPT: usize = 20;

/// What the readers of a process saw.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) reads: u64,
    pub(crate) maps: u64,
    pub(crate) walks: u64,
    pub(crate) execs: u64,
    pub(crate) bytes: u64,
    pub(crate) failures: Vec<String>,
    pub(crate) worst_ms: u64,
}

impl Report {
    fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.maps += other.maps;
        self.walks += other.walks;
        self.execs += other.execs;
        self.bytes += other.bytes;
        self.worst_ms = self.worst_ms.max(other.worst_ms);
        self.failures.extend(other.failures);
        self.failures.truncate(FAILURES_KEPT);
    }
}

pub(crate) fn run(root: &Path, seed: u64, threads: u64) -> anyhow::Result<()> {
    let files = list(root)?;
    anyhow::ensure!(!files.is_empty(), "no files below {}", root.display());
    let stop = AtomicBool::new(false);
    let mut total = Report::default();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads)
            .map(|thread| {
                let reader = Reader {
                    root,
                    files: &files,
                    random: content::mix(seed << 16 | thread),
                    report: Report::default(),
                };
                let stop = &stop;
                scope.spawn(move || reader.read_until(stop))
            })
            .collect();
        // Standard input ends when the test says so, or is gone.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            match reader.join() {
                Ok(report) => total.add(report),
                Err(_) => total.failures.push("a reader panicked".into()),
            }
        }
    });
    println!("{}", serde_json::to_string(&total)?);
    Ok(())
}

struct Reader<'a> {
    root: &'a Path,
    files: &'a [(PathBuf, u32, u64)],
    random: u64,
    report: Report,
}

impl Reader<'_> {
    fn read_until(mut self, stop: &AtomicBool) -> Report {
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let outcome = match self.next() % 100 {
                0..50 => self.pread(),
                50..80 => self.touch_mapped(),
                80..92 => self.walk(),
                _ => self.exec(),
            };
            let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.report.worst_ms = self.report.worst_ms.max(took);
            if let Err(error) = outcome
                && self.report.failures.len() < FAILURES_KEPT
            {
                self.report.failures.push(format!("{error:#}"));
            }
        }
        self.report
    }

    fn next(&mut self) -> u64 {
        self.random = content::mix(self.random);
        self.random
    }

    fn pick(&mut self) -> (PathBuf, u32, u64) {
        let at = self.next() as usize % self.files.len();
        self.files[at].clone()
    }

    fn pread(&mut self) -> anyhow::Result<()> {
        let (path, index, size) = self.pick();
        let offset = self.next() % size;
        let length = (1 + self.next() % (192 * 1024)).min(size - offset) as usize;
        let file = File::open(&path)?;
        let mut got = vec![0; length];
        file.read_exact_at(&mut got, offset)?;
        self.report.reads += 1;
        self.compare(&path, index, offset, &got)?;
        if self.next().is_multiple_of(4) {
            // Drop its pages, so that later reads come to the daemon again.
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    fn touch_mapped(&mut self) -> anyhow::Result<()> {
        let (path, index, size) = self.pick();
        let file = File::open(&path)?;
        let mapping = Mapping::new(&file, size as usize)?;
        for _ in 0..8 {
            let offset = self.next() % size;
            let end = (offset + 64).min(size);
            let bytes = &mapping.bytes()[offset as usize..end as usize];
            self.compare(&path, index, offset, bytes)?;
        }
        self.report.maps += 1;
        Ok(())
    }

    fn walk(&mut self) -> anyhow::Result<()> {
        let found = list(self.root)?;
        anyhow::ensure!(
            found.len() == self.files.len(),
            "walk found {}",
            found.len()
        );
        for (path, _, size) in &found {
            let meta = std::fs::metadata(path)?;
            anyhow::ensure!(
                meta.len() == *size,
                "{}: size {}",
                path.display(),
                meta.len()
            );
        }
        self.report.walks += 1;
        Ok(())
    }

    fn exec(&mut self) -> anyhow::Result<()> {
        let status = Command::new(self.root.join("bin/sh"))
            .args(["-c", "exit 42"])
            .status()?;
        anyhow::ensure!(status.code() == Some(42), "exec ended with {status}");
        self.report.execs += 1;
        Ok(())
    }

    fn compare(&mut self, path: &Path, index: u32, offset: u64, got: &[u8]) -> anyhow::Result<()> {
        let mut want = vec![0; got.len()];
        content::fill(index, offset, &mut want);
        self.report.bytes += got.len() as u64;
        if let Some(at) = got.iter().zip(&want).position(|(got, want)| got != want) {
            let zeros = got[at..].iter().all(|byte| *byte == 0);
            anyhow::bail!(
                "{}: wrong byte at {} (read of {} at {offset}; rest zeros: {zeros})",
                path.display(),
                offset + at as u64,
                got.len()
            );
        }
        Ok(())
    }
}

/// Every content file below the root.
fn list(root: &Path) -> anyhow::Result<Vec<(PathBuf, u32, u64)>> {
    let mut files = Vec::new();
    for dir in std::fs::read_dir(root)? {
        let dir = dir?.path();
        if !dir.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&dir)? {
            let path = file?.path();
            if let Some((index, size)) = content::parse(&path) {
                files.push((path, index, size));
            }
        }
    }
    files.sort();
    Ok(files)
}
