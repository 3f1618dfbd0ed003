//! Frames between the node's daemons over unix sockets.
//!
//! ```text
//! u32 LE  length of what follows
//! u8      version of the message set (VERSION)
//! ...     one message in postcard encoding
//! ```
//!
//! What always holds: a frame longer than [`FRAME_MAX`] or of another version
//! ends the connection; every read and write has a deadline; only processes of
//! the same user (or root) are talked to.

mod accepting;

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use accepting::{ACCEPT_PAUSE, Shortage};

/// Version of all message sets of this crate. Raised when any message changes:
/// postcard cannot tell old from new.
pub const VERSION: u8 = 2;
/// Longest frame: thousands of mount records fit, a hostile length does not.
pub const FRAME_MAX: usize = 4 * 1024 * 1024;

/// Talking to another daemon failed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Nobody listens there.
    #[error("connect to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What connect said.
        #[source]
        source: io::Error,
    },
    /// The socket could not be made.
    #[error("listen on {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection broke or its deadline passed.
    #[error("talk to a daemon of this node")]
    Io(#[from] io::Error),
    /// The other side ended the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// A frame is too long.
    #[error("frame of {0} bytes, at most {FRAME_MAX} are allowed")]
    TooLong(usize),
    /// Another version of the message set.
    #[error("the other side speaks message version {0}, this one {VERSION}")]
    Version(u8),
    /// Bytes that are no message.
    #[error("undecodable message")]
    Decode(#[source] postcard::Error),
    /// The process at the other end belongs to somebody else.
    #[error("the process at the other end runs as uid {0}")]
    Peer(u32),
}

/// One message as a frame.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let frame =
        postcard::to_extend(message, vec![0, 0, 0, 0, VERSION]).map_err(WireError::Decode)?;
    let length = frame.len() - 4;
    if length > FRAME_MAX {
        return Err(WireError::TooLong(length));
    }
    let mut frame = frame;
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Collects bytes as they arrive and gives back whole messages.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    taken: usize,
}

impl FrameBuffer {
    /// Adds bytes read from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// [`WireError::TooLong`], [`WireError::Version`], [`WireError::Decode`]:
    /// the connection is beyond repair.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let rest = &self.bytes[self.taken..];
        let Some(prefix) = rest.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > FRAME_MAX {
            return Err(WireError::TooLong(length));
        }
        let Some(body) = rest.get(4..4 + length) else {
            return Ok(None);
        };
        let message = decode_body(body)?;
        self.taken += 4 + length;
        Ok(Some(message))
    }
}

fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    match body.split_first() {
        Some((&VERSION, message)) => postcard::from_bytes(message).map_err(WireError::Decode),
        Some((version, _)) => Err(WireError::Version(*version)),
        None => Err(WireError::Decode(postcard::Error::DeserializeUnexpectedEnd)),
    }
}

/// Writes one message.
///
/// # Errors
/// See [`WireError`].
pub fn write_frame<T: Serialize>(mut stream: impl Write, message: &T) -> Result<(), WireError> {
    Ok(stream.write_all(&encode(message)?)?)
}

/// Reads one message.
///
/// # Errors
/// [`WireError::Closed`] at a clean end; see [`WireError`].
pub fn read_frame<T: DeserializeOwned>(mut stream: impl Read) -> Result<T, WireError> {
    let mut prefix = [0u8; 4];
    match stream.read(&mut prefix)? {
        0 => return Err(WireError::Closed),
        n => stream.read_exact(&mut prefix[n..])?,
    }
    let length = u32::from_le_bytes(prefix) as usize;
    if length > FRAME_MAX {
        return Err(WireError::TooLong(length));
    }
    let mut body = vec![0u8; length];
    stream.read_exact(&mut body)?;
    decode_body(&body)
}

/// Refuses a peer that is neither root nor the user we run as.
///
/// # Errors
/// [`WireError::Peer`].
pub fn check_peer(socket: impl AsFd) -> Result<(), WireError> {
    let peer = rustix::net::sockopt::socket_peercred(socket).map_err(io::Error::from)?;
    let (uid, own) = (peer.uid.as_raw(), rustix::process::geteuid().as_raw());
    if uid == own || uid == 0 {
        Ok(())
    } else {
        Err(WireError::Peer(uid))
    }
}

/// Listens at `path`, in place of a socket left by a process that is gone.
///
/// # Errors
/// [`WireError::Listen`].
pub fn listen(path: &Path) -> Result<UnixListener, WireError> {
    let failed = |source| WireError::Listen {
        path: path.to_owned(),
        source,
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    UnixListener::bind(path).map_err(failed)
}

/// A connection on which requests are answered one after another.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects; every later call is answered within `deadline`, or fails.
    ///
    /// # Errors
    /// [`WireError::Connect`], [`WireError::Peer`].
    pub fn connect(path: &Path, deadline: Duration) -> Result<Self, WireError> {
        let failed = |source| WireError::Connect {
            path: path.to_owned(),
            source,
        };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(deadline)).map_err(failed)?;
        stream.set_write_timeout(Some(deadline)).map_err(failed)?;
        check_peer(&stream)?;
        Ok(Self { stream })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// See [`WireError`]; the connection cannot be used afterwards.
    pub fn call<Q: Serialize, A: DeserializeOwned>(&mut self, request: &Q) -> Result<A, WireError> {
        write_frame(&self.stream, request)?;
        read_frame(&self.stream)
    }
}

