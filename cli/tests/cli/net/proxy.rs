//! A bad cable between a node and all others: a TCP proxy that delays, cuts, corrupts, trickles, or swallows what
//! passes. Where it does so follows from its seed.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SendError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lamina_discovery::Random;

use super::network::Place;

/// Bytes that are looked at together.
const PIECE: usize = 16 << 10;
/// Pieces on their way, of a direction of a connection.
const PIECES_MAX: usize = 64;
/// Bytes from one corruption to the next, and until a connection is cut: up to this.
const SPOIL_EVERY: usize = 100_000;
/// What a trickle is: far below what a node must give.
const TRICKLE: (usize, Duration) = (512, Duration::from_millis(100));

/// What a cable does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Everything comes later.
    Delay(Duration),
    /// Connections are closed in the middle of something.
    Cut,
    /// Bits are turned.
    Corrupt,
    /// Nothing arrives, and nobody is told.
    BlackHole,
    /// Answers come a few bytes at a time.
    Trickle,
}

/// One node's cable.
pub(crate) struct Proxy {
    pub(crate) at: SocketAddr,
    shared: Arc<Shared>,
    listener: TcpListener,
}

struct Shared {
    fault: Mutex<Fault>,
    /// How often it did what it is to do.
    spoilt: AtomicU64,
    ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Passes on what reaches this port of a machine.
    pub(crate) fn start(place: &Place, port: u16, to: SocketAddr, seed: u64) -> Self {
        let listener = place.listen(port);
        let shared = Arc::new(Shared {
            fault: Mutex::new(Fault::None),
            spoilt: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let (accepting, ours) = (listener.try_clone().unwrap(), Arc::clone(&shared));
        place.inside(move || {
            std::thread::spawn(move || {
                for (number, stream) in (0..).zip(accepting.incoming()) {
                    let Ok(stream) = stream else { return };
                    if ours.ended.load(Ordering::Relaxed) {
                        return;
                    }
                    let shared = Arc::clone(&ours);
                    let seed = seed << 32 | number;
                    std::thread::spawn(move || pass(stream, to, &shared, seed));
                }
            });
        });
        Self {
            at: place.at(port),
            shared,
            listener,
        }
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = fault;
    }

    /// How often it delayed, cut, corrupted or swallowed something.
    pub(crate) fn spoilt(&self) -> u64 {
        self.shared.spoilt.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for stream in self.shared.streams.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    fn note(&self) {
        self.spoilt.fetch_add(1, Ordering::Relaxed);
    }
}

fn pass(client: TcpStream, to: SocketAddr, shared: &Arc<Shared>, seed: u64) {
    let Ok(server) = TcpStream::connect(to) else {
        return;
    };
    let both = [&client, &server].map(|stream| {
        let _ = stream.set_nodelay(true);
        stream.try_clone().unwrap()
    });
    shared.streams.lock().unwrap().extend(both);
    let back = Direction {
        from: server.try_clone().unwrap(),
        to: client.try_clone().unwrap(),
        is_answer: true,
        random: Random::from_seed(seed),
        due: Instant::now(),
        shared: Arc::clone(shared),
    };
    let forth = Direction {
        from: client,
        to: server,
        is_answer: false,
        random: Random::from_seed(!seed),
        due: Instant::now(),
        shared: Arc::clone(shared),
    };
    std::thread::spawn(move || back.run());
    forth.run();
}

/// What is on its way, and when it arrives.
type Sender = SyncSender<(Instant, Vec<u8>)>;

/// One direction of a connection.
struct Direction {
    from: TcpStream,
    to: TcpStream,
    is_answer: bool,
    random: Random,
    /// When the last of what trickles arrives.
    due: Instant,
    shared: Arc<Shared>,
}

impl Direction {
    fn run(mut self) {
        let (sender, receiver) = sync_channel(PIECES_MAX);
        let to = self.to.try_clone().unwrap();
        std::thread::spawn(move || deliver(&receiver, to));
        self.take(&sender);
        let _ = self.from.shutdown(Shutdown::Read);
    }

    fn take(&mut self, sender: &Sender) {
        let mut buffer = vec![0; PIECE];
        let mut next = self.random.below(SPOIL_EVERY);
        loop {
            let Ok(count @ 1..) = self.from.read(&mut buffer) else {
                return;
            };
            let (mut piece, mut due) = (buffer[..count].to_vec(), Instant::now());
            let is_due = next < count;
            let at = next;
            next = match is_due {
                true => self.random.below(SPOIL_EVERY),
                false => next - count,
            };
            match self.shared.fault() {
                Fault::Delay(time) => {
                    due += time;
                    self.shared.note();
                }
                Fault::Corrupt if is_due => {
                    piece[at] ^= 1 << self.random.below(8);
                    self.shared.note();
                }
                Fault::Cut if is_due => {
                    self.shared.note();
                    let _ = self.to.shutdown(Shutdown::Both);
                    let _ = self.from.shutdown(Shutdown::Both);
                    return;
                }
                Fault::BlackHole => {
                    self.shared.note();
                    continue;
                }
                Fault::Trickle if self.is_answer => {
                    self.shared.note();
                    if self.trickle(&piece, sender).is_err() {
                        return;
                    }
                    continue;
                }
                Fault::None | Fault::Corrupt | Fault::Cut | Fault::Trickle => {}
            }
            if sender.send((due, piece)).is_err() {
                return;
            }
        }
    }

    fn trickle(
        &mut self,
        piece: &[u8],
        sender: &Sender,
    ) -> Result<(), SendError<(Instant, Vec<u8>)>> {
        let (bytes, pause) = TRICKLE;
        for part in piece.chunks(bytes) {
            self.due = self.due.max(Instant::now()) + pause;
            sender.send((self.due, part.to_vec()))?;
        }
        Ok(())
    }
}

/// Each piece when it is due.
fn deliver(pieces: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (due, piece) in pieces {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
