//! Replicas and nodes over TCP.

use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use lamina_discovery::client::{AskError, Client, ClientTls};
use lamina_discovery::service::{Identity, Service};
use lamina_discovery::{Clock, Limits};
use lamina_image::manifest::sha256;
use lamina_proto::discovery::v1::service_discovery_client::ServiceDiscoveryClient;
use lamina_proto::discovery::v1::service_discovery_server::ServiceDiscovery as _;
use lamina_proto::discovery::v1::{
    FindImageProviderRequest, FindImageRequest, FindProviderRequest, HeartbeatRequest,
    ResolveImageRequest,
};
use lamina_proto::lamina::v1::partials_server::Partials as _;
use lamina_proto::lamina::v1::placement_server::Placement;
use lamina_proto::lamina::v1::{
    FindHomesRequest, FindPartialsRequest, GetProfileRequest, PartialBlob, ProfileRange,
    PutPartialsRequest, PutProfileRequest,
};
use tonic::{Code, Request};

use crate::certificates::{Authority, SERVER};
use crate::replica::{Hands, Replica, client, config, digest, holds, service, service_for, until};

/// A replica that is trusted with "nobody" from the start.
fn warm() -> Limits {
    Limits {
        warm_up: Duration::ZERO,
        ..Limits::default()
    }
}

fn plain(limits: Limits) -> Service {
    service(limits, Identity::Anyone, Clock::system())
}

async fn known(replica: &Replica) -> usize {
    let all = replica
        .service
        .find_image(Request::new(FindImageRequest::default()));
    all.await.map_or(0, |all| all.into_inner().services.len())
}

#[tokio::test]
async fn a_replica_that_starts_again_is_rebuilt_with_nothing_lost() {
    const NODES: u32 = 20;
    let limits = Limits::with_ttl(Duration::from_secs(3));
    let a = Replica::start(plain(limits.clone()), None);
    let b = Replica::start(plain(limits.clone()), None);
    let nodes: Vec<Client> = (0..NODES)
        .map(|n| {
            let node = client(&[a.at, b.at]);
            node.report(holds(&format!("n{n:02}"), [n, 1000]));
            node
        })
        .collect();
    until("both know everybody", async || {
        known(&a).await == NODES as usize && known(&b).await == NODES as usize
    })
    .await;
    let before = nodes[0].every().await.unwrap();

    let at = b.end().await;
    for (n, node) in (0..).zip(&nodes) {
        let found = node.find_provider(&digest(n)).await.unwrap();
        assert_eq!(
            found[0].node_id,
            format!("n{n:02}"),
            "the other one answers"
        );
    }
    let b = Replica::start_at(at, plain(limits), None);
    // From its first moment on nobody gets a wrong "nobody".
    until("the new one knows everybody", async || {
        for (n, node) in (0..).zip(&nodes) {
            let found = node.find_provider(&digest(n)).await.unwrap();
            assert_eq!(found.len(), 1, "node {n}");
        }
        known(&b).await == NODES as usize
    })
    .await;
    a.end().await;
    let mut after = nodes[0].every().await.unwrap();
    for (now, then) in after.iter_mut().zip(&before) {
        now.last_seen_unix = then.last_seen_unix;
    }
    assert_eq!(
        after, before,
        "what the new one says is what the old ones said"
    );
}

#[tokio::test]
async fn a_change_is_known_at_once() {
    // The regular heartbeat would come after an hour.
    let limits = Limits {
        warm_up: Duration::ZERO,
        ..Limits::with_ttl(Duration::from_secs(3 * 3600))
    };
    let replica = Replica::start(plain(limits), None);
    let node = client(&[replica.at]);
    let holds_it = async |layer: u32| {
        let found = node.find_provider(&digest(layer)).await.unwrap();
        found.len() == 1
    };
    node.report(holds("a", [1]));
    until("it is known", async || holds_it(1).await).await;
    // The first heartbeat said how long it is believed; the next ones are changes.
    for layer in 2..5 {
        node.report(holds("a", [layer]));
        until("the change is known", async || {
            holds_it(layer).await && !holds_it(layer - 1).await
        })
        .await;
    }
}

