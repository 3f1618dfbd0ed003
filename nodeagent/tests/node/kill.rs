//! The kill test: readers of a lazy image go on while the mount daemon and the
//! agent are killed at random moments.

use std::path::Path;
use std::time::Duration;

use lamina_mount::blobfs::BlobStats;
use lamina_mount::erofs::ErofsOptions;

use crate::content::mix;
use crate::image;
use crate::support::{
    Node, Readers, Setup, alone, eventually, kill, memory_kib, require_root, testnode,
};

const PROCESSES: u64 = 8;
const THREADS: u64 = 8;
const KILLS: u64 = 30;
const REPLACEMENTS: u64 = 5;
const IMAGE_BYTES: u64 = 192 << 20;

#[test]
fn readers_survive_kills_on_a_directio_mount() {
    survive_kills(1, Way::Erofs { directio: true }, false);
}

#[test]
fn readers_survive_kills_on_a_buffered_mount() {
    survive_kills(2, Way::Erofs { directio: false }, false);
}

#[test]
fn readers_survive_kills_through_an_overlay_on_a_directio_mount() {
    survive_kills(3, Way::Erofs { directio: true }, true);
}

#[test]
fn readers_survive_kills_through_an_overlay_on_a_buffered_mount() {
    survive_kills(4, Way::Erofs { directio: false }, true);
}

#[test]
fn readers_survive_kills_on_a_tree_over_fuse() {
    survive_kills(5, Way::Tree, false);
}

/// How the image is mounted.
#[derive(Debug, Clone, Copy)]
enum Way {
    Erofs { directio: bool },
    Tree,
}

fn survive_kills(seed: u64, way: Way, overlay: bool) {
    require_root();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = image::build(dir.path(), IMAGE_BYTES);
    let setup = Setup {
        fill_deadline: Duration::from_mins(1),
        agent_delay_ms: Some(2..20),
    };
    let mut node = Node::start(dir.path(), &image, &setup);
    let mut root = match way {
        Way::Tree => node.mount_tree(&image),
        Way::Erofs { directio } => {
            let options = ErofsOptions {
                directio,
                ..ErofsOptions::default()
            };
            node.mount(&image, options)
        }
    };
    if overlay {
        root = node.overlay(&root);
    }
    let readers = Readers::start(&root, PROCESSES, THREADS, seed);
    kill_at_random(&node, seed);
    let report = readers.finish();
    let stats = node.mountd().stats().unwrap();
    let sum = |field: fn(&BlobStats) -> u64| stats.blobs.values().map(field).sum::<u64>();
    assert_eq!(stats.blobs.len(), image.blobs.len());
    let memory = |child| memory_kib(node.pid_of(child));
    eprintln!(
        "kill test: {way:?}, overlay {overlay}: {KILLS} kills ({} of the mount daemon, \
         {} of the agent), {} reads, {} maps, {} walks, {} execs, {} MiB compared, worst stall {} ms; \
         {} of {} entries present; RSS/anonymous KiB: holder {:?}, mountd {:?}, agent {:?}",
        node.restarts_of("mountd"),
        node.restarts_of("agent"),
        report.reads,
        report.maps,
        report.walks,
        report.execs,
        report.bytes >> 20,
        report.worst_ms,
        sum(|blob| blob.entries_present),
        sum(|blob| blob.entries),
        memory_kib(node.holder_pid()),
        memory("mountd"),
        memory("agent"),
    );
    assert_eq!(report.failures, [] as [String; 0]);
    assert!(report.reads > 0 && report.maps > 0 && report.walks > 0 && report.execs > 0);
    assert_eq!(sum(|blob| blob.reads_failed), 0);
    assert!(stats.blobs.values().all(|blob| blob.entries_present > 0));
}

/// Kills one of the two daemons, or both at once, then waits until the victim
/// was replaced; 0 to 150 ms between kills.
fn kill_at_random(node: &Node, seed: u64) {
    let mut random = mix(seed);
    for _ in 0..KILLS {
        random = mix(random);
        std::thread::sleep(Duration::from_millis(random % 150));
        let victims: &[&str] = match (random >> 32) % 5 {
            0 | 1 => &["mountd"],
            2 | 3 => &["agent"],
            _ => &["mountd", "agent"],
        };
        let before: Vec<u32> = victims.iter().map(|name| node.pid_of(name)).collect();
        for pid in &before {
            kill(*pid);
        }
        for (name, pid) in victims.iter().zip(before) {
            eventually("a successor", || (node.pid_of(name) != pid).then_some(()));
        }
    }
}

#[test]
fn readers_lose_nothing_while_the_daemons_are_replaced_by_another_program() {
    require_root();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = image::build(dir.path(), IMAGE_BYTES);
    let setup = Setup {
        fill_deadline: Duration::from_mins(1),
        agent_delay_ms: Some(2..20),
    };
    let mut node = Node::start(dir.path(), &image, &setup);
    let root = node.mount(&image, ErofsOptions::default());
    let readers = Readers::start(&root, PROCESSES, THREADS, 6);
    for version in 0..REPLACEMENTS {
        let program = dir.path().join(format!("version{version}"));
        std::fs::copy(testnode(), &program).unwrap();
        let before = ["agent", "mountd"].map(|child| node.pid_of(child));
        assert_eq!(node.run_by(&program), None);
        for (child, before) in ["agent", "mountd"].into_iter().zip(before) {
            let pid = node.pid_of(child);
            assert_ne!(pid, before);
            let runs = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
            assert_eq!(runs, program);
        }
    }
    // One that does not work gives way to the one before it.
    let last = dir.path().join(format!("version{}", REPLACEMENTS - 1));
    let why = node.run_by(Path::new("/bin/false"));
    assert!(why.is_some_and(|why| why.contains("agent")));
    eventually("the program before it runs again", || {
        let runs = |child| std::fs::read_link(format!("/proc/{}/exe", node.pid_of(child)));
        let both = ["agent", "mountd"].map(|child| runs(child).ok());
        (both == [Some(last.clone()), Some(last.clone())]).then_some(())
    });
    let report = readers.finish();
    let stats = node.mountd().stats().unwrap();
    assert_eq!(report.failures, [] as [String; 0]);
    assert!(report.reads > 0 && report.maps > 0 && report.walks > 0 && report.execs > 0);
    let failed = stats.blobs.values().map(|blob| blob.reads_failed);
    assert_eq!(failed.sum::<u64>(), 0);
}
