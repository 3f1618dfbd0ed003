//! Messages between a supervisor, its spawner and the sandboxes' inits: one packet each, with descriptors.
//!
//! What always holds: the two sides are the same program, so there is no version; a packet that is cut, too long or
//! no message ends the conversation; descriptors arrive closed on exec.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest packet; what is longer (a command line) travels as a file.
const PACKET_MAX: usize = 16 << 10;
/// Most descriptors of one packet.
pub(crate) const FDS_MAX: usize = 8;

/// What a supervisor asks of its spawner.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToSpawner {
    /// Make a sandbox; with the init's end of its control socket, and the cgroup to make it in, where that can be done.
    Prepare(PrepareOrder),
}

/// What a sandbox is before it is known what it will run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct PrepareOrder {
    /// First id of the host that ids of the sandbox are.
    pub(crate) ids_first: u32,
    /// How many.
    pub(crate) ids_count: u32,
    /// Give it a network namespace of its own.
    pub(crate) own_network: bool,
}

/// What a supervisor tells a sandbox's init.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToInit {
    /// Do what can be done before it is known what to run: its ids have names now, and it is where it is bounded.
    GetReady,
    /// Run the command: with the spec as a file, the root mount and, without a terminal, the three standard files.
    Start,
    /// Send the command a signal.
    Signal(i32),
}

/// What comes back on a sandbox's control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromSandbox {
    /// There; with its pidfd and user namespace.
    Prepared {
        /// The init's process id.
        pid: i32,
    },
    /// A step of setting it up failed.
    Failed {
        /// What was tried.
        step: String,
        /// The kernel's answer; 0 when it was not the kernel.
        errno: i32,
    },
    /// The command is about to run; with the master side of its terminal, if it has one.
    Started,
    /// The command could not be run.
    NotRun {
        /// Why, as `execve(2)` says it.
        errno: i32,
    },
    /// The command ended.
    Ended {
        /// As `waitpid(2)` gives it.
        status: i32,
    },
}

/// A pair of connected sockets that keep packets whole.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Sends one message.
pub(crate) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    if bytes.len() > PACKET_MAX || fds.len() > FDS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "message too long",
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let slices = [IoSlice::new(&bytes)];
    rustix::io::retry_on_intr(|| {
        sendmsg(socket.as_fd(), &slices, &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// The next message; `None` when the other side has closed.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = [0_u8; PACKET_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let got = loop {
        match recvmsg(
            socket.as_fd(),
            &mut slices,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(got) => break got,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    };
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message cut"));
    }
    let message = postcard::from_bytes(&bytes[..got.bytes]).map_err(io::Error::other)?;
    Ok(Some((message, fds)))
}

/// Waits until something can be read, or nothing ever will be; `false` when the deadline passed first.
pub(crate) fn wait_readable(fd: impl AsFd, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|end| timespec(end.saturating_duration_since(Instant::now())));
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn timespec(duration: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn messages_arrive_whole_with_their_descriptors() {
        let (a, b) = pair().unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        send(&a, &ToInit::Signal(15), &[writer.as_fd()]).unwrap();
        let (message, fds) = receive::<ToInit>(&b).unwrap().unwrap();
        assert!(matches!(message, ToInit::Signal(15)));
        writer.write_all(b"x").unwrap();
        drop((writer, fds));
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "x");
    }

    #[test]
    fn a_closed_socket_is_an_end_and_nonsense_an_error() {
        let (a, b) = pair().unwrap();
        rustix::io::write(&a, &[0xff; 9]).unwrap();
        assert!(receive::<ToInit>(&b).is_err());
        drop(a);
        assert!(receive::<ToInit>(&b).unwrap().is_none());
    }
}