#[tokio::test]
async fn a_node_that_falls_silent_expires() {
    let hands = Hands::default();
    let service = service(warm(), Identity::Anyone, hands.clock());
    let replica = Replica::start(service, None);
    let (a, b) = (client(&[replica.at]), client(&[replica.at]));
    a.report(holds("a", [1]));
    b.report(holds("b", [1]));
    let who = async |layer: u32| -> Vec<String> {
        let found = b.find_provider(&digest(layer)).await.unwrap();
        found.into_iter().map(|service| service.node_id).collect()
    };
    until("both are known", async || who(1).await == ["a", "b"]).await;
    a.report(holds("a", [1, 2]));
    until("the change is known", async || who(2).await == ["a"]).await;
    drop(a);
    // Fake seconds pass quickly; each time the other node is heard again.
    for second in 0..31 {
        hands.pass(Duration::from_secs(1));
        replica.service.tick();
        b.report(holds("b", [1, 100 + second]));
        until("b is heard", async || who(100 + second).await == ["b"]).await;
    }
    assert_eq!(who(1).await, ["b"]);
    assert!(who(2).await.is_empty());
    let metrics = replica.service.metrics().unwrap();
    for line in [
        "lamina_discovery_nodes 1",
        "lamina_discovery_expired_total 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn a_replica_that_has_just_started_does_not_say_nobody() {
    let hands = Hands::default();
    let service = service(Limits::default(), Identity::Anyone, hands.clock());
    let replica = Replica::start(service, None);
    let node = client(&[replica.at]);
    let error = node.find_provider(&digest(1)).await.unwrap_err();
    assert!(
        matches!(error, AskError::Unreachable { tried: 1, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("just started"), "{error}");
    for _ in 0..15 {
        hands.pass(Duration::from_secs(1));
        replica.service.tick();
    }
    assert!(node.find_provider(&digest(1)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_node_reports_itself_alone() {
    let authority = Authority::new();
    let server = authority.issue("discovery", &[SERVER]);
    let service = service(warm(), Identity::Certificate, Clock::system());
    let replica = Replica::start(service, Some(server));
    let with = |dir| {
        let tls = ClientTls {
            dir,
            server_name: SERVER.into(),
        };
        let mut config = config(&[replica.at]);
        config.tls = Some(tls);
        Client::start(config).unwrap()
    };
    let node = with(authority.issue("a", &["a.nodes", "node-a"]));
    let by_name = with(authority.issue("c", &[]));
    node.report(holds("node-a", [1]));
    by_name.report(holds("c", [1]));
    until(
        "both are known, by alternative and by common name",
        async || {
            let all = node.every().await.unwrap();
            all.iter()
                .map(|service| &service.node_id)
                .eq(["c", "node-a"])
        },
    )
    .await;

    let dir = authority.issue("evil", &["evil"]);
    let dial = |dir| {
        let tls = lamina_discovery::tls::Certificates::read(dir)
            .unwrap()
            .client(SERVER);
        let at = format!("https://{}", replica.at);
        let endpoint = tonic::transport::Endpoint::from_shared(at).unwrap();
        ServiceDiscoveryClient::new(endpoint.tls_config(tls).unwrap().connect_lazy())
    };
    let refused = dial(&dir)
        .heartbeat(holds("node-a", [2]))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        refused.message(),
        "node_id: the certificate is for evil, evil, not for \"node-a\""
    );
    let dir = authority.issue("node-b", &["node-b", "peer.lamina.internal"]);
    let shared = holds("peer.lamina.internal", [2]);
    let refused = dial(&dir).heartbeat(shared).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "every node's name");
    let found = node.find_provider(&digest(2)).await.unwrap();
    assert!(found.is_empty(), "nothing of it was taken in");
}

#[tokio::test]
async fn certificates_that_are_not_there_yet_are_waited_for() {
    let authority = Authority::new();
    let server = authority.issue("discovery", &[SERVER]);
    let service = service(warm(), Identity::Certificate, Clock::system());
    let replica = Replica::start(service, Some(server));
    let made = authority.issue("node-a", &["node-a"]);
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&[replica.at]);
    config.tls = Some(ClientTls {
        dir: dir.path().to_owned(),
        server_name: SERVER.into(),
    });
    let node = Client::start(config).unwrap();
    node.report(holds("node-a", [1]));
    assert!(node.every().await.is_err(), "nothing is said without TLS");
    for name in ["tls.key", "tls.crt", "ca.crt"] {
        std::fs::copy(made.join(name), dir.path().join(name)).unwrap();
    }
    until("the node is known", async || known(&replica).await == 1).await;
}

#[tokio::test]
async fn nobody_is_served_without_a_certificate_of_the_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.issue("discovery", &[SERVER]);
    let service = service(warm(), Identity::Certificate, Clock::system());
    let replica = Replica::start(service, Some(server.clone()));
    let stranger = other.issue("node-a", &["node-a"]);
    std::fs::copy(server.join("ca.crt"), stranger.join("ca.crt")).unwrap();
    let mut config = config(&[replica.at]);
    config.tls = Some(ClientTls {
        dir: stranger,
        server_name: SERVER.into(),
    });
    let client = Client::start(config).unwrap();
    let error = client.every().await.unwrap_err();
    assert!(matches!(error, AskError::Unreachable { .. }), "{error}");
    let at = format!("http://{}", replica.at);
    let endpoint = tonic::transport::Endpoint::from_shared(at).unwrap();
    let mut bare = ServiceDiscoveryClient::new(endpoint.connect_lazy());
    assert!(bare.heartbeat(holds("node-a", [1])).await.is_err());
}

#[tokio::test]
async fn absurd_heartbeats_are_refused_by_the_name_of_the_field() {
    let replica = Replica::start(plain(warm()), None);
    let at = format!("http://{}", replica.at);
    let channel = tonic::transport::Endpoint::from_shared(at)
        .unwrap()
        .connect_lazy();
    let mut client = ServiceDiscoveryClient::new(channel);
    let mut too_many = holds("a", [1]);
    too_many.cached_images = vec!["debian||||".into(); 8_193];
    let mut no_size = holds("a", [1]);
    no_size.cache_max_bytes = -1;
    let mut bad_digest = holds("a", [1, 2]);
    bad_digest.layer_digests[1] = "sha256:x".into();
    for (beat, field) in [
        (too_many, "cached_images: "),
        (no_size, "cache_max_bytes: "),
        (bad_digest, "layer_digests[1]: "),
        (holds("", [1]), "node_id: "),
    ] {
        let refused = client.heartbeat(beat).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused:?}");
    }
    let endless = HeartbeatRequest {
        endpoint: "x".repeat(17 << 20),
        ..holds("a", [])
    };
    assert!(
        client.heartbeat(endless).await.is_err(),
        "larger than any heartbeat"
    );
    assert_eq!(known(&replica).await, 0);
    assert!(
        client.heartbeat(holds("a", [1])).await.is_ok(),
        "it goes on"
    );
}

#[tokio::test]
async fn ten_thousand_nodes_report_and_are_found() {
    const NODES: u32 = 10_000;
    let service = plain(Limits {
        answer_bytes_max: 1 << 20,
        ..warm()
    });
    for n in 0..NODES {
        let mut beat = holds(&format!("n{n:05}"), [n, n + 1, 999_999]);
        beat.cached_images = vec!["debian|12|linux|amd64|".into()];
        service.heartbeat(Request::new(beat)).await.unwrap();
    }
    let find = async |layer_digest: String| {
        let request = FindProviderRequest { layer_digest };
        let found = service.find_provider(Request::new(request)).await.unwrap();
        found.into_inner().services
    };
    let two = find(digest(5001).to_string()).await;
    assert!(
        two.iter()
            .map(|s| s.node_id.as_str())
            .eq(["n05000", "n05001"])
    );
    assert_eq!(
        two[0].layer_digests,
        [digest(5001).to_string()],
        "what was asked for alone"
    );
    assert_eq!(
        find(digest(999_999).to_string()).await.len(),
        64,
        "a part of very many"
    );
    let request = FindImageProviderRequest {
        image_key: "docker.io/library/debian|12|linux|amd64|".into(),
    };
    let image = service
        .find_image_provider(Request::new(request))
        .await
        .unwrap();
    assert_eq!(
        image.get_ref().services[0].cached_images,
        ["debian|12|linux|amd64|"]
    );
    let every = find(String::new()).await;
    assert_eq!(every.len(), NODES as usize, "every one, never a part");
    assert!(every[0].layer_digests.is_empty(), "too much for one answer");
    // The same again changes nothing, and costs no memory.
    let before = service.metrics().unwrap();
    for n in 0..NODES {
        let mut beat = holds(&format!("n{n:05}"), [n, n + 1, 999_999]);
        beat.cached_images = vec!["debian|12|linux|amd64|".into()];
        service.heartbeat(Request::new(beat)).await.unwrap();
    }
    let items = |text: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with("lamina_discovery_items "));
        line.map(str::to_owned)
    };
    assert_eq!(items(&before), items(&service.metrics().unwrap()));
    assert_eq!(
        items(&before).unwrap(),
        format!("lamina_discovery_items {}", NODES * 4)
    );
}

