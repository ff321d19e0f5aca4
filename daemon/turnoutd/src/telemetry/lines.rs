//! What the log says of each record: a line that can be read without its fields, as urgent as the same record is in the
//! export (`daemon/export/src/events.rs`). The log has no `notice`: that is `info` here.

use std::fmt;
use tracing::field::{DisplayValue, display};
use turnout_engine::log::ClockReason;
use turnout_engine::record::End;
use turnout_engine::{ArchiveRecord, Entry, LogRecord, Record, TrustRecord, Verdict, Window, World};
use turnout_manifest::{ModelName, ReleaseId};

/// A record on its way into the log, and the model of its release, which most records do not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The record.
    pub entry: Entry,
    /// The model.
    pub model: Option<ModelName>,
}

impl Told {
    /// What this record is about by what is known.
    pub fn of(entry: &Entry, world: &World) -> Self {
        let release = entry.record.release().and_then(|id| world.releases.get(&id));
        Self { entry: entry.clone(), model: release.map(|release| release.planned.model.clone()) }
    }
}

/// Says a record, and under which audit context: `TURNOUT_AUDIT_CONTEXT` in journald.
pub fn say(told: &Told) {
    let Some(context) = told.entry.audit_context else { return say_record(told) };
    // As a span, every line of every kind of record has it; at this level, no filter takes it from a line that is shown.
    let span = tracing::error_span!("asked", audit_context = %context.id());
    span.in_scope(|| say_record(told));
}

/// What a line about a release begins with, and its fields.
struct About<'a> {
    release: ReleaseId,
    model: Option<&'a ModelName>,
}

impl About<'_> {
    fn model(&self) -> Option<DisplayValue<&ModelName>> {
        self.model.map(display)
    }
}

impl fmt::Display for About<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.release)?;
        self.model.map_or(Ok(()), |model| write!(out, " {model}"))
    }
}

fn say_record(told: &Told) {
    let about = |release: &ReleaseId| About { release: *release, model: told.model.as_ref() };
    match &told.entry.record {
        Record::DaemonStarted { version } => tracing::info!(%version, "turnoutd {version} started"),
        Record::Examined { degraded } if degraded.is_empty() => {
            tracing::info!("this host meets every requirement");
        }
        Record::Examined { degraded } => {
            degraded.iter().for_each(|line| tracing::warn!("degraded: {line}"));
        }
        Record::Refused { by, what, why } => {
            tracing::warn!(%by, %what, "{by}: {what} refused: {}", why.join("; "));
        }
        Record::TrustAdded { by, issuer, key_id, .. } => {
            tracing::info!(%by, %issuer, %key_id, "{by} trusts {key_id} of {issuer}");
        }
        Record::TrustRemoved { by, key_id } => tracing::info!(%by, %key_id, "{by} no longer trusts {key_id}"),
        Record::Importing { .. } => {}
        Record::Imported { by, version, digest, .. } => tracing::info!(
            %by, model = %version.model, version = %version.version, %digest, "{version} imported by {by}"
        ),
        Record::Planned(planned) => tracing::info!(
            release = %planned.release, model = %planned.model, version = %planned.to.version, by = %planned.by,
            "{} {}: {} planned by {}", planned.release, planned.model, planned.to.version, planned.by
        ),
        Record::Intent { release, .. } | Record::Done { release, .. } | Record::Failed { release, .. } => {
            say_step(&about(release), &told.entry.record);
        }
        Record::Observed { release, window, verdict } => say_window(&about(release), window, verdict),
        Record::Held { release, .. }
        | Record::Resumed { release, .. }
        | Record::Interrupted { release, .. }
        | Record::RollingBack { release, .. }
        | Record::Promoted { release } => say_course(&about(release), &told.entry.record),
        Record::Ended { release, state, causes } => say_end(&about(release), *state, causes),
        Record::WorkerDied { model, generation, why } => {
            tracing::error!(%model, %generation, "{model}: worker died: {why}");
        }
        Record::WorkerSilenced { model, generation, why } => {
            tracing::warn!(%model, %generation, "{model}: worker is not listened to any more: {why}");
        }
        Record::PortMoved { model, from, to } => {
            tracing::warn!(%model, "{model}: moves from port {from} to {to}, as the configuration says");
        }
        Record::Archive(record) => say_kept(record),
        Record::Trust(record) => say_trust(record),
        Record::Log(record) => say_log(record),
    }
}

