//! `turnoutctl audit ...`: the journal's records, and their verification with and without the daemon. Which records
//! `audit log` prints is left to `audit_log.rs`, snapshots to `snapshots.rs`.

use crate::args::AuditCommand;
use crate::audit_log;
use crate::error::{Exit, Failure};
use crate::journal;
use crate::proofs;
use crate::render::{DIM, GOOD, STRONG, Screen, count, safe, time};
use serde_json::Value;
use std::path::{Path, PathBuf};
use turnout_journal::{JournalError, Record, Verified, beside_pruning, log_origin, origin, verify_each};
use turnout_manifest::{Percent, Sha256};
use turnout_protocol::client::Client;
use turnout_protocol::control::{AuditRecord, AuditVerified, SCHEMA};
use turnout_protocol::journal::Prunings;

/// Longest value of a record's field that is shown in a line of text.
const SHOWN_MAX: usize = 120;
/// Fields that say what a record is about come before the others.
const FIRST: [&str; 6] = ["release", "step", "verdict", "snapshot", "version", "model"];

/// Runs `turnoutctl audit ...`.
pub async fn run(client: &Client, screen: &mut Screen, command: AuditCommand) -> Result<Exit, Failure> {
    match command {
        AuditCommand::Log(arguments) => audit_log::log(client, screen, &arguments).await,
        AuditCommand::Journal => journal::show(client, screen).await.map(|()| Exit::Done),
        AuditCommand::Verify { dir: None, .. } => {
            let verified = client.audit_verify().await?;
            show_verified(screen, &verified, "as the daemon read it")
        }
        AuditCommand::Verify { dir: Some(dir), key } => verify(screen, &dir, &key),
        AuditCommand::Proofs(command) => proofs::run(client, screen, command).await,
        AuditCommand::Snapshots(command) => crate::snapshots::run(client, screen, command).await,
    }
}

/// `    43  2026-11-22 14:15:01 UTC  done  release=r-2 step="shift 5 %" at=6`.
pub fn line(record: &AuditRecord) -> String {
    let event = record.body.get("event").and_then(Value::as_str).unwrap_or("record");
    let fields: Vec<String> = match &record.body {
        Value::Object(body) => {
            let first = FIRST.iter().filter_map(|name| body.get_key_value(*name));
            let rest = body.iter().filter(|(name, _)| *name != "event" && !FIRST.contains(&name.as_str()));
            let said = first.chain(rest).filter(|(_, value)| *value != "");
            said.map(|(name, value)| field(name, value)).collect()
        }
        other => vec![field("body", other)],
    };
    let (seq, at) = (record.seq, time(record.time_ms));
    let text =
        format!("{DIM}{seq:>6}{DIM:#}  {at}  {STRONG}{:<22}{STRONG:#} {}", safe(event), fields.join(" "));
    text.trim_end().to_owned() + "\n"
}

