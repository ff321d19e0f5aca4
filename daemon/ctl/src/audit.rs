//! `turnoutctl audit ...`: the journal's records, their verification with and without the daemon, and the snapshots.

use crate::args::AuditCommand;
use crate::error::{Exit, Failure};
use crate::render::{BAD, DIM, GOOD, Output, STRONG, Screen, Table, count, safe, styled, time, words};
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use serde_json::Value;
use std::path::Path;
use turnout_journal::JournalError;
use turnout_protocol::client::{Client, Tail};
use turnout_protocol::control::{AuditRecord, AuditVerified, SCHEMA, Snapshot, Snapshots};

/// Longest value of a record's field that is shown in a line of text.
const SHOWN_MAX: usize = 120;

/// Runs `turnoutctl audit ...`.
pub async fn run(client: &Client, screen: &mut Screen, command: AuditCommand) -> Result<Exit, Failure> {
    match command {
        AuditCommand::Log { follow, from } => {
            let tail = if follow { Tail::Follow } else { Tail::Stop };
            log(client, screen, from, tail).await
        }
        AuditCommand::Verify { dir: None } => {
            let verified = client.audit_verify().await?;
            show_verified(screen, &verified, "as the daemon read it")
        }
        AuditCommand::Verify { dir: Some(dir) } => verify(screen, &dir),
        AuditCommand::Snapshots => {
            let list = client.snapshots().await?;
            screen.show(&list, &text(&list))?;
            Ok(Exit::Done)
        }
        AuditCommand::Mount { snapshot, dir } => mount(client, screen, &snapshot, &dir).await,
    }
}

async fn log(client: &Client, screen: &mut Screen, from: u64, tail: Tail) -> Result<Exit, Failure> {
    let mut records = client.audit_log(from, tail).await?;
    // A log goes on: one value per line in every JSON form.
    while let Some(record) = records.next().await? {
        match screen.output {
            Output::Text => screen.text(&line(&record))?,
            Output::Json | Output::Ndjson => screen.line_of(&record)?,
        }
    }
    Ok(Exit::Done)
}

/// `    43  2026-11-22 14:15:01 UTC  release-created  release_id=r-2 to=1.4.0`.
fn line(record: &AuditRecord) -> String {
    let event = record.body.get("event").and_then(Value::as_str).unwrap_or("record");
    let fields: Vec<String> = match &record.body {
        Value::Object(body) => {
            body.iter().filter(|(name, _)| *name != "event").map(|(name, value)| field(name, value)).collect()
        }
        other => vec![field("body", other)],
    };
    let (seq, at) = (record.seq, time(record.time_ms));
    let text =
        format!("{DIM}{seq:>6}{DIM:#}  {at}  {STRONG}{:<22}{STRONG:#} {}", safe(event), fields.join(" "));
    text.trim_end().to_owned() + "\n"
}

fn field(name: &str, value: &Value) -> String {
    let text = match value {
        Value::String(text) if !text.contains(char::is_whitespace) => text.clone(),
        other => other.to_string(),
    };
    let text = safe(&text);
    let cut: String = text.chars().take(SHOWN_MAX).collect();
    let more = if cut.len() < text.len() { "..." } else { "" };
    format!("{}={cut}{more}", safe(name))
}

fn verify(screen: &mut Screen, dir: &Path) -> Result<Exit, Failure> {
    let verified = turnout_journal::verify(dir).or_else(|error| match error {
        // A snapshot keeps its copy of the journal in a folder of that name.
        JournalError::NoJournal { .. } if dir.join("journal").is_dir() => {
            turnout_journal::verify(&dir.join("journal"))
        }
        error => Err(error),
    });
    let verified = verified.map_err(|error| {
        let exit = if matches!(error, JournalError::Damaged(_)) { Exit::Refused } else { Exit::Failed };
        let failure = Failure::from_error(exit, &error);
        match error {
            JournalError::Damaged(_) => failure.hint(
                "keep the folder as it is, and compare it with an older snapshot: `turnoutctl audit snapshots`",
            ),
            _ => failure,
        }
    })?;
    let ms = |ns: i64| u64::try_from(ns / 1_000_000).unwrap_or(0);
    let reply = AuditVerified {
        schema: SCHEMA.to_owned(),
        size: verified.size,
        root: verified.root.to_string(),
        segments: verified.segments,
        first_ms: verified.first_time_ns.map(ms),
        last_ms: verified.last_time_ns.map(ms),
    };
    let torn = match verified.torn_bytes {
        0 => "offline".to_owned(),
        bytes => format!("offline; an interrupted write left {} at the end", count(bytes, "byte")),
    };
    show_verified(screen, &reply, &torn)
}