fn say_step(about: &About<'_>, record: &Record) {
    let (release, model) = (about.release, about.model());
    match record {
        Record::Done { step, detail, .. } if detail.is_empty() => {
            tracing::info!(%release, model, "{about}: {step}: done");
        }
        Record::Done { step, detail, .. } => tracing::info!(%release, model, "{about}: {step}: {detail}"),
        Record::Failed { step, why, .. } => tracing::error!(%release, model, "{about}: {step} failed: {why}"),
        Record::Intent { step, .. } => tracing::debug!(%release, model, "{about}: {step}"),
        _ => {}
    }
}

fn say_window(about: &About<'_>, window: &Window, verdict: &Verdict) {
    let (release, model, seen) = (about.release, about.model(), &window.candidate);
    let (requests, errors, p95_us) = (seen.requests, seen.errors, seen.p95_us);
    let window = format_args!("{about}: window of {requests} requests");
    match verdict {
        Verdict::Met => tracing::info!(%release, model, requests, errors, p95_us, "{window} met"),
        Verdict::Missed(why) => {
            tracing::warn!(%release, model, requests, errors, p95_us, "{window} missed: {why}");
        }
        Verdict::Insufficient(why) => {
            tracing::info!(%release, model, requests, errors, p95_us, "{window} insufficient: {why}");
        }
    }
}

fn say_course(about: &About<'_>, record: &Record) {
    let (release, model) = (about.release, about.model());
    match record {
        Record::Held { why, .. } => tracing::warn!(%release, model, "{about}: held: {why}"),
        Record::Resumed { by, .. } => tracing::info!(%release, model, %by, "{about}: resumed by {by}"),
        Record::Interrupted { cause, .. } => {
            tracing::warn!(%release, model, "{about}: will be undone: {cause}");
        }
        Record::RollingBack { cause, .. } => {
            tracing::warn!(%release, model, "{about}: rolling back: {cause}")
        }
        Record::Promoted { .. } => tracing::info!(%release, model, "{about}: promoted"),
        _ => {}
    }
}

fn say_end(about: &About<'_>, state: End, causes: &[String]) {
    let (release, model) = (about.release, about.model());
    let why = if causes.is_empty() { String::new() } else { format!(": {}", causes.join("; ")) };
    match state {
        End::Promoted => tracing::info!(%release, model, ?state, "{about}: ended promoted{why}"),
        End::RolledBack => tracing::warn!(%release, model, ?state, "{about}: ended rolled back{why}"),
        End::Cancelled => tracing::warn!(%release, model, ?state, "{about}: ended cancelled{why}"),
        End::Stuck => tracing::error!(%release, model, ?state, "{about}: ended stuck{why}"),
    }
}

fn say_trust(record: &TrustRecord) {
    match record {
        TrustRecord::RootAccepted { by, root, digest, .. } => {
            tracing::info!(%by, root, %digest, "trust root {root} put in force by {by}");
        }
        TrustRecord::ExceptionAccepted { by, model, manifest, reason, .. } => {
            tracing::warn!(%by, %model, %manifest, "{model}: {manifest} excepted for a time by {by}: {reason}");
        }
        TrustRecord::OrderUsed { by, version, channel, order, .. } => tracing::info!(
            %by, model = %version.model, version = %version.version, %channel, epoch = order.epoch,
            counter = order.counter, "{version}: order {} on channel {channel} used by {by}", order.counter
        ),
    }
}

