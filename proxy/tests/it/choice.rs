//! Whom a run is given to.

use std::collections::BTreeSet;
use std::time::Duration;

use lamina_proto::afsletpb::StartRequest;
use tonic::Code;

use crate::bench::{Bench, config, until};
use crate::client::{Run, channel, execute, start};
use crate::fake::{Act, Fake};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_through_from_start_to_done() {
    let afslet = Fake::start("n1", 4, 4096).await;
    let proxy = Bench::before(&[&afslet]);
    let wanted = StartRequest {
        command: vec!["echo".into(), "hello".into()],
        env: vec!["A=b".into()],
        request_id: "r-1".into(),
        ..start(1, 64)
    };
    let told = execute(proxy.at, wanted.clone()).await;
    assert!(told.is_done(), "{told:?}");
    assert_eq!((told.answers.len(), told.node()), (4, Some("n1")));
    afslet.see(|seen| {
        assert_eq!((seen.offered, seen.begun), (1, 1));
        assert_eq!(seen.starts, [wanted]);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_handed_on_with_the_time_that_is_left() {
    let afslet = Fake::start("n1", 4, 4096).await;
    let proxy = Bench::before(&[&afslet]);
    let frames = vec![crate::client::frame(
        lamina_proto::afsletpb::execute_request::Payload::Start(start(1, 1)),
    )];
    let mut request = tonic::Request::new(tokio_stream::iter(frames));
    request
        .metadata_mut()
        .insert("x-trace", "t1".parse().unwrap());
    request.set_timeout(Duration::from_secs(3600));
    let channel = channel(proxy.at).await;
    let mut client = lamina_proto::afsletpb::afslet_client::AfsletClient::new(channel);
    client.execute(request).await.unwrap();
    afslet.see(|seen| {
        assert_eq!(seen.headers.get("x-trace").unwrap(), "t1");
        let left = lamina_proto::timeout::of(&seen.headers).unwrap();
        assert!(left < Duration::from_secs(3600) && left > Duration::from_secs(3000));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_on_one_only_goes_there() {
    let small = Fake::start("small", 2, 1024).await;
    let large = Fake::start("large", 8, 8192).await;
    let proxy = Bench::before(&[&small, &large]);
    for _ in 0..8 {
        assert_eq!(execute(proxy.at, start(4, 64)).await.node(), Some("large"));
        assert_eq!(
            execute(proxy.at, start(1, 4096)).await.node(),
            Some("large")
        );
    }
    small.see(|seen| assert_eq!(seen.offered, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_fit_is_refused_at_once() {
    let small = Fake::start("small", 2, 1024).await;
    let large = Fake::start("large", 8, 512).await;
    let proxy = Bench::before(&[&small, &large]);
    for (cpu, memory) in [(9, 1), (1, 1025), (8, 1024)] {
        let wanted = StartRequest {
            // Would wait for days otherwise.
            proxy_dispatch_max_retries: 1000,
            proxy_dispatch_backoff_ms: 1_000_000,
            ..start(cpu, memory)
        };
        let told = execute(proxy.at, wanted).await;
        assert_eq!(told.status().code(), Code::InvalidArgument);
        let said = told.status().message();
        assert!(
            said.contains(&format!("asked for {cpu} processors")),
            "{said}"
        );
        assert!(said.contains("8 processors and 1024 MiB in all"), "{said}");
    }
    small.see(|seen| assert_eq!(seen.offered, 0));
    large.see(|seen| assert_eq!(seen.offered, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_now_waits_and_then_says_what_is_free() {
    let afslet = Fake::start("n1", 2, 1024).await;
    let proxy = Bench::before(&[&afslet]);
    let mut held = Run::begin(channel(proxy.at).await, start(2, 100))
        .await
        .unwrap();
    held.next().await.unwrap();
    // What was asked for before it was accepted may count it twice, until the next answer.
    let mut said = String::new();
    while !said.contains("at most 0 processors and 924 MiB free") {
        let told = execute(proxy.at, start(1, 100)).await;
        assert_eq!(told.status().code(), Code::ResourceExhausted);
        said = told.status().message().to_owned();
        assert!(said.contains("looked once"), "{said}");
    }
    let twice = StartRequest {
        proxy_dispatch_max_retries: 2,
        proxy_dispatch_backoff_ms: 1,
        ..start(1, 100)
    };
    let told = execute(proxy.at, twice).await;
    let said = told.status().message();
    assert!(said.contains("looked 3 times"), "{said}");
    // One that waits long gets the room as soon as it is free.
    let patient = StartRequest {
        proxy_dispatch_max_retries: 1000,
        proxy_dispatch_backoff_ms: 1_000_000,
        ..start(1, 100)
    };
    let waiting = tokio::spawn(execute(proxy.at, patient));
    assert!(held.finish().await.is_done());
    let told = waiting.await.unwrap();
    assert!(told.is_done(), "{told:?}");
    afslet.see(|seen| assert_eq!((seen.begun, seen.most), (2, 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_named_is_the_only_one_that_is_asked() {
    let (one, two) = (
        Fake::start("n1", 4, 64).await,
        Fake::start("n2", 4, 64).await,
    );
    let proxy = Bench::before(&[&one, &two]);
    let on = |node: &str| StartRequest {
        node_id: node.into(),
        ..start(1, 1)
    };
    for _ in 0..5 {
        assert_eq!(execute(proxy.at, on("n2")).await.node(), Some("n2"));
    }
    one.see(|seen| assert_eq!(seen.offered, 0));
    let told = execute(proxy.at, on("n3")).await;
    assert_eq!(told.status().code(), Code::Unavailable);
    let said = told.status().message();
    let why = "node_id: there is no node \"n3\"; there is n1, n2";
    assert!(said.starts_with(why), "{said}");
    // Soon, also to who would wait long.
    let patient = StartRequest {
        proxy_dispatch_max_retries: 1000,
        proxy_dispatch_backoff_ms: 1,
        ..on("n3")
    };
    let told = execute(proxy.at, patient).await;
    let said = told.status().message();
    assert!(said.ends_with("(looked 11 times)"), "{said}");
    let large = StartRequest {
        cpu_cores: 5,
        ..on("n2")
    };
    let told = execute(proxy.at, large).await;
    assert_eq!(told.status().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warm_nodes_are_preferred_and_a_run_makes_its_node_warm() {
    let mut fakes = Vec::new();
    for n in 0..4 {
        fakes.push(Fake::start(&format!("n{n}"), 4, 4096).await);
    }
    fakes[2].tell(|status| {
        let arch = "docker.io/library/debian|latest|linux|amd64|";
        status.warm_images = vec![
            "docker.io/library/alpine|3|linux|amd64|".into(),
            arch.into(),
        ];
    });
    let proxy = Bench::before(&fakes.iter().collect::<Vec<_>>());
    for _ in 0..8 {
        assert_eq!(execute(proxy.at, start(1, 1)).await.node(), Some("n2"));
    }
    let arm = StartRequest {
        platform_arch: "arm64".into(),
        ..start(1, 1)
    };
    let mut warm = BTreeSet::new();
    // A status in between knows nothing of it: then it is somewhere else once more.
    for _ in 0..8 {
        let told = execute(proxy.at, arm.clone()).await;
        warm.insert(told.node().unwrap().to_owned());
    }
    assert!(warm.len() < 8, "{warm:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_of_a_burst_are_counted_before_the_afslets_tell_of_them() {
    let (one, two) = (
        Fake::start("n1", 4, 400).await,
        Fake::start("n2", 4, 400).await,
    );
    let mut config = config(&[&one, &two]);
    // Never told again.
    config.limits.poll_every = Duration::from_secs(3600);
    let proxy = Bench::start(config);
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut run = Run::begin(channel(proxy.at).await, start(1, 100))
            .await
            .unwrap();
        run.next().await.unwrap();
        held.push(run);
    }
    for fake in [&one, &two] {
        fake.see(|seen| assert_eq!((seen.offered, seen.most), (4, 4), "none was refused"));
    }
    let told = execute(proxy.at, start(1, 100)).await;
    assert_eq!(told.status().code(), Code::ResourceExhausted);
    held.pop().unwrap().finish().await;
    assert!(execute(proxy.at, start(1, 100)).await.is_done());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_afslet_and_a_full_one_are_passed_over() {
    let (one, two) = (
        Fake::start("n1", 4, 400).await,
        Fake::start("n2", 4, 400).await,
    );
    one.tell(|status| status.draining = true);
    let proxy = Bench::before(&[&one, &two]);
    for _ in 0..5 {
        assert_eq!(execute(proxy.at, start(1, 1)).await.node(), Some("n2"));
    }
    one.see(|seen| assert_eq!(seen.offered, 0));
    one.tell(|status| status.draining = false);
    one.will(Act::Refuse(
        Code::ResourceExhausted,
        "something else is full",
    ));
    two.tell(|status| status.draining = true);
    until("the proxy knows", || {
        two.state.polls.load(std::sync::atomic::Ordering::SeqCst) > 3
    })
    .await;
    let mut last = None;
    until("it is asked", || {
        last.take();
        one.see(|seen| seen.offered > 0) || {
            last = Some(tokio::spawn(execute(proxy.at, start(1, 1))));
            false
        }
    })
    .await;
    two.tell(|status| status.draining = false);
}
