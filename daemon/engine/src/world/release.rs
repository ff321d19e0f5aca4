//! One release as its records made it: where it stands, what was done, what was measured.

use crate::record::{Cause, End, Kind, Planned, Record};
use crate::slo::{Verdict, Window};
use crate::step::Step;
use serde::{Deserialize, Serialize};
use turnout_manifest::{Generation, Percent, Plan};

/// Windows of one release kept in memory, the newest.
const WINDOWS_KEPT: usize = 1024;
/// Undo steps of one release kept in memory, the newest: the undo of one that is stuck can be tried again without end.
const UNDONE_KEPT: usize = 512;

/// Where a release stands.
///
/// ```text
///   Planned -> Forward --(steps before the commit done)--> Tidying --(rest done or failed)--> Ended Promoted
///                 |
///                 +--(RollingBack)--> Backward --(all undone)--> Ended RolledBack | Cancelled
///                                        ^   \--(an undo failed)--> Ended Stuck --(rollback again)--+
///                                        +------------------------------------------------------------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// Steps before the point of no return.
    Forward,
    /// Undo.
    Backward,
    /// Past the point of no return: the old version is retired.
    Tidying,
    /// Over.
    Ended(End),
}

/// A step as it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// The step.
    pub step: Step,
    /// It was part of an undo list.
    pub undo: bool,
    /// When its intent was on disk, milliseconds since the epoch.
    pub begun_ms: u64,
    /// When its outcome was on disk.
    pub ended_ms: Option<u64>,
    /// What was found, or why it failed.
    pub outcome: Option<Result<String, String>>,
}

/// A window as it was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// What was measured.
    pub window: Window,
    /// What it says.
    pub verdict: Verdict,
}

/// One release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// What was planned.
    pub planned: Planned,
    /// Where it stands.
    pub progress: Progress,
    /// The list under way: the plan's steps, then perhaps an undo list.
    pub list: Vec<Step>,
    /// Position in the list, from 0.
    pub cursor: usize,
    /// The step at the cursor has its intent on disk and no outcome.
    pub open: bool,
    /// Why it is held, if it is.
    pub held: Option<String>,
    /// Why it will be undone once the open step has its outcome.
    pub interrupted: Option<Cause>,
    /// Why it is or was undone.
    pub cause: Option<Cause>,
    /// Undo steps that failed, with why.
    pub failures: Vec<(Step, String)>,
    /// Plan steps that were begun, the failed one included.
    pub touched: Vec<Step>,
    /// Share of the new version in force.
    pub asked: Percent,
    /// Verdicts of the present observation, oldest first: those that the plan looks back on. A base of an earlier version
    /// has all of them, until the next window.
    pub verdicts: Vec<Verdict>,
    /// Number of verdicts of the present observation before these.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub verdicts_before: u64,
    /// Windows of the whole release, oldest first, the newest thousand.
    pub windows: Vec<Judged>,
    /// Every step that was begun; of undo steps the newest five hundred.
    pub log: Vec<Logged>,
    /// When it was created, milliseconds since the epoch.
    pub begun_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Causes as recorded at the end.
    pub causes: Vec<String>,
    /// Its first record in the journal.
    pub first_seq: u64,
    /// Its newest record in the journal.
    pub last_seq: u64,
}

impl Release {
    pub(super) fn new(planned: Planned, at_ms: u64) -> Self {
        Self {
            progress: Progress::Forward,
            list: planned.steps.clone(),
            cursor: 0,
            open: false,
            held: None,
            interrupted: None,
            cause: None,
            failures: Vec::new(),
            touched: Vec::new(),
            asked: Percent::NONE,
            verdicts: Vec::new(),
            verdicts_before: 0,
            windows: Vec::new(),
            log: Vec::new(),
            begun_ms: at_ms,
            ended_ms: None,
            causes: Vec::new(),
            first_seq: u64::MAX,
            last_seq: 0,
            planned,
        }
    }

    /// The step at the cursor, if the list is not done.
    pub fn step(&self) -> Option<Step> {
        self.list.get(self.cursor).copied()
    }

    /// Number of steps before the point of no return.
    pub fn commit(&self) -> usize {
        self.planned.commit as usize
    }

    /// Its undo failed.
    pub fn is_stuck(&self) -> bool {
        self.progress == Progress::Ended(End::Stuck)
    }

    /// The new version takes over the worker of the old one.
    pub fn is_in_place(&self) -> bool {
        self.planned.steps.iter().any(|step| step.is_in_place())
    }

    /// The generation that traffic returns to.
    pub fn home(&self) -> Option<Generation> {
        match self.planned.kind {
            Kind::Restart => None,
            Kind::Release | Kind::Return => self.planned.from.as_ref().map(|from| from.generation),
        }
    }

    pub(super) fn apply(&mut self, record: &Record, at_ms: u64) {
        match record {
            Record::Intent { step, .. } => self.begin(*step, at_ms),
            Record::Done { step, detail, .. } => {
                match step {
                    Step::Shift(percent) => self.asked = *percent,
                    Step::SwitchModel(_) => self.asked = Percent::ALL,
                    Step::Home | Step::SwitchHome(_) => self.asked = Percent::NONE,
                    _ => {}
                }
                self.finish(Ok(detail.clone()), at_ms);
            }
            Record::Failed { step, why, .. } => {
                if self.progress != Progress::Forward {
                    self.failures.push((*step, why.clone()));
                }
                self.finish(Err(why.clone()), at_ms);
            }
            Record::Observed { window, verdict, .. } => {
                self.note_verdict(verdict);
                self.windows.push(Judged { window: (**window).clone(), verdict: verdict.clone() });
                if self.windows.len() > WINDOWS_KEPT {
                    self.windows.remove(0);
                }
            }
            Record::Held { why, .. } => self.held = Some(why.clone()),
            Record::Resumed { .. } => {
                self.held = None;
                self.forget_verdicts();
            }
            Record::Interrupted { cause, .. } => {
                self.interrupted.get_or_insert_with(|| cause.clone());
            }
            _ => {}
        }
    }

    fn begin(&mut self, step: Step, at_ms: u64) {
        let undo = self.progress == Progress::Backward;
        self.open = true;
        self.forget_verdicts();
        if self.progress == Progress::Forward {
            self.touched.push(step);
        }
        self.log.push(Logged { step, undo, begun_ms: at_ms, ended_ms: None, outcome: None });
        let undone = self.log.iter().filter(|logged| logged.undo).count();
        if undone > UNDONE_KEPT
            && let Some(oldest) = self.log.iter().position(|logged| logged.undo)
        {
            self.log.remove(oldest);
        }
    }

    /// What no decision looks at any more is counted and let go: an observation may last for weeks.
    fn note_verdict(&mut self, verdict: &Verdict) {
        self.verdicts.push(verdict.clone());
        let surplus = self.verdicts.len().saturating_sub(self.plan().windows.look_back as usize);
        self.verdicts.drain(..surplus);
        self.verdicts_before += surplus as u64;
    }

    fn forget_verdicts(&mut self) {
        self.verdicts.clear();
        self.verdicts_before = 0;
    }

    fn finish(&mut self, outcome: Result<String, String>, at_ms: u64) {
        self.open = false;
        self.cursor += 1;
        if let Some(logged) = self.log.last_mut() {
            logged.ended_ms = Some(at_ms);
            logged.outcome = Some(outcome);
        }
    }

    /// Number of windows of the present observation that were judged.
    pub fn windows_judged(&self) -> u64 {
        self.verdicts_before + self.verdicts.len() as u64
    }

    /// The plan in force.
    pub fn plan(&self) -> &Plan {
        &self.planned.plan
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
