//! Loops over one file: sequential, random, mapped.

use crate::measure::{Random, Report, on_threads, timed};
use crate::sys;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

fn open(path: &Path) -> Result<(File, u64)> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let len = file.metadata()?.len();
    Ok((file, len))
}

/// Reads the file `passes` times in blocks; job `i` of `jobs` reads the `i`-th part.
pub(crate) fn sequential(path: &Path, block: usize, jobs: usize, passes: usize) -> Result<Report> {
    let (file, len) = open(path)?;
    let part = len.div_ceil(jobs as u64).next_multiple_of(block as u64);
    timed(|| {
        on_threads(jobs, |job| {
            let mut buffer = vec![0; block];
            let mut total = (0, 0);
            for _ in 0..passes {
                let (mut at, end) = (part * job as u64, len.min(part * (job as u64 + 1)));
                while at < end {
                    let read = file.read_at(&mut buffer, at)?;
                    ensure!(read > 0, "{} ended early at {at}", path.display());
                    at += read as u64;
                    total = (total.0 + read as u64, total.1 + 1);
                }
            }
            Ok(total)
        })
    })
}

/// Every job reads `count` blocks at random block-aligned places.
pub(crate) fn random(
    path: &Path,
    block: usize,
    jobs: usize,
    count: usize,
    seed: u64,
) -> Result<Report> {
    let (file, len) = open(path)?;
    let blocks = len / block as u64;
    ensure!(blocks > 0, "{} is smaller than one block", path.display());
    timed(|| {
        on_threads(jobs, |job| {
            let mut buffer = vec![0; block];
            let mut random = Random::new(seed + job as u64);
            for _ in 0..count {
                file.read_exact_at(&mut buffer, random.below(blocks) * block as u64)?;
            }
            Ok(((count * block) as u64, count as u64))
        })
    })
}

/// Touches one byte of `count` random pages of a fresh mapping: page faults, no copies.
pub(crate) fn mapped(path: &Path, count: usize, seed: u64) -> Result<Report> {
    let (file, len) = open(path)?;
    let pages = len / 4096;
    ensure!(pages > 0, "{} is smaller than one page", path.display());
    let map = sys::map(&file)?;
    let mut random = Random::new(seed);
    timed(|| {
        let mut sum = 0_u64;
        for _ in 0..count {
            sum += u64::from(map[(random.below(pages) * 4096) as usize]);
        }
        std::hint::black_box(sum);
        Ok((count as u64 * 4096, count as u64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: usize) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), vec![1; len]).expect("filled");
        file
    }

    #[test]
    fn jobs_together_read_every_byte_once() {
        for (len, jobs) in [(1_000_000, 1), (1_000_000, 4), (100, 4), (131_072 * 4, 4)] {
            let file = file(len);
            let report = sequential(file.path(), 131_072, jobs, 2).expect("read");
            assert_eq!(report.bytes, 2 * len as u64, "{len} bytes by {jobs} jobs");
        }
    }

    #[test]
    fn random_reads_stay_inside_the_file() {
        let file = file(4096 * 3 + 5);
        let report = random(file.path(), 4096, 2, 500, 1).expect("read");
        assert_eq!((report.ops, report.bytes), (1000, 4_096_000));
        assert_eq!(mapped(file.path(), 500, 1).expect("touched").ops, 500);
    }
}
