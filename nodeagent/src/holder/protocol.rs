//! Messages of the holder: one `SOCK_SEQPACKET` packet each, a version byte and
//! postcard, descriptors beside them as `SCM_RIGHTS`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::supervise::ChildSpec;
use crate::wire;

/// Name of the holder's socket in the run directory.
pub const HOLDER_SOCKET: &str = "holder.sock";
/// Descriptors in one message; the kernel's own bound is 253.
pub(super) const FDS_MAX: usize = 64;
/// A packet fits one socket buffer.
const PACKET_MAX: usize = 64 * 1024;
/// Bytes of names in one answer.
const NAMES_BYTES_MAX: usize = 56 * 1024;
/// What a name takes beside its bytes at most.
const NAME_EXTRA: usize = 4;
/// Bytes of a name.
pub(super) const NAME_MAX: usize = 4096;

/// What a child may ask.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Keep the descriptors that come with this under a name, in place of what
    /// had it.
    Put { name: String },
    /// Hand out copies of what is kept under a name.
    Get { name: String },
    /// Close what is kept under a name.
    Remove { name: String },
    /// The names in use, in order, as many as one answer holds.
    List,
    /// This child works: its next death is not counted as a failed start.
    Ready { child: String },
    /// State of the children.
    Status,
    /// End the children, then the holder.
    Shutdown,
    // From here on the messages are younger: a holder that does not know them ends the connection.
    /// Run the children by these programs from now on: the first is replaced as after a crash, the next
    /// once its successor works.
    Replace(Vec<ChildSpec>),
    /// What the children are run by.
    Programs,
    /// The names in use behind this one.
    ListAfter(String),
}

/// As many names as one answer holds.
pub(super) fn page<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut left = NAMES_BYTES_MAX;
    let fits = |name: &&String| {
        let rest = left.checked_sub(name.len() + NAME_EXTRA);
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    names.take_while(fits).cloned().collect()
}

/// Whether there may be names behind these, as [`page`] gave them.
pub(super) fn is_full(names: &[String]) -> bool {
    let bytes: usize = names.iter().map(|name| name.len() + NAME_EXTRA).sum();
    bytes + NAME_MAX + NAME_EXTRA > NAMES_BYTES_MAX
}

/// What it hears.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    /// The descriptors come with this.
    Descriptors,
    NotFound,
    Names(Vec<String>),
    Children(Vec<ChildStatus>),
    Refused(String),
    Programs(Programs),
}

/// What the children of a holder are run by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// Each child with the program and arguments of its next start.
    pub children: Vec<ChildSpec>,
    /// Whether a replacement is under way.
    pub replacing: bool,
    /// Why the last replacement was given up: the children are what they were.
    pub given_up: Option<String>,
}

/// State of one supervised process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildStatus {
    /// Its name.
    pub name: String,
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u64,
    /// How its last run ended.
    pub last_exit: Option<String>,
}

pub(super) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let packet = postcard::to_extend(message, vec![wire::VERSION]).map_err(io::Error::other)?;
    if packet.len() > PACKET_MAX || fds.len() > FDS_MAX {
        return Err(io::Error::other("message too large for one packet"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors"));
    }
    // NOSIGNAL: a peer that is gone is an error, not a SIGPIPE.
    sendmsg(
        socket,
        &[IoSlice::new(&packet)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// The next message and its descriptors; `None` when the peer is gone.
pub(super) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut packet = vec![0u8; PACKET_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        socket.as_fd(),
        &mut [IoSliceMut::new(&mut packet)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::other("a packet was cut off"));
    }
    let Some((&wire::VERSION, body)) = packet[..message.bytes].split_first() else {
        return Err(io::Error::other("a packet of another version"));
    };
    let message = postcard::from_bytes(body).map_err(io::Error::other)?;
    Ok(Some((message, fds)))
}
