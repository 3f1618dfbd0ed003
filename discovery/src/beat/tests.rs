use super::*;

fn digest(n: u8) -> String {
    Sha256Digest::from_bytes([n; 32]).to_string()
}

fn stat(n: u8, afs_size: i64) -> LayerStat {
    LayerStat {
        digest: digest(n),
        afs_size,
    }
}

fn good() -> HeartbeatRequest {
    HeartbeatRequest {
        node_id: "a".into(),
        endpoint: "10.0.0.1:7071".into(),
        layer_digests: vec![digest(2), digest(1), digest(2)],
        cached_images: vec!["debian||||".into(), "debian|latest|||".into()],
        layer_stats: vec![stat(1, 10), stat(1, 10)],
        cache_max_bytes: 1 << 40,
        ..HeartbeatRequest::default()
    }
}

#[test]
fn a_heartbeat_is_sorted_and_says_everything_once() {
    let beat = Beat::parse(&good(), &Limits::default()).unwrap();
    let layers: Vec<_> = beat
        .layers
        .iter()
        .map(|l| (l.digest.to_string(), l.bytes))
        .collect();
    assert_eq!(layers, [(digest(1), 10), (digest(2), 0)]);
    assert_eq!(beat.images.len(), 1);
    assert_eq!(&*beat.images[0].said, "debian||||");
    assert_eq!((beat.items(), beat.cache_bytes_max), (3, 1 << 40));
}

#[test]
fn what_is_absurd_is_refused_by_the_name_of_its_field() {
    type Spoil = fn(&mut HeartbeatRequest);
    let limits = Limits {
        layers_max: 3,
        images_max: 2,
        ..Limits::default()
    };
    assert!(Beat::parse(&good(), &limits).is_ok());
    let table: [(&str, Spoil); 18] = [
        ("state", |b| {
            b.state = vec![0; 33];
        }),
        ("node_id", |b| {
            b.node_id.clear();
        }),
        ("node_id", |b| {
            b.node_id = "x".repeat(1 << 20);
        }),
        ("node_id", |b| {
            b.node_id = "a\0b".into();
        }),
        ("endpoint", |b| {
            b.endpoint.clear();
        }),
        ("endpoint", |b| {
            b.endpoint = "0.0.0.0:1".into();
        }),
        ("endpoint", |b| {
            b.endpoint = format!("{}:1", "x".repeat(9999));
        }),
        ("cache_max_bytes", |b| {
            b.cache_max_bytes = -1;
        }),
        ("cache_max_bytes", |b| {
            b.cache_max_bytes = i64::MAX;
        }),
        ("layer_digests", |b| {
            b.layer_digests = vec![digest(1); 4];
        }),
        ("layer_digests[1]", |b| {
            b.layer_digests[1] = "sha256:1".into();
        }),
        ("layer_stats", |b| {
            b.layer_stats = vec![stat(1, 1); 3];
        }),
        ("layer_stats[1]", |b| {
            b.layer_stats[1] = stat(9, 1);
        }),
        ("layer_stats[1]", |b| {
            b.layer_stats[1] = stat(1, 11);
        }),
        ("layer_stats[0]", |b| {
            b.layer_stats[0] = stat(1, -1);
        }),
        ("layer_stats[0]", |b| {
            b.layer_stats[0] = stat(1, i64::MAX);
        }),
        ("cached_images", |b| {
            b.cached_images = vec!["a||||".into(); 3];
        }),
        ("cached_images[1]", |b| {
            b.cached_images[1] = "x".repeat(1 << 20);
        }),
    ];
    for (field, spoil) in table {
        let mut beat = good();
        spoil(&mut beat);
        let error = Beat::parse(&beat, &limits).unwrap_err();
        assert_eq!(error.field(), field, "{error}");
        assert!(
            error.to_string().len() < 500,
            "a refusal is no echo: {}",
            error.to_string().len()
        );
    }
}
