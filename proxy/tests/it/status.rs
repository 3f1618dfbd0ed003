//! What a proxy tells of the cluster: gRPC, HTTP, metrics.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use lamina_proto::afsletpb::GetRuntimeStatusRequest;
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsproxy::v1::StatusRequest;
use lamina_proto::afsproxy::v1::afs_proxy_client::AfsProxyClient;
use lamina_proto::afsproxy::v1::status_response::Payload;

use crate::bench::{Bench, until};
use crate::client::{Run, channel, start};
use crate::fake::Fake;

/// An answer over HTTP, with its head; none while nobody listens.
pub(crate) fn get(proxy: &Bench, path: &str, accept: &str) -> Option<String> {
    let at = proxy.http;
    let asking = move || {
        let mut stream = TcpStream::connect(at).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    tokio::task::block_in_place(asking)
}

pub(crate) fn metric(proxy: &Bench, name: &str) -> Option<i64> {
    let text = get(proxy, "/metrics", "*/*")?;
    let line = text.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

pub(crate) fn overview(proxy: &Bench) -> String {
    get(proxy, "/status", "application/json").unwrap_or_default()
}

async fn known(proxy: &Bench) {
    until("the proxy answers", || {
        get(proxy, "/healthz", "*/*").is_some()
    })
    .await;
    until("its afslets were asked", || {
        !overview(proxy).contains("not asked yet")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_a_proxy_is_that_of_all_it_reaches() {
    let (one, two) = (
        Fake::start("n1", 4, 400).await,
        Fake::start("n2", 8, 800).await,
    );
    let gone = Fake::start("n3", 100, 100).await;
    gone.cable.cut();
    let proxy = Bench::before(&[&one, &two, &gone]);
    known(&proxy).await;
    let mut held = Run::begin(channel(proxy.at).await, start(3, 30))
        .await
        .unwrap();
    held.next().await.unwrap();
    let mut client = AfsletClient::new(channel(proxy.at).await);
    let mut told = client
        .get_runtime_status(GetRuntimeStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    while told.running_containers == 0 {
        told = client
            .get_runtime_status(GetRuntimeStatusRequest {})
            .await
            .unwrap()
            .into_inner();
    }
    assert_eq!((told.limit_cpu_cores, told.limit_memory_mb), (12, 1200));
    assert_eq!((told.used_cpu_cores, told.used_memory_mb), (3, 30));
    assert_eq!(
        (told.available_cpu_cores, told.available_memory_mb),
        (9, 1170)
    );
    assert_eq!((told.version.as_str(), told.draining), ("test", false));
    two.tell(|status| status.draining = true);
    while told.available_cpu_cores > 4 {
        told = client
            .get_runtime_status(GetRuntimeStatusRequest {})
            .await
            .unwrap()
            .into_inner();
    }
    assert_eq!(told.limit_cpu_cores, 12, "its runs go on");
    assert!(held.finish().await.is_done());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_streams_a_summary_and_what_is_asked_for() {
    let one = Fake::start("n1", 4, 400).await;
    let gone = Fake::start("n2", 4, 400).await;
    gone.cable.cut();
    let proxy = Bench::before(&[&one, &gone]);
    known(&proxy).await;
    let mut client = AfsProxyClient::new(channel(proxy.at).await);
    for include in [false, true] {
        let request = StatusRequest {
            include_layerstores: include,
            include_afslets: include,
        };
        let mut messages = client.status(request).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(message) = messages.message().await.unwrap() {
            all.push(message.payload.unwrap());
        }
        let Payload::Summary(summary) = &all[0] else {
            panic!("{all:?}");
        };
        assert_eq!((summary.afslet_instances, summary.afslet_reachable), (2, 1));
        let mut afslets = all.iter().filter_map(|item| match item {
            Payload::Afslet(one) => {
                Some((one.reachable, one.node_id.as_str(), one.error.is_empty()))
            }
            _ => None,
        });
        let mut found: Vec<_> = afslets.by_ref().collect();
        found.sort_unstable();
        let expected = [(false, "", false), (true, "n1", true)];
        assert_eq!(found, if include { &expected[..] } else { &[] });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_has_status_as_json_and_text_health_and_metrics() {
    let one = Fake::start("n1", 4, 400).await;
    let mut proxy = Bench::before(&[&one]);
    known(&proxy).await;
    let json = get(&proxy, "/status", "application/json").unwrap();
    assert!(json.contains("content-type: application/json"), "{json}");
    assert!(json.contains("\"state\":\"open\""), "{json}");
    let text = get(&proxy, "/status", "text/plain").unwrap();
    assert!(text.contains("1 of 1 afslets reachable"), "{text}");
    assert!(get(&proxy, "/readyz", "*/*").unwrap().contains("200 OK"));
    let told = crate::client::execute(proxy.at, start(1, 1)).await;
    assert!(told.is_done());
    let metrics = get(&proxy, "/metrics", "*/*").unwrap();
    for line in [
        "lamina_proxy_info{version=\"test\"} 1",
        "lamina_proxy_runs_total{code=\"Ok\"} 1",
        "lamina_proxy_runs_ended_total{outcome=\"done\"} 1",
        "lamina_proxy_tries_total{outcome=\"accepted\"} 1",
        "lamina_proxy_afslets{state=\"open\"} 1",
        "lamina_proxy_cpu_cores{kind=\"limit\"} 4",
        "lamina_proxy_memory_mebibytes{kind=\"available\"} 400",
        "lamina_proxy_replay_bytes 0",
        "lamina_proxy_dispatch_duration_seconds_count 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // While a run goes on it is no longer ready, and still there.
    one.finish(false);
    let mut held = Run::begin(channel(proxy.at).await, start(1, 1))
        .await
        .unwrap();
    held.next().await.unwrap();
    proxy.stop();
    until("it is not ready", || {
        get(&proxy, "/readyz", "*/*").is_some_and(|ready| ready.contains("503"))
    })
    .await;
    assert!(get(&proxy, "/healthz", "*/*").unwrap().contains("200 OK"));
    one.finish(true);
    assert!(held.finish().await.is_done());
    (&mut proxy.serving).await.unwrap().unwrap();
}
