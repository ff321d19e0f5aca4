//! Killing the daemon at a record of its journal, `kill -9` each time.

use crate::scenario::{LIMIT, Scene, until};
use anyhow::Result;
use serde_json::Value;
use turnout_journal::Reader;

/// Kills the daemon once such a record is on disk, from this one on.
///
/// # Errors
/// When no such record is written in time.
pub fn kill_once(scene: &mut Scene, seq: u64, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    let mut reader = Reader::open(&scene.journal(), seq)?;
    until("the record is on disk", LIMIT, || {
        while let Some(record) = reader.next_record()? {
            if wanted(&serde_json::from_slice(&record.body)?) {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })?;
    scene.instance.kill().map(drop)
}

/// The daemon did not write it merely because it was started.
pub fn of_a_release(record: &Value) -> bool {
    !["daemon-started", "examined", "clock-read", "log-recovered"].contains(&kind(record).as_str())
}

/// The kind of a record.
pub fn kind(record: &Value) -> String {
    record["event"].as_str().unwrap_or_default().to_owned()
}