fn show_verified(screen: &mut Screen, verified: &AuditVerified, how: &str) -> Result<Exit, Failure> {
    let mut text = format!(
        "{GOOD}verified{GOOD:#}: {} in {}, every checksum and the tree over all hold ({how})\nroot   {}\n",
        count(verified.size, "record"),
        count(verified.segments, "segment"),
        safe(&verified.root),
    );
    if let (Some(first), Some(last)) = (verified.first_ms, verified.last_ms) {
        text += &format!("first  {}\nlast   {}\n", time(first), time(last));
    }
    text +=
        &format!("{DIM}hint:{DIM:#} keep size and root elsewhere: only against them does a cut end show\n");
    screen.show(verified, &text)?;
    Ok(Exit::Done)
}

fn text(list: &Snapshots) -> String {
    let mut table = Table::new(&["SNAPSHOT", "MADE", "PATH"]);
    for snapshot in &list.snapshots {
        table.row(vec![
            styled(STRONG, safe(&snapshot.name)),
            words(time(snapshot.created_ms)),
            words(safe(&snapshot.path)),
        ]);
    }
    if list.snapshots.is_empty() {
        "no snapshot yet: the first release makes one\n".to_owned()
    } else {
        table.text()
    }
}

async fn mount(client: &Client, screen: &mut Screen, name: &str, dir: &Path) -> Result<Exit, Failure> {
    let list = client.snapshots().await?;
    let snapshot = list.snapshots.iter().find(|snapshot| snapshot.name == name).ok_or_else(|| {
        Failure::new(Exit::Failed, format!("no snapshot is named `{}`", safe(name)))
            .hint("`turnoutctl audit snapshots` lists them")
    })?;
    mount_read_only(Path::new(&snapshot.path), dir).map_err(|error| {
        let message = format!("cannot mount `{}` at `{}`: {error}", snapshot.path, dir.display());
        match error {
            rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => {
                Failure::new(Exit::Denied, message).hint("mounting needs root")
            }
            rustix::io::Errno::NOENT if !dir.exists() => Failure::new(Exit::Failed, message)
                .hint(format!("make the folder first: `mkdir {}`", dir.display())),
            rustix::io::Errno::NOENT => Failure::new(Exit::Failed, message)
                .hint("the store is not mounted where this command runs: does the daemon run on this host?"),
            _ => Failure::new(Exit::Failed, message),
        }
    })?;
    show_mounted(screen, snapshot, dir)
}

fn show_mounted(screen: &mut Screen, snapshot: &Snapshot, dir: &Path) -> Result<Exit, Failure> {
    let text = format!(
        "mounted {} read-only at `{}`\n{DIM}hint:{DIM:#} check its journal with `turnoutctl audit verify {}`; \
         take it away with `umount {}`\n",
        safe(&snapshot.name),
        dir.display(),
        dir.display(),
        dir.display(),
    );
    screen.show(&serde_json::json!({"schema": SCHEMA, "snapshot": snapshot, "mounted_at": dir}), &text)?;
    Ok(Exit::Done)
}

/// A bind mount takes no flags of its own (mount(2)): the second call sets them. The snapshot is a read-only
/// subvolume, so nothing can be written in between.
fn mount_read_only(snapshot: &Path, dir: &Path) -> rustix::io::Result<()> {
    mount_bind(snapshot, dir)?;
    let flags =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(dir, flags, "").inspect_err(|_| {
        if let Err(error) = unmount(dir, UnmountFlags::DETACH) {
            anstream::eprintln!("{BAD}warning:{BAD:#} `{}` stays mounted: {error}", dir.display());
        }
    })
}
