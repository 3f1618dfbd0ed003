//! What `docker save` writes: a tar with `manifest.json`, configs and layers.
//!
//! The archive is walked once; layers are then read in place by offset, so an
//! archive is never unpacked, unless it is compressed as a whole. Its layers have no digest of their own, only a
//! diff id. Names inside are looked up among the archive's entries, never in
//! the file system.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::{SourceLayer, open_regular};
use crate::decompress::{Compression, decompressed, sniff};
use crate::limits::{Limits, TarLimits};
use crate::manifest::{ImageConfig, ManifestError, parse_config};
use crate::tar::{EntryKind, EntryPath, TarError, TarReader};

/// Entries an archive may have: one per layer and some documents.
const ENTRIES_MAX: u64 = 100_000;
/// Old archives link equal layers to each other.
const LINKS_MAX: usize = 8;

/// Why an archive does not give an image.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no tar.
    #[error("{path}")]
    Tar {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TarError,
    },
    /// It lacks something its own documents name.
    #[error("{path}: has no {name:?}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What is missing.
        name: String,
    },
    /// `manifest.json` is not what docker writes.
    #[error("{path}: manifest.json is malformed")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The image's config.
    #[error("{path}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// It is compressed, and cannot be unpacked to a temporary file.
    #[error("unpack {path} into a temporary file")]
    Unpack {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Several images, and none named.
    #[error("{path}: it holds several images, name one; there is: {}", names.join(", "))]
    Several {
        /// The file.
        path: PathBuf,
        /// What there is.
        names: Vec<String>,
    },
    /// No such image, or no image at all.
    #[error("{path}: {why}; there is: {}", names.join(", "))]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// What there is.
        names: Vec<String>,
    },
}

/// An opened archive: the chosen image's layers by place.
pub(super) struct DockerArchive {
    file: Arc<File>,
    layers: Vec<Span>,
}

/// A run of bytes of the archive.
#[derive(Debug, Clone, Copy)]
struct Span {
    offset: u64,
    len: u64,
}

enum Member {
    File(Span),
    Link(Vec<u8>),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

struct Walked<'a> {
    path: &'a Path,
    file: Arc<File>,
    members: HashMap<Vec<u8>, Member>,
}

impl DockerArchive {
    pub(super) fn open(
        path: &Path,
        name: Option<&str>,
        limits: &Limits,
    ) -> Result<(Self, ImageConfig, Vec<SourceLayer>), ArchiveError> {
        let walked = Walked::new(path, limits)?;
        let items: Vec<Item> =
            serde_json::from_slice(&walked.read("manifest.json", limits.manifest_bytes_max)?)
                .map_err(|source| ArchiveError::Manifest {
                    path: path.to_owned(),
                    source,
                })?;
        let item = choose(path, &items, name)?;
        let bad = |source| ArchiveError::Config {
            path: path.to_owned(),
            source,
        };
        if item.layers.len() > limits.layers_max {
            let (got, max) = (item.layers.len(), limits.layers_max);
            return Err(bad(ManifestError::TooMany {
                what: "manifest",
                got,
                max,
            }));
        }
        let config = walked.read(&item.config, limits.config_bytes_max)?;
        let config = parse_config(&config, item.layers.len(), limits).map_err(bad)?;
        let spans = item
            .layers
            .iter()
            .map(|layer| walked.find(layer))
            .collect::<Result<Vec<Span>, _>>()?;
        let layers = spans
            .iter()
            .zip(&config.diff_ids)
            .map(|(span, diff_id)| SourceLayer {
                diff_id: *diff_id,
                digest: None,
                size: span.len,
                media_type: None,
            })
            .collect();
        Ok((
            Self {
                file: walked.file,
                layers: spans,
            },
            config,
            layers,
        ))
    }

    pub(super) fn open_layer(&self, index: usize) -> Box<dyn Read + Send> {
        let span = self.layers[index];
        Box::new(SpanReader {
            file: Arc::clone(&self.file),
            at: span.offset,
            left: span.len,
        })
    }
}

fn choose<'i>(
    path: &Path,
    items: &'i [Item],
    name: Option<&str>,
) -> Result<&'i Item, ArchiveError> {
    let tags = |item: &Item| item.repo_tags.clone().unwrap_or_default();
    let names = || items.iter().flat_map(tags).take(50).collect();
    let fail = |why: String| ArchiveError::Name {
        path: path.to_owned(),
        why,
        names: names(),
    };
    match (name, items) {
        (None, [one]) => Ok(one),
        (None, []) => Err(fail("no image at all".to_owned())),
        (None, _) => Err(ArchiveError::Several {
            path: path.to_owned(),
            names: names(),
        }),
        (Some(name), items) => {
            let full = format!("{name}:latest");
            items
                .iter()
                .find(|item| tags(item).iter().any(|tag| tag == name || *tag == full))
                .ok_or_else(|| fail(format!("no image {name:?}")))
        }
    }
}

