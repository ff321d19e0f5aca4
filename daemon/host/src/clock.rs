//! The host's clock: what time it shows, since when the machine runs, and whether something keeps it right. What to make
//! of it is left to others.

use crate::HostError;
use crate::sys;
use std::fs;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the kernel tells the id of this boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Where it tells the seconds since then, suspended time included (proc_uptime(5)).
const UPTIME: &str = "/proc/uptime";

/// The clock at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The kernel's id of this boot.
    pub boot: String,
    /// Time since that boot, suspended time included.
    pub since_boot: Duration,
    /// Time since 1970 UTC, as the clock shows it.
    pub shown: Duration,
    /// Whether something keeps the clock right.
    pub synchronized: bool,
    /// The kernel's bound on its error, microseconds; the greatest number where it may not be asked.
    pub error_us: u64,
}

/// Reads the clock.
///
/// # Errors
/// [`HostError::Os`] when the kernel does not tell.
pub fn read() -> Result<Reading, HostError> {
    let boot = fs::read_to_string(BOOT_ID).map_err(HostError::os("read", BOOT_ID))?;
    let (synchronized, error_us) = match sys::clock_state() {
        // A fence around the process may forbid to ask: then nothing is known to keep the clock right.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (false, u64::MAX),
        state => state.map_err(HostError::os("adjtimex", "the clock"))?,
    };
    let uptime = fs::read_to_string(UPTIME).map_err(HostError::os("read", UPTIME))?;
    let seconds = uptime.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok());
    let since_boot = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let odd = || HostError::os("read", UPTIME)(io::Error::from(io::ErrorKind::InvalidData));
    let since_boot = since_boot.ok_or_else(odd)?;
    // Before 1970 counts as then.
    let shown = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Reading { boot: boot.trim().to_owned(), since_boot, shown, synchronized, error_us })
}

#[cfg(test)]
mod tests {
    use super::*;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    #[test]
    fn the_kernel_tells_this_boot_and_both_times_go_on() {
        let (first, second) = (read().unwrap(), read().unwrap());
        assert_eq!(first.boot.len(), 36);
        assert_eq!(first.boot, second.boot);
        assert!(second.since_boot >= first.since_boot && first.shown > Duration::from_secs(1_600_000_000));
    }

    #[test]
    fn where_the_kernel_may_not_be_asked_nothing_is_known_to_keep_the_clock_right() {
        let fenced = std::thread::spawn(|| {
            let calls = [libc::SYS_clock_adjtime, libc::SYS_adjtimex].map(|call| (call, Vec::new()));
            let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
            let arch = std::env::consts::ARCH.try_into().unwrap();
            let filter = SeccompFilter::new(calls.into(), SeccompAction::Allow, refused, arch).unwrap();
            let program: BpfProgram = filter.try_into().unwrap();
            seccompiler::apply_filter(&program).unwrap();
            read().unwrap()
        });
        let fenced = fenced.join().unwrap();
        assert_eq!((fenced.synchronized, fenced.error_us), (false, u64::MAX));
        assert!(fenced.shown > Duration::from_secs(1_600_000_000));
    }
}
