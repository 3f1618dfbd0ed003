//! A page of a pod's HTTP port, through the API server. Bounded in bytes and time.

use super::cluster::in_time;
use super::fault::Fault;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::Portforwarder;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// Until a page is here.
const ANSWER: Duration = Duration::from_secs(15);
/// Most bytes of a page.
const BYTES_MAX: u64 = 4 << 20;

/// The metrics that a pod serves at this port.
pub(crate) async fn metrics(pods: &Api<Pod>, pod: &str, port: u16) -> Result<String, Fault> {
    let (_forward, mut stream) = forward(pods, pod, port).await?;
    let exchange = async {
        stream
            .write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .await?;
        let mut bytes = Vec::new();
        stream.take(BYTES_MAX).read_to_end(&mut bytes).await?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let failed = |why: &str| Fault::unavailable(format!("pod {pod}: no metrics: {why}"));
    let page = tokio::time::timeout(ANSWER, exchange)
        .await
        .map_err(|_| failed("no answer in time"))?
        .map_err(|error| failed(&error.to_string()))?;
    page.split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .ok_or_else(|| failed("the answer is no page"))
}

/// A connection to a pod's port.
pub(crate) async fn forward(
    pods: &Api<Pod>,
    pod: &str,
    port: u16,
) -> Result<(Portforwarder, DuplexStream), Fault> {
    let what = format!("pods/portforward of {pod}");
    let ports = [port];
    let mut forward = in_time("get and create", &what, pods.portforward(pod, &ports)).await?;
    let stream = forward
        .take_stream(port)
        .ok_or_else(|| Fault::unavailable(format!("pod {pod}: no port was forwarded")))?;
    Ok((forward, stream))
}

/// The value of a metric without labels.
pub(crate) fn value(page: &str, metric: &str) -> Option<u64> {
    let mut lines = page.lines();
    let text = lines.find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '))?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_the_whole_name() {
        let page = "# TYPE a gauge\na_b 7\na{x=\"1\"} 9\na 3\n";
        assert_eq!(value(page, "a"), Some(3));
        assert_eq!(value(page, "c"), None);
    }
}
