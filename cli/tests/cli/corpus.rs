//! What fuzzing found, and the seeds it started from, go through every fuzz body again: a file under
//! `fuzz/corpus/<target>/` must neither panic nor break the body's assertions.

use std::path::{Path, PathBuf};

#[path = "../../../fuzz/bodies/closure.rs"]
mod closure;
#[path = "../../../fuzz/bodies/compressed.rs"]
mod compressed;
#[path = "../../../fuzz/bodies/docker_config.rs"]
mod docker_config;
#[path = "../../../fuzz/bodies/flist.rs"]
mod flist;
#[path = "../../../fuzz/bodies/layer_tar.rs"]
mod layer_tar;
#[path = "../../../fuzz/bodies/manifest.rs"]
mod manifest;
#[path = "../../../fuzz/bodies/pack.rs"]
mod pack;
#[path = "../../../fuzz/bodies/reference.rs"]
mod reference;
#[path = "../../../fuzz/bodies/store_url.rs"]
mod store_url;

/// Fewer would mean that a corpus was lost.
const FILES_MIN: usize = 5;
/// The corpora are part of every clone.
const BYTES_MAX: usize = 300_000;

type Target = (&'static str, fn(&[u8]));
const TARGETS: [Target; 9] = [
    ("closure", closure::run),
    ("compressed", compressed::run),
    ("docker_config", docker_config::run),
    ("flist", flist::run),
    ("layer_tar", layer_tar::run),
    ("manifest", manifest::run),
    ("pack", pack::run),
    ("reference", reference::run),
    ("store_url", store_url::run),
];

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

#[test]
fn every_corpus_file_passes_its_fuzz_body() {
    let mut bytes = 0;
    for (target, body) in TARGETS {
        let files = files(&fuzz().join("corpus").join(target));
        assert!(files.len() >= FILES_MIN, "{target}: {} files", files.len());
        for file in files {
            let data = std::fs::read(&file).unwrap();
            bytes += data.len();
            // Captured unless the body panics: then the last line names the file.
            println!("{}", file.display());
            body(&data);
        }
    }
    assert!(bytes < BYTES_MAX, "the corpora have {bytes} bytes");
}

#[test]
fn every_fuzz_target_is_run_here() {
    let names: Vec<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for dir in ["bodies", "fuzz_targets", "corpus"] {
        let found: Vec<String> = files(&fuzz().join(dir)).iter().map(|f| stem(f)).collect();
        assert_eq!(found, names, "in fuzz/{dir}");
    }
}
