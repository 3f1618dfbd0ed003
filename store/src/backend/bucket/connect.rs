//! Builds the client for a bucket: endpoint, credentials, what may be sent where.
//!
//! Order of credentials: user and password in the URL, `credentials=FILE`, the environment, the machine's
//! own identity. A URL out of a flist may not name a file, and its `endpoint=` gets no bearer tokens.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider,
};

use crate::options::{Environment, StoreOptions, UrlTrust};
use crate::url::{BucketUrl, Cloud, UrlCredentials, is_loopback};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connected = (Arc<dyn ObjectStore>, Option<&'static str>);

const NO_S3: &str = "no credentials in the URL, a credentials file or AWS_ACCESS_KEY_ID";
const NO_AZ: &str = "no credentials in the URL, a credentials file or AZURE_STORAGE_ACCOUNT_KEY";
const NO_GS: &str = "no credentials in a credentials file or GOOGLE_APPLICATION_CREDENTIALS";

pub(super) fn connect(
    given: &UrlCredentials,
    bucket: &BucketUrl,
    options: &StoreOptions,
) -> Result<Connected, BoxError> {
    let (trust, env) = (options.url_trust, &options.environment);
    if trust == UrlTrust::Flist && given.file.is_some() {
        return Err(
            "a store URL in a flist may not name a credentials file; give the store with --store"
                .into(),
        );
    }
    match bucket.cloud {
        Cloud::S3 => s3(given, bucket, env),
        Cloud::Gs => gs(given, bucket, env),
        Cloud::Az => az(given, bucket, trust, env),
    }
}

/// One try per request: retries and deadlines are the wrapper's.
fn once() -> RetryConfig {
    let backoff = BackoffConfig::default();
    RetryConfig {
        backoff,
        max_retries: 0,
        retry_timeout: Duration::from_mins(1),
    }
}

fn client(bucket: &BucketUrl) -> ClientOptions {
    let loopback = bucket
        .endpoint
        .as_ref()
        .and_then(|url| url.host_str())
        .is_some_and(is_loopback);
    ClientOptions::new()
        .with_allow_http(bucket.allow_http || loopback)
        .with_connect_timeout(super::super::web::CONNECT_TIMEOUT)
        .with_timeout_disabled()
}

fn endpoint(bucket: &BucketUrl) -> Option<String> {
    bucket
        .endpoint
        .as_ref()
        .map(|url| url.as_str().trim_end_matches('/').to_owned())
}

fn s3(
    given: &UrlCredentials,
    bucket: &BucketUrl,
    env: &Environment,
) -> Result<Connected, BoxError> {
    let mut builder = AmazonS3Builder::new();
    for (key, value) in keys::<AmazonS3ConfigKey>(env, "AWS_") {
        builder = builder.with_config(key, value);
    }
    builder = builder
        .with_client_options(client(bucket))
        .with_retry(once())
        .with_bucket_name(&bucket.bucket)
        .with_virtual_hosted_style_request(false);
    if let Some(endpoint) = endpoint(bucket) {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &bucket.region {
        builder = builder.with_region(region);
    }
    let mut found =
        env.var("AWS_ACCESS_KEY_ID").is_some() || env.var("AWS_WEB_IDENTITY_TOKEN_FILE").is_some();
    if let Some(file) = &given.file {
        for (key, value) in settings(
            file,
            &env.var("AWS_PROFILE").unwrap_or_else(|| "default".into()),
        )? {
            builder = builder.with_config(key.parse::<AmazonS3ConfigKey>()?, value);
        }
        found = true;
    }
    if let (Some(user), Some(password)) = (&given.user, &given.password) {
        builder = builder
            .with_access_key_id(user)
            .with_secret_access_key(password);
        found = true;
    }
    let builder = builder.with_skip_signature(bucket.anonymous);
    Ok((
        Arc::new(builder.build()?),
        hint(found || bucket.anonymous, NO_S3),
    ))
}

fn az(
    given: &UrlCredentials,
    bucket: &BucketUrl,
    trust: UrlTrust,
    env: &Environment,
) -> Result<Connected, BoxError> {
    // A shared key only signs, a SAS or bearer token can be used by whoever receives it.
    let tokens_stay = trust == UrlTrust::Flist && bucket.endpoint.is_some();
    let mut builder = MicrosoftAzureBuilder::new();
    if !tokens_stay {
        for (key, value) in keys::<AzureConfigKey>(env, "AZURE_") {
            builder = builder.with_config(key, value);
        }
    }
    builder = builder
        .with_client_options(client(bucket))
        .with_retry(once())
        .with_container_name(&bucket.bucket);
    let mut found = !env.starting_with("AZURE_").is_empty() && !tokens_stay;
    if tokens_stay
        && let (Some(account), Some(key)) = (
            env.var("AZURE_STORAGE_ACCOUNT_NAME"),
            env.var("AZURE_STORAGE_ACCOUNT_KEY"),
        )
    {
        builder = builder.with_account(account).with_access_key(key);
        found = true;
    }
    if let Some(endpoint) = endpoint(bucket) {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(file) = &given.file {
        for (key, value) in settings(file, "default")? {
            builder = builder.with_config(key.parse::<AzureConfigKey>()?, value);
        }
        found = true;
    }
    if let Some(user) = &given.user {
        builder = builder.with_account(user);
    }
    if let Some(account) = &bucket.account {
        builder = builder.with_account(account);
    }
    if let Some(password) = &given.password {
        builder = builder.with_access_key(password);
        found = true;
    }
    let builder = builder.with_skip_signature(bucket.anonymous);
    Ok((
        Arc::new(builder.build()?),
        hint(found || bucket.anonymous, NO_AZ),
    ))
}

fn gs(
    given: &UrlCredentials,
    bucket: &BucketUrl,
    env: &Environment,
) -> Result<Connected, BoxError> {
    // Requests to Google carry a bearer token: one from the environment never goes to another server.
    let elsewhere = bucket.endpoint.is_some();
    let mut builder = GoogleCloudStorageBuilder::new();
    if !elsewhere {
        for (key, value) in keys::<GoogleConfigKey>(env, "GOOGLE_") {
            builder = builder.with_config(key, value);
        }
    }
    builder = builder
        .with_client_options(client(bucket))
        .with_retry(once())
        .with_bucket_name(&bucket.bucket);
    if let Some(endpoint) = endpoint(bucket) {
        builder = builder.with_base_url(&endpoint);
    }
    let mut found = !elsewhere && !env.starting_with("GOOGLE_").is_empty();
    if let Some(file) = &given.file {
        let text = std::fs::read_to_string(file).map_err(|e| unreadable(file, &e))?;
        builder = builder.with_service_account_key(text);
        found = true;
    }
    let anonymous = bucket.anonymous || (elsewhere && !found);
    if anonymous {
        // Deletes ask for a token whatever is set, and would wait for a metadata service that is not there.
        let nobody = GcpCredential {
            bearer: "anonymous".into(),
        };
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
    }
    let builder = builder.with_skip_signature(anonymous);
    Ok((Arc::new(builder.build()?), hint(found || anonymous, NO_GS)))
}

/// Settings of the environment under their clients' names; variables that are none are left out.
fn keys<K: FromStr>(env: &Environment, prefix: &str) -> Vec<(K, String)> {
    let named = env.starting_with(prefix).into_iter();
    named
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)))
        .collect()
}

