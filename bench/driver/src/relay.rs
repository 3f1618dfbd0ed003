//! A link with delay, in user space: forwards TCP, delivering every byte a fixed time later.
//!
//! Kernels without netem can still measure what latency does. Each direction of a connection
//! is two threads around a bounded queue of (time due, bytes), so delay does not limit
//! throughput: the queue holds more than bandwidth times delay of any link measured here.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Pieces in flight per direction; 64 KiB each, so 16 MiB.
const QUEUE: usize = 256;
const PIECE_BYTES: usize = 64 << 10;

/// Accepts connections for ever.
pub(crate) fn run(listen: SocketAddr, connect: SocketAddr, delay: Duration) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    println!("{}", listener.local_addr()?);
    for client in listener.incoming() {
        let client = client.context("accept a connection")?;
        thread::spawn(move || {
            if let Err(error) = join(client, connect, delay) {
                eprintln!("relay: {error:#}");
            }
        });
    }
    Ok(())
}

fn join(client: TcpStream, connect: SocketAddr, delay: Duration) -> Result<()> {
    // A connection is established one round trip after it was asked for.
    thread::sleep(2 * delay);
    let server = TcpStream::connect(connect).with_context(|| format!("connect to {connect}"))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    one_way(client.try_clone()?, server.try_clone()?, delay);
    one_way(server, client, delay);
    Ok(())
}

fn one_way(from: TcpStream, to: TcpStream, delay: Duration) {
    let (sender, receiver) = sync_channel(QUEUE);
    thread::spawn(move || take(from, &sender, delay));
    thread::spawn(move || deliver(to, &receiver));
}

fn take(mut from: TcpStream, queue: &SyncSender<(Instant, Vec<u8>)>, delay: Duration) {
    let mut buffer = vec![0; PIECE_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if queue
            .send((Instant::now() + delay, buffer[..read].to_vec()))
            .is_err()
        {
            break;
        }
    }
}

fn deliver(mut to: TcpStream, queue: &Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in queue {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    // The other side may be gone already: then there is nothing left to end.
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_and_the_end_is_passed_on() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let target = server.local_addr().expect("its address");
        let echo = thread::spawn(move || {
            let (mut stream, _) = server.accept().expect("a connection");
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("all of it");
            stream.write_all(&all).expect("sent back");
        });
        let front = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut client =
            TcpStream::connect(front.local_addr().expect("its address")).expect("connected");
        let (accepted, _) = front.accept().expect("a connection");
        join(accepted, target, Duration::from_millis(1)).expect("joined");
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut writer = client.try_clone().expect("a second handle");
        let data = sent.clone();
        let sending = thread::spawn(move || {
            writer.write_all(&data).expect("sent");
            writer.shutdown(Shutdown::Write).expect("ended");
        });
        let mut back = Vec::new();
        client.read_to_end(&mut back).expect("answered");
        sending.join().expect("sender");
        echo.join().expect("echo");
        assert!(back == sent, "{} bytes came back", back.len());
    }
}
