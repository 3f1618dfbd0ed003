//! A test image: an EROFS tree whose file data is on one external device.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lamina_flist::{BlobId, ChunkId};

use crate::content;
use crate::support::testnode;

/// Bytes of a map entry: what one fill brings.
const ENTRY_LEN: usize = 64 * 1024;

/// An image and what is needed to serve it.
pub struct Image {
    /// The EROFS metadata, to be mounted.
    pub flist: PathBuf,
    /// Complete blobs, named by id.
    pub sources: PathBuf,
    /// The one blob.
    pub blob: BlobId,
    /// Its map.
    pub map: Vec<u8>,
}

/// Builds an image of about `total_bytes` below `dir`.
pub fn build(dir: &Path, total_bytes: u64) -> Image {
    let tree = dir.join("tree");
    write_tree(&tree, total_bytes);
    let (flist, device) = (dir.join("image.fl"), dir.join("device"));
    let output = Command::new("mkfs.erofs")
        .arg("--chunksize=4096")
        .arg(format!("--blobdev={}", device.display()))
        .args([&flist, &tree])
        .output()
        .expect("mkfs.erofs (package erofs-utils) is needed");
    assert!(output.status.success(), "mkfs.erofs: {output:?}");
    std::fs::remove_dir_all(&tree).unwrap();
    let map = map_of(&device);
    let blob = BlobId::of(&map);
    let sources = dir.join("sources");
    std::fs::create_dir_all(&sources).unwrap();
    std::fs::rename(&device, sources.join(blob.to_string())).unwrap();
    Image {
        flist,
        sources,
        blob,
        map,
    }
}

/// Files of 1 byte to 4 MiB, mostly small, and a program.
fn write_tree(tree: &Path, total_bytes: u64) {
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    let program = tree.join("bin/testnode");
    std::fs::copy(testnode(), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let (mut written, mut index) = (0, 0);
    while written < total_bytes {
        let random = content::mix(u64::from(index));
        let size = 1 + random % (4096 << (random >> 32) % 11);
        let path = tree.join(content::path(index, size));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = vec![0; size as usize];
        content::fill(index, 0, &mut bytes);
        File::create(path).unwrap().write_all(&bytes).unwrap();
        written += size;
        index += 1;
    }
}

/// The blob map of a device cut into equal entries.
fn map_of(device: &Path) -> Vec<u8> {
    let len = std::fs::metadata(device).unwrap().len();
    assert_eq!(len % 4096, 0, "a device of whole blocks");
    let count = len.div_ceil(ENTRY_LEN as u64) as u32;
    let mut map = b"LAMMAP01".to_vec();
    map.extend(count.to_le_bytes());
    map.extend(0u32.to_le_bytes());
    map.extend(len.to_le_bytes());
    let mut file = File::open(device).unwrap();
    let mut offset = 0;
    while offset < len {
        let mut bytes = vec![0; ENTRY_LEN.min((len - offset) as usize)];
        file.read_exact(&mut bytes).unwrap();
        map.extend(offset.to_le_bytes());
        map.extend((bytes.len() as u32).to_le_bytes());
        map.extend(0u32.to_le_bytes());
        map.extend(ChunkId::of(&bytes).as_bytes());
        offset += bytes.len() as u64;
    }
    map
}
