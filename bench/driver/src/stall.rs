//! Many readers of random places while something is being killed: the longest any one waited.

use crate::measure::{Random, Report, on_threads, timed};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Reads 4 KiB at random places with `jobs` threads for `time`.
///
/// A failed read is counted, not fatal: the report's `errors` must be zero for the measured
/// stall to mean anything.
pub(crate) fn longest_wait(path: &Path, jobs: usize, time: Duration, seed: u64) -> Result<Report> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let blocks = file.metadata()?.len() / 4096;
    ensure!(blocks > 0, "{} is smaller than one block", path.display());
    let (errors, longest_us) = (AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    let report = timed(|| {
        on_threads(jobs, |job| {
            let mut random = Random::new(seed + job as u64);
            let mut buffer = [0; 4096];
            let (mut bytes, mut ops) = (0, 0);
            while started.elapsed() < time {
                let before = Instant::now();
                match file.read_exact_at(&mut buffer, random.below(blocks) * 4096) {
                    Ok(()) => bytes += 4096,
                    Err(_) => _ = errors.fetch_add(1, Ordering::Relaxed),
                }
                longest_us.fetch_max(before.elapsed().as_micros() as u64, Ordering::Relaxed);
                ops += 1;
            }
            Ok((bytes, ops))
        })
    })?;
    let longest = Duration::from_micros(longest_us.into_inner());
    Ok(Report {
        longest_seconds: Some(longest.as_secs_f64()),
        errors: errors.into_inner(),
        ..report
    })
}
