//! Readers of mounted files who know what they must read.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lamina_discovery::Random;

/// What is read at once.
const BLOCK: usize = 64 << 10;

/// The files of an image: names and bytes.
pub(crate) type Files = Arc<Vec<(String, Vec<u8>)>>;

/// Many of them, each of whom reads everything once, in an order of its own, until one of them fails.
pub(crate) struct Readers {
    reading: Vec<JoinHandle<()>>,
    told: Arc<Mutex<Told>>,
}

/// What became of reads.
#[derive(Default)]
struct Told {
    wrong: Vec<String>,
    longest: Duration,
}

impl Readers {
    /// So many, shared among these mounts.
    pub(crate) fn start(count: usize, mounted: &[PathBuf], files: &Files, seed: u64) -> Self {
        let told = Arc::<Mutex<Told>>::default();
        let start = |number: usize| {
            let (root, files) = (mounted[number % mounted.len()].clone(), Arc::clone(files));
            let (told, seed) = (Arc::clone(&told), seed << 16 | number as u64);
            std::thread::spawn(move || read(&root, &files, seed, &told))
        };
        let reading = (0..count).map(start).collect();
        Self { reading, told }
    }

    /// Waits for all of them, who must have read the right bytes; gives the longest that one read took.
    pub(crate) fn end(self) -> Duration {
        for reading in self.reading {
            reading.join().unwrap();
        }
        let told = self.told.lock().unwrap();
        let (count, first) = (told.wrong.len(), told.wrong.first());
        assert!(count == 0, "{count} reads failed: {first:?}");
        told.longest
    }
}

fn read(root: &Path, files: &Files, seed: u64, told: &Mutex<Told>) {
    let blocks = |(file, (_, bytes)): (usize, &(String, Vec<u8>))| {
        (0..bytes.len().div_ceil(BLOCK)).map(move |block| (file, block * BLOCK))
    };
    let mut order: Vec<_> = files.iter().enumerate().flat_map(blocks).collect();
    let mut random = Random::from_seed(seed);
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at + 1));
    }
    for (file, offset) in order {
        let (name, bytes) = &files[file];
        let expected = &bytes[offset..bytes.len().min(offset + BLOCK)];
        let mut got = vec![0; expected.len()];
        let began = Instant::now();
        let opened = File::open(root.join(name));
        let done = opened.and_then(|file| file.read_exact_at(&mut got, offset as u64));
        let took = began.elapsed();
        let what = match done {
            Err(error) => Some(error.to_string()),
            Ok(()) if got != expected => Some("other bytes".into()),
            Ok(()) => None,
        };
        let mut told = told.lock().unwrap();
        told.longest = told.longest.max(took);
        let wrong = what.map(|what| format!("{}/{name} at {offset}: {what}", root.display()));
        told.wrong.extend(wrong);
        if !told.wrong.is_empty() {
            return;
        }
    }
}
