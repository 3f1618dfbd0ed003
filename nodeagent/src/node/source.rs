//! What a request's source is called: in records, in answers, in logs. Without credentials.

use lamina_flist::{ChunkId, FlistDigest};
use lamina_proto::lamina::v1::source::From as Origin;
use lamina_proto::lamina::v1::{ArchiveSource, FlistSource, ImageSource, Source};

use super::error::NodeError;

/// Longest reference, URL or list of stores taken from a caller.
const TEXT_MAX: usize = 4096;
/// Most stores in one request.
const STORES_MAX: usize = 64;

/// A request's source, checked for size and shape.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) source: Source,
    /// As people call it.
    pub(super) reference: String,
    /// Equal for equal sources.
    pub(super) canonical: String,
}

impl Named {
    pub(super) fn parse(source: Option<Source>) -> Result<Self, NodeError> {
        let source = source.ok_or_else(|| NodeError::invalid("the request names no source"))?;
        let origin = source
            .from
            .as_ref()
            .ok_or_else(|| NodeError::invalid("the request's source is empty"))?;
        let (reference, canonical) = match origin {
            Origin::Image(image) => (image_name(image)?, of_image(image)),
            Origin::Archive(archive) => (archive_name(archive)?, of_archive(archive)),
            Origin::Flist(flist) => named_flist(flist)?,
        };
        Ok(Self {
            source,
            reference,
            canonical,
        })
    }
}

/// The digest of a list of store URLs, which may hold credentials; checked for size.
pub(super) fn stores_digest(stores: &[String]) -> Result<String, NodeError> {
    if stores.is_empty() {
        return Ok(String::new());
    }
    if stores.len() > STORES_MAX || stores.iter().any(|url| url.len() > TEXT_MAX) {
        return Err(NodeError::invalid(format!(
            "more than {STORES_MAX} stores, or a URL of more than {TEXT_MAX} bytes"
        )));
    }
    Ok(ChunkId::of(stores.join("\n").as_bytes()).to_string())
}

fn image_name(image: &ImageSource) -> Result<String, NodeError> {
    sized("image reference", &image.reference)?;
    sized("platform", &format!("/{}", image.platform))?;
    Ok(image.reference.clone())
}

fn archive_name(archive: &ArchiveSource) -> Result<String, NodeError> {
    sized("archive URL", &archive.url)?;
    Ok(without_user(&archive.url))
}

fn named_flist(flist: &FlistSource) -> Result<(String, String), NodeError> {
    if flist.digest.parse::<FlistDigest>().is_err() {
        let shown: String = flist.digest.chars().take(80).collect();
        return Err(NodeError::invalid(format!(
            "the flist digest {shown:?} is not 64 hex digits"
        )));
    }
    stores_digest(&flist.stores)?;
    let reference = match (&flist.image, &flist.archive) {
        (Some(image), _) => image_name(image)?,
        (None, Some(archive)) => archive_name(archive)?,
        (None, None) => flist.digest.clone(),
    };
    Ok((reference, format!("flist {}", flist.digest)))
}

fn of_image(image: &ImageSource) -> String {
    format!("image {} {}", image.reference, image.platform)
}

/// A URL may hold a token in its query: equal ones are known by a digest.
fn of_archive(archive: &ArchiveSource) -> String {
    let url = ChunkId::of(archive.url.as_bytes());
    format!("archive {url} {}", archive.sha256)
}

/// A URL without user, password and query.
fn without_user(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}/{path}")
        }
        None => plain.to_owned(),
    }
}

fn sized(what: &str, text: &str) -> Result<(), NodeError> {
    match text.len() {
        0 => Err(NodeError::invalid(format!("the {what} is empty"))),
        1..=TEXT_MAX => Ok(()),
        _ => Err(NodeError::invalid(format!(
            "the {what} has more than {TEXT_MAX} bytes"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(from: Origin) -> Result<Named, NodeError> {
        Named::parse(Some(Source { from: Some(from) }))
    }

    #[test]
    fn names_hold_no_credentials() {
        let archive = ArchiveSource {
            url: "https://me:secret@host/a.tar?token=secret".into(),
            sha256: String::new(),
        };
        let named = named(Origin::Archive(archive)).unwrap();
        assert_eq!(named.reference, "https://host/a.tar");
        assert!(!named.canonical.contains("secret"));
        let stores = ["s3://key:secret@bucket".to_owned()];
        assert!(!stores_digest(&stores).unwrap().contains("secret"));
    }

    #[test]
    fn sources_without_a_shape_are_refused() {
        assert!(Named::parse(None).is_err());
        assert!(Named::parse(Some(Source { from: None })).is_err());
        let image = |reference: String| {
            Origin::Image(ImageSource {
                reference,
                ..ImageSource::default()
            })
        };
        assert!(named(image(String::new())).is_err());
        assert!(named(image("x".repeat(10 << 10))).is_err());
        let flist = |digest: &str| {
            Origin::Flist(FlistSource {
                digest: digest.into(),
                ..FlistSource::default()
            })
        };
        assert!(named(flist("../../etc/passwd")).is_err());
        assert!(named(flist(&"0".repeat(64))).is_ok());
    }
}
