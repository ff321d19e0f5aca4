//! One JSON message per datagram on a SOCK_SEQPACKET Unix socket (unix(7)): no length prefix is needed, the kernel
//! keeps the borders, and an over-long datagram is refused whole.

use rustix::net::{RecvFlags, SendFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::AsFd;

/// Largest message, bytes. A contract of a thousand columns takes about 100 kB.
pub const FRAME_MAX: usize = 160 * 1024;

/// Why a message could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The message is larger than [`FRAME_MAX`].
    #[error("message of {0} bytes exceeds the limit of {FRAME_MAX}")]
    TooLarge(usize),
    /// Not the JSON of the expected message.
    #[error("message is not of this link's language")]
    Language(#[source] serde_json::Error),
    /// The other side is gone.
    #[error("the other end of the link is closed")]
    Closed,
    /// The socket failed; `WouldBlock` when it is non-blocking and not ready.
    #[error("link")]
    Io(#[source] io::Error),
}

/// Sends one message. Never raises SIGPIPE.
///
/// # Errors
/// [`FrameError::TooLarge`], [`FrameError::Closed`], or the socket's own.
pub fn send(socket: impl AsFd, message: &impl Serialize) -> Result<(), FrameError> {
    let bytes = serde_json::to_vec(message).map_err(FrameError::Language)?;
    if bytes.len() > FRAME_MAX {
        return Err(FrameError::TooLarge(bytes.len()));
    }
    match rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(FrameError::Closed),
        Err(error) => Err(FrameError::Io(error.into())),
    }
}

/// Receives one message.
///
/// # Errors
/// [`FrameError::Closed`] at the end of the link, [`FrameError::TooLarge`] for a cut datagram,
/// [`FrameError::Language`] for bytes that are no message, or the socket's own.
pub fn receive<Message: DeserializeOwned>(socket: impl AsFd) -> Result<Message, FrameError> {
    let mut bytes = vec![0; FRAME_MAX + 1];
    let count = loop {
        match rustix::net::recv(&socket, &mut bytes[..], RecvFlags::TRUNC) {
            Ok((_, count)) => break count,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Err(FrameError::Closed),
            Err(error) => return Err(FrameError::Io(error.into())),
        }
    };
    match count {
        0 => Err(FrameError::Closed),
        count if count > FRAME_MAX => Err(FrameError::TooLarge(count)),
        count => serde_json::from_slice(&bytes[..count]).map_err(FrameError::Language),
    }
}