impl<'a> Walked<'a> {
    fn new(path: &'a Path, limits: &Limits) -> Result<Self, ArchiveError> {
        let read = |source| ArchiveError::Read {
            path: path.to_owned(),
            source,
        };
        let bad = |source| ArchiveError::Tar {
            path: path.to_owned(),
            source,
        };
        let file = open_regular(path).map_err(read)?;
        let file = plain(file, limits).map_err(|source| ArchiveError::Unpack {
            path: path.to_owned(),
            source,
        })?;
        let file = Arc::new(file);
        let len = file.metadata().map_err(read)?.len();
        let whole = SpanReader {
            file: Arc::clone(&file),
            at: 0,
            left: len,
        };
        let limits = TarLimits {
            entries_max: ENTRIES_MAX,
            ..limits.tar.clone()
        };
        // Skipping goes through the buffer: one pass over the page cache.
        let mut tar = TarReader::new(BufReader::with_capacity(1 << 20, whole), limits);
        let mut members = HashMap::new();
        while let Some(entry) = tar.next_entry().map_err(bad)? {
            let member = match entry.kind {
                EntryKind::File { size, sparse: None } => Member::File(Span {
                    offset: tar.offset(),
                    len: size,
                }),
                EntryKind::Symlink(target) => Member::Link(target),
                EntryKind::HardLink(target) => Member::Link([b"/", target.as_bytes()].concat()),
                _ => continue,
            };
            members.insert(entry.path.as_bytes().to_vec(), member);
        }
        Ok(Self {
            path,
            file,
            members,
        })
    }

    /// Where the file `name` is, through links between members.
    fn find(&self, name: &str) -> Result<Span, ArchiveError> {
        let missing = || ArchiveError::Missing {
            path: self.path.to_owned(),
            name: name.to_owned(),
        };
        let parsed = EntryPath::parse(name.as_bytes(), &TarLimits::default());
        let mut at = parsed.map_err(|_| missing())?.as_bytes().to_vec();
        for _ in 0..LINKS_MAX {
            match self.members.get(&at).ok_or_else(missing)? {
                Member::File(span) => return Ok(*span),
                Member::Link(target) => at = join(&at, target),
            }
        }
        Err(missing())
    }

    fn read(&self, name: &str, max: u64) -> Result<Vec<u8>, ArchiveError> {
        let span = self.find(name)?;
        if span.len > max {
            let what = "document";
            let source = ManifestError::TooLarge {
                what,
                bytes: span.len,
                max,
            };
            return Err(ArchiveError::Config {
                path: self.path.to_owned(),
                source,
            });
        }
        let mut bytes = vec![0; span.len as usize];
        self.file
            .read_exact_at(&mut bytes, span.offset)
            .map_err(|source| ArchiveError::Read {
                path: self.path.to_owned(),
                source,
            })?;
        Ok(bytes)
    }
}

/// The archive itself, or what it holds if it is compressed as a whole (`docker save | gzip`): layers are
/// read by place, so that is unpacked into a file without a name, within the bounds of a layer.
fn plain(mut file: File, limits: &Limits) -> io::Result<File> {
    let mut head = [0; 6];
    let have = file.read_at(&mut head, 0)?;
    let codec = sniff(&head[..have]).map_err(|e| io::Error::new(io::ErrorKind::Unsupported, e))?;
    if codec == Compression::None {
        return Ok(file);
    }
    let mut plain = tempfile::tempfile()?;
    io::copy(&mut decompressed(&mut file, limits)?, &mut plain)?;
    Ok(plain)
}

/// A link's target as a member name; `..` stops at the archive's root.
fn join(from: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    if !target.starts_with(b"/") {
        parts.extend(from.split(|b| *b == b'/'));
        parts.pop();
    }
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join(&b'/')
}

/// Reads a span by position, so that layers share one descriptor.
struct SpanReader {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for SpanReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let max = buf
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buf[..max], self.at)?;
        if n == 0 && max > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_between_members_stay_in_the_archive() {
        assert_eq!(join(b"a/layer.tar", b"../b/layer.tar"), b"b/layer.tar");
        assert_eq!(join(b"a/layer.tar", b"../../../etc/passwd"), b"etc/passwd");
        assert_eq!(join(b"a/layer.tar", b"/x"), b"x");
    }
}
