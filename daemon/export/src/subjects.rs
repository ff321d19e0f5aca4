//! Which model and version a record is about. Most records name their release alone; what it is about was said when it
//! was planned, perhaps long before the record at which an export goes on.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use turnout_journal::{JournalError, Reader, Record, base};

/// Releases and workers that are remembered, the newest of each. Records of older ones have ended.
const KEPT: usize = 4096;

/// What a record is about, as far as it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// The model.
    pub model: String,
    /// The version.
    pub version: String,
}

/// What was planned so far.
#[derive(Debug)]
pub struct Subjects {
    journal: PathBuf,
    releases: BTreeMap<u64, Subject>,
    workers: BTreeMap<u64, Subject>,
    /// Everything before this record is known.
    known_from_start: bool,
}

impl Subjects {
    /// Knows nothing yet. `next` is the first record that will be asked about.
    pub fn new(journal: &Path, next: u64) -> Self {
        let (releases, workers) = (BTreeMap::new(), BTreeMap::new());
        Self { journal: journal.to_owned(), releases, workers, known_from_start: next == 0 }
    }

    /// What this record is about. Reads the journal from its beginning, once, when that was said before; of releases whose
    /// records were pruned, what their base says.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn of(&mut self, record: &Record, body: &Value) -> Result<Subject, JournalError> {
        self.learn(body);
        if let Some(subject) = own_words(body) {
            return Ok(subject);
        }
        if self.remembered(body).is_none() && names_another(body) && !self.known_from_start {
            self.look_back(record.seq)?;
        }
        let model = body["model"].as_str().unwrap_or_default().to_owned();
        Ok(self.remembered(body).unwrap_or(Subject { model, version: String::new() }))
    }

    fn remembered(&self, body: &Value) -> Option<Subject> {
        let release = ordinal(&body["release"]).and_then(|release| self.releases.get(&release));
        let worker = || body["generation"].as_u64().and_then(|generation| self.workers.get(&generation));
        release.or_else(worker).cloned()
    }

    fn look_back(&mut self, to: u64) -> Result<(), JournalError> {
        self.known_from_start = true;
        let base = base(&self.journal)?;
        let first = base.as_ref().map_or(0, |base| base.first);
        for line in base.iter().flat_map(|base| base.bytes.split(|byte| *byte == b'\n')) {
            let part: Value = serde_json::from_slice(line).unwrap_or(Value::Null);
            self.learn(&part["state"]["planned"]);
        }
        for record in Reader::open(&self.journal, first)? {
            let record = record?;
            if record.seq >= to {
                break;
            }
            self.learn(&serde_json::from_slice(&record.body).unwrap_or(Value::Null));
        }
        Ok(())
    }

    fn learn(&mut self, body: &Value) {
        let (Some(subject), Some(release)) = (planned(body), ordinal(&body["release"])) else { return };
        let worker = body["to"]["generation"].as_u64();
        worker.into_iter().for_each(|worker| keep(&mut self.workers, worker, &subject));
        keep(&mut self.releases, release, &subject);
    }
}

fn keep(known: &mut BTreeMap<u64, Subject>, number: u64, subject: &Subject) {
    known.insert(number, subject.clone());
    if known.len() > KEPT {
        known.pop_first();
    }
}

fn names_another(body: &Value) -> bool {
    !body["release"].is_null() || !body["generation"].is_null()
}

/// A record that says itself what it is about.
fn own_words(body: &Value) -> Option<Subject> {
    let named = match body["event"].as_str()? {
        "imported" | "importing" | "order-used" | "version-deleting" | "version-deleted" | "version-kept" => {
            &body["version"]
        }
        "snapshot-taken" => &body["reason"]["version"],
        _ => return planned(body),
    };
    let (model, version) = named.as_str()?.split_once('@')?;
    Some(Subject { model: model.to_owned(), version: version.to_owned() })
}

fn planned(body: &Value) -> Option<Subject> {
    let (model, version) = (body["model"].as_str()?, body["to"]["version"].as_str()?);
    Some(Subject { model: model.to_owned(), version: version.to_owned() })
}

