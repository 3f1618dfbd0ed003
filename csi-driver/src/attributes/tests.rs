//! Attributes by table: what is accepted, and the words with which the rest is refused.

use super::*;

fn parse(pairs: &[(&str, &str)]) -> Result<Attributes, AttributeError> {
    let given = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    Attributes::parse(&given.collect())
}

#[test]
fn defaults_are_the_documented_ones() {
    let got = parse(&[(IMAGE, "python:3.13")]).unwrap();
    let want = Attributes {
        from: From::Image("python:3.13".into()),
        mode: Mode::Ro,
        sub_path: String::new(),
        prefetch: Warm::Profile,
        pull_policy: PullPolicy::Unspecified,
        platform: String::new(),
    };
    assert_eq!(got, want);
    let rw = parse(&[(IMAGE, "a"), ("mode", "rw")]).unwrap().mode;
    assert_eq!(
        rw,
        Mode::Rw {
            overlay_bytes_max: 1 << 30,
            medium: OverlayMedium::Memory,
        }
    );
}

#[test]
fn a_context_parses_to_what_it_was_made_from() {
    let digest = "ab".repeat(32);
    for pairs in [
        vec![(IMAGE, "r.example:5000/a/b@sha256:00")],
        vec![
            (FLIST, "numpy-env"),
            ("mode", "ro"),
            ("prefetch", "profile"),
        ],
        vec![
            (FLIST, digest.as_str()),
            ("mode", "rw"),
            ("overlaySize", "1.5Gi"),
        ],
        vec![(IMAGE, "a"), ("mode", "rw"), ("overlayMedium", "disk")],
        vec![
            (IMAGE, "a/b:c"),
            ("subPath", "./usr//share/"),
            ("prefetch", "all"),
            ("pullPolicy", "Always"),
            ("platform", "linux/arm64/v8"),
        ],
    ] {
        let once = parse(&pairs).unwrap();
        assert_eq!(Attributes::parse(&once.to_context()).unwrap(), once);
    }
    assert_eq!(
        parse(&[(IMAGE, "a"), ("subPath", "./usr//share/")])
            .unwrap()
            .sub_path,
        "usr/share"
    );
}

#[test]
fn unknown_keys_are_refused_with_what_was_meant() {
    for (key, meant) in [
        ("lamina.dev/imag", Some(IMAGE)),
        ("lamina.dev/Image", Some(IMAGE)),
        ("image", Some(IMAGE)),
        ("lamina.io/flist", Some(FLIST)),
        ("Mode", Some("mode")),
        ("sub-path", Some("subPath")),
        ("subpath", Some("subPath")),
        ("prefech", Some("prefetch")),
        ("imagePullPolicy", Some("pullPolicy")),
        ("pull_policy", Some("pullPolicy")),
        ("overlay-size", Some("overlaySize")),
        ("overlaymedium", Some("overlayMedium")),
        ("plattform", Some("platform")),
        ("lamina.dev/mode", Some("mode")),
        ("xyzzy", None),
        ("", None),
        ("../../etc", None),
    ] {
        let error = parse(&[(IMAGE, "a"), (key, "v")]).unwrap_err();
        let AttributeError::Unknown { nearest, .. } = &error else {
            panic!("{key}: {error}");
        };
        assert_eq!(*nearest, meant, "{key}");
        let said = meant.map_or("known are lamina.dev/image".into(), |m| {
            format!("did you mean {m}?")
        });
        assert!(error.to_string().contains(&said), "{error}");
    }
}

#[test]
fn keys_of_kubernetes_pass() {
    parse(&[
        (IMAGE, "a"),
        ("csi.storage.k8s.io/pod.name", "p"),
        ("csi.storage.k8s.io/serviceAccount.name", "x"),
        (
            "storage.kubernetes.io/csiProvisionerIdentity",
            "1-2-csi.lamina.dev",
        ),
    ])
    .unwrap();
}

#[test]
fn values_are_refused_in_plain_words() {
    let long = "a".repeat(5000);
    for (key, value, said) in [
        (IMAGE, "", "is empty"),
        (IMAGE, "https://ghcr.io/a", "is a URL"),
        (IMAGE, "a b", "not a registry reference"),
        (IMAGE, "../x", "not a registry reference"),
        (IMAGE, "a\0b", "not a registry reference"),
        (IMAGE, long.as_str(), "longer than 1024"),
        (FLIST, "", "neither the name of a Flist"),
        (FLIST, "other-namespace/name", "pod's own namespace"),
        (FLIST, "../x", "neither"),
        (FLIST, "Name", "neither"),
        (FLIST, "a..b", "neither"),
        (FLIST, long.as_str(), "neither"),
        ("mode", "", "write ro"),
        ("mode", "RW", "write ro"),
        ("subPath", "/etc", "is absolute"),
        ("subPath", "a/../../b", "leaves the image"),
        ("subPath", "..", "leaves the image"),
        ("subPath", "a\0", "control characters"),
        ("subPath", long.as_str(), "longer than 4095"),
        ("prefetch", "yes", "write none, profile"),
        ("pullPolicy", "always", "write IfNotPresent, Always"),
        ("overlaySize", "big", "not a size"),
        ("overlaySize", "-1Gi", "not a size"),
        ("overlaySize", "1", "too small"),
        ("overlayMedium", "tmpfs", "write memory"),
        ("overlayMedium", "Disk", "write memory"),
        ("platform", "arm64", "not a platform"),
        ("platform", "linux/", "not a platform"),
        ("platform", "linux/arm64/v8/x", "not a platform"),
    ] {
        let mut pairs = vec![(key, value)];
        if key != IMAGE && key != FLIST {
            pairs.push((IMAGE, "a"));
        }
        if key.starts_with("overlay") {
            pairs.push(("mode", "rw"));
        }
        let error = parse(&pairs).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("volume attribute {key}: ")),
            "{error}"
        );
        assert!(error.contains(said), "{error}");
        assert!(error.len() < 400 && !error.contains('\0'), "{error}");
    }
}

#[test]
fn exactly_one_source_is_needed() {
    assert_eq!(parse(&[]), Err(AttributeError::NoSource));
    assert_eq!(
        parse(&[(IMAGE, "a"), (FLIST, "b")]),
        Err(AttributeError::TwoSources)
    );
}

#[test]
fn a_size_or_medium_without_rw_is_a_mistake() {
    for given in [("overlaySize", "1Gi"), ("overlayMedium", "disk")] {
        let error = parse(&[(IMAGE, "a"), given]).unwrap_err().to_string();
        assert!(error.contains(given.0), "{error}");
        assert!(error.contains("set mode: rw"), "{error}");
    }
}
