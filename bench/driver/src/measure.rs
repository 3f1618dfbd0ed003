//! What a loop reports, the clock around it, and the random numbers it uses.

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::time::{Duration, Instant};

/// One measured loop.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Wall time of the loop.
    pub(crate) seconds: f64,
    /// CPU time of this process in the loop, user and system.
    pub(crate) cpu_seconds: f64,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Reads, files or entries, whichever the loop counts.
    pub(crate) ops: u64,
    /// Longest single operation, where the loop looks at each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) longest_seconds: Option<f64>,
    /// CPU time of who sent the bytes, where that is a thread of this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sender_cpu_seconds: Option<f64>,
    /// Operations that failed.
    pub(crate) errors: u64,
}

impl From<Report> for serde_json::Value {
    fn from(report: Report) -> Self {
        serde_json::to_value(report).expect("numbers are JSON")
    }
}

/// Runs `work`, which returns bytes and operations, and takes the time.
pub(crate) fn timed(work: impl FnOnce() -> anyhow::Result<(u64, u64)>) -> anyhow::Result<Report> {
    let (wall, cpu) = (Instant::now(), cpu_seconds(ClockId::ProcessCPUTime));
    let (bytes, ops) = work()?;
    Ok(Report {
        seconds: wall.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds(ClockId::ProcessCPUTime) - cpu,
        bytes,
        ops,
        ..Report::default()
    })
}

pub(crate) fn cpu_seconds(whose: ClockId) -> f64 {
    let time = clock_gettime(whose);
    let nanos = u32::try_from(time.tv_nsec).expect("nanoseconds are below 1e9");
    Duration::new(time.tv_sec.unsigned_abs(), nanos).as_secs_f64()
}

/// Runs `work(0..jobs)` on as many threads; sums of bytes and operations.
pub(crate) fn on_threads(
    jobs: usize,
    work: impl Fn(usize) -> anyhow::Result<(u64, u64)> + Sync,
) -> anyhow::Result<(u64, u64)> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs)
            .map(|job| scope.spawn(move || work(job)))
            .collect();
        threads
            .into_iter()
            .try_fold((0, 0), |(bytes, ops), thread| {
                let (more_bytes, more_ops) = thread.join().expect("a job panicked")?;
                Ok((bytes + more_bytes, ops + more_ops))
            })
    })
}

/// Splitmix64: enough to scatter reads, the same on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
