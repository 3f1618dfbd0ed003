//! Talking to the holder.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::protocol::{self, ChildStatus, HOLDER_SOCKET, Programs, Reply, Request, is_full};
use super::supervise::ChildSpec;
use crate::wire;

/// The holder answers from memory; longer than this means that it hangs.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The holder could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    /// Nobody listens, or the connection broke.
    #[error("talk to the holder at {path}")]
    Io {
        /// Its socket.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The process at the other end runs as another user.
    #[error("the holder at {path} is not trusted")]
    Peer {
        /// Its socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: wire::WireError,
    },
    /// It refused.
    #[error("the holder refused: {0}")]
    Refused(String),
}

/// A connection to the holder. Each call waits for its answer.
#[derive(Debug)]
pub struct HolderClient {
    socket: OwnedFd,
    path: PathBuf,
}

impl HolderClient {
    /// Connects to the holder of a run directory.
    ///
    /// # Errors
    /// [`HolderError::Io`] if there is none, [`HolderError::Peer`].
    pub fn connect(run_dir: &Path) -> Result<Self, HolderError> {
        let path = run_dir.join(HOLDER_SOCKET);
        let socket = dial(&path).map_err(|source| HolderError::Io {
            path: path.clone(),
            source,
        })?;
        wire::check_peer(&socket).map_err(|source| HolderError::Peer {
            path: path.clone(),
            source,
        })?;
        Ok(Self { socket, path })
    }

    /// Gives copies of descriptors to the holder to keep under a name.
    ///
    /// # Errors
    /// See [`HolderError`].
    pub fn put(&self, name: &str, fds: &[OwnedFd]) -> Result<(), HolderError> {
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let request = Request::Put { name: name.into() };
        self.done(&request, &borrowed)
    }

    /// Copies of the descriptors kept under a name, if it is in use.
    ///
    /// # Errors
    /// See [`HolderError`].
    pub fn get(&self, name: &str) -> Result<Option<Vec<OwnedFd>>, HolderError> {
        match self.call(&Request::Get { name: name.into() }, &[])? {
            (Reply::Descriptors, fds) => Ok(Some(fds)),
            (Reply::NotFound, _) => Ok(None),
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Makes the holder close its copies. Not an error if there are none.
    ///
    /// # Errors
    /// See [`HolderError`].
    pub fn remove(&self, name: &str) -> Result<(), HolderError> {
        self.done(&Request::Remove { name: name.into() }, &[])
    }

    /// The names in use.
    ///
    /// # Errors
    /// See [`HolderError`].
    pub fn list(&self) -> Result<Vec<String>, HolderError> {
        let mut all = Vec::new();
        let mut request = Request::List;
        loop {
            let names = match self.call(&request, &[])? {
                (Reply::Names(names), _) => names,
                (reply, _) => return Err(unexpected(reply)),
            };
            let last = names.last().filter(|_| is_full(&names)).cloned();
            all.extend(names);
            match last {
                Some(last) => request = Request::ListAfter(last),
                None => return Ok(all),
            }
        }
    }

    /// Tells the holder that its child of this name works.
    ///
    /// # Errors
    /// See [`HolderError`].
    pub fn ready(&self, child: &str) -> Result<(), HolderError> {
        let child = child.to_owned();
        self.done(&Request::Ready { child }, &[])
    }

    /// State of the children.
    ///
    /// # Errors
    /// See [`HolderError`].
    pub fn status(&self) -> Result<Vec<ChildStatus>, HolderError> {
        match self.call(&Request::Status, &[])? {
            (Reply::Children(children), _) => Ok(children),
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Asks the holder to end its children and itself; returns at once.
    ///
    /// # Errors
    /// See [`HolderError`].
    pub fn shutdown(&self) -> Result<(), HolderError> {
        self.done(&Request::Shutdown, &[])
    }

    /// Has children run by other programs from now on, one after the other in this order, each ended as
    /// after a crash; returns at once, and [`HolderClient::programs`] tells how it goes. If one does not
    /// work within its time, those not begun stay, and it is run by what it was run by before.
    ///
    /// # Errors
    /// See [`HolderError`]; refused while another replacement is under way, or for a child there is not.
    /// An older holder, which cannot do it, ends the connection.
    pub fn replace(&self, children: &[ChildSpec]) -> Result<(), HolderError> {
        self.done(&Request::Replace(children.to_vec()), &[])
    }

    /// What the children are run by.
    ///
    /// # Errors
    /// See [`HolderError`]; an older holder ends the connection.
    pub fn programs(&self) -> Result<Programs, HolderError> {
        match self.call(&Request::Programs, &[])? {
            (Reply::Programs(programs), _) => Ok(programs),
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Returns once the holder has closed the connection: it is gone.
    pub fn wait_until_gone(&self) {
        loop {
            // Interested in nothing: a hang-up is reported all the same.
            let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                _ => return,
            }
        }
    }

    fn done(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), HolderError> {
        match self.call(request, fds)? {
            (Reply::Done, _) => Ok(()),
            (reply, _) => Err(unexpected(reply)),
        }
    }

    fn call(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), HolderError> {
        protocol::send(self.socket.as_fd(), request, fds)
            .and_then(|()| protocol::receive(self.socket.as_fd()))
            .and_then(|reply| reply.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
            .map_err(|source| HolderError::Io {
                path: self.path.clone(),
                source,
            })
    }
}

fn dial(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_DEADLINE))?;
    set_socket_timeout(&socket, Timeout::Send, Some(ANSWER_DEADLINE))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn unexpected(reply: Reply) -> HolderError {
    match reply {
        Reply::Refused(why) => HolderError::Refused(why),
        other => HolderError::Refused(format!("unexpected answer {other:?}")),
    }
}
