//! When calls on the fake host fail.

use crate::HostError;
use std::collections::BTreeMap;
use std::io;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done.
    Refused,
    /// The effect is there, and the caller is told that it failed all the same.
    HalfDone,
}

/// Which calls fail. Numbers begin at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The call with this number among all calls.
    Call(usize),
    /// This call of a method.
    Nth(&'static str, usize),
    /// Every call of a method.
    Every(&'static str),
}

/// The faults that are asked for, and the calls counted so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    asked: Vec<(When, Fault)>,
    calls: usize,
    of_method: BTreeMap<&'static str, usize>,
}

impl Faults {
    pub(super) fn add(&mut self, when: When, fault: Fault) {
        self.asked.push((when, fault));
    }

    pub(super) fn heal(&mut self) {
        self.asked.clear();
    }

    /// Counts a call, and says how it fails if it does.
    pub(super) fn due(&mut self, method: &'static str) -> Option<Fault> {
        let call = self.calls;
        self.calls += 1;
        let counted = self.of_method.entry(method).or_default();
        let nth = *counted;
        *counted += 1;
        let fits = |when: &When| match *when {
            When::Call(wanted) => wanted == call,
            When::Nth(name, wanted) => name == method && wanted == nth,
            When::Every(name) => name == method,
        };
        self.asked.iter().find(|(when, _)| fits(when)).map(|(_, fault)| *fault)
    }
}

/// What a caller is told of a fault.
pub(super) fn injected(method: &'static str, object: &str) -> HostError {
    HostError::os(method, object)(io::Error::from_raw_os_error(5))
}
