//! The stores of one request: parsed, opened, named.

use lamina_store::{StoreOptions, StoreSet, StoreSpec, UrlTrust};

use crate::layers::{EnsureError, EnsureErrorKind};

/// Stores, opened.
#[derive(Debug, Clone)]
pub(super) struct Stores {
    pub(super) set: StoreSet,
    /// The request names them: what it asks for is to be in them.
    pub(super) were_named: bool,
    specs: Vec<StoreSpec>,
}

impl Stores {
    /// Opens the stores with these URLs; nothing is contacted.
    pub(super) fn open(urls: &[String], url_trust: UrlTrust) -> Result<Self, EnsureError> {
        let specs = urls.iter().map(|url| Self::parse(url));
        Self::of(specs.collect::<Result<_, _>>()?, url_trust)
    }

    /// The same, parsed before.
    pub(super) fn of(specs: Vec<StoreSpec>, url_trust: UrlTrust) -> Result<Self, EnsureError> {
        let options = StoreOptions {
            url_trust,
            ..StoreOptions::default()
        };
        let set = StoreSet::open(&specs, options)
            .map_err(|error| EnsureError::store("open the stores", error))?;
        Ok(Self {
            set,
            were_named: false,
            specs,
        })
    }

    /// Those of these stores that `urls` name, credentials aside; none unless that is all of them.
    pub(super) fn named(&self, urls: &[String]) -> Option<Vec<StoreSpec>> {
        let named = |url: &String| {
            let wanted = Self::parse(url).ok()?.expose();
            let is_wanted = |spec: &&StoreSpec| spec.strip_credentials().expose() == wanted;
            self.specs.iter().find(is_wanted).cloned()
        };
        urls.iter().map(named).collect()
    }

    /// As they were given, credentials included.
    pub(super) fn exposed(&self) -> Vec<String> {
        self.specs.iter().map(StoreSpec::expose).collect()
    }

    /// As they may be shown and recorded.
    pub(super) fn shown(&self) -> Vec<String> {
        let shown = |spec: &StoreSpec| spec.strip_credentials().expose();
        self.specs.iter().map(shown).collect()
    }

    /// A short name for this list of stores, whatever the credentials, and for what is to be in them.
    pub(super) fn name(&self) -> String {
        let mut named = self.shown().join("\n");
        if self.were_named {
            named.push('\n');
        }
        let hash = blake3::hash(named.as_bytes());
        hex::encode(&hash.as_bytes()[..8])
    }

    /// One store's URL, with its range.
    pub(super) fn parse(url: &str) -> Result<StoreSpec, EnsureError> {
        url.parse().map_err(|error: lamina_store::StoreUrlError| {
            let redacted = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
            let what = format!("understand the store `{redacted}`: see docs/stores.md");
            EnsureError::new(EnsureErrorKind::InvalidArgument, what).because(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_named_without_its_credentials_is_the_nodes_own() {
        let texts = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let own = texts(&["oci://me:secret@registry.test/packs", "dir:///srv/packs"]);
        let own = Stores::open(&own, UrlTrust::User).unwrap();
        let found = |urls: &[&str]| {
            let named = own.named(&texts(urls))?;
            Some(named.iter().map(StoreSpec::expose).collect::<Vec<_>>())
        };
        assert_eq!(
            found(&["oci://registry.test/packs"]),
            Some(texts(&["oci://me:secret@registry.test/packs"]))
        );
        assert_eq!(found(&["oci://registry.test/other"]), None);
        assert_eq!(
            found(&["oci://registry.test/packs", "oci://other/packs"]),
            None
        );
        // Whoever brings credentials uses these.
        assert_eq!(found(&["oci://me:other@registry.test/packs"]), None);
    }
}
