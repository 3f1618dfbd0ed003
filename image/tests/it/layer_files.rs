//! Layers as files of their own: the same on every node, whole or not there, and enough to make the image's flist.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lamina_flist::{Flist, PackId};
use lamina_image::convert::{
    AllRoom, ConvertError, ConvertOptions, LayerDir, LayerFailure, LayerFile, LayerRecord, Room,
    StreamError, assemble_image, convert_layer,
};
use lamina_image::progress::Silent;
use lamina_image::{Limits, Source, SourceImage};

use crate::convert::{run, sample};
use crate::images::{Codec, TestImage, noise};
use crate::raw::Raw;

/// The sample, and a layer that holds no data.
fn image() -> TestImage {
    let mut image = sample();
    let empty = TestImage::new(&[vec![Raw::file(b"etc/.wh.keep", b"")]]);
    image.layers.extend(empty.layers);
    image
}

async fn open(oci: &Path) -> Arc<SourceImage> {
    let source: Source = format!("oci:{}", oci.display()).parse().unwrap();
    let (registry, limits) = (ConvertOptions::default().registry, Limits::default());
    Arc::new(source.open(None, &registry, &limits).await.unwrap())
}

fn options() -> ConvertOptions {
    ConvertOptions {
        provenance: false,
        ..ConvertOptions::default()
    }
}

