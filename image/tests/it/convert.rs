//! Converting: sources agree, parallelism does not show, runs resume, and
//! bytes that are not what was announced are refused.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lamina_flist::{Flist, FollowSymlinks, SpanSource};
use lamina_image::Source;
use lamina_image::convert::{ConvertError, ConvertOptions, Converted, convert};
use lamina_image::progress::Silent;

use crate::images::{Codec, Content, TestImage, listing, noise, store};
use crate::raw::{Raw, pax};

/// Three layers with a bit of everything.
pub(crate) fn sample() -> TestImage {
    let cap: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut suid = Raw::file(b"usr/bin/su", &noise(2, 5000));
    suid.mode(0o4755);
    TestImage::new(&[
        vec![
            Raw::new(b"./", b'5'),
            Raw::new(b"usr/", b'5'),
            Raw::file(b"usr/bin/app", &noise(1, 700_000)),
            suid,
            Raw::link(b"bin", b'2', b"usr/bin"),
            Raw::file(b"etc/old", b"old"),
            Raw::file(b"etc/keep", b"keep"),
            Raw::file(b"opt/a/x", &noise(7, 100)),
        ],
        vec![
            Raw::file(b"etc/.wh.old", b""),
            Raw::link(b"usr/bin/app2", b'1', b"usr/bin/app"),
            Raw::file(b"opt/a/.wh..wh..opq", b""),
            Raw::file(b"opt/a/y", &noise(1, 700_000)),
            Raw::file(b"bin/new", b"through the link"),
            pax(&[
                ("SCHILY.xattr.security.capability", cap),
                ("mtime", b"5.25"),
            ]),
            Raw::file(b"usr/bin/ping", b"ping"),
        ],
        vec![
            Raw::new(b"run/pipe", b'6'),
            Raw::file(b"usr/bin/late", &noise(3, 300_000)),
        ],
    ])
}

