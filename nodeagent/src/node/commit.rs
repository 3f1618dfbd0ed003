//! `NodeCommit`: a stream of changes becomes the flist of what they are over and themselves.
//!
//! ```text
//!  frames ──> channel ──> blocking reader ──> library (packs, publishes)
//! ```
//! What always holds: a stream that ends without its `end` fails, wherever in the tar that was.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use lamina_proto::lamina::v1::commit_request::Part;
use lamina_proto::lamina::v1::node_commit_server::NodeCommit;
use lamina_proto::lamina::v1::source::From as Origin;
use lamina_proto::lamina::v1::{CommitRequest, CommitResponse, CommitStart, Source};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, Streaming};

use super::error::NodeError;
use super::library::CommitPlaces;
use super::server::Service;
use super::source::{Named, stores_digest};

/// Frames that may wait to be packed.
const FRAMES: usize = 8;
/// How long a caller may take for its next frame.
const FRAME_PATIENCE: Duration = Duration::from_secs(60);

/// What comes to who packs.
enum Piece {
    Data(Vec<u8>),
    End,
}

impl Service {
    async fn commit_now(
        &self,
        mut frames: Streaming<CommitRequest>,
    ) -> Result<CommitResponse, NodeError> {
        self.publisher.check_open()?;
        let start = start(&mut frames).await?;
        stores_digest(&start.stores)?;
        stores_digest(&start.base_stores)?;
        let base = Source {
            from: start.base.map(Origin::Flist),
        };
        let named = Named::parse(Some(base))?;
        let library = &self.parts.library;
        let base = library.ensure(named.source, &[], |_, _, _| ()).await?;
        let places = CommitPlaces {
            stores: start.stores,
            base_stores: start.base_stores,
        };
        let (sender, pieces) = mpsc::channel(FRAMES);
        let changes = Box::new(Changes {
            pieces,
            piece: Vec::new(),
            at: 0,
            ended: false,
        });
        let committing = library.commit(&base, &places, changes);
        let (fed, committed) = tokio::join!(feed(frames, sender), committing);
        // Who packs has only seen that nothing more came.
        fed?;
        let (flist, bytes_new) = committed?;
        tracing::info!(
            digest = flist.digest,
            base = base.info.digest,
            bytes_new,
            "committed"
        );
        Ok(CommitResponse {
            flist: Some(flist),
            bytes_new,
        })
    }
}

/// The first frame.
async fn start(frames: &mut Streaming<CommitRequest>) -> Result<CommitStart, NodeError> {
    match next(frames).await? {
        Some(Part::Start(start)) => Ok(start),
        _ => Err(NodeError::invalid(
            "the first message of a commit is its start",
        )),
    }
}

async fn next(frames: &mut Streaming<CommitRequest>) -> Result<Option<Part>, NodeError> {
    let late = |_| {
        NodeError::new(
            Code::DeadlineExceeded,
            "no more of the changes came for 60 s",
        )
    };
    let frame = timeout(FRAME_PATIENCE, frames.message())
        .await
        .map_err(late)?;
    let cut = |status: Status| {
        let why = format!("the changes were cut off: {}", status.message());
        NodeError::new(Code::Aborted, why)
    };
    Ok(frame.map_err(cut)?.and_then(|frame| frame.part))
}

/// Hands the changes over until their end, or until nobody takes them any more, who then knows why.
async fn feed(
    mut frames: Streaming<CommitRequest>,
    sender: mpsc::Sender<Piece>,
) -> Result<(), NodeError> {
    loop {
        let piece = match next(&mut frames).await? {
            Some(Part::Data(data)) => Piece::Data(data),
            Some(Part::End(_)) => Piece::End,
            Some(Part::Start(_)) => {
                return Err(NodeError::invalid("a commit has one start"));
            }
            None => return Err(NodeError::invalid("the changes ended before their end")),
        };
        let is_end = matches!(piece, Piece::End);
        if sender.send(piece).await.is_err() || is_end {
            return Ok(());
        }
    }
}

/// The tar, for a thread that may block.
struct Changes {
    pieces: mpsc::Receiver<Piece>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Changes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => (self.piece, self.at) = (data, 0),
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        }
        let rest = &self.piece[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

#[tonic::async_trait]
impl NodeCommit for Service {
    async fn commit(
        &self,
        request: Request<Streaming<CommitRequest>>,
    ) -> Result<Response<CommitResponse>, Status> {
        let began = Instant::now();
        let done = self.commit_now(request.into_inner()).await;
        self.answer("Commit", began, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(pieces: Vec<Piece>) -> io::Result<Vec<u8>> {
        let (sender, receiver) = mpsc::channel(8);
        for piece in pieces {
            sender
                .try_send(piece)
                .unwrap_or_else(|_| panic!("there is room"));
        }
        drop(sender);
        let mut all = Vec::new();
        let mut changes = Changes {
            pieces: receiver,
            piece: Vec::new(),
            at: 0,
            ended: false,
        };
        changes.read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn what_is_cut_off_between_two_pieces_is_no_end() {
        let data = || Piece::Data(b"abc".to_vec());
        let whole = changes(vec![data(), Piece::Data(Vec::new()), data(), Piece::End]);
        assert_eq!(whole.unwrap(), b"abcabc");
        let cut = changes(vec![data(), data()]).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        assert!(changes(Vec::new()).is_err());
    }
}
