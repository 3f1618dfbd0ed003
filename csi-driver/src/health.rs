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
use tonic::{Request, transport::Endpoint};

/// Longest time for one probe.
const PROBE: Duration = Duration::from_secs(5);
/// Of that, the time the driver may ask its node server: one that hangs makes it unready, not dead.
const ASKING: Duration = Duration::from_secs(3);
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
        let mut request = Request::new(ProbeRequest {});
        request.set_timeout(ASKING);
        let probe = identity.probe(request).await;
        let probe = probe.map_err(|status| status.message().to_owned())?;
        Ok(probe.into_inner().ready.unwrap_or(true))
    };
    match timeout(PROBE, call).await {
        Ok(result) => result.map_err(|why: String| format!("the driver does not answer: {why}")),
        Err(_) => Err("the driver does not answer in time".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, net::SocketAddr};

    use tokio::net::UnixListener;

    use super::*;
    use crate::{
        agent::Agent,
        identity::Identity,
        server::{self, Services},
    };

    /// The first line of an answer.
    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: lamina\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_node_server_that_hangs_makes_the_driver_unready_not_dead() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // Connections are made, and never answered.
        let _hangs = UnixListener::bind(at("node.sock")).unwrap();
        let identity = Identity {
            controller: false,
            agent: Some(Agent::new(at("node.sock"))),
        };
        let services = Services {
            identity,
            node: None,
            controller: None,
        };
        let socket = at("csi.sock");
        tokio::spawn(async move { server::serve(&socket, services, pending()).await });
        let there = async {
            while UnixStream::connect(at("csi.sock")).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), there).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, at("csi.sock")));
        let (alive, ready) = tokio::join!(get(address, "/healthz"), get(address, "/readyz"));
        assert_eq!(alive, "HTTP/1.1 200 OK");
        assert_eq!(ready, "HTTP/1.1 503 Service Unavailable");
    }
}
