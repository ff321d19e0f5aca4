//! `turnoutctl audit snapshot ...`: take, list, mount, hold, compare and prune snapshots. Exports are in `exports.rs`.

use crate::args::{Since, SnapshotCommand, SnapshotsArguments};
use crate::error::{Exit, Failure};
use crate::exports;
use crate::journal;
use crate::render::{BAD, DIM, GOOD, STRONG, Screen, Table, WARN, count, figure, safe, styled, time, words};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use turnout_protocol::archive::{
    Change, HoldSnapshot, MountSnapshot, Prune, Pruned, Snapshot, SnapshotDiff, SnapshotVersion, Snapshots,
    TakeSnapshot, UnmountSnapshot,
};
use turnout_protocol::client::{Client, SnapshotFilter};
use turnout_protocol::journal::HoldJournal;

/// Longest value of a change that is shown in a line of text.
const SHOWN_MAX: usize = 100;

/// Runs the commands about snapshots.
pub async fn run(client: &Client, screen: &mut Screen, command: SnapshotCommand) -> Result<Exit, Failure> {
    match command {
        SnapshotCommand::Snapshot { note } => {
            let made = client.take_snapshot(&TakeSnapshot { note }).await?;
            screen.show(&made, &format!("{GOOD}taken{GOOD:#}\n{}", one(&made)))?;
        }
        SnapshotCommand::Snapshots(arguments) => {
            let list = client.snapshots(&filter(arguments)).await?;
            screen.show(&list, &table(&list))?;
        }
        SnapshotCommand::Mount { snapshot, dir, time } => {
            mount(client, screen, (&snapshot, &dir, time)).await?
        }
        SnapshotCommand::Unmount { dir } => {
            let request = UnmountSnapshot { dir: real_path(&dir)? };
            let done = client.unmount_snapshot(&request).await?;
            let text = format!("unmounted {} from `{}`\n", safe(&done.snapshot), safe(&done.unmounted));
            screen.show(&done, &text)?;
        }
        SnapshotCommand::Hold { what, reason, from } if what == journal::NAME => {
            journal::hold(client, screen, &HoldJournal { reason, from }).await?;
        }
        SnapshotCommand::Hold { from: Some(_), .. } => {
            return Err(Failure::new(Exit::Usage, "`--from` is for the journal: a snapshot is held whole"));
        }
        SnapshotCommand::Hold { what, reason, from: None } => {
            let held = client.hold_snapshot(&what, &HoldSnapshot { reason }).await?;
            screen.show(&held, &format!("{GOOD}held{GOOD:#}\n{}", one(&held)))?;
        }
        SnapshotCommand::ReleaseHold { what } if what == journal::NAME => {
            journal::release_hold(client, screen).await?;
        }
        SnapshotCommand::ReleaseHold { what } => {
            let free = client.release_hold(&what).await?;
            screen.show(&free, &format!("the hold is over\n{}", one(&free)))?;
        }
        SnapshotCommand::Diff { from, to } => {
            let found = client.diff_snapshots(&from, &to).await?;
            screen.show(&found, &difference(&found))?;
        }
        SnapshotCommand::Export(arguments) => return exports::export(client, screen, arguments).await,
        SnapshotCommand::Check { dir, digests, key } => {
            return exports::check(screen, &dir, (&digests, &key));
        }
        SnapshotCommand::Key => {
            let key = client.host_key().await?;
            // The key alone, so that `> host.pem` keeps it.
            screen.show(&key, &key.public_key)?;
            anstream::eprintln!("key id  {}", safe(&key.key_id));
        }
        SnapshotCommand::Prune { dry_run, before } => {
            let request = Prune { dry_run, before_ms: before.map(moment_ms) };
            let pruned = client.prune(&request).await?;
            screen.show(&pruned, &gone(&pruned))?;
            return Ok(if pruned.failed.is_empty() { Exit::Done } else { Exit::Failed });
        }
    }
    Ok(Exit::Done)
}

fn filter(arguments: SnapshotsArguments) -> SnapshotFilter {
    let since_ms = arguments.since.map(moment_ms);
    SnapshotFilter { model: arguments.model, version: arguments.version, since_ms }
}

/// Milliseconds since the epoch.
fn moment_ms(moment: Since) -> u64 {
    match moment {
        Since::At(ms) => ms,
        Since::Ago(ago) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(now.saturating_sub(ago).as_millis()).unwrap_or(0)
        }
    }
}

fn shows(versions: &[SnapshotVersion]) -> String {
    let named = |version: &SnapshotVersion| {
        let mark = if version.live { "" } else { " (not live)" };
        format!("{}@{}{mark}", version.model, version.version)
    };
    versions.iter().map(named).collect::<Vec<_>>().join(", ")
}

fn table(list: &Snapshots) -> String {
    let mut table = Table::new(&["SNAPSHOT", "MADE", "RECORDS", "WHY", "SHOWS", "KEPT BY"]);
    for snapshot in &list.snapshots {
        let why = if snapshot.note.is_empty() { &snapshot.reason } else { &snapshot.note };
        table.row(vec![
            styled(STRONG, safe(&snapshot.name)),
            words(time(snapshot.created_ms)),
            figure(snapshot.journal_size.to_string()),
            words(safe(why)),
            words(if snapshot.versions.is_empty() { "-".to_owned() } else { shows(&snapshot.versions) }),
            words(if snapshot.kept_by.is_empty() {
                "-".to_owned()
            } else {
                safe(&snapshot.kept_by.join("; "))
            }),
        ]);
    }
    if list.snapshots.is_empty() { "no snapshot\n".to_owned() } else { table.text() }
}

