//! Waiting for one descriptor, with a deadline.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::time::Duration;

/// Waits until a descriptor is ready or the time has passed; false when it has passed.
///
/// # Errors
/// The kernel's own.
pub fn wait(descriptor: impl AsFd, events: PollFlags, time: Duration) -> Result<bool, Errno> {
    let mut polled = [PollFd::new(&descriptor, events)];
    match poll(&mut polled, Some(&timespec(time))) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// A time as poll(2) takes it.
pub fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}