fn field(name: &str, value: &Value) -> String {
    let short = match name {
        "step" => step(value),
        "verdict" => verdict(value),
        "window" => figures(value),
        // Who it is stands in the JSON forms.
        "audit_context" => value.get("id").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let text = match (short, value) {
        (Some(text), _) if text.contains(' ') => format!("\"{text}\""),
        (Some(text), _) => text,
        (None, Value::String(text)) if !text.contains(char::is_whitespace) => text.clone(),
        (None, other) => other.to_string(),
    };
    let text = safe(&text);
    let cut: String = text.chars().take(SHOWN_MAX).collect();
    let more = if cut.len() < text.len() { "..." } else { "" };
    format!("{}={cut}{more}", safe(name))
}

/// A step in words: what it does, and the share, the start of a worker or the moment that is meant.
fn step(value: &Value) -> Option<String> {
    let does = value.get("do")?.as_str()?;
    Some(match (does, value.get("of")) {
        (_, None) => does.to_owned(),
        ("shift" | "observe", Some(of)) => {
            let share = Percent::from_thousandths(u32::try_from(of.as_u64()?).ok()?).ok()?;
            format!("{does} {share}")
        }
        (_, Some(Value::String(moment))) => format!("{does} {moment}"),
        (_, Some(generation)) => format!("{does} g{generation}"),
    })
}

/// A verdict and its reason.
fn verdict(value: &Value) -> Option<String> {
    let verdict = value.get("verdict")?.as_str()?;
    let why = value.get("why").and_then(Value::as_str).map(|why| format!(": {why}"));
    Some(format!("{verdict}{}", why.unwrap_or_default()))
}

/// The figures of a window that its verdict is made of: those of the new version.
fn figures(window: &Value) -> Option<String> {
    let seen = window.get("candidate")?;
    let p95 = seen.get("p95_us").and_then(Value::as_u64);
    let p95 = p95.map_or_else(|| "no".to_owned(), |microseconds| format!("{microseconds} us"));
    Some(format!("{} requests, {} errors, {p95} p95", seen.get("requests")?, seen.get("errors")?))
}

fn verify(screen: &mut Screen, dir: &Path, keys: &[PathBuf]) -> Result<Exit, Failure> {
    let dir = proofs::journal_in(dir);
    let damaged = |failure: Failure| {
        failure.hint(
            "keep the folder as it is, and compare it with an older snapshot: `turnoutctl audit snapshots`",
        )
    };
    let (verified, prunings) = beside_pruning(&dir, || read(&dir, keys)).map_err(|error| match error {
        Unread::Key(failure) => failure,
        Unread::Journal(error @ (JournalError::Io { .. } | JournalError::NoJournal { .. })) => {
            Failure::from_error(Exit::Failed, &error)
        }
        Unread::Journal(error) => damaged(Failure::from_error(Exit::Refused, &error)),
    })?;
    let base = verified.base.map(|base| Sha256(*base.as_bytes()));
    // Without a key nobody knows what is signed.
    let signed = verified.signed_size.filter(|_| !keys.is_empty());
    let pruned = base.map(|base| prunings.vouch((verified.first, base), signed)).transpose();
    let pruned = pruned.map_err(|error| damaged(Failure::from_error(Exit::Refused, &error)))?;
    let reply = AuditVerified {
        schema: SCHEMA.to_owned(),
        size: verified.size,
        root: verified.root.to_string(),
        segments: verified.segments,
        first: verified.first,
        pruned,
        first_ms: verified.first_time_ns.map(ms),
        last_ms: verified.last_time_ns.map(ms),
        origin: origin(verified.log_id),
        checkpoints: verified.checkpoints,
        checkpoints_signed: verified.signed,
        signed_size: verified.signed_size,
    };
    let torn = match verified.torn_bytes {
        0 => "offline".to_owned(),
        bytes => format!("offline; an interrupted write left {} at the end", count(bytes, "byte")),
    };
    show_verified(screen, &reply, &torn)
}

/// Why a journal is not verified.
enum Unread {
    Key(Failure),
    Journal(JournalError),
}

fn read(dir: &Path, keys: &[PathBuf]) -> Result<(Verified, Prunings), Unread> {
    let mut prunings = Prunings::default();
    let mut see = |record: &Record| prunings.see((record.seq, ms(record.time_ns)), &record.body);
    let verified = if keys.is_empty() {
        verify_each(dir, None, &mut see)
    } else {
        let name = log_origin(dir).map_err(Unread::Journal)?;
        let keys: Result<Vec<_>, _> = keys.iter().map(|file| proofs::key_in(file, &name)).collect();
        verify_each(dir, Some((&keys.map_err(Unread::Key)?, &proofs::holds)), &mut see)
    };
    verified.map(|verified| (verified, prunings)).map_err(Unread::Journal)
}

/// Nanoseconds since the epoch as milliseconds.
fn ms(nanoseconds: i64) -> u64 {
    u64::try_from(nanoseconds / 1_000_000).unwrap_or(0)
}

fn show_verified(screen: &mut Screen, verified: &AuditVerified, how: &str) -> Result<Exit, Failure> {
    let all = count(verified.size, "record");
    let records = match verified.first {
        0 => all,
        first => format!("{} of {all}", verified.size.saturating_sub(first)),
    };
    let mut text = format!(
        "{GOOD}verified{GOOD:#}: {records} in {}, every checksum and the tree over all hold ({how})\nroot   {}\n",
        count(verified.segments, "segment"),
        safe(&verified.root),
    );
    if let Some(pruned) = &verified.pruned {
        text += &format!("pruned {}; their hashes hold\n", journal::pruning(pruned));
    }
    if let (Some(first), Some(last)) = (verified.first_ms, verified.last_ms) {
        text += &format!("first  {}\nlast   {}\n", time(first), time(last));
    }
    text += &format!("signed {}\n", signed(verified));
    text += &format!(
        "{DIM}hint:{DIM:#} keep a checkpoint elsewhere: only against it does a cut end show, \
         `turnoutctl audit checkpoint`\n"
    );
    screen.show(verified, &text)?;
    Ok(Exit::Done)
}

/// What the checkpoints beside the journal say, in words.
fn signed(verified: &AuditVerified) -> String {
    let Some(size) = verified.signed_size else { return "nothing yet".to_owned() };
    let all = verified.checkpoints;
    let checked = match verified.checkpoints_signed {
        0 => "signatures not checked: give the host's key with `--key FILE`".to_owned(),
        some if some == all => "every signature holds".to_owned(),
        some => format!("{some} by this key"),
    };
    format!("the first {}, in {}; {checked}", count(size, "record"), count(all, "checkpoint"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_says_first_what_it_is_about_and_nothing_empty() {
        let lines = [
            (
                json!({"at": 6, "detail": "", "event": "done", "release": "r-2",
                       "step": {"do": "shift", "of": 5000}}),
                "done release=r-2 step=\"shift 5 %\" at=6",
            ),
            (
                json!({"at": 2, "event": "intent", "release": "r-2", "step": {"do": "create-cell", "of": 4}}),
                "intent release=r-2 step=\"create-cell g4\" at=2",
            ),
            (
                json!({"event": "observed", "release": "r-2", "verdict": {"verdict": "missed", "why": "p95"},
                       "window": {"candidate": {"requests": 20, "errors": 1, "p95_us": 361}}}),
                "observed release=r-2 verdict=\"missed: p95\" window=\"20 requests, 1 errors, 361 us p95\"",
            ),
            (
                json!({"event": "promoted", "release": "r-2", "audit_context": {"id": "01a0", "began_ms": 1}}),
                "promoted release=r-2 audit_context=01a0",
            ),
            (json!({"event": "planned", "step": {"undo": [1]}}), "planned step={\"undo\":[1]}"),
        ];
        for (body, wanted) in lines {
            let record =
                AuditRecord { schema: SCHEMA.to_owned(), seq: 1, time_ms: 0, body, leaf: String::new() };
            let text = anstream::adapter::strip_str(&line(&record)).to_string();
            let words: Vec<&str> = text.split_whitespace().skip(4).collect();
            assert_eq!(words.join(" "), wanted);
        }
    }
}
