//! What a sandbox may use: each limit is hit, named, and hurts nobody else.

use crate::probes::with_all_capabilities;
use crate::sandbox::{Bench, Wish, patient};
use lamina_runtime::Ended;
use lamina_runtime::cgroup::ResourceLimits;
use std::time::{Duration, Instant};

fn limited(limits: ResourceLimits) -> Wish {
    Wish {
        limits,
        ..Wish::default()
    }
}

#[test]
fn a_fork_bomb_is_bounded_and_named() {
    let bench = Bench::new();
    let wish = Wish {
        timeout: patient(Duration::from_secs(3)),
        ..limited(ResourceLimits {
            pids: Some(50),
            ..ResourceLimits::default()
        })
    };
    let outcome = bench.sh(&wish, "bomb() { bomb | bomb & }; bomb; sleep 100");
    assert!(outcome.usage.pids_refused > 0, "{outcome:?}");
    assert_eq!(bench.sh(&Wish::default(), "echo fine").out, "fine\n");
}

#[test]
fn memory_is_bounded_and_named() {
    let bench = Bench::new();
    let wish = limited(ResourceLimits {
        memory_bytes: Some(32 << 20),
        ..ResourceLimits::default()
    });
    // 10 GiB, twice as much at every step; `tail -c` of busybox does not count that far.
    let script =
        "awk 'BEGIN { s = \"x\"; while (length(s) < 10737418240) s = s s }' && echo survived";
    let outcome = bench.sh(&wish, script);
    assert_eq!(outcome.out, "", "{outcome:?}");
    assert!(outcome.usage.out_of_memory_kills > 0, "{outcome:?}");
    assert!(outcome.usage.memory_peak_bytes <= 33 << 20, "{outcome:?}");
}

#[test]
fn memory_files_count_as_memory() {
    let bench = Bench::new();
    let wish = limited(ResourceLimits {
        memory_bytes: Some(32 << 20),
        ..ResourceLimits::default()
    });
    let outcome = bench.sh(
        &wish,
        "head -c 60000000 /dev/zero > /dev/shm/x; head -c 60000000 /dev/zero > /x; echo survived",
    );
    assert!(outcome.usage.out_of_memory_kills > 0, "{outcome:?}");
}

#[test]
fn changes_are_bounded_in_bytes_and_files() {
    let bench = Bench::new();
    let wish = Wish {
        disk: 8 << 20,
        ..Wish::default()
    };
    let script = "head -c 100000000 /dev/zero > /big; ls -l /big | awk '{print ($5 <= 8388608)}'; rm /big; \
                  i=0; while [ $i -lt 1000000 ]; do echo > /tmp/$i || break; i=$((i+1)); done; [ $i -lt 4200 ] && echo bounded";
    let outcome = bench.sh(&wish, script);
    assert_eq!(outcome.out, "1\nbounded\n", "{outcome:?}");
    assert!(outcome.error.contains("No space left"), "{outcome:?}");
}

#[test]
fn a_signal_to_everybody_is_to_everybody_inside() {
    let bench = Bench::new();
    let mut neighbour = bench.start("sleep 1000");
    for wish in [Wish::default(), with_all_capabilities()] {
        let outcome = bench.sh(&wish, "sleep 1000 & kill -9 -1; kill -9 1; wait; echo out");
        assert_eq!(outcome.out, "out\n", "{outcome:?}");
        assert!(!outcome.timed_out, "{outcome:?}");
        assert_eq!(neighbour.wait(Some(Instant::now())).unwrap(), None);
    }
    // The next one has the same spawner.
    assert_eq!(bench.sh(&Wish::default(), "echo fine").out, "fine\n");
}

#[test]
fn processor_time_is_bounded() {
    let bench = Bench::new();
    let wish = limited(ResourceLimits {
        cpu_millis: Some(200),
        ..ResourceLimits::default()
    });
    let began = Instant::now();
    let script = "timeout -s KILL 2 sh -c 'while :; do :; done'; timeout -s KILL 2 sh -c 'while :; do :; done'; exit 0";
    let outcome = bench.sh(&wish, script);
    assert_eq!(outcome.ended, Ended::Exited(0));
    let used = Duration::from_micros(outcome.usage.cpu_us);
    // A fifth, and what one period may overshoot.
    let allowed = began.elapsed().mul_f64(0.2) + Duration::from_millis(200);
    assert!(used < allowed, "{used:?} of {allowed:?}");
}

#[test]
fn endless_output_is_as_long_as_the_time() {
    let bench = Bench::new();
    let wish = Wish {
        timeout: patient(Duration::from_millis(500)),
        ..Wish::default()
    };
    let outcome = bench.sh(&wish, "yes 0123456789");
    assert!(outcome.timed_out && outcome.out.len() == 1 << 20);
}