/// The number of a release: 4 of `r-4`.
fn ordinal(release: &Value) -> Option<u64> {
    release.as_str()?.strip_prefix("r-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use turnout_engine::{Base, Stamp, World};
    use turnout_journal::{Journal, OpenOptions};

    #[test]
    fn a_record_is_about_what_was_planned_also_before_the_export_began() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(folder.path(), OpenOptions::default()).unwrap();
        let plan = json!({"event": "planned", "release": "r-7", "model": "digits",
                          "to": {"version": "2.0", "generation": 9}});
        let bodies = [
            json!({"event": "imported", "version": "cancer@1.0"}),
            plan,
            json!({"event": "promoted", "release": "r-7"}),
            json!({"event": "worker-died", "model": "digits", "generation": 9, "why": "killed"}),
            json!({"event": "worker-died", "model": "digits", "generation": 1, "why": "killed"}),
            json!({"event": "promoted", "release": "r-1"}),
            json!({"event": "refused", "what": "import"}),
            json!({"event": "version-deleted", "version": "cancer@1.0"}),
            json!({"event": "snapshot-taken", "reason": {"for": "import", "version": "cancer@1.0"}}),
            json!({"event": "snapshot-taken", "reason": {"for": "request", "by": "root"}}),
            json!({"event": "order-used", "version": "cancer@2.0"}),
        ];
        for body in &bodies {
            journal.append(body.to_string().as_bytes()).unwrap();
        }
        let wanted = [
            "cancer@1.0",
            "digits@2.0",
            "digits@2.0",
            "digits@2.0",
            "digits@",
            "@",
            "@",
            "cancer@1.0",
            "cancer@1.0",
            "@",
            "cancer@2.0",
        ];
        for from in 0..bodies.len() {
            let mut subjects = Subjects::new(folder.path(), from as u64);
            for record in Reader::open(folder.path(), from as u64).unwrap() {
                let record = record.unwrap();
                let seq = usize::try_from(record.seq).unwrap();
                let subject = subjects.of(&record, &bodies[seq]).unwrap();
                assert_eq!(
                    format!("{}@{}", subject.model, subject.version),
                    wanted[seq],
                    "{seq} from {from}"
                );
            }
        }
    }

    #[test]
    fn a_release_whose_records_were_pruned_is_known_from_the_base() {
        let folder = tempfile::tempdir().unwrap();
        let options = OpenOptions { segment_bytes: 512, ..OpenOptions::default() };
        let (journal, _) = Journal::open(folder.path(), options).unwrap();
        let target = json!({"version": "2.0", "digest": format!("sha256:{}", "a".repeat(64)), "signed_by": [],
                            "generation": 9});
        let plan = json!({"strategy": "weight", "steps": [100_000], "window_ms": 200, "objectives": {},
                          "windows": {"look_back": 1, "consecutive": 1}, "minimum_requests": 0,
                          "patience_ms": 0, "on_breach": "rollback"});
        let planned = json!({"event": "planned", "release": "r-7", "model": "digits", "kind": "release",
                             "to": target, "plan": plan, "steps": [], "commit": 0, "port": 1, "salt": "00",
                             "by": "root"});
        let mut world = World::default();
        for seq in 0..9 {
            let body =
                if seq == 0 { planned.clone() } else { json!({"event": "promoted", "release": "r-7"}) };
            journal.append(body.to_string().as_bytes()).unwrap();
            if seq == 0 {
                world.take(&serde_json::from_value(body).unwrap(), Stamp { seq, at_ms: 1 });
            }
        }
        let first = turnout_journal::segment_infos(folder.path()).unwrap()[1].first;
        let base = Base { minimum_index: first, world, ..Base::default() }.to_bytes().unwrap();
        let written = journal.write_base(first, &base).unwrap();
        journal.prune(first, written).unwrap();
        let mut subjects = Subjects::new(folder.path(), first);
        let record = Reader::open(folder.path(), first).unwrap().next_record().unwrap().unwrap();
        let body = serde_json::from_slice(&record.body).unwrap();
        let about = Subject { model: "digits".to_owned(), version: "2.0".to_owned() };
        assert_eq!(subjects.of(&record, &body).unwrap(), about);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut subjects = Subjects::new(Path::new("/nowhere"), 0);
        for number in 0..KEPT as u64 + 10 {
            subjects.learn(&json!({"event": "planned", "release": format!("r-{number}"), "model": "m",
                                   "to": {"version": "1", "generation": number}}));
        }
        assert_eq!((subjects.releases.len(), subjects.workers.len()), (KEPT, KEPT));
    }
}
