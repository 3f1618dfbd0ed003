//! What people and images write to name things: image references, sources,
//! platforms, patterns, digests. What is parsed reads back.

use lamina_flist::{ChunkId, EntryName, Sha256Digest};
use lamina_image::pack::Glob;
use lamina_image::{ImageRef, Platform, Source};

pub(crate) fn run(data: &[u8]) {
    if let Ok(name) = EntryName::new(data) {
        assert_eq!(name.as_bytes(), data);
        assert!(!data.contains(&b'/') && data != b"..");
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(reference) = text.parse::<ImageRef>() {
        assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference));
        assert!(!reference.selector().is_empty() && !reference.api_host().is_empty());
        let _ = reference.is_loopback();
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string(), text);
    }
    if let Ok(digest) = text.parse::<Sha256Digest>() {
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }
    if let Ok(id) = text.parse::<ChunkId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(source) = text.parse::<Source>() {
        assert!(!source.to_string().is_empty());
    }
    glob(text);
}

/// The first line is the pattern, the second the path.
fn glob(text: &str) {
    let (pattern, path) = text.split_once('\n').unwrap_or((text, "usr/lib/x.pyc"));
    if let Ok(glob) = pattern.parse::<Glob>() {
        let _ = glob.matches(path.as_bytes());
    }
}
