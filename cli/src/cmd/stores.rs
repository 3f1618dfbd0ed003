//! Stores as a person names them: parsing, credentials, opening.

use super::out::kind;
use crate::args::{ReadAccess, StoreAccess};
use crate::exit;
use anyhow::{Context, Result, bail};
use lamina_flist::Flist;
use lamina_store::{
    ShardRange, StoreOptions, StoreSet, StoreSpec, UrlTrust, backend::EmbeddedStore, url::Place,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Variables with which the object stores' own tools are configured.
const STORE_ENV: [&str; 7] = [
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "DOCKER_CONFIG",
    "SSL_CERT_FILE",
    "LAMINA_STORE_",
    "HOME",
];

/// A store as typed, made independent of the working directory: `dir://` paths become absolute, and
/// a bare path is taken as `dir://`.
pub(crate) fn absolute(text: &str) -> Result<String> {
    let (range, url) = match text.split_once('=') {
        Some((range, url)) if !range.contains([':', '/']) => (format!("{range}="), url),
        _ => (String::new(), text),
    };
    let path = match url.split_once("://") {
        None => url,
        Some(("dir", path)) => path,
        Some(_) => return Ok(text.to_owned()),
    };
    let path = std::path::absolute(path).with_context(|| format!("resolve store {url}"))?;
    Ok(format!("{range}dir://{}", path.display()))
}

/// Specs of stores typed by the user.
pub(crate) fn specs(typed: &[String]) -> Result<Vec<StoreSpec>> {
    typed.iter().map(|text| spec(&absolute(text)?)).collect()
}

fn spec(text: &str) -> Result<StoreSpec> {
    text.parse().map_err(|error| {
        let redacted = text.rsplit_once('@').map_or(text, |(_, host)| host);
        anyhow::Error::new(error).context(exit::Usage(format!("understand store `{redacted}`")))
    })
}

/// The specs as a flist records them.
pub(crate) fn recorded(specs: &[StoreSpec], keep_credentials: bool) -> Vec<String> {
    let one = |spec: &StoreSpec| {
        if keep_credentials {
            spec.expose()
        } else {
            spec.strip_credentials().expose()
        }
    };
    specs.iter().map(one).collect()
}

/// Opens stores typed by the user.
pub(crate) fn open(typed: &[String], access: &StoreAccess) -> Result<(StoreSet, Vec<StoreSpec>)> {
    let specs = specs(typed)?;
    specs.iter().try_for_each(check_folder)?;
    let options = StoreOptions {
        environment: env(access)?.into(),
        ..StoreOptions::default()
    };
    Ok((StoreSet::open(&specs, options)?, specs))
}

/// A file named as a store, most often a flist, is a mistake in the command line.
fn check_folder(spec: &StoreSpec) -> Result<()> {
    let Place::Dir(dir) = spec.url.place() else {
        return Ok(());
    };
    match std::fs::metadata(dir) {
        Ok(found) if !found.is_dir() => bail!(exit::Usage(format!(
            "the store {} is {}, not a directory",
            dir.display(),
            kind(found.file_type())
        ))),
        _ => Ok(()),
    }
}

/// Opens the stores a flist is read from: those typed, or its own; packs inside the file first.
pub(crate) fn open_for(path: &Path, flist: &Flist, read: &ReadAccess) -> Result<StoreSet> {
    let embedded = embedded(path, flist)?;
    let own = &flist.meta().stores;
    let set = if !read.stores.is_empty() {
        Some(open(&read.stores, &read.access)?.0)
    } else if !own.is_empty() {
        let specs = own
            .iter()
            .map(|text| spec(text))
            .collect::<Result<Vec<_>>>()?;
        let options = StoreOptions {
            url_trust: UrlTrust::Flist,
            environment: env(&read.access)?.into(),
            ..StoreOptions::default()
        };
        Some(StoreSet::open(&specs, options)?)
    } else {
        None
    };
    match (set, embedded) {
        (Some(set), Some(embedded)) => Ok(set.with_first(embedded)),
        (Some(set), None) => Ok(set),
        (None, Some(embedded)) => Ok(StoreSet::from_stores(
            vec![(ShardRange::ALL, embedded)],
            StoreOptions::default(),
        )?),
        (None, None) => {
            bail!(exit::Usage(format!(
                "{} names no stores: give one with --store",
                path.display()
            )))
        }
    }
}

/// The packs inside a `.afslyr` as a store.
fn embedded(path: &Path, flist: &Flist) -> Result<Option<Arc<dyn lamina_store::Store>>> {
    let Some(offset) = flist.embedded_offset() else {
        return Ok(None);
    };
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let name = path.display().to_string();
    let store = EmbeddedStore::new(file, &name, offset, flist.packs())
        .with_context(|| format!("read the packs inside {name}"))?;
    Ok(Some(Arc::new(store)))
}

/// Store credentials of the environment, with those of `--credentials` over them.
pub(crate) fn env(access: &StoreAccess) -> Result<BTreeMap<String, String>> {
    let mut env: BTreeMap<String, String> = std::env::vars()
        .filter(|(name, _)| STORE_ENV.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    if let Some(path) = &access.credentials {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read store credentials {}", path.display()))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once('=').with_context(|| {
                let place = format!("{}:{}", path.display(), number + 1);
                exit::Usage(format!("{place}: expected KEY=VALUE"))
            })?;
            env.insert(
                name.trim().to_owned(),
                value.trim().trim_matches('"').to_owned(),
            );
        }
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dir_stores_become_absolute_and_others_stay() {
        let cwd = std::env::current_dir().unwrap();
        let here = |rest: &str| format!("dir://{}", cwd.join(rest).display());
        assert_eq!(absolute("packs").unwrap(), here("packs"));
        assert_eq!(absolute("dir://a/b").unwrap(), here("a/b"));
        assert_eq!(absolute("00-7f=dir:///x").unwrap(), "00-7f=dir:///x");
        assert_eq!(
            absolute("s3://b/p?region=eu").unwrap(),
            "s3://b/p?region=eu"
        );
    }

    #[test]
    fn a_credentials_file_overrides_the_environment_and_names_bad_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        std::fs::write(&path, "# mine\nAWS_ACCESS_KEY_ID = \"abc\"\n\n").unwrap();
        let access = StoreAccess {
            credentials: Some(path.clone()),
        };
        assert_eq!(env(&access).unwrap()["AWS_ACCESS_KEY_ID"], "abc");
        std::fs::write(&path, "A=1\nnonsense\n").unwrap();
        assert!(
            env(&access)
                .unwrap_err()
                .to_string()
                .contains("credentials:2: expected KEY=VALUE")
        );
    }
}
