//! Bytes from one process to another: a layer by gRPC, and as little as TCP takes.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use lamina_proto::layerstore::v1::ReadLayerRequest;
use lamina_proto::layerstore::v1::layer_store_client::LayerStoreClient;
use rustix::fs::sendfile;
use rustix::time::ClockId;
use tonic::transport::Endpoint;

use crate::measure::{Report, cpu_seconds, timed};

/// Messages of a layer are at most this long.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Reads a whole layer `times` times from a node without TLS, one stream after the other.
pub(crate) fn layer(at: SocketAddr, digest: &str, times: usize) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{at}"))?
            // As the agent has them: a window of one stream holds a few messages.
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(256 << 10)
            .tcp_nodelay(true);
        let channel = endpoint.connect().await.context("connect to the node")?;
        Ok::<_, anyhow::Error>(
            LayerStoreClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
    })?;
    timed(|| {
        let (mut bytes, mut messages) = (0, 0);
        for _ in 0..times {
            let (read, count) = runtime.block_on(once(client.clone(), digest))?;
            bytes += read;
            messages += count;
        }
        Ok((bytes, messages))
    })
}

async fn once(
    mut client: LayerStoreClient<tonic::transport::Channel>,
    digest: &str,
) -> Result<(u64, u64)> {
    let request = ReadLayerRequest {
        digest: digest.to_owned(),
        offset: 0,
        length: 0,
    };
    let mut stream = client.read_layer_stream(request).await?.into_inner();
    let (mut bytes, mut messages) = (0, 0);
    let mut ended = false;
    while let Some(piece) = stream.message().await? {
        ensure!(piece.offset.cast_unsigned() == bytes, "a piece is missing");
        bytes += piece.data.len() as u64;
        messages += 1;
        ended = piece.eof;
    }
    ensure!(ended, "the stream ended before the layer did");
    Ok((bytes, messages))
}

/// As many bytes over a plain TCP connection of this machine, in messages of this length: from memory, or of a file by
/// `sendfile`, again and again. CPU time is that of both ends.
pub(crate) fn tcp(bytes: u64, message: usize, file: Option<&Path>) -> Result<Report> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    let file = file.map(File::open).transpose().context("open the file")?;
    let sender = thread::spawn(move || -> Result<f64> {
        let (stream, _) = listener.accept()?;
        match file {
            Some(file) => send_file(&stream, &file, bytes, message)?,
            None => send(stream, bytes, message)?,
        }
        Ok(cpu_seconds(ClockId::ThreadCPUTime))
    });
    let mut stream = TcpStream::connect(at)?;
    let mut report = timed(|| {
        let mut buffer = vec![0; message];
        let (mut read, mut times) = (0, 0);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok((read, times)),
                n => read += n as u64,
            }
            times += 1;
        }
    })?;
    let sent = sender.join().expect("the sender does not panic")?;
    report.sender_cpu_seconds = Some(sent);
    ensure!(report.bytes == bytes, "bytes are missing");
    Ok(report)
}

fn send(mut to: TcpStream, mut left: u64, message: usize) -> Result<()> {
    let buffer = vec![7; message];
    while left > 0 {
        let now = left.min(message as u64);
        to.write_all(&buffer[..now as usize])?;
        left -= now;
    }
    Ok(())
}

fn send_file(to: &TcpStream, file: &File, mut left: u64, message: usize) -> Result<()> {
    let mut offset = 0;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(message).min(message);
        match sendfile(to, file, Some(&mut offset), most)? {
            0 => {
                ensure!(offset > 0, "the file is empty");
                offset = 0;
            }
            sent => left -= sent as u64,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives() {
        let file = std::env::current_exe().unwrap();
        for file in [None, Some(file.as_path())] {
            let report = tcp((3 << 20) + 5, 64 << 10, file).unwrap();
            assert_eq!(report.bytes, (3 << 20) + 5);
            assert!(report.sender_cpu_seconds.is_some());
        }
    }
}
