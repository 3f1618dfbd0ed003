//! Afslets that refuse, break off, hang and lie; proxies that end.

use std::time::Duration;

use lamina_proto::afsletpb::execute_response::Payload;
use lamina_proto::afsletpb::{GetRuntimeStatusRequest, StartRequest};
use tonic::Code;

use crate::bench::{Bench, config, soon, until};
use crate::cable::Cable;
use crate::client::{Run, channel, execute, execute_on, file, start};
use crate::fake::{Act, Fake};

async fn pair() -> (Fake, Fake, Bench) {
    let (one, two) = (
        Fake::start("n1", 4, 400).await,
        Fake::start("n2", 4, 400).await,
    );
    let proxy = Bench::before(&[&one, &two]);
    (one, two, proxy)
}

/// A run that looks for a place until there is one.
fn patient() -> StartRequest {
    StartRequest {
        proxy_dispatch_max_retries: 1000,
        proxy_dispatch_backoff_ms: 5,
        ..start(1, 1)
    }
}

/// Until the first of two was asked, so that chance does not decide what is tested.
async fn until_offered(proxy: &Bench, bad: &Fake, bytes: usize) -> usize {
    let mut runs = 0;
    while bad.see(|seen| seen.offered) == 0 {
        let files = file("/a", bytes, 64 << 10);
        let told = soon(
            "a run",
            execute_on(channel(proxy.at).await, start(1, 1), files),
        )
        .await;
        assert_eq!(
            (told.is_done(), told.node()),
            (true, Some("n2")),
            "{told:?}"
        );
        runs += 1;
    }
    runs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_refuses_before_it_accepts_another_one_runs_once() {
    for act in [
        Act::Refuse(Code::ResourceExhausted, "full"),
        Act::Refuse(Code::Unavailable, "draining"),
        Act::Mute,
    ] {
        let (one, two, proxy) = pair().await;
        one.will(act.clone());
        let runs = until_offered(&proxy, &one, 300 << 10).await;
        two.see(|seen| {
            assert_eq!(
                (seen.begun, seen.file_bytes),
                (runs, runs * (300 << 10)),
                "{act:?}"
            );
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_run_s_bad_image_closes_no_afslet_to_others() {
    let only = Fake::start("n1", 4, 400).await;
    let proxy = Bench::before(&[&only]);
    assert!(execute(proxy.at, start(1, 1)).await.is_done());
    // Answers to how it is come seldom here; what is known of it stays.
    only.will(Act::Refuse(
        Code::Unavailable,
        "the registry does not answer",
    ));
    for _ in 0..5 {
        let wanted = StartRequest {
            proxy_dispatch_max_retries: -1,
            ..start(1, 1)
        };
        let told = execute(proxy.at, wanted).await;
        assert_eq!(told.status().code(), Code::Unavailable);
        let said = told.status().message();
        assert!(said.contains("the registry does not answer"), "{said}");
    }
    // Each was offered to it: it counts as there.
    assert_eq!(only.see(|seen| seen.offered), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_run_itself_is_refused_for_is_not_tried_elsewhere() {
    for code in [
        Code::InvalidArgument,
        Code::NotFound,
        Code::PermissionDenied,
        Code::DeadlineExceeded,
        Code::Internal,
    ] {
        let (one, two, proxy) = pair().await;
        one.will(Act::Refuse(code, "no"));
        two.will(Act::Refuse(code, "no"));
        let wanted = StartRequest {
            proxy_dispatch_max_retries: 5,
            proxy_dispatch_backoff_ms: 1,
            ..start(1, 1)
        };
        let told = execute(proxy.at, wanted).await;
        assert_eq!(
            (told.status().code(), told.status().message()),
            (code, "no")
        );
        let offered = one.see(|seen| seen.offered) + two.see(|seen| seen.offered);
        assert_eq!(offered, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_after_it_was_accepted_is_never_tried_again() {
    for code in [Code::Unavailable, Code::ResourceExhausted, Code::Internal] {
        let (one, two, proxy) = pair().await;
        one.will(Act::Fail(code));
        two.will(Act::Fail(code));
        let told = execute(proxy.at, start(1, 1)).await;
        assert!(
            matches!(told.answers[..], [Payload::Accepted(_)]),
            "{told:?}"
        );
        assert_eq!(
            (told.status().code(), told.status().message()),
            (code, "it fails")
        );
        let offered = one.see(|seen| seen.offered) + two.see(|seen| seen.offered);
        assert_eq!(offered, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_afslet_that_is_killed_in_the_middle_ends_the_run_and_it_runs_nowhere_else() {
    let (one, two, proxy) = pair().await;
    for fake in [&one, &two] {
        fake.finish(false);
    }
    let mut run = Run::begin(channel(proxy.at).await, start(1, 1))
        .await
        .unwrap();
    let Some(Payload::Accepted(accepted)) = run.next().await.unwrap() else {
        panic!("no accepted");
    };
    let (killed, other) = match accepted.node_id.as_str() {
        "n1" => (&one, &two),
        _ => (&two, &one),
    };
    run.frames = None;
    assert!(matches!(run.next().await.unwrap(), Some(Payload::Log(_))));
    killed.cable.cut();
    let broken = run.next().await.unwrap_err();
    assert_eq!(broken.code(), Code::Unavailable, "{broken}");
    assert!(broken.message().contains("is not tried again"), "{broken}");
    other.see(|seen| assert_eq!(seen.offered, 0));
    // And it is noticed: the next one goes elsewhere.
    other.finish(true);
    for _ in 0..5 {
        let told = execute(proxy.at, start(1, 1)).await;
        assert!(told.is_done(), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_afslet_that_is_killed_before_it_accepts_has_not_begun_and_another_one_does() {
    let (one, two, proxy) = pair().await;
    one.will(Act::Hang);
    let hung = loop {
        let run = tokio::spawn(execute(proxy.at, start(1, 1)));
        let mut is_hung = false;
        until("it is asked, or the other one has run it", || {
            is_hung = one.see(|seen| seen.offered) > 0;
            is_hung || run.is_finished()
        })
        .await;
        if is_hung {
            break run;
        }
    };
    let before = two.see(|seen| seen.begun);
    one.cable.tear();
    let told = soon("the run", hung).await.unwrap();
    assert_eq!(
        (told.is_done(), told.node()),
        (true, Some("n2")),
        "{told:?}"
    );
    two.see(|seen| assert_eq!(seen.begun, before + 1));
    one.see(|seen| assert_eq!(seen.begun, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_afslet_that_says_nothing_any_more_is_given_up() {
    let (one, two, _) = pair().await;
    let mut config = config(&[&one]);
    config.limits.poll_deadline = Duration::from_millis(50);
    let proxy = Bench::start(config);
    one.will(Act::Hang);
    let wanted = StartRequest {
        proxy_dispatch_max_retries: 0,
        proxy_dispatch_backoff_ms: 1,
        ..start(1, 1)
    };
    let run = tokio::spawn(execute(proxy.at, wanted));
    until("it is asked", || one.see(|seen| seen.offered) > 0).await;
    one.hang_polls(true);
    let told = soon("the run", run).await.unwrap();
    assert_eq!(told.status().code(), Code::Unavailable);
    assert!(told.status().message().contains("takes runs"), "{told:?}");
    one.see(|seen| assert_eq!(seen.begun, 0));
    two.see(|seen| assert_eq!(seen.offered, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_is_given_up_like_a_silent_afslet() {
    let (one, two, _) = pair().await;
    let mut config = config(&[&one, &two]);
    config.limits.poll_deadline = Duration::from_millis(50);
    let proxy = Bench::start(config);
    assert!(execute(proxy.at, patient()).await.is_done());
    one.cable.silence();
    for _ in 0..8 {
        let told = soon("a run", execute(proxy.at, patient())).await;
        assert_eq!(
            (told.is_done(), told.node()),
            (true, Some("n2")),
            "{told:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_unavailable_and_a_hung_one_ends_at_the_deadline() {
    let afslet = Fake::start("n1", 4, 400).await;
    afslet.cable.cut();
    let proxy = Bench::before(&[&afslet]);
    let told = execute(proxy.at, start(1, 1)).await;
    assert_eq!(told.status().code(), Code::Unavailable);
    assert!(
        told.status()
            .message()
            .contains("none of 1 afslets takes runs"),
        "{told:?}"
    );
    let hung = Fake::start("n1", 4, 400).await;
    hung.will(Act::Hang);
    let mut config = config(&[&hung]);
    config.limits.accept_deadline = Duration::from_millis(300);
    let proxy = Bench::start(config);
    let told = soon("the run", execute(proxy.at, start(1, 1))).await;
    assert_eq!(told.status().code(), Code::DeadlineExceeded);
    assert!(told.status().message().contains("nothing ran"));
}

/// Once, it was said that time is over, and not what was wrong until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_says_what_was_wrong_before() {
    let (bad, hung, _) = pair().await;
    // It is asked first.
    bad.tell(|status| {
        status.warm_images = vec!["docker.io/library/debian|latest|linux|amd64|".into()];
    });
    bad.will(Act::Refuse(
        Code::Unavailable,
        "the registry does not answer",
    ));
    hung.will(Act::Hang);
    let mut config = config(&[&bad, &hung]);
    config.limits.accept_deadline = Duration::from_millis(300);
    let proxy = Bench::start(config);
    let told = soon("the run", execute(proxy.at, start(1, 1))).await;
    assert_eq!(told.status().code(), Code::DeadlineExceeded);
    let said = told.status().message();
    assert!(said.contains("the registry does not answer"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_about_room_is_found_out_and_costs_little() {
    let (one, two, proxy) = pair().await;
    one.tell(|status| {
        status.limit_cpu_cores = i64::MAX;
        status.limit_memory_mb = i64::MAX;
        status.available_cpu_cores = i64::MAX;
        status.available_memory_mb = i64::MAX;
    });
    one.will(Act::Refuse(Code::ResourceExhausted, "it was a lie"));
    for _ in 0..20 {
        assert_eq!(execute(proxy.at, start(1, 1)).await.node(), Some("n2"));
    }
    let wanted = StartRequest {
        proxy_dispatch_max_retries: 2,
        proxy_dispatch_backoff_ms: 1,
        ..start(64, 1)
    };
    let told = soon("the run", execute(proxy.at, wanted)).await;
    assert_eq!(told.status().code(), Code::ResourceExhausted);
    assert!(told.status().message().contains("it was a lie"), "{told:?}");
    // Sums do not overflow.
    let mut client =
        lamina_proto::afsletpb::afslet_client::AfsletClient::new(channel(proxy.at).await);
    let status = client
        .get_runtime_status(GetRuntimeStatusRequest {})
        .await
        .unwrap();
    assert_eq!(status.into_inner().limit_cpu_cores, i64::MAX);
    two.see(|seen| assert_eq!(seen.begun, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_ends_its_run_and_gives_its_room_back() {
    let afslet = Fake::start("n1", 1, 100).await;
    let proxy = Bench::before(&[&afslet]);
    // While its files are on their way, and while it runs; by a word, or without one.
    for (is_running, is_told) in [(false, true), (false, false), (true, true), (true, false)] {
        afslet.finish(false);
        let before = afslet.see(|seen| (seen.begun, seen.abandoned));
        let cable = Cable::to(proxy.at).await;
        let mut run = Run::begin(channel(cable.at).await, patient())
            .await
            .unwrap();
        run.next().await.unwrap();
        if is_running {
            run.frames = None;
            run.next().await.unwrap();
        }
        match is_told {
            true => run.abandon(),
            false => cable.cut(),
        }
        until("it ends", || {
            afslet.see(|seen| seen.abandoned) == before.1 + 1
        })
        .await;
        let begun = before.0 + usize::from(is_running);
        afslet.see(|seen| assert_eq!(seen.begun, begun, "half an upload is no end of it"));
        afslet.finish(true);
        assert!(execute(proxy.at, patient()).await.is_done());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_while_it_waits_is_forgotten() {
    let afslet = Fake::start("n1", 1, 100).await;
    let proxy = Bench::before(&[&afslet]);
    let mut held = Run::begin(channel(proxy.at).await, start(1, 1))
        .await
        .unwrap();
    held.next().await.unwrap();
    let patient = StartRequest {
        proxy_dispatch_max_retries: 1000,
        proxy_dispatch_backoff_ms: 1_000_000,
        ..start(1, 1)
    };
    let waiting = tokio::spawn(execute(proxy.at, patient));
    until("it waits", || {
        crate::status::metric(&proxy, "lamina_proxy_waiting") == Some(1)
    })
    .await;
    waiting.abort();
    until("it is gone", || {
        crate::status::metric(&proxy, "lamina_proxy_runs") == Some(1)
    })
    .await;
    assert!(held.finish().await.is_done());
    afslet.see(|seen| assert_eq!(seen.offered, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_ends_takes_no_more_and_lets_runs_end() {
    let afslet = Fake::start("n1", 2, 100).await;
    let mut proxy = Bench::before(&[&afslet]);
    let channel = channel(proxy.at).await;
    let mut held = Run::begin(channel.clone(), start(2, 1)).await.unwrap();
    held.next().await.unwrap();
    let patient = StartRequest {
        proxy_dispatch_max_retries: 1000,
        proxy_dispatch_backoff_ms: 1_000_000,
        ..start(1, 1)
    };
    let waiting = tokio::spawn(execute_on(channel.clone(), patient, Vec::new()));
    until("it waits", || {
        crate::status::metric(&proxy, "lamina_proxy_waiting") == Some(1)
    })
    .await;
    proxy.stop();
    let told = soon("the one that waits", waiting).await.unwrap();
    assert_eq!(told.status().code(), Code::Unavailable);
    let told = execute_on(channel, start(1, 1), Vec::new()).await;
    assert_eq!(told.status().code(), Code::Unavailable);
    assert!(
        told.status().message().contains("this proxy is ending"),
        "{told:?}"
    );
    assert!(held.finish().await.is_done());
    soon("the proxy", &mut proxy.serving)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_whose_time_is_over_cuts_runs_off_and_says_so() {
    let afslet = Fake::start("n1", 2, 100).await;
    afslet.finish(false);
    let mut config = config(&[&afslet]);
    config.drain_timeout = Duration::from_millis(50);
    let mut proxy = Bench::start(config);
    let mut run = Run::begin(channel(proxy.at).await, start(1, 1))
        .await
        .unwrap();
    run.next().await.unwrap();
    proxy.stop();
    let told = run.finish().await;
    assert_eq!(told.status().code(), Code::Unavailable);
    assert!(
        told.status().message().contains("the run was ended"),
        "{told:?}"
    );
    soon("the proxy", &mut proxy.serving)
        .await
        .unwrap()
        .unwrap();
    until("the afslet is told", || {
        afslet.see(|seen| seen.abandoned) == 1
    })
    .await;
}
