//! Logging in to a registry, and registries that lie.

use std::sync::Arc;
use std::time::Duration;

use lamina_store::conformance::sample_pack;
use lamina_store::pack::SealedPack;
use lamina_store::{
    ChunkIndex, ErrorKind, LoadOptions, ObjectKey, ObjectKind, PackRef, Store, StoreOptions,
    StoreSet, StoreUrl, UrlTrust, backend,
};

use crate::web::{Body, Reply, Web};

fn open(url: &str) -> Arc<dyn Store> {
    let url: StoreUrl = url.parse().unwrap();
    backend::open(&url, &StoreOptions::default()).unwrap()
}

fn url(web: &Web) -> String {
    format!("oci://user:pass@127.0.0.1:{}/team/packs", web.port)
}

async fn read(store: &dyn Store, pack: &SealedPack) -> Result<bytes::Bytes, ErrorKind> {
    store
        .get_range(&PackRef::from(&pack.record), 10..500)
        .await
        .map_err(|e| e.kind())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_token_is_fetched_with_the_login_and_used_for_its_scope() {
    let pack = sample_pack(1, 1000);
    let realm = Web::start(|request| {
        assert_eq!(request.header("authorization"), Some("Basic dXNlcjpwYXNz"));
        assert!(
            request
                .target
                .contains("scope=repository%3Ateam%2Fpacks%3Apull&service=reg"),
            "{}",
            request.target
        );
        Reply::new(200, r#"{"token": "T1"}"#)
    });
    let (bytes, realm_url) = (pack.bytes.clone(), realm.url());
    let web = Web::start(move |request| match request.header("authorization") {
        Some("Bearer T1") => Reply::good(request, &bytes),
        _ => Reply::new(401, "").header(
            "WWW-Authenticate",
            format!("Bearer realm=\"{realm_url}/token\",service=\"reg\""),
        ),
    });
    let store = open(&url(&web));
    for _ in 0..3 {
        assert_eq!(
            read(store.as_ref(), &pack).await.unwrap(),
            pack.bytes.slice(10..500)
        );
    }
    assert_eq!(realm.seen().len(), 1, "the token is kept");
    assert!(
        web.seen()[0].header("authorization").is_none(),
        "nothing is sent before it is asked for"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_logins_work_for_many_requests_at_once_and_wrong_ones_are_denied() {
    let pack = sample_pack(2, 1000);
    let bytes = pack.bytes.clone();
    let web = Web::start(move |request| match request.header("authorization") {
        Some("Basic dXNlcjpwYXNz") => Reply::good(request, &bytes),
        _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let store = open(&url(&web));
    let all = futures::future::join_all((0..8).map(|_| read(store.as_ref(), &pack))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let wrong = open(&url(&web).replace("pass@", "wrong@"));
    assert_eq!(read(wrong.as_ref(), &pack).await, Err(ErrorKind::Denied));
    let none = open(&url(&web).replace("user:pass@", ""));
    assert_eq!(read(none.as_ref(), &pack).await, Err(ErrorKind::Denied));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_stays_with_the_registry_when_blobs_live_elsewhere() {
    let pack = sample_pack(3, 1000);
    let bytes = pack.bytes.clone();
    let elsewhere = Web::start(move |request| Reply::good(request, &bytes));
    let place = elsewhere.url();
    let web = Web::start(move |request| match request.header("authorization") {
        Some(_) => Reply::new(307, "").header("Location", format!("{place}/blob?signed")),
        None => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    assert_eq!(
        read(open(&url(&web)).as_ref(), &pack).await.unwrap(),
        pack.bytes.slice(10..500)
    );
    assert!(!elsewhere.seen().is_empty());
    assert!(
        elsewhere
            .seen()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_redirect_leads_gets_no_login_for_asking_for_it() {
    // The storage's challenge was answered like the registry's own: its realm was sent the password.
    let pack = sample_pack(6, 1000);
    let realm = Web::start(|_| Reply::new(200, r#"{"token": "T1"}"#));
    let realm_url = realm.url();
    let elsewhere = Web::start(move |_| {
        let challenge = format!("Bearer realm=\"{realm_url}/token\",service=\"reg\"");
        Reply::new(401, "").header("WWW-Authenticate", challenge)
    });
    let place = elsewhere.url();
    let web = Web::start(move |_| Reply::new(307, "").header("Location", format!("{place}/blob")));
    let store = open(&url(&web));
    assert_eq!(read(store.as_ref(), &pack).await, Err(ErrorKind::Denied));
    assert_eq!(realm.seen().len(), 0, "{:?}", realm.seen());
    assert_eq!((web.seen().len(), elsewhere.seen().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_leads_the_login_nowhere() {
    // A refresh token in a form went along with a redirect, whatever the host.
    let pack = sample_pack(7, 1000);
    let elsewhere = Web::start(|_| Reply::new(200, r#"{"token": "T1"}"#));
    let place = elsewhere.url();
    let realm =
        Web::start(move |_| Reply::new(307, "").header("Location", format!("{place}/token")));
    let realm_url = realm.url();
    let web = Web::start(move |_| {
        let challenge = format!("Bearer realm=\"{realm_url}/token\",service=\"reg\"");
        Reply::new(401, "").header("WWW-Authenticate", challenge)
    });
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    let auths = format!(
        r#"{{"auths": {{"127.0.0.1:{}": {{"identitytoken": "t"}}}}}}"#,
        web.port
    );
    std::fs::write(&config, auths).unwrap();
    let store = open(&format!(
        "oci://127.0.0.1:{}/team/packs?credentials={}",
        web.port,
        config.display()
    ));
    assert_eq!(read(store.as_ref(), &pack).await, Err(ErrorKind::Invalid));
    assert_eq!(realm.seen().len(), 1);
    assert_eq!(elsewhere.seen().len(), 0, "{:?}", elsewhere.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_to_another_host_get_the_bytes_but_not_the_login() {
    let pack = sample_pack(4, 1000);
    let elsewhere = Web::start(|_| Reply::new(201, ""));
    let place = elsewhere.url();
    let web = Web::start(move |request| {
        match (request.header("authorization"), request.method.as_str()) {
            (None, _) => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
            (_, "HEAD") => Reply::new(404, ""),
            (_, "POST") => Reply::new(202, "").header("Location", format!("{place}/upload")),
            _ => Reply::new(201, ""),
        }
    });
    open(&url(&web))
        .put(&ObjectKey::Pack(pack.record.id), pack.bytes.clone())
        .await
        .unwrap();
    assert_eq!(elsewhere.seen().len(), 2, "the pack and the empty config");
    assert!(
        elsewhere
            .seen()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_tags_that_never_ends_is_cut() {
    for next in [
        "</v2/team/packs/tags/list?last=x>; rel=\"next\"",
        "</v2/team/packs/tags/list?n=1000>; rel=\"next\"",
    ] {
        let web =
            Web::start(move |_| Reply::new(200, r#"{"tags": ["latest"]}"#).header("Link", next));
        let error = open(&url(&web)).list(ObjectKind::Pack).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(web.seen().len() <= 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_tags_are_followed_on_the_same_registry_only() {
    let pack = sample_pack(5, 10);
    let tag = ObjectKey::Pack(pack.record.id).tag();
    let web = Web::start(move |request| {
        if request.target.contains("last=") {
            Reply::new(200, format!(r#"{{"tags": ["{tag}", "index-x"]}}"#))
                .header("Link", "<http://localhost:1/v2/x>; rel=\"next\"")
        } else {
            Reply::new(200, r#"{"tags": null}"#)
                .header("Link", "</v2/team/packs/tags/list?last=x>; rel=\"next\"")
        }
    });
    let listed = open(&url(&web)).list(ObjectKind::Pack).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].key, ObjectKey::Pack(pack.record.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_hangs_ends_with_its_budget_whatever_a_long_one_may_take() {
    let options = StoreOptions {
        attempt_timeout: Duration::from_millis(100),
        budget: Duration::from_millis(500),
        ..StoreOptions::default()
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let half = Web::start(|_| Reply::new(200, "").body(Body::Hang));
    let second = Web::start(|request| match request.target.contains("last=") {
        true => Reply::new(200, "").body(Body::Hang),
        false => Reply::new(200, r#"{"tags": null}"#)
            .header("Link", "</v2/team/packs/tags/list?last=x>; rel=\"next\""),
    });
    let silent_port = silent.local_addr().unwrap().port();
    for port in [silent_port, half.port, second.port] {
        for url in [
            format!("oci://127.0.0.1:{port}/team/packs"),
            format!("s3://key:secret@bucket?endpoint=http://127.0.0.1:{port}"),
        ] {
            let set = StoreSet::open(&[url.parse().unwrap()], options.clone()).unwrap();
            let load = LoadOptions {
                cache: None,
                ..LoadOptions::default()
            };
            let loading = ChunkIndex::load(&set, &load);
            // A tenth of what all pages together are allowed.
            let loaded = tokio::time::timeout(Duration::from_secs(6), loading).await;
            let error = loaded.expect("within its budget").unwrap_err();
            let waited = [ErrorKind::Timeout, ErrorKind::Unavailable];
            assert!(waited.contains(&error.kind()), "{url}: {error}");
        }
    }
}

#[test]
fn a_flist_may_not_name_a_credentials_file() {
    let options = StoreOptions {
        url_trust: UrlTrust::Flist,
        ..StoreOptions::default()
    };
    for text in [
        "oci://h/r?credentials=/x",
        "http://h/?credentials=/x",
        "s3://b?credentials=/x",
        "gs://b?credentials=/x",
        "az://c?account=a&credentials=/x",
    ] {
        let error = backend::open(&text.parse().unwrap(), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
    }
}
