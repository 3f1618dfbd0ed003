//! Clients that keep to nothing.

use futures::future::join_all;
use lamina_proto::afsletpb::execute_request::Payload as Frame;
use lamina_proto::afsletpb::{ExecuteRequest, FileChunk, FileEntryEnd, StartRequest};
use tonic::Code;

use crate::bench::{Bench, config, soon, until};
use crate::client::{Run, channel, execute, execute_on, file, frame, send, start};
use crate::fake::{Act, Fake};
use crate::status::metric;

fn chunk(bytes: usize) -> ExecuteRequest {
    let data = vec![1; bytes];
    frame(Frame::FileChunk(FileChunk { data }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_begin_with_a_start_is_refused_by_name() {
    let afslet = Fake::start("n1", 4, 400).await;
    let proxy = Bench::before(&[&afslet]);
    let channel = channel(proxy.at).await;
    for (frames, said) in [
        (Vec::new(), "there is no frame"),
        (vec![chunk(3)], "file_chunk"),
        (file("/a", 10, 10), "file_begin"),
        (vec![frame(Frame::FileEnd(FileEntryEnd {}))], "file_end"),
        (
            vec![ExecuteRequest { payload: None }],
            "nothing that is known",
        ),
        (
            vec![frame(Frame::Start(StartRequest::default()))],
            "cpu_cores",
        ),
        (vec![frame(Frame::Start(start(1, 0)))], "memory_mb"),
    ] {
        let told = send(channel.clone(), frames).await;
        assert_eq!(told.status().code(), Code::InvalidArgument);
        assert!(told.status().message().contains(said), "{said}: {told:?}");
    }
    afslet.see(|seen| assert_eq!(seen.offered, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_come_out_of_order_later_are_the_afslets_to_refuse() {
    let afslet = Fake::start("n1", 4, 400).await;
    let proxy = Bench::before(&[&afslet]);
    let again = vec![frame(Frame::Start(start(1, 1)))];
    let told = execute_on(channel(proxy.at).await, start(1, 1), again).await;
    assert_eq!(told.status().code(), Code::InvalidArgument);
    assert_eq!(told.status().message(), "a second start");
    afslet.see(|seen| assert_eq!(seen.begun, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_giant_frame_ends_the_run_before_the_command_begins() {
    let afslet = Fake::start("n1", 4, 400).await;
    let proxy = Bench::before(&[&afslet]);
    let channel = channel(proxy.at).await;
    let told = send(channel.clone(), vec![chunk(5 << 20)]).await;
    assert_eq!(told.status().code(), Code::InvalidArgument);
    assert!(
        told.status().message().contains("a frame is too large"),
        "{told:?}"
    );
    let mut run = Run::begin(channel.clone(), start(1, 1)).await.unwrap();
    run.next().await.unwrap();
    let frames = run.frames.as_ref().unwrap();
    frames.send(chunk(5 << 20)).await.unwrap();
    let told = run.finish().await;
    assert_eq!(told.status().code(), Code::InvalidArgument);
    assert!(
        told.status().message().contains("a frame is too large"),
        "{told:?}"
    );
    until("the afslet is told", || {
        afslet.see(|seen| seen.abandoned) == 1
    })
    .await;
    afslet.see(|seen| assert_eq!(seen.begun, 0));
    // A file's chunk of 4 MiB is none.
    let told = execute_on(channel, start(1, 1), file("/a", 9 << 20, 4 << 20)).await;
    assert!(told.is_done(), "{told:?}");
    afslet.see(|seen| assert_eq!(seen.file_bytes, 9 << 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_wait_in_the_client_while_nobody_has_accepted() {
    let afslet = Fake::start("n1", 64, 4000).await;
    afslet.will(Act::Hang);
    let proxy = Bench::before(&[&afslet]);
    let channel = channel(proxy.at).await;
    let uploading: Vec<_> = (0..16)
        .map(|_| {
            let files = file("/a", 4 << 20, 64 << 10);
            tokio::spawn(execute_on(channel.clone(), start(1, 1), files))
        })
        .collect();
    until("all are offered", || afslet.see(|seen| seen.offered) == 16).await;
    let kept = || metric(&proxy, "lamina_proxy_replay_bytes").unwrap();
    assert!(kept() > 0 && kept() < 16 * 100, "{}", kept());
    // Others go on, also on the same connection.
    afslet.will(Act::Run);
    let told = soon(
        "one beside them",
        execute_on(channel, start(1, 1), file("/b", 4 << 20, 64 << 10)),
    );
    assert!(told.await.is_done());
    uploading.iter().for_each(tokio::task::JoinHandle::abort);
    until("nothing is kept", || kept() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_of_waiting_runs_is_bounded() {
    let afslet = Fake::start("n1", 64, 4000).await;
    afslet.will(Act::Hang);
    let mut config = config(&[&afslet]);
    config.limits.replay_bytes_max = 2000;
    let proxy = Bench::start(config);
    let channel = channel(proxy.at).await;
    let large = StartRequest {
        env: vec!["A=".to_owned() + &"x".repeat(1500)],
        ..start(1, 1)
    };
    let waiting = tokio::spawn(execute_on(channel.clone(), large.clone(), Vec::new()));
    until("it is kept", || {
        metric(&proxy, "lamina_proxy_replay_bytes") > Some(1500)
    })
    .await;
    let told = execute_on(channel.clone(), large.clone(), Vec::new()).await;
    assert_eq!(told.status().code(), Code::ResourceExhausted);
    assert!(told.status().message().contains("2000 bytes"), "{told:?}");
    waiting.abort();
    until("it is given back", || {
        metric(&proxy, "lamina_proxy_replay_bytes") == Some(0)
    })
    .await;
    afslet.will(Act::Run);
    assert!(execute_on(channel, large, Vec::new()).await.is_done());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_of_one_client_do_not_starve_another() {
    let afslet = Fake::start("n1", 4, 400).await;
    let proxy = Bench::before(&[&afslet]);
    let flood = channel(proxy.at).await;
    let patient = StartRequest {
        proxy_dispatch_max_retries: 1000,
        proxy_dispatch_backoff_ms: 20,
        ..start(1, 1)
    };
    let silent: Vec<_> = (0..500)
        .map(|_| tokio::spawn(send(flood.clone(), Vec::new())))
        .collect();
    let many: Vec<_> = (0..10_000)
        .map(|_| tokio::spawn(execute_on(flood.clone(), patient.clone(), Vec::new())))
        .collect();
    let other = channel(proxy.at).await;
    for _ in 0..5 {
        let told = soon(
            "another client's",
            execute_on(other.clone(), patient.clone(), Vec::new()),
        );
        assert!(told.await.is_done());
    }
    for told in soon("the ten thousand", join_all(many)).await {
        let told = told.unwrap();
        assert!(told.is_done(), "{told:?}");
    }
    for told in soon("those without a frame", join_all(silent)).await {
        assert_eq!(told.unwrap().status().code(), Code::InvalidArgument);
    }
    afslet.see(|seen| assert_eq!((seen.begun, seen.abandoned), (10_005, 0)));
    until("all is given back", || {
        metric(&proxy, "lamina_proxy_runs") == Some(0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_runs_than_a_proxy_takes_are_refused_and_it_says_so() {
    let afslet = Fake::start("n1", 8, 400).await;
    let mut config = config(&[&afslet]);
    config.limits.runs_max = 2;
    let proxy = Bench::start(config);
    let channel = channel(proxy.at).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut run = Run::begin(channel.clone(), start(1, 1)).await.unwrap();
        run.next().await.unwrap();
        held.push(run);
    }
    let told = execute_on(channel.clone(), start(1, 1), Vec::new()).await;
    assert_eq!(told.status().code(), Code::ResourceExhausted);
    assert!(told.status().message().contains("2 runs"), "{told:?}");
    assert!(held.pop().unwrap().finish().await.is_done());
    until("it is given back", || {
        metric(&proxy, "lamina_proxy_runs") == Some(1)
    })
    .await;
    assert!(execute_on(channel, start(1, 1), Vec::new()).await.is_done());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_says_what_it_wants_is_sent_away() {
    let afslet = Fake::start("n1", 8, 400).await;
    let mut config = config(&[&afslet]);
    config.limits.start_deadline = std::time::Duration::from_millis(50);
    let proxy = Bench::start(config);
    let mut client =
        lamina_proto::afsletpb::afslet_client::AfsletClient::new(channel(proxy.at).await);
    let silent = tokio_stream::pending::<ExecuteRequest>();
    let told = soon("the call", client.execute(silent)).await.unwrap_err();
    assert_eq!(told.code(), Code::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_do_not_stop_those_that_do() {
    let afslet = Fake::start("n1", 64, 400).await;
    let proxy = Bench::before(&[&afslet]);
    afslet.will(Act::Flood);
    let mut idle = Vec::new();
    for _ in 0..32 {
        let mut run = Run::begin(channel(proxy.at).await, start(1, 1))
            .await
            .unwrap();
        run.next().await.unwrap();
        run.frames = None;
        idle.push(run);
    }
    until("all of them write", || afslet.see(|seen| seen.begun) == 32).await;
    afslet.will(Act::Run);
    for _ in 0..10 {
        let told = soon("a run beside them", execute(proxy.at, start(1, 1))).await;
        assert!(told.is_done(), "{told:?}");
    }
    drop(idle);
    until("all of them end", || {
        afslet.see(|seen| seen.abandoned) == 32
    })
    .await;
}
