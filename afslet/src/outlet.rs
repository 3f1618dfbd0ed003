//! The way to a client: bounded, so that who does not read is waited for; not for ever once there is nothing to run.

use std::time::Duration;

use lamina_proto::afsletpb::ExecuteResponse;
use lamina_proto::afsletpb::execute_response::Payload;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status};

use crate::error::RunError;

/// Frames on their way; each has 256 KiB at most.
const FRAMES: usize = 4;
/// How long a client whose command has ended may take for one frame.
const STALL: Duration = Duration::from_secs(60);

/// Frames of a run, as the transport takes them.
pub(crate) type Frames = mpsc::Receiver<Result<ExecuteResponse, Status>>;

/// The way to one client.
#[derive(Debug)]
pub(crate) struct Outlet {
    frames: mpsc::Sender<Result<ExecuteResponse, Status>>,
    ended: watch::Sender<bool>,
    stall: Duration,
}

impl Outlet {
    /// With its other end.
    pub(crate) fn new() -> (Self, Frames) {
        Self::with_stall(STALL)
    }

    fn with_stall(stall: Duration) -> (Self, Frames) {
        let (frames, taken) = mpsc::channel(FRAMES);
        let (ended, _) = watch::channel(false);
        let outlet = Self {
            frames,
            ended,
            stall,
        };
        (outlet, taken)
    }

    /// The command has ended: from now on the client must read.
    pub(crate) fn hurry(&self) {
        self.ended.send_replace(true);
    }

    /// Returns when the command has ended.
    pub(crate) async fn hurried(&self) {
        let mut ended = self.ended.subscribe();
        // The sender is ours.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Returns when the client is gone.
    pub(crate) async fn gone(&self) {
        self.frames.closed().await;
    }

    /// Whether the client is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.frames.is_closed()
    }

    /// Sends a frame when there is room.
    ///
    /// # Errors
    /// When the client is gone, or has not read for too long.
    pub(crate) async fn send(&self, payload: Payload) -> Result<(), RunError> {
        let place = tokio::select! {
            place = self.frames.reserve() => place.map_err(|_| RunError::cancelled())?,
            () = self.stalled() => {
                let why = "the client has not read for 60 s after the end of its command";
                return Err(RunError::new(Code::DeadlineExceeded, why));
            }
        };
        place.send(Ok(ExecuteResponse {
            payload: Some(payload),
        }));
        Ok(())
    }

    /// The last frame of a run that failed.
    pub(crate) async fn fail(&self, error: RunError) {
        self.hurry();
        tokio::select! {
            // Who is gone does not need it.
            _ = self.frames.send(Err(error.into())) => {}
            () = self.stalled() => {}
        }
    }

    async fn stalled(&self) {
        self.hurried().await;
        tokio::time::sleep(self.stall).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_proto::afsletpb::Done;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_waited_for_while_its_command_runs_and_not_for_ever_after()
     {
        let (outlet, mut frames) = Outlet::with_stall(Duration::from_millis(1));
        let done = || Payload::Done(Done::default());
        for _ in 0..FRAMES {
            outlet.send(done()).await.unwrap();
        }
        let a_while = Duration::from_millis(50);
        let waited = tokio::time::timeout(a_while, outlet.send(done())).await;
        assert!(waited.is_err());
        outlet.hurry();
        let stalled = outlet.send(done()).await.unwrap_err();
        assert_eq!(stalled.code(), Code::DeadlineExceeded);
        frames.recv().await.unwrap().unwrap();
        outlet.send(done()).await.unwrap();
        drop(frames);
        let gone = outlet.send(done()).await.unwrap_err();
        assert_eq!(gone.code(), Code::Cancelled);
        outlet.gone().await;
    }
}
