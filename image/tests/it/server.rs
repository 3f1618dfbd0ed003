//! A tiny HTTP server that can misbehave, and a registry on it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use lamina_image::manifest::sha256;

use crate::images::TestImage;

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    Whole(Vec<u8>),
    /// Announces more than it sends.
    Cut(Vec<u8>, usize),
    /// Never ends, announces nothing.
    Endless,
    /// A byte now and then, as long as the client takes them; announces nothing.
    Trickle,
    /// Nothing comes until the client gives up.
    Silence,
}

impl Response {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: Body::Whole(body.into()),
        }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::ok("")
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Response + Send + Sync;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (log, stop) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let handler: Arc<Handler> = Arc::new(handler);
        let (seen, ended) = (Arc::clone(&log), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (handler, seen, ended) =
                    (Arc::clone(&handler), Arc::clone(&seen), Arc::clone(&ended));
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || {
                    // A client that goes away is the client's business.
                    let _ = serve(&stream, &*handler, &seen, &ended);
                });
            }
        });
        Self {
            address,
            log,
            stop,
            thread: Some(thread),
        }
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    stream: &TcpStream,
    handler: &Handler,
    log: &Mutex<Vec<Request>>,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let len: usize = headers
        .get("content-length")
        .and_then(|l| l.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let request = Request {
        path,
        headers,
        body,
    };
    log.lock().unwrap().push(request.clone());
    let response = handler(&request);
    let mut out = stream;
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", response.status);
    for (name, value) in &response.headers {
        head.extend([name.as_str(), ": ", value.as_str(), "\r\n"]);
    }
    match response.body {
        Body::Whole(bytes) => {
            write!(out, "{head}Content-Length: {}\r\n\r\n", bytes.len())?;
            out.write_all(&bytes)
        }
        Body::Cut(bytes, announced) => {
            write!(out, "{head}Content-Length: {announced}\r\n\r\n")?;
            out.write_all(&bytes)
        }
        Body::Endless => {
            write!(out, "{head}\r\n")?;
            while !stop.load(Ordering::Relaxed) {
                out.write_all(&[b' '; 4096])?;
            }
            Ok(())
        }
        Body::Trickle => {
            write!(out, "{head}\r\n")?;
            while !stop.load(Ordering::Relaxed) {
                out.write_all(b" ")?;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        }
        Body::Silence => {
            out.set_read_timeout(Some(Duration::from_secs(10)))?;
            reader.read(&mut [0]).map(|_| ())
        }
    }
}

/// What a registry with one image answers; `name` is its repository.
pub(crate) fn registry(image: &TestImage, name: &str) -> impl Fn(&Request) -> Response + use<> {
    let documents = image.documents();
    let digest = sha256(&documents.manifest).to_string();
    let prefix = format!("/v2/{name}/");
    move |request| {
        let Some(rest) = request.path.strip_prefix(&prefix) else {
            return Response::status(404);
        };
        if let Some(selector) = rest.strip_prefix("manifests/") {
            if selector != "t" && selector != digest {
                return Response::status(404);
            }
            return Response::ok(documents.manifest.clone())
                .with("Content-Type", "application/vnd.oci.image.manifest.v1+json");
        }
        let blob = rest
            .strip_prefix("blobs/")
            .and_then(|d| documents.blobs.get(d));
        let Some(blob) = blob else {
            return Response::status(404);
        };
        let start = request.header("range").and_then(|r| {
            r.strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        match start {
            None => Response::ok(blob.clone()),
            Some(start) => Response {
                status: 206,
                ..Response::ok(&blob[start..])
            }
            .with(
                "Content-Range",
                format!("bytes {start}-{}/{}", blob.len() - 1, blob.len()),
            ),
        }
    }
}
