//! One image at its registry, through crate `image`.

use lamina_image::limits::Limits;
use lamina_image::manifest::{ImageConfig, ManifestError};
use lamina_image::registry::{CredentialSource, RegistryError, RegistryOptions};
use lamina_image::source::SourceError;
use lamina_image::{Source, SourceImage};
use lamina_proto::discovery::v1::{ImageLayer, ImageRuntimeConfig, ResolveImageResponse};
use tokio::runtime::Handle;
use tonic::Code;

use super::ResolveError;
use crate::image_key::NamedImage;

/// Tries of one request: somebody waits, and asks again anyway.
const ATTEMPTS: u32 = 4;

/// Who is asked what an image is.
#[async_trait::async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Asks now.
    ///
    /// # Errors
    /// When the image cannot be had.
    async fn ask(&self, image: &NamedImage) -> Result<ResolveImageResponse, ResolveError>;
}

/// The image's registry.
#[derive(Debug, Clone)]
pub struct RegistryUpstream {
    /// Who discovery is to registries.
    pub credentials: CredentialSource,
    /// Registries spoken to in plain http; of this machine only those named here are asked at all.
    pub insecure: Vec<String>,
    /// Bounds on what a registry answers.
    pub limits: Limits,
}

#[async_trait::async_trait]
impl Upstream for RegistryUpstream {
    async fn ask(&self, image: &NamedImage) -> Result<ResolveImageResponse, ResolveError> {
        let reference = &image.reference;
        let host = reference.registry();
        let is_named = self.insecure.iter().any(|named| named == host);
        if reference.is_loopback() && !is_named {
            // Of the caller's machine it would be another registry, and ours is nobody's to reach into.
            let why = format!(
                "{host} is the machine of discovery here: name the registry by an address that all nodes share"
            );
            return Err(ResolveError::new(Code::InvalidArgument, why));
        }
        let options = RegistryOptions {
            credentials: self.credentials.clone(),
            insecure: is_named,
            attempts: ATTEMPTS,
            ..RegistryOptions::default()
        };
        let (source, platform) = (Source::Registry(reference.clone()), image.platform.clone());
        let (limits, runtime) = (self.limits.clone(), Handle::current());
        // Parsing what a registry sends is not for the threads that answer calls.
        let found = tokio::task::spawn_blocking(move || {
            runtime.block_on(source.open(Some(&platform), &options, &limits))
        });
        match found.await {
            Ok(Ok(found)) => Ok(told(image, found)),
            Ok(Err(error)) => Err(failed(image, &error)),
            Err(_) => Err(ResolveError::new(
                Code::Internal,
                "a request was cut off; see the log",
            )),
        }
    }
}

fn told(image: &NamedImage, found: SourceImage) -> ResolveImageResponse {
    let layers = found.layers.into_iter().map(|layer| ImageLayer {
        digest: layer
            .digest
            .map(|digest| digest.to_string())
            .unwrap_or_default(),
        media_type: layer.media_type.unwrap_or_default(),
        compressed_size: i64::try_from(layer.size).unwrap_or(i64::MAX),
    });
    let manifest = found.manifest_digest.map(|digest| digest.to_string());
    ResolveImageResponse {
        image_key: image.key().to_string(),
        resolved_registry: image.reference.registry().to_owned(),
        resolved_repository: image.reference.repository().to_owned(),
        resolved_reference: manifest.unwrap_or_default(),
        layers: layers.collect(),
        runtime_config: Some(runtime_config(&found.config)),
    }
}

fn runtime_config(config: &ImageConfig) -> ImageRuntimeConfig {
    let field = |name: &str| {
        config
            .json
            .get("config")
            .and_then(|config| config.get(name))
    };
    let text = |name: &str| {
        let text = field(name).and_then(|value| value.as_str());
        text.unwrap_or_default().to_owned()
    };
    let list = |name: &str| -> Vec<String> {
        let list = field(name).and_then(|value| value.as_array());
        let items = list.into_iter().flatten();
        items
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    ImageRuntimeConfig {
        entrypoint: list("Entrypoint"),
        cmd: list("Cmd"),
        env: list("Env"),
        working_dir: text("WorkingDir"),
        user: text("User"),
    }
}

fn failed(image: &NamedImage, error: &SourceError) -> ResolveError {
    let mut text = format!(
        "ask the registry for {} ({})",
        image.reference, image.platform
    );
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    ResolveError::new(code(error), text)
}

fn code(error: &SourceError) -> Code {
    match error {
        SourceError::Registry(error) => of_registry(error),
        SourceError::Manifest(error) => of_manifest(error),
        SourceError::Layout(_) | SourceError::Archive(_) | SourceError::NestedIndex => {
            Code::FailedPrecondition
        }
    }
}

fn of_registry(error: &RegistryError) -> Code {
    match error {
        RegistryError::NotFound { .. } => Code::NotFound,
        RegistryError::Denied { .. } | RegistryError::Redirect { .. } => Code::PermissionDenied,
        RegistryError::TooLong { .. } => Code::ResourceExhausted,
        RegistryError::Credentials(_) => Code::FailedPrecondition,
        RegistryError::Manifest(error) => of_manifest(error),
        RegistryError::RateLimited { .. }
        | RegistryError::NotBefore { .. }
        | RegistryError::Status { .. }
        | RegistryError::Transport { .. }
        | RegistryError::Short { .. }
        | RegistryError::Protocol { .. } => Code::Unavailable,
    }
}

fn of_manifest(error: &ManifestError) -> Code {
    match error {
        ManifestError::WrongDigest { .. } | ManifestError::WrongSize { .. } => Code::DataLoss,
        ManifestError::NoPlatform { .. } | ManifestError::WrongPlatform { .. } => Code::NotFound,
        _ => Code::FailedPrecondition,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_flist::Sha256Digest;

    #[test]
    fn every_failure_has_the_code_that_the_contract_names() {
        let url = || String::from("http://q.io/v2/x");
        let digest = Sha256Digest::from_bytes([1; 32]);
        let registry = [
            (RegistryError::NotFound { url: url() }, Code::NotFound),
            (
                RegistryError::Denied {
                    url: url(),
                    status: 401,
                },
                Code::PermissionDenied,
            ),
            (
                RegistryError::Status {
                    url: url(),
                    status: 500,
                },
                Code::Unavailable,
            ),
            (
                RegistryError::Redirect {
                    url: url(),
                    why: "",
                },
                Code::PermissionDenied,
            ),
            (
                RegistryError::Manifest(ManifestError::WrongDigest {
                    what: "manifest",
                    want: digest,
                    got: digest,
                }),
                Code::DataLoss,
            ),
        ];
        for (error, want) in registry {
            assert_eq!(code(&SourceError::Registry(error)), want);
        }
        assert_eq!(code(&SourceError::NestedIndex), Code::FailedPrecondition);
    }
}
