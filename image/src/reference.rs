//! What people type to name an image -> a reference without doubt.
//!
//! Docker's rules: the first component is a registry if it has a dot, a colon
//! or is `localhost`; otherwise Docker Hub, with `library/` before single
//! names. No tag and no digest means `latest`; with a digest, the digest
//! counts and a tag is kept for display. Source: distribution/reference.

use std::fmt;
use std::str::FromStr;

use lamina_flist::Sha256Digest;

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Sha256Digest>,
}

/// A text that is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no image reference: {why}")]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

impl ImageRef {
    /// Host and port, as in `registry.example:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository, as in `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one counts or was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The pinned manifest digest.
    pub fn digest(&self) -> Option<&Sha256Digest> {
        self.digest.as_ref()
    }

    /// The same repository at this manifest.
    #[must_use]
    pub fn pinned(&self, digest: Sha256Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The tag or digest to ask the registry for.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The host to connect to: Docker Hub's API lives elsewhere than its name.
    pub fn api_host(&self) -> &str {
        match self.registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        }
    }

    /// Whether the registry is this machine, where plain HTTP is usual.
    pub fn is_loopback(&self) -> bool {
        let host = self
            .registry
            .rsplit_once(':')
            .map_or(self.registry.as_str(), |(h, _)| h);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|why| ReferenceError {
            text: text.chars().take(200).collect(),
            why,
        })
    }
}

fn parse(text: &str) -> Result<ImageRef, &'static str> {
    if text.len() > 1024 {
        return Err("it is too long");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (
            rest,
            Some(
                digest
                    .parse()
                    .map_err(|_| "its digest is not sha256:<64 hex digits>")?,
            ),
        ),
        None => (text, None),
    };
    let (rest, tag) = match rest.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') && before_is_name(before) => (before, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|t| !is_tag(t)) {
        return Err("its tag has characters that tags cannot have");
    }
    let (registry, repository) = split_registry(rest);
    if !is_registry(&registry) {
        return Err("its registry is no host");
    }
    if repository.len() > 255 || !repository.split('/').all(is_component) {
        return Err("its repository must be lower-case words joined by `/`");
    }
    let tag = match (tag, digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(ImageRef {
        registry,
        repository,
        tag,
        digest,
    })
}

/// `host:5000` alone is no name with a tag; `name` and `host:5000/name` are.
fn before_is_name(before: &str) -> bool {
    !before.is_empty() && !before.ends_with(']')
}

fn split_registry(text: &str) -> (String, String) {
    let (registry, repository) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.starts_with('[') =>
        {
            (first, rest.to_owned())
        }
        _ => ("docker.io", text.to_owned()),
    };
    match registry {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => {
            let library = if repository.contains('/') {
                ""
            } else {
                "library/"
            };
            ("docker.io".to_owned(), format!("{library}{repository}"))
        }
        other => (other.to_owned(), repository),
    }
}

fn is_registry(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((ip, port)) if ip.parse::<std::net::Ipv6Addr>().is_ok() => (
                "v6",
                port.strip_prefix(':')
                    .or(port.is_empty().then_some("443"))
                    .unwrap_or("x"),
            ),
            _ => return false,
        },
        None => host.split_once(':').unwrap_or((host, "443")),
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && port.parse::<u16>().is_ok_and(|p| p != 0)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or dashes.
fn is_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let edges = bytes.first().zip(bytes.last());
    edges.is_some_and(|(a, b)| alnum(*a) && alnum(*b))
        && bytes.iter().all(|b| alnum(*b) || b"._-".contains(b))
        && !["..", "._", "_.", "-.", ".-", "___", "_-", "-_"]
            .iter()
            .any(|bad| component.contains(bad))
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, want) in [
            ("debian", "docker.io/library/debian:latest".to_owned()),
            ("a/b:1", "docker.io/a/b:1".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            (
                "localhost:5000/x/y:v1.2",
                "localhost:5000/x/y:v1.2".to_owned(),
            ),
            ("ghcr.io/a/b__c-d.e:t", "ghcr.io/a/b__c-d.e:t".to_owned()),
            ("[::1]:5000/x", "[::1]:5000/x:latest".to_owned()),
            ("index.docker.io/x", "docker.io/library/x:latest".to_owned()),
            (&format!("q.io/x:t@{digest}"), format!("q.io/x:t@{digest}")),
            (&format!("q.io/x@{digest}"), format!("q.io/x@{digest}")),
        ] {
            let parsed: ImageRef = text.parse().unwrap();
            assert_eq!(parsed.to_string(), want);
            assert_eq!(want.parse::<ImageRef>().unwrap(), parsed, "{want}");
        }
    }

    #[test]
    fn texts_that_are_no_reference_are_refused() {
        for bad in [
            "",
            ":",
            "a:",
            "A",
            "a//b",
            "/a",
            "a/",
            "a/../b",
            "a b",
            "a@sha256:12",
            "a@md5:00",
            "host:0/a",
            "host:99999/a",
            "ho_st.x/a",
            "-.io/a",
            "a:b:c",
            "a:-t",
            "[::1/a",
            "a?b=c",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_is_recognised_by_address_not_by_likeness() {
        for (text, want) in [
            ("localhost:5000/a", true),
            ("127.0.0.2:1/a", true),
            ("[::1]:5/a", true),
            ("localhost.evil.io/a", false),
            ("127.0.0.1.evil.io/a", false),
            ("debian", false),
        ] {
            assert_eq!(
                text.parse::<ImageRef>().unwrap().is_loopback(),
                want,
                "{text}"
            );
        }
    }
}
