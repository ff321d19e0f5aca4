//! The way of records into the log, off the loop: a journald that does not read would otherwise stop releases and
//! rollbacks. What finds no room is left out of the log and counted; it is in the journal all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Records on their way.
const UNDER_WAY: usize = 1024;
/// How long the end of the daemon waits for the last of them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Takes records, and has a thread say them.
#[derive(Debug)]
pub struct Teller<T> {
    records: SyncSender<T>,
    left_out: Arc<AtomicU64>,
    over: Receiver<()>,
}

impl<T: Send + 'static> Teller<T> {
    /// Begins; `say` is called for each record, and may take as long as it likes.
    pub fn start(say: impl Fn(&T) + Send + 'static) -> Self {
        let (records, inbox) = sync_channel(UNDER_WAY);
        let (end, over) = sync_channel(1);
        let left_out: Arc<AtomicU64> = Arc::default();
        let count = Arc::clone(&left_out);
        // Without a thread nothing is said: the daemon serves all the same.
        let _ = std::thread::Builder::new().name("log".into()).spawn(move || {
            for record in inbox {
                say(&record);
                match count.swap(0, Ordering::Relaxed) {
                    0 => {}
                    lines => tracing::warn!("{lines} records were left out of the log: it was not read"),
                }
            }
            let _ = end.send(());
        });
        Self { records, left_out, over }
    }

    /// Takes a record, at once.
    pub fn take(&self, record: T) {
        if self.records.try_send(record).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends once everything is said, or after a second. False when something was not.
    pub fn finish(self) -> bool {
        drop(self.records);
        self.over.recv_timeout(LAST_WORDS) != Err(RecvTimeoutError::Timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    #[test]
    fn everything_is_said_in_order_before_the_end() {
        let (said, heard) = channel();
        let teller = Teller::start(move |record| said.send(*record).unwrap());
        (0..100).for_each(|number| teller.take(number));
        assert!(teller.finish());
        assert!(heard.iter().eq(0..100));
    }

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up() {
        let (let_go, held) = channel::<()>();
        let (begun, beginning) = channel();
        let teller = Teller::start(move |_| {
            let _ = begun.send(());
            let _ = held.recv();
        });
        teller.take(0);
        beginning.recv().unwrap();
        // The thread holds one, the queue the others; three find no room.
        (0..UNDER_WAY + 3).for_each(|number| teller.take(number));
        assert_eq!(teller.left_out.load(Ordering::Relaxed), 3);
        drop(let_go);
        assert!(teller.finish());
    }
}
