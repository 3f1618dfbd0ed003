//! Pulling from registries that work, and from ones that do not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lamina_image::Source;
use lamina_image::convert::{ConvertOptions, Converted, convert};
use lamina_image::manifest::sha256;
use lamina_image::progress::Silent;
use lamina_image::registry::{CredentialSource, Credentials, RegistryOptions};

use crate::convert::{chain, run, sample};
use crate::images::store;
use crate::server::{Body, Request, Response, Server, registry};

fn options() -> RegistryOptions {
    RegistryOptions {
        credentials: CredentialSource::Explicit(Credentials::Anonymous),
        attempts: 4,
        backoff: Duration::from_millis(1),
        backoff_max: Duration::from_millis(50),
        read_timeout: Duration::from_secs(5),
        ..RegistryOptions::default()
    }
}

async fn pull_with(
    server: &Server,
    selector: &str,
    registry: RegistryOptions,
) -> Result<Converted, String> {
    let dir = tempfile::tempdir().unwrap();
    let (_, place) = store(dir.path());
    let source: Source = format!("{}/a/b{selector}", server.address).parse().unwrap();
    let options = ConvertOptions {
        registry,
        provenance: false,
        ..ConvertOptions::default()
    };
    convert(&source, &place, &options, Arc::new(Silent))
        .await
        .map_err(|e| chain(&e))
}

async fn pull(server: &Server) -> Result<Converted, String> {
    pull_with(server, ":t", options()).await
}

/// A registry that answers the `nth` request (from 0) for a path with this
/// part otherwise.
fn faulty(
    part: &'static str,
    times: usize,
    fault: impl Fn(&Request) -> Response + Send + Sync + 'static,
) -> Server {
    let good = registry(&sample(), "a/b");
    let count = AtomicUsize::new(0);
    Server::start(move |request| {
        if request.path.contains(part) && count.fetch_add(1, Ordering::Relaxed) < times {
            return fault(request);
        }
        good(request)
    })
}

