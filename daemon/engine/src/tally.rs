//! Running totals over the whole journal, for readers who count: part of the state, so that they neither depend on who
//! was looking when, nor begin anew with the daemon.

use crate::record::{End, Kind, Record};
use crate::slo::Verdict;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use turnout_manifest::ModelName;

/// Totals of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often a daemon began to run on this journal.
    pub starts: u64,
    /// Requests that were refused or denied.
    pub refusals: u64,
    /// Totals of each model that was ever released.
    pub models: BTreeMap<ModelName, ModelTally>,
}

/// Totals of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelTally {
    /// Releases that ended with the new version live, restarts of a dead worker not among them.
    pub promoted: u64,
    /// Releases that ended with the old version live, failed restarts not among them.
    pub rolled_back: u64,
    /// Releases that an operator ended, restarts not among them.
    pub cancelled: u64,
    /// Times that an undo failed.
    pub stuck: u64,
    /// Windows in which every objective held.
    pub met: u64,
    /// Windows in which one was missed.
    pub missed: u64,
    /// Windows with too few requests.
    pub insufficient: u64,
    /// Steps and undos that failed.
    pub failed_steps: u64,
    /// Workers that ended without being told to.
    pub worker_deaths: u64,
    /// Times that a dead worker of a live version was started again.
    pub restarts: u64,
    /// Of these, the times that it did not come up. Absent in what earlier versions kept.
    #[serde(default)]
    pub restarts_failed: u64,
}

impl Tally {
    /// Counts one record. `released` is what the record's release, if it has one, is about.
    pub(crate) fn count(&mut self, record: &Record, released: Option<(&ModelName, Kind)>) {
        match record {
            Record::DaemonStarted { .. } => self.starts += 1,
            Record::Refused { .. } => self.refusals += 1,
            Record::WorkerDied { model, .. } => self.model(model).worker_deaths += 1,
            Record::Planned(planned) => {
                let restart = planned.kind == Kind::Restart;
                self.model(&planned.model).restarts += u64::from(restart);
            }
            _ => {
                if let Some((model, kind)) = released {
                    self.model(model).count(record, kind);
                }
            }
        }
    }

    fn model(&mut self, name: &ModelName) -> &mut ModelTally {
        self.models.entry(name.clone()).or_default()
    }
}

impl ModelTally {
    fn count(&mut self, record: &Record, kind: Kind) {
        let total = match record {
            Record::Failed { .. } => &mut self.failed_steps,
            Record::Observed { verdict: Verdict::Met, .. } => &mut self.met,
            Record::Observed { verdict: Verdict::Missed(_), .. } => &mut self.missed,
            Record::Observed { verdict: Verdict::Insufficient(_), .. } => &mut self.insufficient,
            Record::Ended { state: End::Promoted, .. } if kind == Kind::Restart => return,
            Record::Ended { state: End::RolledBack | End::Cancelled, .. } if kind == Kind::Restart => {
                &mut self.restarts_failed
            }
            Record::Ended { state: End::Promoted, .. } => &mut self.promoted,
            Record::Ended { state: End::RolledBack, .. } => &mut self.rolled_back,
            Record::Ended { state: End::Cancelled, .. } => &mut self.cancelled,
            Record::Ended { state: End::Stuck, .. } => &mut self.stuck,
            _ => return,
        };
        *total += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnout_manifest::ReleaseId;

    fn ended(state: End) -> Record {
        Record::Ended { release: ReleaseId::new(1), state, causes: Vec::new() }
    }

    #[test]
    fn an_end_counts_as_what_it_was_and_a_restart_is_no_release() {
        let model: ModelName = "digits".parse().unwrap();
        let mut tally = Tally::default();
        for (state, kind) in [
            (End::Promoted, Kind::Release),
            (End::Promoted, Kind::Return),
            (End::Promoted, Kind::Restart),
            (End::RolledBack, Kind::Release),
            (End::RolledBack, Kind::Restart),
            (End::Cancelled, Kind::Release),
            (End::Cancelled, Kind::Restart),
            (End::Stuck, Kind::Restart),
        ] {
            tally.count(&ended(state), Some((&model, kind)));
        }
        let wanted = ModelTally {
            promoted: 2,
            rolled_back: 1,
            cancelled: 1,
            stuck: 1,
            restarts_failed: 2,
            ..ModelTally::default()
        };
        assert_eq!(tally.models, BTreeMap::from([(model, wanted)]));
    }

    #[test]
    fn what_earlier_versions_kept_is_read() {
        let kept = r#"{"promoted":1,"rolled_back":2,"cancelled":3,"stuck":4,"met":5,"missed":6,"insufficient":7,
                       "failed_steps":8,"worker_deaths":9,"restarts":10}"#;
        let tally: ModelTally = serde_json::from_str(kept).unwrap();
        assert_eq!((tally.restarts, tally.restarts_failed), (10, 0));
    }

    #[test]
    fn a_record_of_a_release_that_is_not_known_counts_nowhere() {
        let mut tally = Tally::default();
        tally.count(&ended(End::Promoted), None);
        assert_eq!(tally, Tally::default());
    }
}
