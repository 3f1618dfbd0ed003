//! A registry and web server in this process: what it serves can be changed, and it counts.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use lamina_image::manifest::sha256;
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[derive(Default)]
pub(crate) struct Content {
    /// Tag -> manifest.
    tags: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Whoever does not send this is refused.
    pub(crate) authorization: Option<String>,
    /// Layers are begun and not finished while this holds.
    pub(crate) stalled: bool,
    /// Of a layer, what is sent before; 0: some.
    pub(crate) stall_at: usize,
    /// Layers are not what they are called.
    pub(crate) wrong: bool,
    /// Answers requests for blobs, by their path, where it has something to say.
    #[allow(dead_code)] // not every test that has this file has use for it
    pub(crate) instead: Option<Instead>,
    log: Vec<String>,
}

pub(crate) type Instead = Box<dyn FnMut(&str) -> Option<Reply> + Send>;

/// An answer as it is sent: status and headers, and bytes, which may never end.
#[allow(dead_code)]
pub(crate) struct Reply {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) is_endless: bool,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) content: Arc<Mutex<Content>>,
    listener: TcpListener,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_at(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// At a listener that may be in another network.
    pub(crate) fn start_at(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let content = Arc::new(Mutex::new(Content::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (Arc::clone(&content), Arc::clone(&stop));
        let accepting = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            for stream in accepting.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else {
                    continue;
                };
                // A client that goes away is the client's business.
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self {
            address,
            content,
            listener,
            stop,
            thread: Some(thread),
        }
    }

    /// Pushes an image of these layers (plain tars) as `a/b:tag`; gives its manifest's digest.
    pub(crate) fn push(&self, tag: &str, layers: &[Vec<u8>]) -> String {
        self.push_saying(tag, layers, &json!({}))
    }

    /// The same, of an image that says this about its command.
    pub(crate) fn push_saying(&self, tag: &str, layers: &[Vec<u8>], said: &Value) -> String {
        let diff_ids: Vec<String> = layers.iter().map(|l| sha256(l).to_string()).collect();
        let config = json!({
            "os": "linux", "architecture": lamina_image::Platform::host().arch,
            "rootfs": { "type": "layers", "diff_ids": diff_ids }, "config": said,
        });
        let config = config.to_string().into_bytes();
        let layer = |bytes: &Vec<u8>| {
            json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": sha256(bytes).to_string(), "size": bytes.len() })
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
                        "digest": sha256(&config).to_string(), "size": config.len() },
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = sha256(&manifest).to_string();
        let mut content = self.content.lock().unwrap();
        for blob in layers.iter().chain([&config]) {
            content.blobs.insert(sha256(blob).to_string(), blob.clone());
        }
        content.manifests.insert(digest.clone(), manifest.clone());
        content.tags.insert(tag.to_owned(), manifest);
        digest
    }

    /// Pushes an index that names a manifest for this platform, whether that is here or not, as `a/b:tag`.
    #[allow(dead_code)]
    pub(crate) fn push_index(&self, tag: &str, manifest: &str) {
        let platform =
            json!({ "os": "linux", "architecture": lamina_image::Platform::host().arch });
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{ "mediaType": MANIFEST, "digest": manifest, "size": 1, "platform": platform }],
        });
        let index = index.to_string().into_bytes();
        let mut content = self.content.lock().unwrap();
        let digest = sha256(&index).to_string();
        content.manifests.insert(digest, index.clone());
        content.tags.insert(tag.to_owned(), index);
    }

    pub(crate) fn image(&self, selector: &str) -> String {
        format!("{}/a/b{selector}", self.address)
    }

    /// Requests so far that begin with this, as in `GET /v2/a/b/blobs/`.
    pub(crate) fn count(&self, start: &str) -> usize {
        let content = self.content.lock().unwrap();
        content
            .log
            .iter()
            .filter(|line| line.starts_with(start))
            .count()
    }
}

impl Server {
    /// Requests so far that came with credentials.
    #[allow(dead_code)]
    pub(crate) fn authorized(&self) -> usize {
        let content = self.content.lock().unwrap();
        let with = |line: &&String| line.ends_with(" authorized");
        content.log.iter().filter(with).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: &TcpStream, content: &Mutex<Content>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let mut authorization = None;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                authorization = Some(value.to_owned());
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut served = content.lock().unwrap();
    let as_whom = match authorization {
        Some(_) => " authorized",
        None => "",
    };
    served.log.push(format!("{method} {path}{as_whom}"));
    let refused = served.authorization.is_some() && served.authorization != authorization;
    let mut out = stream;
    if refused && path.starts_with("/v2/") {
        let challenge = "WWW-Authenticate: Basic realm=\"t\"\r\n";
        return write!(
            out,
            "HTTP/1.1 401 X\r\n{challenge}Connection: close\r\nContent-Length: 0\r\n\r\n"
        );
    }
    if path.contains("/blobs/")
        && let Some(instead) = &mut served.instead
        && let Some(reply) = instead(path)
    {
        drop(served);
        return send(out, &reply);
    }
    let selector = path.rsplit('/').next().unwrap_or("");
    let body = match path {
        _ if path.contains("/manifests/") => {
            served.tags.get(selector).or(served.manifests.get(selector))
        }
        _ if path.contains("/blobs/") => served.blobs.get(selector),
        _ => served.files.get(path),
    };
    let Some(body) = body.cloned() else {
        return write!(
            out,
            "HTTP/1.1 404 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
    };
    // Configs are small here, layers are not.
    let is_layer = path.contains("/blobs/") && body.len() > 4096;
    let stalled = served.stalled && is_layer;
    let first = match served.stall_at {
        0 => 1024,
        at => at.min(body.len()),
    };
    let mut body = body;
    if served.wrong && is_layer {
        // In the middle of a file: still a tar.
        let middle = body.len() / 2;
        body[middle] ^= 1;
    }
    drop(served);
    let kind = match path.contains("/manifests/") {
        true => format!(
            "Content-Type: {}\r\nDocker-Content-Digest: {}\r\n",
            media_type(&body),
            sha256(&body)
        ),
        false => String::new(),
    };
    write!(
        out,
        "HTTP/1.1 200 X\r\n{kind}Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )?;
    if method == "HEAD" {
        return Ok(());
    }
    if stalled {
        out.write_all(&body[..first])?;
        while content.lock().unwrap().stalled {
            std::thread::sleep(Duration::from_millis(5));
        }
        return out.write_all(&body[first..]);
    }
    out.write_all(&body)
}

/// What a manifest or an index calls itself.
fn media_type(document: &[u8]) -> String {
    let document: Value = serde_json::from_slice(document).unwrap();
    document["mediaType"].as_str().unwrap().to_owned()
}

/// Until the other side has enough.
fn send(mut out: &TcpStream, reply: &Reply) -> std::io::Result<()> {
    write!(out, "HTTP/1.1 {}\r\nConnection: close\r\n\r\n", reply.head)?;
    out.write_all(&reply.body)?;
    if !reply.is_endless {
        return Ok(());
    }
    loop {
        out.write_all(&[0; 4096])?;
    }
}

/// A plain tar of one file.
pub(crate) fn tar(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut out = header.to_vec();
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512) + 1024, 0);
    out
}

/// Bytes that do not compress and differ by `seed`.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}