#[tokio::test]
async fn many_callers_are_told_to_ask_again_instead_of_dialling_one_holder() {
    let hands = Hands::default();
    let service = service(warm(), Identity::Anyone, hands.clock());
    service
        .heartbeat(Request::new(holds("a", [1])))
        .await
        .unwrap();
    let mut sent = 0;
    for _ in 0..1000 {
        let layer_digest = digest(1).to_string();
        let found = service.find_provider(Request::new(FindProviderRequest { layer_digest }));
        match found.await {
            Ok(_) => sent += 1,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
    }
    assert_eq!(sent, 32);
    let replica = Replica::start(service, None);
    let node = client(&[replica.at]);
    assert!(
        node.find_provider(&digest(1))
            .await
            .unwrap_err()
            .is_rationed()
    );
    hands.pass(Duration::from_secs(1));
    assert_eq!(node.find_provider(&digest(1)).await.unwrap().len(), 1);
    let homes = node.find_homes(&digest(7), &[]).await.unwrap();
    assert_eq!(homes[0].node_id, "a");
}

/// Each question for homes took from what the holders' callers had, and left them with what one holder can serve.
#[tokio::test]
async fn asking_for_homes_takes_nothing_from_the_holders() {
    let service = service(warm(), Identity::Anyone, Hands::default().clock());
    for node in ["a", "b", "c", "d"] {
        let beat = Request::new(holds(node, [1]));
        service.heartbeat(beat).await.unwrap();
    }
    let homes = async |layer| {
        let request = FindHomesRequest {
            layer_digest: digest(layer).to_string(),
            ..FindHomesRequest::default()
        };
        Placement::find_homes(&service, Request::new(request)).await
    };
    let mut sent = 0;
    for _ in 0..1000 {
        let layer_digest = digest(1).to_string();
        let found = service.find_provider(Request::new(FindProviderRequest { layer_digest }));
        sent += usize::from(found.await.is_ok());
        homes(1).await.unwrap();
    }
    assert_eq!(sent, 4 * 32);
    let mut sent = 0;
    for _ in 0..1000 {
        sent += usize::from(homes(2).await.is_ok());
    }
    assert_eq!(sent, 32, "whom nobody holds is pulled by a few");
}

#[tokio::test]
async fn profiles_reach_every_replica_and_outlive_one() {
    let a = Replica::start(plain(warm()), None);
    let b = Replica::start(plain(warm()), None);
    let node = client(&[a.at, b.at]);
    let put = PutProfileRequest {
        digest: digest(1).to_string(),
        entrypoint: vec!["python".into()],
        ranges: vec![ProfileRange {
            blob: 0,
            first_entry: 7,
            count: 3,
        }],
        watched_blobs: vec![0],
        node_id: String::new(),
    };
    node.put_profile(put.clone()).await.unwrap();
    let get = GetProfileRequest {
        digest: put.digest.clone(),
        entrypoint: put.entrypoint.clone(),
    };
    let at = a.end().await;
    assert_eq!(
        node.get_profile(get.clone()).await.unwrap().ranges,
        put.ranges
    );
    let _a = Replica::start_at(at, plain(warm()), None);
    let told = client(&[at, b.at]).get_profile(get).await.unwrap();
    assert_eq!(
        (told.ranges, told.starts),
        (put.ranges, 1),
        "the one that knows is found"
    );
}

/// A registry with one image for two platforms.
async fn registry() -> String {
    let config = |arch: &str| {
        format!(
            r#"{{"os":"linux","architecture":"{arch}","rootfs":{{"type":"layers","diff_ids":["{}"]}},
               "config":{{"Entrypoint":["/run"],"Cmd":["-v"],"Env":["A=1"],"WorkingDir":"/w","User":"7"}}}}"#,
            digest(9)
        )
    };
    let manifest = |config: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
               "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},
               "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":77}}]}}"#,
            sha256(config.as_bytes()),
            config.len(),
            digest(8)
        )
    };
    let mut router = Router::new();
    let mut listed = Vec::new();
    for arch in ["amd64", "arm64"] {
        let config = config(arch);
        let manifest = manifest(&config);
        let digest = sha256(manifest.as_bytes());
        listed.push(format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{},
               "platform":{{"os":"linux","architecture":"{arch}"}}}}"#,
            manifest.len()
        ));
        let blob = format!("/v2/app/blobs/{}", sha256(config.as_bytes()));
        let kind = [(CONTENT_TYPE, "application/vnd.oci.image.manifest.v1+json")];
        router = router.route(&blob, get(|| async { config })).route(
            &format!("/v2/app/manifests/{digest}"),
            get(move || async move { (kind, manifest) }),
        );
    }
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        listed.join(",")
    );
    let kind = [(CONTENT_TYPE, "application/vnd.oci.image.index.v1+json")];
    let router = router.route(
        "/v2/app/manifests/1",
        get(move || async move { (kind, index) }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    at
}

#[tokio::test]
async fn images_are_resolved_at_their_registry_for_their_platform() {
    let registry = registry().await;
    let limits = warm();
    let named = vec![registry.clone()];
    let service = service_for(limits, Identity::Anyone, Clock::system(), named);
    let replica = Replica::start(service, None);
    let node = client(&[replica.at]);
    let ask = |arch: &str, tag: &str| ResolveImageRequest {
        image: format!("{registry}/app"),
        tag: tag.into(),
        platform_arch: arch.into(),
        ..ResolveImageRequest::default()
    };
    let found = node.resolve(ask("arm64", "1")).await.unwrap();
    assert_eq!(found.image_key, format!("{registry}/app|1|linux|arm64|"));
    assert_eq!(
        (found.resolved_registry, found.resolved_repository.as_str()),
        (registry.clone(), "app")
    );
    assert_eq!(found.layers[0].digest, digest(8).to_string());
    assert_eq!(found.layers[0].compressed_size, 77);
    assert!(found.layers[0].media_type.ends_with("tar+gzip"));
    let runs = found.runtime_config.unwrap();
    assert_eq!(
        (runs.entrypoint, runs.cmd, runs.env),
        (vec!["/run".into()], vec!["-v".into()], vec!["A=1".into()])
    );
    assert_eq!((runs.working_dir.as_str(), runs.user.as_str()), ("/w", "7"));
    let other = node.resolve(ask("amd64", "1")).await.unwrap();
    assert_ne!(other.resolved_reference, found.resolved_reference);
    for (request, code) in [
        (ask("s390x", "1"), Code::NotFound),
        (ask("amd64", "2"), Code::NotFound),
        (ask("amd64", "no tag"), Code::InvalidArgument),
        (
            ResolveImageRequest {
                image: "localhost:1/app".into(),
                ..ResolveImageRequest::default()
            },
            Code::InvalidArgument,
        ),
    ] {
        match node.resolve(request).await {
            Err(AskError::Refused(status)) => assert_eq!(status.code(), code, "{status:?}"),
            other => panic!("{other:?}"),
        }
    }
}

fn parts(node: &str) -> PutPartialsRequest {
    PutPartialsRequest {
        node_id: node.into(),
        blobs: vec![PartialBlob {
            layer_digest: digest(7).to_string(),
            blob: vec![9; 32],
            entries: 10,
            sections: [vec![0b101], vec![0; 31]].concat(),
        }],
    }
}

#[tokio::test]
async fn parts_are_told_to_every_replica_and_by_whom_they_are_of_alone() {
    let authority = Authority::new();
    let server = authority.issue("discovery", &[SERVER]);
    let start = || {
        let service = service(warm(), Identity::Certificate, Clock::system());
        Replica::start(service, Some(server.clone()))
    };
    let (a, b) = (start(), start());
    let mut config = config(&[a.at, b.at]);
    config.tls = Some(ClientTls {
        dir: authority.issue("node-a", &["node-a"]),
        server_name: SERVER.into(),
    });
    let node = Client::start(config).unwrap();
    let early = node.put_partials(parts("node-a")).await.unwrap_err();
    assert!(early.to_string().contains("no heartbeat"), "{early}");
    node.report(holds("node-a", [1]));
    until("both know the node", async || {
        known(&a).await == 1 && known(&b).await == 1
    })
    .await;
    node.put_partials(parts("node-a")).await.unwrap();
    let forged = node.put_partials(parts("node-b")).await.unwrap_err();
    assert!(
        forged.to_string().contains("the certificate is for"),
        "{forged}"
    );
    for replica in [&a, &b] {
        let request = FindPartialsRequest {
            layer_digest: digest(7).to_string(),
        };
        let found = replica.service.find_partials(Request::new(request)).await;
        let found = found.unwrap().into_inner().holders;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].node_id, "node-a");
        assert_eq!(found[0].endpoint, holds("", []).endpoint);
        assert_eq!(found[0].blobs, parts("node-a").blobs);
    }
    assert_eq!(node.find_partials(&digest(7)).await.unwrap().len(), 1);
    assert!(node.find_partials(&digest(1)).await.unwrap().is_empty());
}

