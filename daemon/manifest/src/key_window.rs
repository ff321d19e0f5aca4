//! The window in which a key of a trust root counts. What it makes of a signature is said where signatures are judged.

use std::fmt;
use std::time::Duration;
use x509_cert::der::DateTime;

/// When a key counts: from one moment on, until another, or both; by default always. Milliseconds since the Unix epoch.
/// Only [`KeyWindow::new`] bounds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyWindow {
    not_before_ms: Option<u64>,
    not_after_ms: Option<u64>,
}

/// A window in which no key would ever count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its window is empty: it must end after it begins")]
pub struct EmptyWindow;

impl KeyWindow {
    /// From `not_before_ms` on, and until `not_after_ms`, which is the first moment that is too late.
    ///
    /// # Errors
    /// It would end before it begins, or as it begins.
    pub fn new(not_before_ms: Option<u64>, not_after_ms: Option<u64>) -> Result<Self, EmptyWindow> {
        let begin_ms = not_before_ms.unwrap_or(0);
        if not_after_ms.is_some_and(|end_ms| end_ms <= begin_ms) {
            return Err(EmptyWindow);
        }
        Ok(Self { not_before_ms, not_after_ms })
    }

    /// The first moment at which the key counts, if it has not always.
    pub fn not_before_ms(self) -> Option<u64> {
        self.not_before_ms
    }

    /// The first moment at which the key counts no more, if there is one.
    pub fn not_after_ms(self) -> Option<u64> {
        self.not_after_ms
    }

    /// True if there is a moment at which the key does not count.
    pub fn is_bounded(self) -> bool {
        self != Self::default()
    }

    /// On which side of the window a moment lies, if it is outside.
    pub fn outside(self, at_ms: u64) -> Option<Outside> {
        match self {
            Self { not_before_ms: Some(begin_ms), .. } if at_ms < begin_ms => Some(Outside::NotYet(begin_ms)),
            Self { not_after_ms: Some(end_ms), .. } if at_ms >= end_ms => Some(Outside::NoLonger(end_ms)),
            Self { .. } => None,
        }
    }
}

/// On which side of a window a moment lies, with the bound that it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// The key counts from this moment on.
    NotYet(u64),
    /// The key counted until this moment.
    NoLonger(u64),
}

impl Outside {
    /// The bound that was missed, for people.
    pub(crate) fn bound(self) -> String {
        match self {
            Self::NotYet(begin_ms) => format!("counts from {} on", utc(begin_ms)),
            Self::NoLonger(end_ms) => format!("counted until {}", utc(end_ms)),
        }
    }
}

impl fmt::Display for Outside {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::NotYet(_) => "not yet valid",
            Self::NoLonger(_) => "no longer valid",
        })
    }
}

/// `2027-01-15 08:00:00 UTC`; what no calendar holds stays a number.
pub(crate) fn utc(ms: u64) -> String {
    let Ok(time) = DateTime::from_unix_duration(Duration::from_millis(ms)) else { return format!("{ms} ms") };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minutes(),
        time.seconds()
    )
}