async fn convert(
    image: &Arc<SourceImage>,
    index: usize,
    dir: &Path,
    room: impl Room + 'static,
) -> Result<LayerFile, ConvertError> {
    let layers = LayerDir::new(dir, Arc::new(room));
    convert_layer(image, index, &layers, &options(), Arc::new(Silent)).await
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let Ok(found) = std::fs::read_dir(dir) else {
        return BTreeMap::new();
    };
    let found = found.map(|entry| entry.unwrap().path());
    found
        .map(|path| {
            (
                path.file_name().unwrap().into(),
                std::fs::read(path).unwrap(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_alone_give_the_flist_of_a_whole_conversion() {
    let dir = tempfile::tempdir().unwrap();
    let oci = dir.path().join("oci");
    image().write_layout(&oci);
    let (from, store) = (format!("oci:{}", oci.display()), dir.path().join("s"));
    let full = run(&from, &store, |_| {}).await.unwrap();
    let source = open(&oci).await;
    let mut made = Vec::new();
    for node in ["one", "two"] {
        let node = dir.path().join(node);
        // Any order, each by itself.
        for index in (0..source.layers.len()).rev() {
            let layer = convert(&source, index, &node, AllRoom).await.unwrap();
            assert_eq!(Some(layer.digest), source.layers[index].digest);
            assert_eq!(std::fs::metadata(&layer.file).unwrap().len(), layer.bytes);
            assert_eq!(
                std::fs::metadata(&layer.record).unwrap().len(),
                layer.record_bytes
            );
            made.push(layer);
        }
    }
    let [one, two] = ["one", "two"].map(|node| files(&dir.path().join(node)));
    assert_eq!((one.len(), &one), (8, &two), "the same bytes on every node");

    let mut records = Vec::new();
    for layer in made.iter().take(4).rev() {
        let record = LayerRecord::open(&layer.record).unwrap();
        assert_eq!(record.origin().digest, layer.digest);
        let of_file = LayerRecord::open(&layer.file).unwrap();
        let bytes = std::fs::read(&layer.record).unwrap();
        assert_eq!(of_file.to_bytes().unwrap(), bytes);
        records.push(LayerRecord::parse(Bytes::from(bytes)).unwrap());
    }
    let assembled = assemble_image(&source, records.clone(), &options()).unwrap();
    assert_eq!(assembled.digest, full.digest);
    assert_eq!(assembled.flist, full.flist);

    records.swap(0, 1);
    let swapped = assemble_image(&source, records, &options());
    assert!(matches!(
        swapped,
        Err(ConvertError::WrongRecord { index: 0 })
    ));
    let short = assemble_image(&source, Vec::new(), &options());
    assert!(matches!(short, Err(ConvertError::WrongRecord { index: 0 })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_file_holds_all_of_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let oci = dir.path().join("oci");
    // More than is moved at once.
    let large = noise(5, 40 << 20);
    let image = TestImage {
        codec: Codec::Plain,
        ..TestImage::new(&[vec![Raw::file(b"large", &large)]])
    };
    image.write_layout(&oci);
    let source = open(&oci).await;
    let layer = convert(&source, 0, &dir.path().join("l"), AllRoom).await;
    let flist = Flist::parse(std::fs::read(layer.unwrap().file).unwrap().into()).unwrap();
    flist.verify_sections().unwrap();
    flist.check(&lamina_flist::Limits::default()).unwrap();
    let packs = flist.embedded_packs().unwrap();
    assert!(packs.len() >= large.len());
    for pack in flist.packs() {
        let at = usize::try_from(pack.embedded_at.unwrap()).unwrap();
        let bytes = &packs[at..at + usize::try_from(pack.len).unwrap()];
        assert_eq!(PackId::of(bytes), pack.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_layer_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (oci, node) = (dir.path().join("oci"), dir.path().join("node"));
    let other = TestImage {
        codec: Codec::Plain,
        ..image()
    };
    other.write_layout(&oci);
    let source = open(&oci).await;
    let digest = source.layers[0].digest.unwrap().to_string();
    let blob = oci.join("blobs/sha256").join(&digest[7..]);
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let wrong = convert(&source, 0, &node, AllRoom).await.unwrap_err();
    let ConvertError::Layer { source: why, .. } = wrong else {
        panic!("{wrong}");
    };
    let digest = matches!(why, LayerFailure::Stream(StreamError::WrongDigest { .. }));
    assert!(digest, "{why}");
    assert_eq!(files(&node), BTreeMap::new());
}

/// So many bytes.
struct Bounded(AtomicU64);

impl Room for Bounded {
    fn take(&self, bytes: u64) -> io::Result<()> {
        let take = |left: u64| left.checked_sub(bytes);
        let taken = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        taken
            .map(drop)
            .map_err(|_| io::Error::from(io::ErrorKind::QuotaExceeded))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_asked_for_before_it_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let oci = dir.path().join("oci");
    image().write_layout(&oci);
    let source = open(&oci).await;
    let whole = convert(&source, 0, &dir.path().join("a"), AllRoom).await;
    let bytes = whole.map(|layer| layer.bytes + layer.record_bytes).unwrap();
    let node = dir.path().join("b");
    for room in [0, 1000, bytes - 1] {
        let refused = convert(&source, 0, &node, Bounded(AtomicU64::new(room))).await;
        assert!(refused.is_err(), "{room}");
        // A record alone is as good as nothing.
        let layer = |path: &PathBuf| path.extension().is_some_and(|e| e == "afslyr");
        assert_eq!(files(&node).keys().filter(|path| layer(path)).count(), 0);
    }
    let fits = convert(&source, 0, &node, Bounded(AtomicU64::new(bytes))).await;
    assert!(fits.is_ok());
}

/// Tells when room is first asked for, and gives it when told.
struct Gate {
    asked: SyncSender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Room for Gate {
    fn take(&self, _bytes: u64) -> io::Result<()> {
        let _ = self.asked.send(());
        let _ = self.go_on.lock().unwrap().recv();
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversion_that_nobody_waits_for_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (oci, node) = (dir.path().join("oci"), dir.path().join("node"));
    TestImage::new(&[vec![Raw::file(b"large", &noise(5, 40 << 20))]]).write_layout(&oci);
    let source = open(&oci).await;
    let ((asked, is_asked), (tell, go_on)) = (sync_channel(100), sync_channel(0));
    let room = Arc::new(Gate {
        asked,
        go_on: Mutex::new(go_on),
    });
    let layers = LayerDir::new(&node, Arc::clone(&room) as Arc<dyn Room>);
    let job = tokio::spawn(async move {
        convert_layer(&source, 0, &layers, &options(), Arc::new(Silent)).await
    });
    let is_asked = tokio::task::spawn_blocking(move || is_asked.recv().unwrap());
    is_asked.await.unwrap();
    job.abort();
    assert!(job.await.unwrap_err().is_cancelled());
    drop(tell);
    // The thread is the last that holds it.
    while Arc::strong_count(&room) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(files(&node), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let oci = dir.path().join("oci");
    image().write_layout(&oci);
    let source = open(&oci).await;
    let layer = convert(&source, 0, &dir.path().join("l"), AllRoom).await;
    let bytes = std::fs::read(layer.unwrap().record).unwrap();
    for at in (0..bytes.len()).step_by(97) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let parsed = LayerRecord::parse(Bytes::from(damaged));
        assert!(parsed.is_err(), "byte {at}");
        let cut = Bytes::from(bytes[..at].to_vec());
        assert!(LayerRecord::parse(cut).is_err(), "cut at {at}");
    }
    // A whole image is no layer.
    let (from, store) = (format!("oci:{}", oci.display()), dir.path().join("s"));
    let full = run(&from, &store, |_| {}).await.unwrap();
    assert!(LayerRecord::parse(Bytes::from(full.flist)).is_err());
}
