//! Before fake-gcs-server: turns the XML API's plain upload, which that server does not know, into the
//! signed one, which it does, and adds the `ETag` that the real service answers an upload with. Everything
//! else passes as it is.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Forwards to a server until dropped.
pub(crate) struct GcsFront {
    pub(crate) port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GcsFront {
    pub(crate) fn start(behind: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let also_stop = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if also_stop.load(Ordering::Relaxed) {
                    break;
                }
                // Either end may leave at any time.
                std::thread::spawn(move || stream.and_then(|stream| forward(stream, behind)));
            }
        });
        Self {
            port,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for GcsFront {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One request: its head rewritten, its body and the answer copied.
fn forward(client: TcpStream, behind: u16) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", behind))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    reader.read_line(&mut head)?;
    let uploads = head.starts_with("PUT ");
    if uploads {
        head = head.replace(" HTTP/1.1", "?X-Goog-Algorithm=GOOG4-RSA-SHA256 HTTP/1.1");
    }
    let _ = write!(head, "Host: 127.0.0.1:{behind}\r\nConnection: close\r\n");
    let mut body = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let lower = line.to_ascii_lowercase();
        if let Some(len) = lower.strip_prefix("content-length:") {
            body = len.trim().parse().unwrap_or(0);
        }
        if !lower.starts_with("host:") && !lower.starts_with("connection:") {
            head += &line;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    server.write_all(head.as_bytes())?;
    std::io::copy(&mut reader.take(body), &mut server)?;
    let (mut client, mut answer) = (client, BufReader::new(server));
    let mut status = String::new();
    answer.read_line(&mut status)?;
    client.write_all(status.as_bytes())?;
    if uploads {
        client.write_all(b"ETag: \"uploaded\"\r\n")?;
    }
    std::io::copy(&mut answer, &mut client)?;
    client.shutdown(Shutdown::Both)
}