pub(crate) async fn run(
    source: &str,
    dir: &Path,
    edit: impl FnOnce(&mut ConvertOptions),
) -> Result<Converted, ConvertError> {
    let (_, place) = store(dir);
    let mut options = ConvertOptions {
        provenance: false,
        ..ConvertOptions::default()
    };
    edit(&mut options);
    let source: Source = source.parse().unwrap();
    convert(&source, &place, &options, Arc::new(Silent)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layered_image_becomes_one_tree() {
    let dir = tempfile::tempdir().unwrap();
    let oci = dir.path().join("oci");
    sample().write_layout(&oci);
    let place = dir.path().join("store");
    let done = run(&format!("oci:{}:t", oci.display()), &place, |_| {})
        .await
        .unwrap();
    let flist = Flist::parse(Bytes::from(done.flist)).unwrap();
    assert_eq!(flist.digest(), done.digest);
    let seen = listing(&flist, &store(&place).0).await;
    let paths: Vec<&str> = seen.keys().map(String::as_str).collect();
    let want = "|bin|etc|etc/keep|opt|opt/a|opt/a/y|run|run/pipe|usr|usr/bin|usr/bin/app|usr/bin/app2|usr/bin/late|usr/bin/new|usr/bin/ping|usr/bin/su";
    assert_eq!(paths.join("|"), want);
    assert_eq!(seen["usr/bin/app"].content, Content::of(noise(1, 700_000)));
    assert_eq!(seen["opt/a/y"].content, Content::of(noise(1, 700_000)));
    assert_eq!(seen["usr/bin/app2"].twin, "usr/bin/app");
    assert_eq!(
        seen["usr/bin/new"].content,
        Content::of(b"through the link".to_vec())
    );
    assert_eq!(seen["usr/bin/su"].perm, 0o4755);
    assert_eq!(seen["usr/bin/ping"].mtime, (5, 250_000_000));
    assert!(
        seen["usr/bin/ping"]
            .xattrs
            .contains_key(&b"security.capability"[..])
    );
    // The config is kept whole, unknown keys included.
    let config: serde_json::Value = serde_json::from_slice(&sample().config()).unwrap();
    assert_eq!(flist.meta().image.as_ref(), Some(&config));
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_codecs_and_parallelism_do_not_change_the_flist() {
    let dir = tempfile::tempdir().unwrap();
    let mut digests = BTreeMap::new();
    for codec in [Codec::Plain, Codec::Gzip, Codec::Zstd] {
        let image = TestImage { codec, ..sample() };
        let oci = dir.path().join(format!("oci-{codec:?}"));
        image.write_layout(&oci);
        for in_flight in [1, 4] {
            let name = format!("oci-{codec:?}-{in_flight}");
            let (source, place) = (format!("oci:{}", oci.display()), dir.path().join(&name));
            let done = run(&source, &place, |o| {
                o.layers_in_flight = in_flight;
                o.pack.threads = in_flight;
            });
            let digest = done.await.unwrap().digest;
            digests.insert(name, digest);
        }
    }
    let tar = dir.path().join("image.tar");
    sample().write_archive(&tar);
    for name in ["", ":test", ":test:latest"] {
        let source = format!("docker-archive:{}{name}", tar.display());
        let done = run(&source, &dir.path().join("archive"), |_| {})
            .await
            .unwrap();
        digests.insert(source, done.digest);
    }
    let first = digests.values().next().unwrap();
    assert!(digests.values().all(|d| d == first), "{digests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_uses_the_records_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let oci = dir.path().join("oci");
    sample().write_layout(&oci);
    let source = format!("oci:{}", oci.display());
    let (place, records) = (dir.path().join("store"), dir.path().join("records"));
    let with = |o: &mut ConvertOptions| o.records = Some(records.clone());
    let first = run(&source, &place, with).await.unwrap();
    assert!(first.layers.iter().all(|l| !l.reused));
    let second = run(&source, &place, with).await.unwrap();
    assert!(second.layers.iter().all(|l| l.reused));
    assert_eq!(first.flist, second.flist);
    // A damaged record is converted again; so is one whose packs are gone.
    let record = std::fs::read_dir(&records)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(&record, b"LAMINAFL damaged").unwrap();
    let third = run(&source, &place, with).await.unwrap();
    assert_eq!(third.layers.iter().filter(|l| l.reused).count(), 2);
    assert_eq!(first.flist, third.flist);
    let fourth = run(&source, &dir.path().join("other"), with).await.unwrap();
    // The layer without packs needs none.
    assert!(fourth.layers.iter().all(|l| !l.reused));
    assert_eq!(first.flist, fourth.flist);
}

#[tokio::test(flavor = "multi_thread")]
async fn layer_files_hold_their_packs_and_the_stores_get_them_too() {
    let dir = tempfile::tempdir().unwrap();
    let oci = dir.path().join("oci");
    sample().write_layout(&oci);
    let source = format!("oci:{}", oci.display());
    let plain = run(&source, &dir.path().join("a"), |_| {}).await.unwrap();
    let files = dir.path().join("layers");
    let place = dir.path().join("b");
    let done = run(&source, &place, |o| o.layers_dir = Some(files.clone()))
        .await
        .unwrap();
    assert_eq!(done.flist, plain.flist);
    for layer in &done.layers {
        let flist = lamina_store::open_flist(layer.file.as_ref().unwrap()).unwrap();
        assert!(flist.is_layer());
        flist.verify_sections().unwrap();
        flist.check(&lamina_flist::Limits::default()).unwrap();
        let packs = flist.embedded_packs().unwrap();
        for pack in flist.packs() {
            let at = pack.embedded_at.unwrap() as usize;
            let bytes = &packs[at..at + pack.len as usize];
            assert_eq!(lamina_flist::PackId::of(bytes), pack.id);
        }
    }
    let flist = Flist::parse(Bytes::from(done.flist)).unwrap();
    let seen = listing(&flist, &store(&place).0).await;
    assert_eq!(seen["usr/bin/app"].content, Content::of(noise(1, 700_000)));
    let again = run(&source, &place, |o| o.layers_dir = Some(files.clone()))
        .await
        .unwrap();
    assert!(again.layers.iter().all(|l| l.reused));
}

/// The paths that the hints name behind `path`, by the place of its content.
pub(crate) fn hinted(flist: &Flist, path: &str) -> Vec<String> {
    let hints = flist.hints().unwrap();
    let file_of = |path: &[u8]| {
        let inode = flist.resolve(path, FollowSymlinks::NotLast).ok()?;
        let span = flist.span_at(&inode, 0).ok()??;
        let SpanSource::Blob { blob, offset } = span.source else {
            return None;
        };
        let mut entries = flist.blob_entries(usize::from(blob))?;
        let entry = entries.position(|entry| entry.offset == offset)?;
        hints.file_at(blob, entry as u32)
    };
    let tree = flist.to_tree().unwrap();
    let names: BTreeMap<u32, String> = tree
        .walk()
        .filter_map(|(path, _)| Some((file_of(&path)?, String::from_utf8(path).ok()?)))
        .collect();
    let file = file_of(path.as_bytes()).unwrap();
    hints.needs(file).map(|need| names[&need].clone()).collect()
}

/// A Python source that is too long for the flist itself.
pub(crate) fn python(text: &str) -> Vec<u8> {
    format!("{text}\n# {}\n", "long ".repeat(300)).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_are_the_same_from_layers_and_from_their_records() {
    let mut tool = Raw::file(b"opt/tool", &python("#!/usr/bin/python3\nimport a"));
    tool.mode(0o755);
    let mut program = Raw::file(b"usr/bin/python3", &noise(5, 5000));
    program.mode(0o755);
    let image = TestImage::new(&[
        vec![
            Raw::file(b"srv/a.py", &python("import b, old")),
            Raw::file(b"srv/b.py", &python("")),
            Raw::file(b"srv/old.py", &python("")),
            tool,
            program,
        ],
        // The upper layer's module is what counts.
        vec![
            Raw::file(b"srv/b.py", &python("from a import x")),
            Raw::file(b"srv/.wh.old.py", b""),
            Raw::link(b"srv/a2.py", b'1', b"srv/a.py"),
        ],
    ]);
    let dir = tempfile::tempdir().unwrap();
    let oci = dir.path().join("oci");
    image.write_layout(&oci);
    let source = format!("oci:{}", oci.display());
    let place = dir.path().join("store");
    let first = run(&source, &place, |_| {}).await.unwrap();
    let flist = Flist::parse(Bytes::from(first.flist.clone())).unwrap();
    flist.check(&lamina_flist::Limits::default()).unwrap();
    assert_eq!(hinted(&flist, "srv/a.py"), ["srv/b.py"]);
    assert_eq!(hinted(&flist, "srv/b.py"), ["srv/a2.py"]);
    assert_eq!(hinted(&flist, "opt/tool"), ["usr/bin/python3"]);
    let (records, files) = (dir.path().join("records"), dir.path().join("files"));
    for reused in [false, true] {
        let by_record = |o: &mut ConvertOptions| o.records = Some(records.clone());
        let by_file = |o: &mut ConvertOptions| o.layers_dir = Some(files.clone());
        let done = run(&source, &place, by_record).await.unwrap();
        assert!(done.layers.iter().all(|layer| layer.reused == reused));
        assert_eq!(done.flist, first.flist);
        let done = run(&source, &place, by_file).await.unwrap();
        assert!(done.layers.iter().all(|layer| layer.reused == reused));
        assert_eq!(done.flist, first.flist);
    }
}

/// The whole chain of causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        out.push_str(": ");
        out.push_str(&error.to_string());
        source = error.source();
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_as_announced_are_refused() {
    type Edit = fn(&mut Vec<u8>);
    let cases: [(&str, Edit, &str); 4] = [
        ("flipped", |b| b[20] ^= 1, "the layer has digest"),
        ("short", |b| b.truncate(b.len() - 1), "descriptor says"),
        ("long", |b| b.push(0), "descriptor says"),
        ("other", |b| b.fill(b'x'), "the layer has digest"),
    ];
    for (name, edit, want) in cases {
        let dir = tempfile::tempdir().unwrap();
        let oci = dir.path().join("oci");
        let image = sample();
        image.write_layout(&oci);
        let documents = image.documents();
        // The largest blob is a layer.
        let (digest, bytes) = documents.blobs.iter().max_by_key(|(_, b)| b.len()).unwrap();
        let mut bytes = bytes.clone();
        edit(&mut bytes);
        std::fs::write(oci.join("blobs/sha256").join(&digest[7..]), &bytes).unwrap();
        let error = run(
            &format!("oci:{}", oci.display()),
            &dir.path().join("s"),
            |_| {},
        )
        .await;
        let error = chain(&error.unwrap_err());
        assert!(
            error.starts_with("layer ") && error.contains(want),
            "{name}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_diff_id_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let oci = dir.path().join("oci");
    let mut image = sample();
    let real = image.documents();
    // Announce the second layer where the first is stored.
    image.layers.swap(0, 1);
    let wrong_config = image.config();
    image.layers.swap(0, 1);
    image.write_layout(&oci);
    let manifest = String::from_utf8(real.manifest).unwrap();
    let old = lamina_image::manifest::sha256(&image.config()).to_string();
    let new = lamina_image::manifest::sha256(&wrong_config).to_string();
    let manifest = manifest.replace(&old, &new);
    let digest = lamina_image::manifest::sha256(manifest.as_bytes()).to_string();
    let blobs = oci.join("blobs/sha256");
    std::fs::write(blobs.join(&new[7..]), &wrong_config).unwrap();
    std::fs::write(blobs.join(&digest[7..]), &manifest).unwrap();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest, "size": manifest.len() }] });
    std::fs::write(oci.join("index.json"), index.to_string()).unwrap();
    let error = run(
        &format!("oci:{}", oci.display()),
        &dir.path().join("s"),
        |_| {},
    )
    .await;
    let error = chain(&error.unwrap_err());
    assert!(error.contains("diff id"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entrypoint_leads_to_a_static_profile() {
    let mut app = Raw::file(
        b"usr/bin/app",
        &[&b"#!/usr/bin/sh\n"[..], &noise(1, 200_000)].concat(),
    );
    app.mode(0o755);
    let mut shell = Raw::file(b"usr/bin/sh", &noise(2, 300_000));
    shell.mode(0o755);
    let image = TestImage::new(&[
        vec![shell],
        vec![Raw::file(b"other", &noise(3, 400_000)), app],
    ]);
    let dir = tempfile::tempdir().unwrap();
    let oci = dir.path().join("oci");
    image.write_layout(&oci);
    let source = format!("oci:{}", oci.display());
    let done = run(&source, &dir.path().join("a"), |_| {}).await.unwrap();
    let flist = Flist::parse(Bytes::from(done.flist)).unwrap();
    flist.check(&lamina_flist::Limits::default()).unwrap();
    let profile = flist.profile().unwrap();
    assert_eq!(profile.source, lamina_flist::ProfileSource::Static);
    let bytes: Vec<(u16, u64)> = profile
        .ranges
        .iter()
        .map(|range| {
            let entries = flist.blob_entries(usize::from(range.blob)).unwrap();
            let wanted = entries
                .skip(range.first_entry as usize)
                .take(range.count as usize);
            (range.blob, wanted.map(|e| u64::from(e.len)).sum())
        })
        .collect();
    // The script in the upper layer, then its shell in the lower one.
    assert_eq!(bytes, [(1, 200_014), (0, 300_000)]);
    let plain = run(&source, &dir.path().join("b"), |o| o.profile = false)
        .await
        .unwrap();
    assert!(
        Flist::parse(Bytes::from(plain.flist))
            .unwrap()
            .profile()
            .is_none()
    );
    // Nothing is read back: without stores, there is a profile all the same.
    assert_eq!(hinted(&flist, "usr/bin/app"), ["usr/bin/sh"]);
}