fn say_log(record: &LogRecord) {
    match record {
        LogRecord::ClockRead { reason: ClockReason::Stepped, stepped_ms, .. } => {
            tracing::warn!("the clock was set by {stepped_ms} ms");
        }
        LogRecord::ClockRead { reason: ClockReason::Idle, synchronized, error_us, .. } => {
            tracing::debug!(synchronized, error_us, "the clock was read after an idle hour");
        }
        LogRecord::ClockRead { synchronized, error_us, .. } => {
            let kept = if *synchronized { "synchronized" } else { "not synchronized" };
            tracing::info!(synchronized, error_us, "the clock is {kept}");
        }
        LogRecord::LogOpened { by, reason, taken, .. } => {
            tracing::error!(%by, taken, "a new log was opened by {by}: {reason}");
        }
        LogRecord::ReserveSpent => {
            tracing::error!("the journal's disk is full: nothing new is begun until there is room");
        }
        LogRecord::ReserveRestored => tracing::info!("the journal's disk has room again"),
        LogRecord::LogRecovered { bytes, kept_in, .. } => {
            tracing::warn!(bytes, %kept_in, "cut a torn end of {bytes} bytes off the journal, kept in {kept_in}");
        }
    }
}

fn say_kept(record: &ArchiveRecord) {
    use ArchiveRecord as R;
    match record {
        R::SnapshotTaken { snapshot, .. } => tracing::info!(%snapshot, "{snapshot}: taken"),
        R::SnapshotHeld { snapshot, by, reason } => {
            tracing::info!(%snapshot, %by, "{snapshot}: held by {by}: {reason}");
        }
        R::HoldReleased { snapshot, by } => {
            tracing::info!(%snapshot, %by, "{snapshot}: hold released by {by}")
        }
        R::MountGranted { snapshot, at, by, .. } => {
            tracing::info!(%snapshot, %by, "{snapshot}: mounted at `{at}` for {by}");
        }
        R::MountEnded { snapshot, at, why, .. } => {
            tracing::info!(%snapshot, "{snapshot}: not mounted at `{at}`: {why}");
        }
        R::SnapshotExported { snapshot, by, list: None } => {
            tracing::info!(%snapshot, %by, "{snapshot}: exported by {by}");
        }
        R::SnapshotExported { snapshot, by, .. } => {
            tracing::info!(%snapshot, %by, "{snapshot}: list of files exported by {by}");
        }
        R::SnapshotDeleting { snapshot, by, why } => {
            tracing::info!(%snapshot, %by, "{snapshot}: deleted by {by}: {why}");
        }
        R::SnapshotDeleted { snapshot } => tracing::info!(%snapshot, "{snapshot}: deleted"),
        R::SnapshotKept { snapshot, why } => tracing::warn!(%snapshot, "{snapshot}: not deleted: {why}"),
        R::VersionDeleting { version, by, why, .. } => tracing::info!(
            model = %version.model, version = %version.version, %by, "{version}: deleted by {by}: {why}"
        ),
        R::VersionDeleted { version, .. } => {
            tracing::info!(model = %version.model, version = %version.version, "{version}: deleted");
        }
        R::VersionKept { version, why } => tracing::warn!(
            model = %version.model, version = %version.version, "{version}: not deleted: {why}"
        ),
        R::LogHeld { .. } | R::LogHoldReleased { .. } | R::LogPruned { .. } => say_pruning(record),
        R::HostKeyMade { key_id } => tracing::info!(%key_id, "this host signs with {key_id} from now on"),
        R::Scrubbed { .. } | R::StoreGrown { .. } | R::ArchiveFailed { .. } => say_store(record),
        R::SnapshotRequested { .. } | R::Scrubbing { .. } | R::StoreGrowing { .. } => {
            tracing::debug!(?record, "written");
        }
    }
}

fn say_store(record: &ArchiveRecord) {
    match record {
        ArchiveRecord::Scrubbed { found } => {
            let (errors, corrected, lost) = (found.errors, found.corrected, found.uncorrectable);
            let of = format_args!("the scrub found {errors} damaged blocks, {corrected} mended");
            match (errors, lost) {
                (0, 0) => tracing::info!(bytes = found.bytes, "scrubbed, no damage"),
                (_, 0) => tracing::warn!(errors, corrected, lost, "{of}"),
                _ => tracing::error!(errors, corrected, lost, "{of}, {lost} lost"),
            }
        }
        ArchiveRecord::StoreGrown { bytes } => tracing::info!(bytes, "the store has {bytes} bytes"),
        ArchiveRecord::ArchiveFailed { what, why } => tracing::error!("{what} failed: {why}"),
        _ => {}
    }
}