/// A server that answers so to every request for a path with this part, and counts them.
fn busy(part: &'static str, status: u16, retry_after: &'static str) -> (Server, Arc<AtomicUsize>) {
    let (good, asked) = (registry(&sample(), "a/b"), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    let server = Server::start(move |request| {
        if !request.path.contains(part) {
            return good(request);
        }
        count.fetch_add(1, Ordering::Relaxed);
        Response::status(status).with("Retry-After", retry_after)
    });
    (server, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_to_be_left_alone_for_long_is_asked_once_and_says_how_long() {
    let patient = RegistryOptions {
        backoff_max: Duration::from_secs(30),
        ..options()
    };
    for (part, status, shown) in [
        ("manifests", 429, "429"),
        ("manifests", 503, "503"),
        ("blobs", 429, "429"),
    ] {
        let (server, asked) = busy(part, status, "600");
        let error = pull_with(&server, ":t", patient.clone()).await.unwrap_err();
        let expected = format!("the server answered {shown} and wants to be asked again in 600 s");
        assert!(error.contains(&expected), "{part}: {error}");
        match part {
            "manifests" => assert_eq!(asked.load(Ordering::Relaxed), 1, "{status}"),
            // The layers and the config, each once at most.
            _ => assert!((1..=sample().layers.len() + 1).contains(&asked.load(Ordering::Relaxed))),
        }
    }
    // What is asked for and not more than is waited for is waited for: as often as there are tries.
    let within = RegistryOptions {
        backoff_max: Duration::from_secs(1),
        attempts: 2,
        ..options()
    };
    let (server, asked) = busy("manifests", 429, "1");
    let began = std::time::Instant::now();
    let error = pull_with(&server, ":t", within).await.unwrap_err();
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(error.contains("too many requests, 2 tries"), "{error}");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

async fn from_layout(dir: &Path) -> Converted {
    let oci = dir.join("oci");
    sample().write_layout(&oci);
    run(
        &format!("oci:{}", oci.display()),
        &dir.join("store"),
        |_| {},
    )
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_gives_the_same_flist_as_a_layout() {
    let dir = tempfile::tempdir().unwrap();
    let want = from_layout(dir.path()).await.digest;
    let server = Server::start(registry(&sample(), "a/b"));
    let pinned = format!("@{}", sha256(&sample().documents().manifest));
    for selector in [":t", &pinned] {
        assert_eq!(
            pull_with(&server, selector, options())
                .await
                .unwrap()
                .digest,
            want
        );
    }
    let error = pull_with(&server, ":other", options()).await.unwrap_err();
    assert!(error.contains("not found"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_that_pass_are_ridden_out() {
    let cut = |request: &Request| {
        let answer = registry(&sample(), "a/b")(request);
        let Body::Whole(bytes) = &answer.body else {
            unreachable!()
        };
        let body = Body::Cut(bytes[..bytes.len() / 3].to_vec(), bytes.len());
        Response { body, ..answer }
    };
    // Cut, and afterwards ranges are ignored: from the start again.
    let no_ranges = {
        let count = AtomicUsize::new(0);
        Server::start(move |request| {
            let mut plain = request.clone();
            plain.headers.remove("range");
            if request.path.contains("blobs")
                && count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
            {
                return cut(&plain);
            }
            registry(&sample(), "a/b")(&plain)
        })
    };
    let servers = [
        (
            "429",
            faulty("manifests", 2, |_| {
                Response::status(429).with("Retry-After", "0")
            }),
        ),
        ("503", faulty("blobs", 3, |_| Response::status(503))),
        ("cut blobs", faulty("blobs", 3, cut)),
        ("cut manifest", faulty("manifests", 2, cut)),
        ("no ranges", no_ranges),
    ];
    let want = sha256(&sample().config());
    for (name, server) in servers {
        let done = pull(&server)
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(done.config.digest, want, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_blob_is_resumed_where_it_stopped() {
    let server = faulty("blobs", 1, |request| {
        let answer = registry(&sample(), "a/b")(request);
        let Body::Whole(bytes) = &answer.body else {
            unreachable!()
        };
        Response {
            body: Body::Cut(bytes[..100].to_vec(), bytes.len()),
            ..answer
        }
    });
    // The config comes first, whole; layers after it.
    let config = format!("/v2/a/b/blobs/{}", sha256(&sample().config()));
    pull(&server).await.unwrap();
    let ranges: Vec<Option<String>> = server
        .requests()
        .iter()
        .filter(|r| r.path.contains("blobs") && r.path != config)
        .map(|r| r.header("range").map(str::to_owned))
        .collect();
    // Only the config was cut here, and small blobs start over.
    assert!(ranges.iter().all(Option::is_none), "{ranges:?}");

    let layer = sample()
        .documents()
        .blobs
        .into_iter()
        .max_by_key(|(_, b)| b.len())
        .unwrap();
    let part: &'static str = Box::leak(layer.0.clone().into_boxed_str());
    let bytes = layer.1;
    let server = faulty(part, 1, move |_| Response {
        body: Body::Cut(bytes[..1000].to_vec(), bytes.len()),
        ..Response::ok("")
    });
    pull(&server).await.unwrap();
    let ranges: Vec<Option<String>> = server
        .requests()
        .iter()
        .filter(|r| r.path.contains(part))
        .map(|r| r.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=1000-".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_that_stay_are_named() {
    let always = usize::MAX;
    let layer = sample()
        .documents()
        .blobs
        .into_iter()
        .max_by_key(|(_, b)| b.len())
        .unwrap();
    let part: &'static str = Box::leak(layer.0.into_boxed_str());
    let len = layer.1.len();
    let wrong_range = {
        let count = AtomicUsize::new(0);
        faulty(part, always, move |_| {
            match count.fetch_add(1, Ordering::Relaxed) {
                0 => Response {
                    body: Body::Cut(vec![0; 10], len),
                    ..Response::ok("")
                },
                _ => Response {
                    status: 206,
                    ..Response::ok(vec![0; 10])
                }
                .with("Content-Range", format!("bytes 0-9/{len}")),
            }
        })
    };
    let here = |to: &'static str| move |_: &Request| Response::status(307).with("Location", to);
    let rows = [
        (
            "429",
            faulty("manifests", always, |_| Response::status(429)),
            "too many requests",
        ),
        (
            "500",
            faulty("manifests", always, |_| Response::status(500)),
            "answered 500",
        ),
        (
            "403",
            faulty("manifests", always, |_| Response::status(403)),
            "access denied (403)",
        ),
        (
            "401",
            faulty("manifests", always, |_| Response::status(401)),
            "access denied (401)",
        ),
        (
            "418",
            faulty("blobs", always, |_| Response::status(418)),
            "answered 418",
        ),
        (
            "endless manifest",
            faulty("manifests", always, |_| Response {
                body: Body::Endless,
                ..Response::ok("")
            }),
            "more than 4194304 bytes",
        ),
        (
            "endless layer",
            faulty(part, always, |_| Response {
                body: Body::Endless,
                ..Response::ok("")
            }),
            "layer ",
        ),
        (
            "long layer",
            faulty(part, always, move |_| Response::ok(vec![0; len + 1])),
            "the answer has more than",
        ),
        (
            "short layer",
            faulty(part, always, |_| Response::ok("short")),
            "tries",
        ),
        (
            "other bytes",
            faulty(part, always, move |_| Response::ok(vec![0; len])),
            "layer ",
        ),
        ("wrong range", wrong_range, "another range"),
        (
            "no manifest",
            faulty("manifests", always, |_| Response::ok("hello")),
            "manifest is malformed",
        ),
        (
            "redirects",
            faulty("blobs", always, here("/v2/a/b/blobs/again")),
            "too many of them",
        ),
        (
            "redirect to a file",
            faulty("blobs", always, here("file:///etc/passwd")),
            "neither http",
        ),
        (
            "redirect nowhere",
            faulty("blobs", always, |_| Response::status(302)),
            "no target",
        ),
    ];
    for (name, server, want) in rows {
        let error = pull(&server).await.unwrap_err();
        assert!(error.contains(want), "{name}: {error}");
    }
    let server = faulty("manifests", always, |_| Response {
        body: Body::Silence,
        ..Response::ok("")
    });
    let impatient = RegistryOptions {
        read_timeout: Duration::from_millis(100),
        attempts: 2,
        ..options()
    };
    let error = pull_with(&server, ":t", impatient).await.unwrap_err();
    assert!(error.contains("after 2 tries"), "{error}");
    let pinned = format!("@sha256:{}", "ab".repeat(32));
    let server = Server::start(|_| Response::ok(sample().documents().manifest));
    let error = pull_with(&server, &pinned, options()).await.unwrap_err();
    assert!(error.contains("the manifest has digest"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_trickles_is_given_up_and_may_be_tried_again() {
    // Each byte was in time for the read timeout, so transfers went on for ever and kept their permits.
    let layer = sample().documents().blobs.into_iter();
    let layer = layer.max_by_key(|(_, b)| b.len()).unwrap().0;
    let part: &'static str = Box::leak(layer.into_boxed_str());
    let trickle = |_: &Request| Response {
        body: Body::Trickle,
        ..Response::ok("")
    };
    let impatient = |slow_after, document_timeout| RegistryOptions {
        slow_after: Duration::from_millis(slow_after),
        document_timeout: Duration::from_millis(document_timeout),
        attempts: 2,
        ..options()
    };
    for (part, options, want) in [
        ("manifests", impatient(100, 60_000), "it sent "),
        ("manifests", impatient(60_000, 100), "it did not send all"),
        (part, impatient(100, 60_000), "it sent "),
    ] {
        let server = faulty(part, usize::MAX, trickle);
        let pulled = pull_with(&server, ":t", options);
        let pulled = tokio::time::timeout(Duration::from_secs(60), pulled).await;
        let error = pulled.expect("it ends").unwrap_err();
        assert!(error.contains("after 2 tries"), "{part}: {error}");
        assert!(error.contains(want), "{part}: {error}");
        let asked = server.requests();
        let asked = asked.iter().filter(|r| r.path.contains(part)).count();
        assert_eq!(asked, 2, "{part}");
    }
}

/// A registry that wants a token for `reader:secret`, or the password itself.
fn guarded(bearer: bool) -> Server {
    let good = registry(&sample(), "a/b");
    Server::start(move |request| {
        let authorization = request.header("authorization").unwrap_or_default();
        // reader:secret
        let basic = authorization == "Basic cmVhZGVyOnNlY3JldA==";
        if request.path.starts_with("/token") {
            let by_form = request.body.contains("refresh_token=idtoken");
            let asked = request.path.contains("scope=repository%3Aa%2Fb%3Apull") || by_form;
            return match (basic || by_form) && asked {
                true => Response::ok(r#"{"token":"tok.en"}"#),
                false => Response::status(401),
            };
        }
        if authorization == "Bearer tok.en" || (basic && !bearer) {
            return good(request);
        }
        let host = request.header("host").unwrap_or_default();
        let challenge = match bearer {
            true => format!(
                r#"Bearer realm="http://{host}/token",service="svc",scope="repository:a/b:pull""#
            ),
            false => r#"Basic realm="registry""#.to_owned(),
        };
        Response::status(401).with("WWW-Authenticate", challenge)
    })
}

fn explicit(username: &str, password: &str) -> CredentialSource {
    CredentialSource::Explicit(Credentials::Basic {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_open_guarded_registries() {
    for bearer in [true, false] {
        let server = guarded(bearer);
        let with = |credentials| RegistryOptions {
            credentials,
            ..options()
        };
        pull_with(&server, ":t", with(explicit("reader", "secret")))
            .await
            .unwrap();
        for wrong in [explicit("reader", "wrong"), options().credentials] {
            let error = pull_with(&server, ":t", with(wrong)).await.unwrap_err();
            assert!(error.contains("access denied (401)"), "{error}");
            assert!(!error.contains("wrong"), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.json");
        let auths = |entry: &str| format!(r#"{{"auths":{{"{}":{entry}}}}}"#, server.address);
        std::fs::write(&config, auths(r#"{"auth":"cmVhZGVyOnNlY3JldA=="}"#)).unwrap();
        let file = CredentialSource::File(config.clone());
        pull_with(&server, ":t", with(file.clone())).await.unwrap();
        if bearer {
            std::fs::write(&config, auths(r#"{"identitytoken":"idtoken"}"#)).unwrap();
            pull_with(&server, ":t", with(file)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_do_not_follow_redirects() {
    let good = registry(&sample(), "a/b");
    let storage = Server::start(move |request| good(request));
    let elsewhere = storage.address;
    let good = registry(&sample(), "a/b");
    let server = Server::start(move |request| {
        if request.header("authorization") != Some("Basic cmVhZGVyOnNlY3JldA==") {
            return Response::status(401).with("WWW-Authenticate", r#"Basic realm="r""#);
        }
        if request.path.contains("blobs") {
            let to = format!("http://{elsewhere}{}", request.path);
            return Response::status(307).with("Location", to);
        }
        good(request)
    });
    let options = RegistryOptions {
        credentials: explicit("reader", "secret"),
        ..options()
    };
    pull_with(&server, ":t", options).await.unwrap();
    let requests = storage.requests();
    assert!(
        requests.len() >= 4,
        "the config and three layers came from there"
    );
    assert!(requests.iter().all(|r| r.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_redirect_leads_gets_no_credentials_for_asking_for_them() {
    // The storage's challenge was answered like the registry's own: its realm was sent the password.
    for scheme in ["Bearer", "Basic"] {
        let storage = Server::start(move |request| {
            let host = request.header("host").unwrap_or_default();
            let challenge = format!(r#"{scheme} realm="http://{host}/token",service="svc""#);
            match request.path.starts_with("/token") {
                true => Response::ok(r#"{"token":"tok.en"}"#),
                false => Response::status(401).with("WWW-Authenticate", challenge),
            }
        });
        let elsewhere = storage.address;
        let server = faulty("blobs", usize::MAX, move |request| {
            Response::status(307).with("Location", format!("http://{elsewhere}{}", request.path))
        });
        let options = RegistryOptions {
            credentials: explicit("reader", "secret"),
            ..options()
        };
        let error = pull_with(&server, ":t", options).await.unwrap_err();
        assert!(error.contains("access denied (401)"), "{error}");
        let requests = storage.requests();
        assert_eq!(requests.len(), 1, "{scheme}: {requests:?}");
        assert_eq!(requests[0].header("authorization"), None);
        let of_registry = server.requests();
        assert!(
            of_registry
                .iter()
                .all(|r| r.header("authorization").is_none()),
            "{scheme}: {of_registry:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_leads_to_the_platform_asked_for() {
    let image = sample();
    let manifest = image.documents().manifest;
    let entry = |arch: &str| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": sha256(&manifest).to_string(), "size": manifest.len(),
            "platform": { "os": "linux", "architecture": arch },
        })
    };
    let host = lamina_image::Platform::host().arch;
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry("s390x"), entry(&host)],
    });
    let index = index.to_string();
    let server = faulty("manifests/t", usize::MAX, move |_| {
        Response::ok(index.clone()).with("Content-Type", "application/vnd.oci.image.index.v1+json")
    });
    pull(&server).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let source: Source = format!("{}/a/b:t", server.address).parse().unwrap();
    let (_, place) = store(dir.path());
    for (platform, want) in [
        ("linux/riscv64", "there is: linux/"),
        // The index promises what the image is not.
        ("linux/s390x", "not for linux/s390x"),
    ] {
        let options = ConvertOptions {
            registry: options(),
            platform: Some(platform.parse().unwrap()),
            ..ConvertOptions::default()
        };
        let error = convert(&source, &place, &options, Arc::new(Silent))
            .await
            .unwrap_err();
        assert!(chain(&error).contains(want), "{}", chain(&error));
    }
}
