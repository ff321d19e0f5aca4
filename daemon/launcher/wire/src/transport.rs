//! One message and its descriptors, as one datagram: the launcher and its clients send and receive the same way.

use crate::MESSAGE_SIZE;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most descriptors beside one message.
pub const DESCRIPTORS_MAX: usize = 2;

/// Why nothing could be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The other side is gone.
    #[error("the other end is closed")]
    Closed,
    /// More than [`DESCRIPTORS_MAX`] descriptors, or a datagram longer than a message.
    #[error("datagram exceeds its limit")]
    TooLarge,
    /// The socket failed; `WouldBlock` when it is non-blocking and not ready, or its time-out passed.
    #[error("socket")]
    Io(#[source] Errno),
}

/// A datagram as it came in.
#[derive(Debug)]
pub struct Received {
    /// Its bytes, at most [`MESSAGE_SIZE`].
    pub bytes: Vec<u8>,
    /// What came beside them, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Sends one message. Never raises SIGPIPE.
///
/// # Errors
/// [`TransportError`].
pub fn send(
    socket: impl AsFd,
    message: &[u8; MESSAGE_SIZE],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), TransportError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(TransportError::TooLarge);
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(&socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)
    });
    sent.map(drop).map_err(failed)
}

/// Receives one message.
///
/// # Errors
/// [`TransportError`]; descriptors of a refused datagram are closed.
pub fn receive(socket: impl AsFd) -> Result<Received, TransportError> {
    let mut bytes = [0; MESSAGE_SIZE + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })
    .map_err(failed)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || received.bytes > MESSAGE_SIZE {
        return Err(TransportError::TooLarge);
    }
    if received.bytes == 0 {
        return Err(TransportError::Closed);
    }
    Ok(Received { bytes: bytes[..received.bytes].to_vec(), descriptors })
}

fn failed(errno: Errno) -> TransportError {
    match errno {
        Errno::PIPE | Errno::CONNRESET => TransportError::Closed,
        errno => TransportError::Io(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn descriptors_arrive_beside_their_message() {
        let (here, there) = pair();
        let message = [7; MESSAGE_SIZE];
        send(&here, &message, &[here.as_fd(), there.as_fd()]).unwrap();
        let received = receive(&there).unwrap();
        assert_eq!((received.bytes.as_slice(), received.descriptors.len()), (&message[..], 2));
        send(&received.descriptors[1], &message, &[]).unwrap();
        assert!(receive(&here).unwrap().descriptors.is_empty());
    }

    #[test]
    fn too_long_a_datagram_and_too_many_descriptors_are_refused() {
        let (here, there) = pair();
        rustix::net::send(&here, &[0; MESSAGE_SIZE + 1], SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(receive(&there), Err(TransportError::TooLarge)));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let many = [here.as_fd(); 20];
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        sendmsg(&here, &[IoSlice::new(&[1; MESSAGE_SIZE])], &mut control, SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(receive(&there), Err(TransportError::TooLarge)));
    }

    #[test]
    fn a_closed_end_is_told_apart_from_an_error() {
        let (here, there) = pair();
        drop(there);
        assert!(matches!(send(&here, &[0; MESSAGE_SIZE], &[]), Err(TransportError::Closed)));
        assert!(matches!(receive(&here), Err(TransportError::Closed)));
    }
}