fn hint(found: bool, text: &'static str) -> Option<&'static str> {
    if found { None } else { Some(text) }
}

fn unreadable(file: &Path, error: &std::io::Error) -> BoxError {
    format!("credentials file {}: {error}", file.display()).into()
}

/// `key = value` lines of a section, as in `~/.aws/credentials`; lines before any section count for all.
fn settings(file: &Path, section: &str) -> Result<Vec<(String, String)>, BoxError> {
    let text = std::fs::read_to_string(file).map_err(|e| unreadable(file, &e))?;
    let found = parse_settings(&text, section);
    if found.is_empty() {
        return Err(format!(
            "credentials file {}: nothing in section [{section}]",
            file.display()
        )
        .into());
    }
    Ok(found)
}

fn parse_settings(text: &str, section: &str) -> Vec<(String, String)> {
    let mut inside = true;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            inside = name.trim() == section;
        } else if let (true, false, Some((key, value))) =
            (inside, line.starts_with(['#', ';']), line.split_once('='))
        {
            found.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_section_asked_for_is_read() {
        let text = "# note\n[default]\naws_access_key_id = A\n[other]\nAWS_ACCESS_KEY_ID=B\naws_secret_access_key = x=y\n";
        assert_eq!(
            parse_settings(text, "default"),
            [("aws_access_key_id".into(), "A".into())]
        );
        let other = parse_settings(text, "other");
        assert_eq!(other[1], ("aws_secret_access_key".into(), "x=y".into()));
        assert_eq!(parse_settings(text, "none"), []);
    }

    #[test]
    fn a_flist_cannot_make_us_open_a_credentials_file() {
        let given = UrlCredentials {
            file: Some("/etc/passwd".into()),
            ..UrlCredentials::default()
        };
        let url: crate::StoreUrl = "s3://bucket".parse().unwrap();
        let crate::url::Place::Bucket(bucket) = url.place() else {
            panic!("{url}")
        };
        let options = StoreOptions {
            url_trust: UrlTrust::Flist,
            ..StoreOptions::default()
        };
        let error = connect(&given, bucket, &options).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("may not name a credentials file"),
            "{error}"
        );
    }

    #[test]
    fn settings_come_from_the_environment_given_not_from_the_process() {
        let vars = [
            ("AWS_REGION", "here-1"),
            ("AWS_NONSENSE", "x"),
            ("OTHER", "y"),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env = Environment::from(std::collections::BTreeMap::from(vars));
        let found = keys::<AmazonS3ConfigKey>(&env, "AWS_");
        assert_eq!(found, [(AmazonS3ConfigKey::Region, "here-1".to_owned())]);
    }
}
