//! Stores as nodes are told of them: URLs with credentials and range.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use lamina_crds::{LaminaCluster, Store, StoreSpec};

use crate::context::Ctx;
use crate::fault::Fault;

const RELATIVE: &str = "dir:// takes an absolute path, such as dir:///var/lib/packs";

/// The URLs of the named stores; of the `LaminaCluster`'s where none is named.
pub(crate) async fn store_urls(ctx: &Ctx, names: &[String]) -> Result<Vec<String>, Fault> {
    let names = store_names(ctx, names).await?;
    let mut urls = Vec::with_capacity(names.len());
    for name in &names {
        let found = Api::<Store>::all(ctx.client.clone()).get_opt(name).await?;
        let store = found
            .ok_or_else(|| Fault::new("NoSuchStore", format!("there is no Store named {name}")))?;
        urls.push(store_url(ctx, &store.spec).await?);
    }
    Ok(urls)
}

/// The named stores; the `LaminaCluster`'s where none is named.
pub(crate) async fn store_names(ctx: &Ctx, names: &[String]) -> Result<Vec<String>, Fault> {
    match names.is_empty() {
        true => default_stores(ctx).await,
        false => Ok(names.to_vec()),
    }
}

async fn default_stores(ctx: &Ctx) -> Result<Vec<String>, Fault> {
    let api = Api::<LaminaCluster>::all(ctx.client.clone());
    let cluster = api.get_opt(lamina_crds::CLUSTER_NAME).await?;
    Ok(cluster
        .map(|cluster| cluster.spec.stores)
        .unwrap_or_default())
}

/// One store's URL.
pub(crate) async fn store_url(ctx: &Ctx, spec: &StoreSpec) -> Result<String, Fault> {
    // Each node would take it from a directory of its own choice.
    if spec.url.starts_with("dir://") && !spec.url.starts_with("dir:///") {
        let message = format!("{}: {RELATIVE}", spec.url);
        return Err(Fault::new("InvalidSource", message));
    }
    let Some(reference) = &spec.secret_ref else {
        return Ok(with_range(spec, spec.url.clone()));
    };
    let api = Api::<Secret>::namespaced(ctx.client.clone(), &ctx.namespace);
    let secret = api.get_opt(&reference.name).await?.ok_or_else(|| {
        Fault::new(
            "NoSuchSecret",
            format!("there is no Secret {} in {}", reference.name, ctx.namespace),
        )
    })?;
    let url = with_credentials(&spec.url, &secret.data.unwrap_or_default()).ok_or_else(|| {
        Fault::new(
            "BadSecret",
            format!(
                "Secret {} has no keys username and password",
                reference.name
            ),
        )
    })?;
    Ok(with_range(spec, url))
}

fn with_range(spec: &StoreSpec, url: String) -> String {
    match &spec.shard_range {
        Some(range) => format!("{range}={url}"),
        None => url,
    }
}

/// `scheme://USER:PASSWORD@rest`.
fn with_credentials(url: &str, secret: &BTreeMap<String, ByteString>) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let key = |name: &str| Some(escaped(&secret.get(name)?.0));
    Some(format!(
        "{scheme}://{}:{}@{rest}",
        key("username")?,
        key("password")?
    ))
}

/// Percent-encodes all but unreserved characters.
fn escaped(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for &byte in bytes.trim_ascii() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_escaped_into_the_url() {
        let secret = BTreeMap::from([
            ("username".to_owned(), ByteString(b"key\n".to_vec())),
            ("password".to_owned(), ByteString(b"a/b+c@d".to_vec())),
        ]);
        assert_eq!(
            with_credentials("s3://bucket/packs", &secret).unwrap(),
            "s3://key:a%2Fb%2Bc%40d@bucket/packs"
        );
        assert_eq!(with_credentials("s3://bucket", &BTreeMap::new()), None);
    }
}