#[tokio::test]
async fn parts_are_refused_without_a_certificate() {
    let service = service(warm(), Identity::Certificate, Clock::system());
    let refused = service.put_partials(Request::new(parts("node-a"))).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_profile_is_told_by_a_node_in_its_own_name_alone() {
    let authority = Authority::new();
    let service = service(warm(), Identity::Certificate, Clock::system());
    let replica = Replica::start(service, Some(authority.issue("discovery", &[SERVER])));
    let with = |common: &str, names: &[&str]| {
        let mut config = config(&[replica.at]);
        config.tls = Some(ClientTls {
            dir: authority.issue(common, names),
            server_name: SERVER.into(),
        });
        Client::start(config).unwrap()
    };
    let told_by = |node: &str| PutProfileRequest {
        digest: digest(1).to_string(),
        ranges: vec![ProfileRange {
            blob: 0,
            first_entry: 7,
            count: 3,
        }],
        node_id: node.into(),
        ..PutProfileRequest::default()
    };
    let get = GetProfileRequest {
        digest: digest(1).to_string(),
        entrypoint: Vec::new(),
    };
    let user = with("user.lamina.internal", &["user.lamina.internal"]);
    let node = with("node-a", &["node-a", "peer.lamina.internal"]);
    for (client, name) in [
        (&user, ""),
        (&user, "node-a"),
        (&user, "user.lamina.internal"),
        (&node, "node-b"),
        (&node, "peer.lamina.internal"),
        (&node, ""),
    ] {
        match client.put_profile(told_by(name)).await {
            Err(AskError::Refused(status)) => assert_eq!(status.code(), Code::PermissionDenied),
            other => panic!("{name:?}: {other:?}"),
        }
    }
    let known = user.get_profile(get.clone()).await.unwrap();
    assert!(known.ranges.is_empty(), "nothing of it was taken in");
    node.put_profile(told_by("node-a")).await.unwrap();
    let known = user.get_profile(get).await.unwrap();
    assert_eq!(known.ranges, told_by("").ranges, "whoever may ask may know");
}

#[tokio::test]
async fn profiles_are_told_again_when_every_replica_started_again() {
    let start = |at: std::net::SocketAddr| Replica::start_at(at, plain(warm()), None);
    let (a, b) = (
        Replica::start(plain(warm()), None),
        Replica::start(plain(warm()), None),
    );
    let node = client(&[a.at, b.at]);
    let mut whole = node.told_whole();
    node.report(holds("node-a", [1]));
    until("both are told everything", async || *whole.borrow() == 2).await;
    let start_of = |n: u32| PutProfileRequest {
        digest: digest(n).to_string(),
        ranges: vec![ProfileRange {
            blob: 0,
            first_entry: n,
            count: 3,
        }],
        node_id: "node-a".into(),
        ..PutProfileRequest::default()
    };
    let kept = [start_of(1), start_of(2)];
    for one in &kept {
        node.put_profile(one.clone()).await.unwrap();
    }
    assert_eq!(node.put_profiles_again(&kept).await, 0, "they know them");
    whole.mark_unchanged();
    let (at_a, at_b) = (a.end().await, b.end().await);
    let (a, b) = (start(at_a), start(at_b));
    until("both are told everything again", async || {
        *whole.borrow() >= 4
    })
    .await;
    assert!(whole.has_changed().unwrap());
    let get = |n: u32| GetProfileRequest {
        digest: digest(n).to_string(),
        entrypoint: Vec::new(),
    };
    assert!(node.get_profile(get(1)).await.unwrap().ranges.is_empty());
    // Another node was faster with one of them.
    let at_one = client(&[a.at]);
    at_one.put_profile(kept[1].clone()).await.unwrap();
    assert_eq!(node.put_profiles_again(&kept).await, 3);
    for replica in [&a, &b] {
        for n in [1, 2] {
            let told = client(&[replica.at]).get_profile(get(n)).await.unwrap();
            assert_eq!(told.ranges, start_of(n).ranges);
        }
    }
}
