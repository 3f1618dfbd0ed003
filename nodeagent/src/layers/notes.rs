//! Which layers make which image: what this node may say it has, by name.

use std::path::PathBuf;

use lamina_discovery::ImageKey;
use lamina_flist::Sha256Digest;
use serde::{Deserialize, Serialize};

use super::disk;

/// Images remembered; as many as a heartbeat may name.
const IMAGES_MAX: usize = 8_192;

#[derive(Serialize, Deserialize)]
struct Note {
    key: String,
    layers: Vec<Sha256Digest>,
}

/// Images whose layers were all here once, each in a file.
#[derive(Debug)]
pub(super) struct ImageNotes {
    dir: PathBuf,
}

impl ImageNotes {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Remembers what an image is made of.
    pub(super) fn put(&self, key: &ImageKey, layers: Vec<Sha256Digest>) -> std::io::Result<()> {
        let name = blake3::hash(key.as_str().as_bytes()).to_hex();
        let note = Note {
            key: key.to_string(),
            layers,
        };
        let text = serde_json::to_vec(&note).expect("strings become JSON");
        let path = self.dir.join(format!("{name}.json"));
        if std::fs::read(&path).is_ok_and(|known| known == text) {
            disk::touch(&path);
            return Ok(());
        }
        disk::write(&path, &text)?;
        disk::prune(&self.dir, IMAGES_MAX, u64::MAX)
    }

    /// Keys of the images of which `has` every layer.
    pub(super) fn whole(&self, has: impl Fn(&Sha256Digest) -> bool) -> Vec<String> {
        let found = std::fs::read_dir(&self.dir).into_iter().flatten();
        let notes = found.filter_map(|entry| {
            let text = std::fs::read(entry.ok()?.path()).ok()?;
            serde_json::from_slice::<Note>(&text).ok()
        });
        let whole = notes.filter(|note| note.layers.iter().all(&has));
        let mut keys: Vec<String> = whole.map(|note| note.key).collect();
        keys.sort_unstable();
        keys.truncate(IMAGES_MAX);
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_here_when_all_of_its_layers_are() {
        let dir = tempfile::tempdir().unwrap();
        let notes = ImageNotes::new(dir.path().to_owned());
        let layer = |n| Sha256Digest::from_bytes([n; 32]);
        let key = |name: &str| ImageKey::parse(&format!("r.io/{name}|1|linux|amd64|")).unwrap();
        notes.put(&key("a"), vec![layer(1), layer(2)]).unwrap();
        notes.put(&key("b"), vec![layer(2)]).unwrap();
        notes.put(&key("b"), vec![layer(2)]).unwrap();
        std::fs::write(dir.path().join("x.json"), "no note").unwrap();
        let two = notes.whole(|id| *id == layer(2));
        assert_eq!(two, [key("b").to_string()]);
        assert_eq!(notes.whole(|_| true).len(), 2);
        // A tag that moved is another image.
        notes.put(&key("b"), vec![layer(3)]).unwrap();
        assert!(notes.whole(|id| *id == layer(2)).is_empty());
    }
}
