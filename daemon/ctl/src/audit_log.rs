//! `turnoutctl audit log`: which records of the journal are printed, and how they are followed across a restart of the
//! daemon. A record as a line is `audit.rs`.

use crate::args::{AuditLogArguments, Output};
use crate::audit::line;
use crate::error::{Exit, Failure};
use crate::journal;
use crate::render::Screen;
use crate::updates::again;
use serde_json::Value;
use std::collections::{HashSet, VecDeque};
use turnout_manifest::{ModelName, ReleaseId};
use turnout_protocol::client::{Client, Tail};
use turnout_protocol::control::AuditRecord;

/// Breaks in a row, without a record between them, after which a stream is not asked for again: the record that is next
/// cannot be read.
const BREAKS_MAX: u32 = 10;

/// Prints the records that were asked for, and goes on as they come where that is wanted.
pub async fn log(
    client: &Client,
    screen: &mut Screen,
    arguments: &AuditLogArguments,
) -> Result<Exit, Failure> {
    let mut wanted = Wanted::new(arguments);
    let begin = wanted.begin();
    let next = match arguments.lines {
        None if arguments.follow => begin,
        lines => Some(print_present(client, screen, (&mut wanted, begin), lines).await?),
    };
    if arguments.follow && !screen.reader_is_gone() {
        follow(client, screen, (&mut wanted, next)).await?;
    }
    Ok(Exit::Done)
}

/// Prints what is there, or the newest of it; gives the number of the record that comes next.
async fn print_present(
    client: &Client,
    screen: &mut Screen,
    (wanted, from): (&mut Wanted, Option<u64>),
    newest: Option<usize>,
) -> Result<u64, Failure> {
    let mut records = client.audit_log(from, Tail::Stop).await?;
    let mut next = from.unwrap_or(0);
    let mut kept = VecDeque::new();
    // With a filter or a number, a beginning that is gone is no news.
    let mut is_first = wanted.is_everything() && newest.is_none();
    while let Some(record) = records.next().await? {
        next = record.seq + 1;
        let begins = std::mem::take(&mut is_first);
        if !wanted.has(&record) {
            continue;
        }
        let Some(newest) = newest else {
            print(screen, &record, begins)?;
            if screen.reader_is_gone() {
                break;
            }
            continue;
        };
        kept.push_back(record);
        if kept.len() > newest {
            kept.pop_front();
        }
    }
    kept.iter().try_for_each(|record| print(screen, record, false))?;
    Ok(next)
}

/// Prints records as they come. A daemon that ends the stream or goes away is asked again from the next record on.
async fn follow(
    client: &Client,
    screen: &mut Screen,
    (wanted, mut next): (&mut Wanted, Option<u64>),
) -> Result<(), Failure> {
    let mut is_first = wanted.is_everything() && next.is_none();
    let (mut records, mut breaks) = (client.audit_log(next, Tail::Follow).await?, 0);
    loop {
        match records.next().await {
            Ok(Some(record)) => {
                breaks = 0;
                next = Some(record.seq + 1);
                let begins = std::mem::take(&mut is_first);
                if wanted.has(&record) {
                    print(screen, &record, begins)?;
                }
                if screen.reader_is_gone() {
                    return Ok(());
                }
            }
            Ok(None) => records = again(async || client.audit_log(next, Tail::Follow).await).await?,
            Err(error) if error.is_away() && breaks < BREAKS_MAX => {
                breaks += 1;
                records = again(async || client.audit_log(next, Tail::Follow).await).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A log goes on: one value per line in every JSON form. In text, a beginning that is gone is said before the first.
fn print(screen: &mut Screen, record: &AuditRecord, begins: bool) -> Result<(), Failure> {
    match screen.output {
        Output::Text if begins && record.seq > 0 => {
            screen.text(&(journal::missing(record.seq) + &line(record)))?;
        }
        Output::Text => screen.text(&line(record))?,
        Output::Json | Output::Ndjson => screen.line_of(record)?,
    }
    Ok(())
}

/// Which records are printed.
struct Wanted {
    from: Option<u64>,
    model: Option<ModelName>,
    release: Option<ReleaseId>,
    /// The model's releases, as far as their plans were seen: their other records do not name it.
    releases: HashSet<String>,
}

impl Wanted {
    fn new(arguments: &AuditLogArguments) -> Self {
        let AuditLogArguments { from, model, release, .. } = arguments;
        Self { from: *from, model: model.clone(), release: *release, releases: HashSet::new() }
    }

    /// Where to begin reading: for a model at the beginning, because its releases are named there.
    fn begin(&self) -> Option<u64> {
        self.from.filter(|_| self.model.is_none())
    }

    /// True if nothing that is there is left out.
    fn is_everything(&self) -> bool {
        self.from.is_none() && self.model.is_none() && self.release.is_none()
    }

    fn has(&mut self, record: &AuditRecord) -> bool {
        let text = |name: &str| record.body.get(name).and_then(Value::as_str);
        let release = text("release");
        let of_model = self.model.as_ref().is_none_or(|model| {
            let model = model.as_str();
            let names_it = text("model") == Some(model)
                || text("version")
                    .and_then(|version| version.split_once('@'))
                    .is_some_and(|(of, _)| of == model);
            if let (true, Some(release)) = (names_it, release) {
                self.releases.insert(release.to_owned());
            }
            names_it || release.is_some_and(|release| self.releases.contains(release))
        });
        let of_release = self.release.is_none_or(|wanted| release == Some(&wanted.to_string()));
        of_model && of_release && self.from.is_none_or(|from| record.seq >= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use turnout_protocol::control::SCHEMA;

    fn seqs(arguments: &AuditLogArguments) -> Vec<u64> {
        let bodies = [
            json!({"event": "imported", "version": "fraud@1.4.0"}),
            json!({"event": "planned", "release": "r-1", "model": "limits"}),
            json!({"event": "planned", "release": "r-2", "model": "fraud"}),
            json!({"event": "done", "release": "r-1", "at": 0}),
            json!({"event": "done", "release": "r-2", "at": 0}),
            json!({"event": "worker-died", "model": "fraud"}),
            json!({"event": "imported", "version": "fraud-eu@1.0"}),
        ];
        let mut wanted = Wanted::new(arguments);
        let records = bodies.into_iter().zip(0..).map(|(body, seq)| AuditRecord {
            schema: SCHEMA.to_owned(),
            seq,
            time_ms: 0,
            body,
            leaf: String::new(),
        });
        records.filter(|record| wanted.has(record)).map(|record| record.seq).collect()
    }

    #[test]
    fn a_model_has_the_records_of_its_releases_though_they_do_not_name_it() {
        let all = || AuditLogArguments { follow: false, lines: None, from: None, model: None, release: None };
        assert_eq!(seqs(&all()), [0, 1, 2, 3, 4, 5, 6]);
        let fraud = || AuditLogArguments { model: Some("fraud".parse().unwrap()), ..all() };
        assert_eq!(seqs(&fraud()), [0, 2, 4, 5]);
        assert_eq!(seqs(&AuditLogArguments { from: Some(3), ..fraud() }), [4, 5]);
        assert_eq!(seqs(&AuditLogArguments { release: Some("r-1".parse().unwrap()), ..all() }), [1, 3]);
    }
}