fn one(snapshot: &Snapshot) -> String {
    let mut text = format!("snapshot  {STRONG}{}{STRONG:#}\n", safe(&snapshot.name));
    text +=
        &format!("made      {}, at {}\n", time(snapshot.created_ms), count(snapshot.journal_size, "record"));
    if let Some(root) = &snapshot.journal_root {
        text += &format!("root      {}\n", safe(root));
    }
    if !snapshot.versions.is_empty() {
        text += &format!("shows     {}\n", shows(&snapshot.versions));
    }
    for reason in &snapshot.kept_by {
        text += &format!("kept by   {}\n", safe(reason));
    }
    text
}

async fn mount(
    client: &Client,
    screen: &mut Screen,
    (snapshot, dir, time_given): (&str, &Path, Duration),
) -> Result<(), Failure> {
    let for_ms = u64::try_from(time_given.as_millis()).unwrap_or(u64::MAX);
    let request = MountSnapshot { dir: real_path(dir)?, for_ms };
    let mounted = client.mount_snapshot(snapshot, &request).await?;
    let at = safe(&mounted.mounted_at);
    let text = format!(
        "mounted {} read-only at `{at}` until {}\n{DIM}hint:{DIM:#} check its journal with `turnoutctl audit \
         verify {at}`; take it away with `turnoutctl audit unmount {at}`\n",
        safe(&mounted.snapshot),
        time(mounted.until_ms),
    );
    Ok(screen.show(&mounted, &text)?)
}

/// The path as the kernel's mount tables name it.
fn real_path(dir: &Path) -> Result<String, Failure> {
    let real = std::fs::canonicalize(dir).map_err(|error| {
        let failure = Failure::file("use", dir, &error);
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                failure.hint(format!("make the folder first: `mkdir {}`", dir.display()))
            }
            _ => failure,
        }
    })?;
    real.into_os_string()
        .into_string()
        .map_err(|path| Failure::new(Exit::Usage, format!("`{}` is no UTF-8", path.display())))
}

fn difference(found: &SnapshotDiff) -> String {
    let noun = if found.journal_records < 0 { "fewer record" } else { "more record" };
    let records = count(found.journal_records.unsigned_abs(), noun);
    let mut text = format!("{} -> {}: {records}\n", safe(&found.from), safe(&found.to));
    for change in &found.live {
        let name = |version: &Option<SnapshotVersion>| {
            version.as_ref().map_or_else(|| "(nothing)".to_owned(), |v| v.version.to_string())
        };
        let _ = writeln!(
            text,
            "{STRONG}live{STRONG:#}     {} {} -> {}",
            change.model,
            name(&change.from),
            name(&change.to)
        );
    }
    for change in &found.versions {
        section(&mut text, &format!("weights of {}", change.model), &change.weights);
        section(&mut text, &format!("files of {}", change.model), &change.files);
        section(&mut text, &format!("manifest of {}", change.model), &change.manifest);
    }
    section(&mut text, "trust", &found.trust);
    section(&mut text, "configuration", &found.configuration);
    section(&mut text, "files of the snapshots", &found.files);
    text
}

fn section(text: &mut String, name: &str, changes: &[Change]) {
    if changes.is_empty() {
        return;
    }
    let _ = writeln!(text, "{STRONG}{name}{STRONG:#}");
    for change in changes {
        let (mark, style) = match change.change.as_str() {
            "added" => ('+', GOOD),
            "removed" => ('-', BAD),
            _ => ('c', WARN),
        };
        let value = match (&change.from, &change.to) {
            (Some(from), Some(to)) => format!("{} -> {}", cut(from), cut(to)),
            (Some(only), None) | (None, Some(only)) => cut(only),
            (None, None) => String::new(),
        };
        let _ = writeln!(text, "  {style}{mark}{style:#} {}  {DIM}{value}{DIM:#}", safe(&change.what));
    }
}

fn cut(value: &str) -> String {
    let value = safe(value);
    let shown: String = value.chars().take(SHOWN_MAX).collect();
    if shown.len() < value.len() { shown + "..." } else { shown }
}

fn gone(pruned: &Pruned) -> String {
    let verb = if pruned.dry_run { "would go" } else { "deleted" };
    let mut text = String::new();
    for gone in &pruned.gone {
        let _ = writeln!(text, "{verb}  {STRONG}{}{STRONG:#}  {}", safe(&gone.what), safe(&gone.why));
    }
    for kept in &pruned.failed {
        let _ = writeln!(text, "{BAD}stays{BAD:#}  {}  {}", safe(&kept.what), safe(&kept.why));
    }
    for kept in &pruned.kept {
        let _ = writeln!(text, "{WARN}kept{WARN:#}  {}  {}", safe(&kept.what), safe(&kept.why));
    }
    if text.is_empty() {
        text = format!(
            "nothing to delete\n{DIM}hint:{DIM:#} `turnoutctl store show` and `turnoutctl audit journal` name the policy\n"
        );
    }
    text
}