/// Most connections served at once; more are closed at once.
const CONNECTIONS_MAX: usize = 64;
/// A peer that does not take its answer for this long is dropped.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// So is one that has not sent a whole request this long after the last one: each holds a thread.
/// Longer than a caller's own work between two requests.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// Accepts connections for ever, one thread each, answering requests with
/// `handler`. Meant to be the body of a thread.
///
/// # Errors
/// When the listener itself fails.
pub fn serve<Q, A, H>(listener: &UnixListener, handler: &Arc<H>) -> io::Result<()>
where
    Q: DeserializeOwned,
    A: Serialize,
    H: Fn(Q) -> A + Send + Sync + 'static,
{
    let open = Arc::new(AtomicUsize::new(0));
    let mut shortage = Shortage::default();
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                shortage.pass(error)?;
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX || check_peer(&stream).is_err() {
            continue;
        }
        let counted = Counted::new(&open);
        let handler = Arc::clone(handler);
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                let _counted = counted;
                // A broken connection concerns its peer only.
                if let Err(error) = converse(&stream, handler.as_ref(), REQUEST_DEADLINE) {
                    tracing::debug!(%error, "control connection ended");
                }
            });
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread for a control connection");
        }
    }
    Ok(())
}

/// One of the open connections, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn converse<Q: DeserializeOwned, A: Serialize>(
    stream: &UnixStream,
    handler: &impl Fn(Q) -> A,
    patience: Duration,
) -> Result<(), WireError> {
    stream.set_write_timeout(Some(WRITE_DEADLINE))?;
    loop {
        let until = Until {
            stream,
            end: Instant::now() + patience,
        };
        match read_frame(until) {
            Ok(request) => write_frame(stream, &handler(request))?,
            Err(WireError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Reads of a stream that all of them together end in time: a peer that sends a byte now and then
/// gains nothing.
struct Until<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_arriving_byte_by_byte() {
        let frames = [encode(&"one").unwrap(), encode(&"two").unwrap()].concat();
        let mut buffer = FrameBuffer::default();
        let mut got: Vec<String> = Vec::new();
        for byte in frames {
            buffer.push(&[byte]);
            while let Some(message) = buffer.take().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(got, ["one", "two"]);
    }

    #[test]
    fn a_frame_of_another_version_is_refused() {
        let mut frame = encode(&7u32).unwrap();
        frame[4] = VERSION + 1;
        let mut buffer = FrameBuffer::default();
        buffer.push(&frame);
        assert!(matches!(buffer.take::<u32>(), Err(WireError::Version(v)) if v == VERSION + 1));
        assert!(matches!(
            read_frame::<u32>(&frame[..]),
            Err(WireError::Version(_))
        ));
    }

    #[test]
    fn a_hostile_length_is_refused_before_anything_is_allocated() {
        let frame = u32::MAX.to_le_bytes();
        assert!(matches!(
            read_frame::<u32>(&frame[..]),
            Err(WireError::TooLong(_))
        ));
        let mut buffer = FrameBuffer::default();
        buffer.push(&frame);
        assert!(matches!(buffer.take::<u32>(), Err(WireError::TooLong(_))));
    }

    #[test]
    fn a_truncated_frame_is_an_error_and_a_clean_end_is_closed() {
        let frame = encode(&"hello").unwrap();
        assert!(matches!(
            read_frame::<String>(&frame[..frame.len() - 1]),
            Err(WireError::Io(_))
        ));
        assert!(matches!(
            read_frame::<String>(&[][..]),
            Err(WireError::Closed)
        ));
    }

    #[test]
    fn a_peer_that_stays_silent_or_dribbles_is_let_go() {
        // Once this was a thread per silent connection, for ever.
        let answer = |_: u32| 0u32;
        let patience = Duration::from_millis(50);
        let (silent, _held) = UnixStream::pair().unwrap();
        let ended = converse(&silent, &answer, patience);
        assert!(matches!(ended, Err(WireError::Io(_))), "{ended:?}");
        let (slow, mut peer) = UnixStream::pair().unwrap();
        let dribble = std::thread::spawn(move || {
            peer.write_all(&encode(&vec![7u8; 1000]).unwrap()[..4])
                .unwrap();
            while peer.write_all(&[VERSION]).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let ended = converse(&slow, &|_: Vec<u8>| 0u32, patience);
        assert!(matches!(ended, Err(WireError::Io(_))), "{ended:?}");
        drop(slow);
        dribble.join().unwrap();
    }

    #[test]
    fn a_listener_that_was_lost_ends_serving() {
        // Its owner must hear of it: nobody could reach the daemon any more.
        let dir = tempfile::tempdir().unwrap();
        let listener = listen(&dir.path().join("socket")).unwrap();
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        let answer = Arc::new(|_: u32| 0u32);
        serve(&listener, &answer).expect_err("nothing can be accepted");
    }
}
