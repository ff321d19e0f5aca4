//! A worker that is no worker and plays one on its link: it says hello, and then does as its version's label tells.
//! Put in the real worker's place by tests of the whole product.
//!
//! - `mute`: never says that it is ready.
//! - `deaf`: takes no connection, for ever.
//! - `stays`: answers each request with an error, and goes on with that when it is told to leave.

use anyhow::{Context, Result, bail};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use turnout_protocol::frame;
use turnout_protocol::worker::{FromWorker, LINK_FD, LINK_VERSION, LISTENER_FD, ToWorker};

const ERROR: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";

fn main() -> Result<()> {
    let (link, listener) = (inherited(LINK_FD)?, TcpListener::from(inherited(LISTENER_FD)?));
    frame::send(&link, &FromWorker::Hello { link_version: LINK_VERSION })?;
    let ToWorker::Assign(assignment) = frame::receive(&link)? else { bail!("no assignment") };
    match assignment.version.as_str() {
        "mute" => wait(&link),
        "deaf" => {}
        "stays" => drop(thread::spawn(move || answer(&listener))),
        other => bail!("no behaviour is called `{other}`"),
    }
    frame::send(&link, &FromWorker::Ready { load_ms: 1 })?;
    wait(&link)
}

/// Reads the link, and does nothing.
fn wait(link: &OwnedFd) -> ! {
    while frame::receive::<ToWorker>(link).is_ok() {}
    loop {
        thread::park();
    }
}

/// What was inherited by this number.
fn inherited(number: i32) -> Result<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(own, number, PidfdGetfdFlags::empty()).context("the launcher gave it")
}

fn answer(listener: &TcpListener) -> Result<()> {
    listener.set_nonblocking(false)?;
    for connection in listener.incoming() {
        thread::spawn(move || refuse(&connection?));
    }
    Ok(())
}

/// Answers one request after the other.
fn refuse(connection: &TcpStream) -> Result<()> {
    connection.set_nonblocking(false)?;
    let (mut requests, mut answers) = (BufReader::new(connection), connection);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(("content-length", value)) = line.trim().to_ascii_lowercase().split_once(": ") {
                length = value.parse()?;
            }
        }
        std::io::copy(&mut requests.by_ref().take(length), &mut std::io::sink())?;
        answers.write_all(ERROR)?;
    }
}
