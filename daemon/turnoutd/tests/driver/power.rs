//! Power cuts: a run is stopped right after one record is on disk, or right after what that record announces is done,
//! by an unwinding that nothing in the daemon catches. The loop logs each record once it is on disk: that is the place.

use crate::stage::Stage;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tracing::field::{Field, Visit};
use tracing::{Metadata, Subscriber, span};

/// Where a run is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Once the record is on disk, before what it announces.
    OnDisk,
    /// Once what the record announces is done, before anything is written about it.
    Done,
}

/// The power cut of a run: an unwinding that nothing in the daemon catches.
#[derive(Default)]
pub struct Cut {
    /// Cut once there are more records than this; 0 is never.
    beyond: AtomicU64,
    after_effect: AtomicBool,
    armed: AtomicBool,
}

struct PowerCut;

impl Cut {
    fn written(&self, seq: u64) {
        let beyond = self.beyond.load(Ordering::Relaxed);
        if beyond == 0 || seq < beyond {
            return;
        }
        if self.after_effect.load(Ordering::Relaxed) && !self.armed.swap(true, Ordering::Relaxed) {
            return;
        }
        self.now();
    }

    /// To be called after each step that ran.
    pub fn after_effect(&self) {
        if self.armed.load(Ordering::Relaxed) {
            self.now();
        }
    }

    fn now(&self) {
        self.beyond.store(0, Ordering::Relaxed);
        self.armed.store(false, Ordering::Relaxed);
        resume_unwind(Box::new(PowerCut));
    }
}

impl Stage {
    /// Does something with the stage, and cuts the power when the record with this number is on disk, or its effect
    /// done. True if that happened; the daemon is gone then.
    pub fn cut_at(&mut self, (seq, moment): (u64, Moment), run: impl FnOnce(&mut Self)) -> bool {
        assert!(seq > 0, "0 is never");
        self.cut.beyond.store(seq, Ordering::Relaxed);
        self.cut.after_effect.store(moment == Moment::Done, Ordering::Relaxed);
        let reader = LogReader(Arc::clone(&self.cut));
        let run = AssertUnwindSafe(|| tracing::subscriber::with_default(reader, || run(self)));
        let ended = catch_unwind(run);
        self.cut.beyond.store(0, Ordering::Relaxed);
        self.cut.armed.store(false, Ordering::Relaxed);
        let Err(thrown) = ended else { return false };
        let thrown: Box<dyn Any + Send> = thrown;
        if !thrown.is::<PowerCut>() {
            resume_unwind(thrown);
        }
        self.close();
        true
    }
}

/// The loop logs each record once it is on disk: that line is where the power is cut.
struct LogReader(Arc<Cut>);

struct Seq(Option<u64>);

impl Visit for Seq {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "seq" {
            self.0 = Some(value);
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn std::fmt::Debug) {}
}

impl Subscriber for LogReader {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut seq = Seq(None);
        event.record(&mut seq);
        if let Some(seq) = seq.0 {
            self.0.written(seq);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
