//! Pulls that are killed, and directories as kills leave them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use lamina_discovery::Random;

use lamina_store::open_flist;

use super::support::{alone, config, digest, ensure, files, gets, wanted};
use crate::layers::{EnsureErrorKind, LayerShelf, WholeLayers as _};
use crate::test_registry::{Server, noise, tar};

/// Where the process that is killed keeps its layers, and what it pulls.
const DIR: &str = "LAMINA_TEST_LAYERS_DIR";
const IMAGE: &str = "LAMINA_TEST_LAYERS_IMAGE";

/// Not a test of its own: what is killed below.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by pulls_killed_at_any_point_leave_whole_layers_and_go_on"]
async fn pulls_until_it_is_killed() {
    let (Ok(dir), Ok(image)) = (std::env::var(DIR), std::env::var(IMAGE)) else {
        return;
    };
    let store = alone(config(dir.as_ref()));
    let named = lamina_discovery::image_key::NamedImage::new(&image, "", ["", "", ""]).unwrap();
    let image = crate::layers::WantedImage::of(named, Vec::new())
        .await
        .unwrap();
    ensure(&store, &image).await.unwrap();
}

/// How often a pull is killed, and what decides when.
const KILLS: usize = 100;
const SEED: u64 = 20_261_122;

/// A process that pulls the image into the directory.
fn pull(dir: &Path, server: &Server) -> Child {
    let test = "layers::tests::crash::pulls_until_it_is_killed";
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test])
        .env(DIR, dir)
        .env(IMAGE, server.image(":t"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// All bytes below a directory.
fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let bytes = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_in(&entry.path()),
        // What is removed at this moment takes no room.
        _ => entry.metadata().map_or(0, |file| file.len()),
    });
    bytes.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_killed_at_any_point_leave_whole_layers_and_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let layers_dir = dir.path().join("layers");
    let server = Server::start();
    let layers: Vec<_> = (0..4)
        .map(|n| tar(&format!("f{n}"), &noise(n, 500_000)))
        .collect();
    server.push("t", &layers);
    let began = Instant::now();
    assert!(pull(dir.path(), &server).wait().unwrap().success());
    let (takes, size) = (began.elapsed(), bytes_in(&layers_dir));
    let (mut random, mut whole, mut cut_short) = (Random::from_seed(SEED), layers.len(), 0);
    for _ in 0..KILLS {
        if whole == layers.len() {
            std::fs::remove_dir_all(&layers_dir).unwrap();
            whole = 0;
        }
        let mut child = pull(dir.path(), &server);
        tokio::time::sleep(random.up_to(takes)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        if layers_dir.exists() {
            let left = bytes_in(&layers_dir);
            assert!(left < 2 * size, "{left} bytes are left of {size}");
        }
        let shelf = LayerShelf::open(&layers_dir, Some(1 << 30)).unwrap();
        let here = shelf.layers();
        assert!(here.len() >= whole, "what was whole stays");
        whole = here.len();
        cut_short += usize::from(whole < layers.len());
        for (layer, bytes) in &here {
            let open = shelf.open(layer).expect("what has a name is whole");
            open.flist.verify_sections().unwrap();
            assert_eq!(open.file.metadata().unwrap().len(), *bytes);
        }
        assert_eq!(
            files(dir.path()).len(),
            2 * whole,
            "a layer and its record, nothing else"
        );
        assert!(bytes_in(&layers_dir) <= size);
    }
    assert!(cut_short > KILLS / 4, "{cut_short} of {KILLS}");
    let store = alone(config(dir.path()));
    let image = wanted(&server, ":t", "").await;
    let found = ensure(&store, &image).await.unwrap();
    let cached = found.layers.iter().filter(|layer| layer.cached);
    assert_eq!(cached.count(), whole);
    assert!(gets(&server, &layers[0]) >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_or_a_bad_disk_left_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let layers: Vec<_> = (0..3)
        .map(|n| tar(&format!("f{n}"), &noise(n, 50_000)))
        .collect();
    server.push("t", &layers);
    let image = wanted(&server, ":t", "").await;
    let store = alone(config(dir.path()));
    ensure(&store, &image).await.unwrap();
    drop(store);
    let at = dir.path().join("layers");
    let path = |n: usize, extension: &str| {
        let name = digest(&layers[n]).to_string();
        at.join(&name[7..]).with_extension(extension)
    };
    let record = std::fs::read(path(0, "rec")).unwrap();
    std::fs::remove_file(path(0, "rec")).unwrap();
    std::fs::write(path(1, "afslyr"), b"half").unwrap();
    // A layer under another one's name.
    let other = at.join("ab".repeat(32)).with_extension("afslyr");
    std::fs::copy(path(0, "afslyr"), &other).unwrap();
    for name in [".tmpAbCd", ".part-1-1", ".gone-5", "notes.txt"] {
        std::fs::write(at.join(name), b"left").unwrap();
    }
    // Changed where only a whole check sees it.
    let mut bytes = std::fs::read(path(2, "afslyr")).unwrap();
    let chunk = open_flist(path(2, "afslyr")).unwrap().chunk(0).unwrap();
    let place = bytes.windows(32).position(|id| id == chunk.id.as_bytes());
    bytes[place.unwrap()] ^= 1;
    std::fs::write(path(2, "afslyr"), bytes).unwrap();

    let store = alone(config(dir.path()));
    assert_eq!(
        std::fs::read(path(0, "rec")).unwrap(),
        record,
        "written again"
    );
    assert_eq!(store.shelf().layers().len(), 2);
    assert_eq!(files(dir.path()).len(), 4);
    assert!(store.shelf().open(&digest(&layers[0])).is_some());
    assert!(store.shelf().open(&digest(&layers[2])).is_none());
    assert!(
        store.shelf().size(&digest(&layers[2])).is_none(),
        "as good as not there"
    );
    let twice = LayerShelf::open(&at, None).err().unwrap();
    assert_eq!(twice.kind(), EnsureErrorKind::FailedPrecondition);
    let found = ensure(&store, &image).await.unwrap();
    assert_eq!(found.layers.iter().filter(|layer| layer.cached).count(), 1);
}

/// A process out of file descriptors deleted every good layer that it was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_cannot_be_read_now_stays() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let layers = [tar("a", &noise(1, 50_000))];
    server.push("t", &layers);
    let image = wanted(&server, ":t", "").await;
    let at = dir.path().join("layers");
    let layer = digest(&layers[0]);
    let file = at.join(&layer.to_string()[7..]).with_extension("afslyr");
    let record = file.with_extension("rec");
    // A link to itself: as with EMFILE, the kernel does not say that there is no such file.
    let fail = |path: &std::path::Path| {
        std::fs::rename(path, dir.path().join("aside")).unwrap();
        std::os::unix::fs::symlink(path, path).unwrap();
    };
    let restore = |path: &std::path::Path| {
        std::fs::rename(dir.path().join("aside"), path).unwrap();
    };
    let store = alone(config(dir.path()));
    drop(ensure(&store, &image).await.unwrap());

    fail(&file);
    assert!(store.shelf().open(&layer).is_none());
    assert!(store.shelf().size(&layer).is_some());
    restore(&file);
    assert!(store.shelf().open(&layer).is_some());
    fail(&record);
    let refused = store.shelf().record(&layer).err().unwrap();
    assert_eq!(refused.kind(), EnsureErrorKind::Internal);
    let named = store.resolve(&image).await.unwrap();
    let refused = store.records(&named, &image, |_| {}).await.err().unwrap();
    assert_eq!(refused.kind(), EnsureErrorKind::Internal);
    restore(&record);
    assert!(store.shelf().record(&layer).unwrap().is_some());
    drop(store);

    // Nor does a start clear it.
    fail(&file);
    drop(alone(config(dir.path())));
    restore(&file);
    let store = alone(config(dir.path()));
    assert!(store.shelf().open(&layer).is_some());
    assert_eq!(gets(&server, &layers[0]), 1);
}
