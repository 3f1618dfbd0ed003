//! Answers of probes over HTTP: `/healthz`, this process answers on its CSI socket; `/readyz`, and volumes
//! can be mounted. Reads one line of a request and no more.

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use lamina_proto::csi::v1::{ProbeRequest, identity_client::IdentityClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    time::timeout,
};
use tonic::transport::Endpoint;

/// Longest time for one probe.
const PROBE: Duration = Duration::from_secs(5);
const REQUEST_MAX: usize = 4096;

/// Answers probes for the driver behind `socket`, for ever.
pub async fn serve(listener: TcpListener, socket: PathBuf) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let socket = socket.clone();
                tokio::spawn(async move { timeout(PROBE * 2, answer(stream, socket)).await });
            }
            Err(error) => {
                tracing::warn!(%error, "a probe could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, socket: PathBuf) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0; 512];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < REQUEST_MAX {
        match stream.read(&mut byte).await? {
            0 => break,
            n => request.extend_from_slice(&byte[..n]),
        }
    }
    let line = String::from_utf8_lossy(&request);
    let path = line.split_whitespace().nth(1).unwrap_or_default();
    let (status, text) = match path.split('?').next().unwrap_or_default() {
        "/healthz" => verdict(probe(socket).await.map(drop)),
        "/readyz" => verdict(probe(socket).await.and_then(|ready| match ready {
            true => Ok(()),
            false => Err("Lamina's node server does not answer yet".into()),
        })),
        _ => ("404 Not Found", "there are /healthz and /readyz".into()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn verdict(result: Result<(), String>) -> (&'static str, String) {
    match result {
        Ok(()) => ("200 OK", "ok\n".into()),
        Err(why) => ("503 Service Unavailable", format!("{why}\n")),
    }
}

/// Whether the driver answers on its socket, and whether it says that it is ready.
async fn probe(socket: PathBuf) -> Result<bool, String> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let call = async {
        let endpoint = Endpoint::from_static("http://lamina-csi");
        let channel = endpoint.connect_with_connector(connector).await;
        let mut identity = IdentityClient::new(channel.map_err(|error| error.to_string())?);
        let probe = identity.probe(ProbeRequest {}).await;
        let probe = probe.map_err(|status| status.message().to_owned())?;
        Ok(probe.into_inner().ready.unwrap_or(true))
    };
    match timeout(PROBE, call).await {
        Ok(result) => result.map_err(|why: String| format!("the driver does not answer: {why}")),
        Err(_) => Err("the driver does not answer in time".into()),
    }
}
