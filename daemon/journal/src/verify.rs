//! Verifies a whole journal offline: every checksum, number, root, trailer, seal and link. Writes nothing.

use std::path::Path;

use crate::error::Result;
use crate::tree::Hash;
use crate::walk::Walk;

/// A journal that is whole. What was cut off at its end shows only when size and root are compared with a copy kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Number of committed records.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
    /// The id drawn when the log was created.
    pub log_id: Hash,
    /// Number of segment files.
    pub segments: u64,
    /// Time of the first record, in nanoseconds since 1970 UTC; `None` in an empty journal.
    pub first_time_ns: Option<i64>,
    /// Time of the last record.
    pub last_time_ns: Option<i64>,
    /// Uncommitted bytes at the end, left by an interrupted write.
    pub torn_bytes: u64,
}

/// Verifies the journal in `dir`.
///
/// # Errors
///
/// `Damaged` with the first place where the log is not what was once written, `NoJournal`, `Io`.
pub fn verify(dir: &Path) -> Result<Verified> {
    let mut walk = Walk::open(dir, 0)?;
    let (mut first_time_ns, mut last_time_ns) = (None, None);
    while let Some(records) = walk.next_batch()? {
        first_time_ns = first_time_ns.or(records.first().map(|record| record.time_ns));
        last_time_ns = records.last().map(|record| record.time_ns);
    }
    let tree = walk.segment().tree();
    Ok(Verified {
        size: tree.size(),
        root: tree.root(),
        log_id: walk.segment().successor().log_id,
        segments: walk.segments(),
        first_time_ns,
        last_time_ns,
        torn_bytes: walk.tail().torn.len() as u64,
    })
}
