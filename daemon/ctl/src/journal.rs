//! `turnoutctl audit journal`, and holds on the journal: how far back it goes, how long its records stay, what keeps them.

use crate::error::Failure;
use crate::render::{DIM, GOOD, STRONG, Screen, WARN, count, safe, time};
use std::fmt::Write as _;
use turnout_protocol::client::Client;
use turnout_protocol::journal::{HoldJournal, JournalReader, JournalState, PrunedLog};

/// What `hold` and `release-hold` call it, where a snapshot would be named.
pub const NAME: &str = "journal";

/// Shows the journal.
pub async fn show(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let journal = client.journal().await?;
    Ok(screen.show(&journal, &text(&journal))?)
}

/// Places a hold on the journal.
pub async fn hold(client: &Client, screen: &mut Screen, request: &HoldJournal) -> Result<(), Failure> {
    let held = client.hold_journal(request).await?;
    Ok(screen.show(&held, &format!("{GOOD}held{GOOD:#}\n{}", text(&held)))?)
}

/// Ends the hold on the journal.
pub async fn release_hold(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let free = client.release_journal_hold().await?;
    Ok(screen.show(&free, &format!("the hold is over\n{}", text(&free)))?)
}

fn text(journal: &JournalState) -> String {
    let mut text = format!(
        "records   {STRONG}{}{STRONG:#} to {} in {}, {} bytes\n",
        journal.first,
        journal.size.saturating_sub(1),
        count(journal.segments, "segment"),
        journal.bytes,
    );
    if let Some(since) = journal.since_ms {
        let _ = writeln!(text, "since     {}", time(since));
    }
    for rule in &journal.retention {
        let _ = writeln!(text, "rule      {}", safe(rule));
    }
    if journal.retention.is_empty() {
        text += "rule      every record stays; `[journal]` in the configuration lets old ones go\n";
    }
    if let Some(hold) = &journal.hold {
        let (by, reason) = (safe(&hold.by), safe(&hold.reason));
        let at = time(hold.at_ms);
        let _ = writeln!(
            text,
            "{WARN}held{WARN:#}      from record {} on by {by} since {at}: {reason}",
            hold.from
        );
    }
    journal.readers.iter().for_each(|reader| text += &reader_line(reader));
    for pruned in &journal.pruned {
        let _ = writeln!(text, "pruned    {}", pruning(pruned));
    }
    if let Some(first) = journal.next_first {
        let _ = writeln!(text, "next      the records before {first} go at the next round");
    }
    for reason in &journal.kept_by {
        let _ = writeln!(text, "kept by   {}", safe(reason));
    }
    text
}

fn reader_line(reader: &JournalReader) -> String {
    let cursor = safe(&reader.cursor);
    match (reader.next, &reader.why) {
        (Some(next), _) => format!("reader    `{cursor}` goes on at record {next}\n"),
        (None, why) => {
            let why = safe(why.as_deref().unwrap_or("its place is not known"));
            format!("reader    `{cursor}`  {WARN}{why}{WARN:#}\n")
        }
    }
}

/// `the records before 42, on 2026-11-22 13:15:01 UTC by the retention policy: they are older than 365 days`.
pub fn pruning(pruned: &PrunedLog) -> String {
    let (first, at) = (pruned.minimum_index, time(pruned.at_ms));
    format!("the records before {first}, on {at} by {}: {}", safe(&pruned.by), safe(&pruned.why))
}

/// What a reader of the log is told first where its beginning is gone.
pub fn missing(first: u64) -> String {
    format!(
        "{DIM}the records before {first} were pruned; `turnoutctl audit journal` says when and by whom{DIM:#}\n"
    )
}
