//! Reads records in order, beside a running writer or offline. Hands out committed records only, each checked against the
//! root of its batch.

use std::collections::VecDeque;
use std::path::Path;

use crate::error::Result;
use crate::replay::Record;
use crate::walk::Walk;

/// A place in the journal from which records are read.
#[derive(Debug)]
pub struct Reader {
    walk: Walk,
    from: u64,
    batch: VecDeque<Record>,
}

impl Reader {
    /// Opens the journal in `dir` for reading from record `from` on, which need not exist yet.
    ///
    /// # Errors
    ///
    /// `NoJournal` where there is no segment, `Damaged` where the segment that holds the record is not valid, `Io`.
    pub fn open(dir: &Path, from: u64) -> Result<Reader> {
        Ok(Reader { walk: Walk::open(dir, from)?, from, batch: VecDeque::new() })
    }

    /// The next record; `None` at the end of the journal as it is now. Asked again later, it goes on with new records.
    ///
    /// # Errors
    ///
    /// `Damaged` at the first record that is not what was once written, `Io`.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        loop {
            match self.batch.pop_front() {
                Some(record) if record.seq >= self.from => return Ok(Some(record)),
                Some(_before) => {}
                None => match self.walk.next_batch()? {
                    Some(records) => self.batch = records.into(),
                    None => return Ok(None),
                },
            }
        }
    }
}

/// The records up to the end of the journal, or to the first error, which every further call repeats.
impl Iterator for Reader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}
