//! The agent's side of [`crate::api`].

use crate::agent::mounts::Agent;
use crate::api::{self, Answer, Failure, Request};
use crate::wire::{ACCEPT_PAUSE, Shortage};
use anyhow::{Context, Result};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Calls at once; more wait in the socket.
const CALLS_MAX: usize = 64;
/// A caller that does not finish its request, or take its answer, for this long is let go.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The agent ends after this long without mounts: long enough for the next of a row of mounts,
/// short enough that nothing seems to be left behind.
const LINGER: Duration = Duration::from_secs(3);

pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = crate::wire::listen(path).map_err(io::Error::other)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Answers calls until the agent has had nothing mounted for a while, or was asked to end.
pub(crate) async fn serve(listener: UnixListener, agent: Arc<Agent>) -> Result<()> {
    let slots = Arc::new(Semaphore::new(CALLS_MAX));
    let mut shortage = Shortage::default();
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        tokio::select! {
            accepted = listener.accept() => {
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        shortage.pass(error).context("accept a call")?;
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let agent = Arc::clone(&agent);
                let busy = agent.busy();
                tokio::spawn(async move {
                    let _busy = busy;
                    if let Err(error) = converse(stream, &agent).await {
                        tracing::debug!(%error, "call ended");
                    }
                    drop(slot);
                });
            }
            () = agent.idle_for(LINGER) => {
                if agent.end().await? {
                    return Ok(());
                }
            }
        }
    }
}

async fn converse(mut stream: UnixStream, agent: &Arc<Agent>) -> Result<()> {
    crate::wire::check_peer(&stream)?;
    let request = tokio::time::timeout(REQUEST_TIMEOUT, read(&mut stream)).await??;
    let answer = answer(request, agent).await;
    let answer = api::encode(&answer)?;
    tokio::time::timeout(REQUEST_TIMEOUT, stream.write_all(&answer)).await??;
    Ok(())
}

async fn read(stream: &mut UnixStream) -> io::Result<Request> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let mut body = vec![0; api::checked_length(length)?];
    stream.read_exact(&mut body).await?;
    api::decode(&body)
}

async fn answer(request: Request, agent: &Arc<Agent>) -> Result<Answer, Failure> {
    match request {
        Request::Mount(call) => {
            let mounted = agent.mount(*call).await;
            mounted.map(|info| Answer::Mounted(info.into()))
        }
        Request::Umount(call) => agent.umount(call).await.map(|()| Answer::Done),
        Request::Mounts(call) => agent.list(call).await,
        Request::Prefetch(call) => agent
            .prefetch(call)
            .await
            .map(|bytes| Answer::Prefetched { bytes }),
        Request::Bring(call) => Ok(Answer::Coming {
            all: agent.bring_for_others(&call),
        }),
        Request::Shutdown => agent.ask_to_end().map(|()| Answer::Done),
    }
}
