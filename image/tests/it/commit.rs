//! Changes over a flist: what comes of it is what converting all layers gives, and nothing of the base is stored again.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lamina_flist::{Flist, FlistBuilder, Metadata, Tree};
use lamina_image::convert::{CommitError, CommitOptions, Committed, commit};
use lamina_store::{ChunkIndex, LoadOptions, StoreOptions, StoreSet, StoreSpec, StoreUrl};
use tokio::runtime::Handle;

use crate::convert::{run, sample};
use crate::images::{Content, TestImage, assert_same, listing, noise, store};
use crate::raw::{Raw, archive};

/// The flist of an image's first layers, packed into a store of its own.
async fn base(layers: usize, dir: &Path) -> Flist {
    let image = TestImage {
        layers: sample().layers[..layers].to_vec(),
        ..sample()
    };
    let oci = dir.join(format!("oci-{layers}"));
    image.write_layout(&oci);
    let source = format!("oci:{}:t", oci.display());
    let store = dir.join("base");
    let done = run(&source, &store, |options| {
        options.provenance = true;
        options.store_urls = vec!["dir:///base".into()];
        options.tags.insert("a".into(), "b".into());
    });
    Flist::parse(Bytes::from(done.await.unwrap().flist)).unwrap()
}

/// Puts a tar over a flist, new data into `at`.
async fn over(base: &Flist, changes: &[u8], at: &Path) -> Result<Committed, CommitError> {
    let (stores, mut place) = store(at);
    let load = LoadOptions {
        cache: None,
        ..LoadOptions::default()
    };
    place.index = Arc::new(ChunkIndex::load(&stores, &load).await.unwrap());
    let options = CommitOptions {
        store_urls: vec!["dir:///base".into(), "dir:///new".into()],
        ..CommitOptions::default()
    };
    let (base, changes) = (base.clone(), Box::new(Cursor::new(changes.to_vec())));
    let handle = Handle::current();
    let work = move || commit(&base, changes, &place, &options, &handle);
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn flist(done: Committed) -> Flist {
    let flist = Flist::parse(Bytes::from(done.flist)).unwrap();
    assert_eq!(flist.digest(), done.digest);
    flist
}

fn both(dir: &Path) -> StoreSet {
    let specs = ["base", "new"].map(|name| StoreSpec::all(StoreUrl::dir(dir.join(name))));
    StoreSet::open(&specs, StoreOptions::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_over_changes_are_the_image_of_all_layers() {
    let dir = tempfile::tempdir().unwrap();
    let (below, all) = (base(1, dir.path()).await, base(3, dir.path()).await);
    let new = dir.path().join("new");
    let mut top = below.clone();
    for layer in &sample().layers[1..] {
        top = flist(over(&top, layer, &new).await.unwrap());
    }
    let stores = both(dir.path());
    assert_same(&listing(&top, &stores).await, &listing(&all, &stores).await);
    let (top, below, all) = (top.meta(), below.meta(), all.meta());
    assert_eq!(top.image, below.image);
    assert_eq!(top.stores, ["dir:///base", "dir:///new"]);
    assert!(top.tags.is_empty(), "they were the base's");
    let layers = |meta: &lamina_flist::FlistMeta| -> Vec<_> {
        let layers = meta.provenance.layers.iter();
        layers.map(|layer| (layer.diff_id, layer.blob)).collect()
    };
    assert_eq!(layers(top), layers(all));
    assert_eq!(top.provenance.manifest, below.provenance.manifest);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_base_has_is_not_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let below = base(1, dir.path()).await;
    let mut again = Raw::file(b"opt/copy", &noise(1, 700_000));
    again.mode(0o700);
    let changes = archive(&[again, Raw::file(b"opt/new", &noise(9, 400_000))]);
    let new = dir.path().join("new");
    let done = over(&below, &changes, &new).await.unwrap();
    assert_eq!(done.packed.bytes, 1_100_000);
    assert_eq!(done.packed.known_bytes, 700_000);
    assert_eq!(done.packed.new_bytes, 400_000);
    let top = flist(done);
    assert_eq!(top.blob_count(), below.blob_count() + 1);
    assert_eq!(top.profile(), below.profile());
    assert!(top.hints().is_some() == below.hints().is_some());
    let seen = listing(&top, &both(dir.path())).await;
    assert_eq!(seen["opt/copy"].content, Content::of(noise(1, 700_000)));
    assert_eq!(seen["opt/copy"].perm, 0o700);
    assert_eq!(seen["opt/new"].content, Content::of(noise(9, 400_000)));
    assert_eq!(seen["etc/old"].content, Content::of(b"old".to_vec()));
    // The same again stores nothing, and is the same flist.
    let once_more = over(&below, &changes, &new).await.unwrap();
    assert_eq!(
        (once_more.digest, once_more.packed.new_bytes),
        (top.digest(), 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_changes_are_a_flist_of_the_same_tree() {
    let dir = tempfile::tempdir().unwrap();
    let below = base(2, dir.path()).await;
    let top = over(&below, &archive(&[]), &dir.path().join("new")).await;
    let (top, stores) = (flist(top.unwrap()), both(dir.path()));
    assert_same(
        &listing(&top, &stores).await,
        &listing(&below, &stores).await,
    );
    assert_eq!(top.blob_count(), below.blob_count());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_layer_or_has_no_file_system_below_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let below = base(1, dir.path()).await;
    let new = dir.path().join("new");
    let whole = archive(&[Raw::file(b"a", &noise(3, 50_000))]);
    let cut = over(&below, &whole[..20_000], &new).await;
    assert!(matches!(cut, Err(CommitError::Layer(_))), "{cut:?}");
    let escaping = archive(&[Raw::link(b"x", b'1', b"nothing/there")]);
    let dangling = over(&below, &escaping, &new).await;
    assert!(
        matches!(dangling, Err(CommitError::Stack(_))),
        "{dangling:?}"
    );
    let layer = FlistBuilder {
        is_layer: true,
        ..FlistBuilder::new(Tree::new(Metadata::default()))
    };
    let layer = Flist::parse(Bytes::from(layer.build().unwrap().bytes)).unwrap();
    let refused = over(&layer, &whole, &new).await;
    assert!(
        matches!(refused, Err(CommitError::BaseIsLayer)),
        "{refused:?}"
    );
}
