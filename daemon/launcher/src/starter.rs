//! Who started the launcher: the service manager, which hands the socket over, wants to hear when it is served and keeps
//! the journal, or the daemon, which waits for a line on standard output.

use crate::sys;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The first descriptor that a service manager hands over (sd_listen_fds(3)).
pub const FIRST_HANDED: u32 = 3;

/// The one who started this process.
pub struct Starter {
    notify: Option<OsString>,
    /// What is written to standard error is read by journald.
    journal: bool,
    /// The socket that is to be served, when it was handed over.
    pub socket: Option<OwnedFd>,
}

impl Starter {
    /// Asks the environment. For the first lines of `main`: every other descriptor that was inherited is closed.
    pub fn from_environment() -> Self {
        let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        let handed = number("LISTEN_PID") == Some(std::process::id()) && number("LISTEN_FDS") == Some(1);
        let socket = handed.then(|| sys::handed_over(FIRST_HANDED));
        sys::close_from(FIRST_HANDED + u32::from(handed));
        Self { notify: std::env::var_os("NOTIFY_SOCKET"), journal: stderr_is_the_journal(), socket }
    }

    /// Says that the launcher serves its socket.
    ///
    /// # Errors
    /// The service manager cannot be told: it would end this process later, so better now.
    pub fn tell_ready(&self) -> io::Result<()> {
        match &self.notify {
            Some(address) => {
                let address = match address.as_bytes() {
                    [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
                    _ => SocketAddr::from_pathname(address)?,
                };
                UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
            }
            None => {
                // A parent that has gone meanwhile does not wait any more.
                let _ = io::stdout().write_all(b"ready\n");
                Ok(())
            }
        }
    }

    /// Says on standard error why the launcher ends.
    pub fn say_failure(&self, failure: &str) {
        // Whoever closed it does not want to hear.
        let _ = io::stderr().write_all(self.as_error(failure).as_bytes());
    }

    /// The journal takes a line for mere information unless it says that it is an error (sd-daemon(3)).
    fn as_error(&self, failure: &str) -> String {
        let priority = if self.journal { "<3>" } else { "" };
        format!("{priority}turnout-launcher: {failure}\n")
    }
}

/// The service manager says which stream is the journal's (systemd.exec(5)); a launcher that the daemon started may have
/// inherited the words without the stream.
fn stderr_is_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM");
    let own = rustix::fs::fstat(io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    stream.ok().zip(own.ok()).is_some_and(|(journal, own)| journal == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_is_told_at_its_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("turnout-ready-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        for (manager, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{abstract_name}").into()),
        ] {
            Starter { notify: Some(address), journal: false, socket: None }.tell_ready().unwrap();
            let mut message = [0; 16];
            let length = manager.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1");
        }
    }

    #[test]
    fn a_service_manager_that_is_gone_is_an_error() {
        let starter = Starter { notify: Some("/nowhere/notify".into()), journal: false, socket: None };
        assert!(starter.tell_ready().is_err());
    }

    #[test]
    fn why_it_ends_is_an_error_to_the_journal_and_plain_elsewhere() {
        for (journal, said) in
            [(true, "<3>turnout-launcher: no worker\n"), (false, "turnout-launcher: no worker\n")]
        {
            assert_eq!(Starter { notify: None, journal, socket: None }.as_error("no worker"), said);
        }
    }
}
