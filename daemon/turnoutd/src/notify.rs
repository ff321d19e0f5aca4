//! The service manager: what it is told (ready, reloading, stopping, alive) and the control socket it may have opened
//! for us. Without one, every call here does nothing. The status line is telemetry's.

use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::io;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// The control socket that the service manager holds open over restarts, so that no caller is ever refused.
/// Clears the variables that announce it: call it before there are threads.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when what was handed over is no Unix stream socket.
pub fn inherited_socket() -> io::Result<Option<UnixListener>> {
    let Some(listener) = ListenFd::from_env().take_unix_listener(0)? else { return Ok(None) };
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

/// The daemon answers requests, also after a reload.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("monotonic clock: {error}"),
    }
}

/// The daemon was asked to end, and will.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

/// Tells the service manager that the loop still turns; it kills and restarts a daemon that stays silent.
#[derive(Debug)]
pub struct Heartbeat {
    every: Option<Duration>,
    last: Option<Instant>,
}

impl Heartbeat {
    /// As often as the service manager asked for, which is twice in the time it waits; never where it did not ask.
    pub fn from_environment() -> Self {
        Self::within(sd_notify::watchdog_enabled())
    }

    fn within(patience: Option<Duration>) -> Self {
        Self { every: patience.map(|patience| patience / 2), last: None }
    }

    /// To be called by the loop at each turn.
    pub fn beat(&mut self) {
        if self.due(Instant::now()) {
            tell(&[NotifyState::Watchdog]);
        }
    }

    fn due(&mut self, now: Instant) -> bool {
        let Some(every) = self.every else { return false };
        let due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= every);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heart_beats_twice_in_the_service_managers_patience() {
        let start = Instant::now();
        let mut heart = Heartbeat::within(Some(Duration::from_secs(60)));
        let beats = (0..120).filter(|second| heart.due(start + Duration::from_secs(*second))).count();
        assert_eq!(beats, 4);
    }

    #[test]
    fn nobody_is_told_who_did_not_ask() {
        assert!(!Heartbeat::within(None).due(Instant::now()));
    }
}
