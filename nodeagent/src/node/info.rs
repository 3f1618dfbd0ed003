//! What this node is and can do.

use lamina_image::Platform;
use lamina_mount::probe::{self, ModeRequest};
use lamina_proto::lamina::v1::GetInfoResponse;
use tokio::sync::OnceCell;

use super::Parts;
use super::daemons::blocking;
use super::error::NodeError;

/// What the kernel does does not change while it runs.
#[derive(Debug, Clone)]
struct Kernel {
    release: String,
    /// How flists are mounted, or why they cannot be.
    mode: Result<String, String>,
    warnings: Vec<String>,
}

static KERNEL: OnceCell<Kernel> = OnceCell::const_new();

/// Answers with what is known now.
pub(super) async fn get(parts: &Parts) -> Result<GetInfoResponse, NodeError> {
    let kernel = kernel(parts).await?.clone();
    let mut warnings = kernel.warnings;
    let mount_mode = kernel.mode.unwrap_or_else(|why| {
        warnings.push(why);
        String::new()
    });
    warnings.extend(parts.daemons.warnings_now());
    let listed = blocking(&parts.daemons, super::daemons::Daemons::glance).await;
    let cache = match listed {
        Ok((_, cache)) => cache,
        Err(error) => {
            warnings.push(format!("the agent does not answer: {error}"));
            crate::api::CacheInfo::default()
        }
    };
    Ok(GetInfoResponse {
        version: parts.settings.version.clone(),
        node: parts.settings.node.clone(),
        mount_mode,
        kernel: kernel.release,
        platform: Platform::host().to_string(),
        cache_bytes: cache.bytes,
        cache_bytes_max: cache.bytes_max,
        volumes: parts.volumes.all().len() as u32,
        warnings,
    })
}

/// Whether a flist can be mounted here, by the kernel's own account.
///
/// # Errors
///
/// Why not.
pub(super) async fn self_test(parts: &Parts) -> Result<(), String> {
    let kernel = kernel(parts).await.map_err(|error| error.to_string())?;
    kernel.mode.as_ref().map(drop).map_err(String::clone)
}

async fn kernel(parts: &Parts) -> Result<&'static Kernel, NodeError> {
    KERNEL.get_or_try_init(|| probe_kernel(parts)).await
}

async fn probe_kernel(parts: &Parts) -> Result<Kernel, NodeError> {
    let scratch = parts.settings.state.clone();
    let probed = tokio::task::spawn_blocking(move || probe::probe(&scratch));
    let features = probed
        .await
        .map_err(|error| NodeError::internal("probe the kernel", &error))?
        .map_err(|error| NodeError::disk("probe the kernel", &error))?;
    let mut warnings = Vec::new();
    let mode = probe::choose_mode(ModeRequest::Auto, &features)
        .map(|mode| mode.to_string())
        .map_err(|error| format!("flists cannot be mounted: {error}"));
    if !features.fuse_resend.found {
        let means = &features.fuse_resend.means;
        warnings.push(format!("a killed mount daemon is noticed: {means}"));
    }
    Ok(Kernel {
        release: features.kernel,
        mode,
        warnings,
    })
}