fn say_pruning(record: &ArchiveRecord) {
    match record {
        ArchiveRecord::LogHeld { from, by, reason } => {
            tracing::info!(%by, "the journal is held by {by} from record {from} on: {reason}");
        }
        ArchiveRecord::LogHoldReleased { by } => {
            tracing::info!(%by, "the hold on the journal was released by {by}");
        }
        ArchiveRecord::LogPruned { minimum_index, by, why, .. } => {
            tracing::info!(%by, "{by} prunes the journal's records before {minimum_index}: {why}");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;
    use std::sync::{Arc, Mutex};
    use tracing::field::{Field, Visit};
    use tracing::{Event, Level, Subscriber};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
    use turnout_engine::Stamp;

    /// A line of the log: how urgent it is, and its fields, the message among them.
    #[derive(Debug)]
    struct Line {
        level: Level,
        fields: Vec<(String, String)>,
    }

    impl Line {
        fn field(&self, name: &str) -> Option<&str> {
            self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
        }
    }

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.fields.push((field.name().to_owned(), format!("{value:?}")));
        }
    }

    /// A log that keeps its lines.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Line>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut line = Line { level: *event.metadata().level(), fields: Vec::new() };
            event.record(&mut line);
            self.0.lock().unwrap().push(line);
        }
    }

    fn said(told: &Told) -> Vec<Line> {
        let kept = Kept::default();
        let log = tracing_subscriber::registry().with(kept.clone());
        tracing::subscriber::with_default(log, || say(told));
        std::mem::take(&mut kept.0.lock().unwrap())
    }

    /// Each record that the export knows, as that writes it, with how urgent it is there.
    fn records() -> Vec<(u8, Record)> {
        let digest = format!("sha256:{}", "a".repeat(64));
        let text = include_str!("../../../export/src/events/told.txt").replace("DIGEST", &digest);
        let parts = |line: &str| {
            let [priority, _, body] = line.splitn(3, " | ").collect::<Vec<_>>().try_into().unwrap();
            (priority.parse().unwrap(), serde_json::from_str(body).unwrap())
        };
        text.lines().filter(|line| !line.starts_with('#')).map(parts).collect()
    }

    #[test]
    fn each_record_is_as_urgent_as_in_the_export() {
        for (priority, record) in records() {
            let level = match priority {
                3 => Level::ERROR,
                4 => Level::WARN,
                5 | 6 => Level::INFO,
                _ => Level::DEBUG,
            };
            let lines = said(&Told { entry: Entry { record, audit_context: None }, model: None });
            assert!(level == Level::DEBUG || !lines.is_empty(), "nothing is said of {level}");
            assert!(lines.iter().all(|line| line.level == level), "{level}: {lines:?}");
        }
    }

    #[test]
    fn a_line_says_what_it_is_about_and_has_it_as_fields() {
        let mut world = World::default();
        let mut lines = Vec::new();
        for (seq, (_, record)) in (0..).zip(records()) {
            let entry = Entry { record, audit_context: None };
            world.take(&entry, Stamp { seq, at_ms: 1 });
            let told = Told::of(&entry, &world);
            let of_release = entry.record.release().is_some();
            for line in said(&told) {
                let message = line.field("message").unwrap().to_owned();
                if of_release {
                    assert!(message.starts_with("r-4 m: "), "{message}");
                    assert_eq!((line.field("release"), line.field("model")), (Some("r-4"), Some("m")));
                }
                lines.push(message);
            }
        }
        for wanted in [
            "r-4 m: 2 planned by ann",
            "r-4 m: window of 20 requests missed: p95",
            "r-4 m: promoted",
            "r-4 m: ended stuck: p95; home failed",
            "m: worker died: killed by SIGKILL",
            "m@2 imported by ann",
            "1-a: not deleted: busy",
        ] {
            assert!(lines.iter().any(|line| line == wanted), "{wanted:?} is not in {lines:#?}");
        }
    }
}
