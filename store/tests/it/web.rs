//! A small web server whose every answer a test decides, and the one call that Azure's client lacks.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// A connection that says nothing for this long is dropped: tests must end.
const IDLE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: HashMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// First and last byte of `Range: bytes=a-b`.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

pub(crate) enum Body {
    /// With its Content-Length.
    Whole(Vec<u8>),
    /// Claims a length, sends this, closes.
    Claimed(usize, Vec<u8>),
    /// Chunked, without end.
    Endless,
    /// Claims a length, sends nothing, stays.
    Hang,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Whole(body.into()),
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// What a good server says to a GET, with or without a range.
    pub(crate) fn good(request: &Request, object: &[u8]) -> Self {
        match request.range() {
            Some((first, last)) if first <= last && last < object.len() => {
                Self::new(206, &object[first..=last]).header(
                    "Content-Range",
                    format!("bytes {first}-{last}/{}", object.len()),
                )
            }
            Some(_) => Self::new(416, ""),
            None => Self::new(200, object),
        }
    }
}

/// Serves until dropped; remembers every request.
pub(crate) struct Web {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, stop) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let (also_seen, also_stop, answer) =
            (Arc::clone(&seen), Arc::clone(&stop), Arc::new(answer));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if also_stop.load(Ordering::Relaxed) {
                    break;
                }
                let (seen, stop, answer) = (
                    Arc::clone(&also_seen),
                    Arc::clone(&also_stop),
                    Arc::clone(&answer),
                );
                std::thread::spawn(move || {
                    // The client may leave at any time: that is no failure of the server.
                    let _ = stream.and_then(|stream| serve(stream, &seen, &stop, answer.as_ref()));
                });
            }
        });
        Self {
            port,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // wakes accept
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    stop: &AtomicBool,
    answer: &dyn Fn(&Request) -> Reply,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (
        words.next().unwrap_or_default().to_owned(),
        words.next().unwrap_or_default().to_owned(),
    );
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned())
            }
            None => break,
        };
    }
    let request = Request {
        method,
        target,
        headers,
    };
    seen.lock().unwrap().push(request.clone());
    send(stream, &request, answer(&request), stop)
}

fn send(
    mut stream: TcpStream,
    request: &Request,
    reply: Reply,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let no_body = request.method == "HEAD";
    match reply.body {
        Body::Whole(body) => {
            write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len())?;
            stream.write_all(if no_body { &[] } else { &body })
        }
        Body::Claimed(len, body) => {
            write!(stream, "{head}Content-Length: {len}\r\n\r\n")?;
            stream.write_all(&body)
        }
        Body::Hang => {
            write!(stream, "{head}Content-Length: 100000\r\n\r\n")?;
            let until = std::time::Instant::now() + IDLE;
            while !stop.load(Ordering::Relaxed) && std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
        Body::Endless => {
            write!(stream, "{head}Transfer-Encoding: chunked\r\n\r\n")?;
            let chunk = [b"10000\r\n".as_slice(), &vec![0; 0x10000], b"\r\n"].concat();
            while !stop.load(Ordering::Relaxed) {
                stream.write_all(&chunk)?; // ends when the client hangs up
            }
            Ok(())
        }
    }
}

/// Creates a container: signed as the "Authorize with Shared Key" page of Azure's REST reference says.
pub(crate) fn azure_container(port: u16, account: &str, key: &str, container: &str) {
    let date = std::process::Command::new("date")
        .env("LC_ALL", "C")
        .args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"])
        .output()
        .unwrap();
    let date = String::from_utf8(date.stdout).unwrap().trim().to_owned();
    let text = format!(
        "PUT{}x-ms-date:{date}\nx-ms-version:2021-10-04\n/{account}/{account}/{container}\nrestype:container",
        "\n".repeat(12)
    );
    let signature = STANDARD.encode(hmac_sha256(&STANDARD.decode(key).unwrap(), text.as_bytes()));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(IDLE)).unwrap();
    write!(
        stream,
        "PUT /{account}/{container}?restype=container HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Content-Length: 0\r\nx-ms-date: {date}\r\nx-ms-version: 2021-10-04\r\n\
         Authorization: SharedKey {account}:{signature}\r\n\r\n"
    )
    .unwrap();
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status).unwrap();
    assert!(status.contains(" 201 "), "create container: {status}");
}

/// RFC 2104.
fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|b| b ^ with);
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(text)
        .finalize();
    Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize()
        .to_vec()
}
