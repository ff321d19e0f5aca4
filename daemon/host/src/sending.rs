//! `btrfs send` as a reader: the program of btrfs-progs writes the stream, its failure becomes the reader's.

use crate::HostError;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PLACES: [&str; 3] = ["/usr/bin/btrfs", "/usr/sbin/btrfs", "/sbin/btrfs"];

/// A sender under way. It is ended when it is dropped.
struct Sender(Child);

/// Begins to send a read-only subvolume, whole.
pub(crate) fn start(subvolume: &Path) -> Result<Box<dyn Read + Send>, HostError> {
    let program = PLACES.into_iter().find(|place| Path::new(place).exists());
    let program = program.ok_or_else(|| HostError::Unsupported {
        what: "`btrfs` is not installed".to_owned(),
        remedy: "install the package `btrfs-progs`",
    })?;
    let child = Command::new(program)
        .args(["send", "--quiet"])
        .arg(subvolume)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(HostError::os("exec", program))?;
    Ok(Box::new(Sender(child)))
}

impl Sender {
    /// The end of the stream counts only when the program says that it was the end.
    fn end(&mut self) -> io::Result<usize> {
        let mut words = String::new();
        if let Some(errors) = self.0.stderr.as_mut() {
            errors.take(4096).read_to_string(&mut words)?;
        }
        match self.0.wait()? {
            status if status.success() => Ok(0),
            status => Err(io::Error::other(format!("`btrfs send`: {status}: {}", words.trim()))),
        }
    }
}

impl Read for Sender {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = match self.0.stdout.as_mut() {
            Some(stream) => stream.read(into)?,
            None => 0,
        };
        if count == 0 && !into.is_empty() { self.end() } else { Ok(count) }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and is waited for all the same.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
