//! Durable records per second: the journal beside SQLite and beside a bare loop of write(2) and fdatasync(2), in turns,
//! on ext4 and on Btrfs; and how long a journal of millions of records takes to open.

use super::Effort;
use super::figures::Line;
use super::machine::Values;
use crate::images::{FileSystem, Mounted, Place};
use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, params};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use turnout_journal::{Journal, OpenOptions};

const PART: &str = "journal: durable records per second, beside SQLite (WAL, FULL) and a bare loop";
const OPEN_PART: &str = "journal: opening it";
/// Records that are durable together.
const BATCHES: [usize; 3] = [1, 64, 1024];
/// Bytes of a record: what one of the daemon's has.
const RECORD_BYTES: usize = 300;
/// Sparse; a fast disk takes a third of it in the rounds of the largest batch.
const IMAGE_BYTES: u64 = 16 << 30;
/// Records that are written at a time where only opening is measured.
const BULK: usize = 8192;
/// Longest time that opening may take.
const OPEN_FLOOR: Duration = Duration::from_secs(2);

/// Measures on both file systems.
///
/// # Errors
/// When an image cannot be made, or one of the writers fails.
pub fn measure(effort: &Effort) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (kind, name) in [(FileSystem::Ext4, "ext4"), (FileSystem::Btrfs, "Btrfs")] {
        let place = Place::new("bench-journal")?;
        let disk = place.file_system(kind, IMAGE_BYTES)?;
        for batch in BATCHES {
            lines.push(appends(&disk, (name, batch), effort)?);
        }
        if kind == FileSystem::Ext4 {
            lines.push(opening(disk.path(), effort.journal_records)?);
        }
    }
    lines.sort_by_key(|line| line.part == OPEN_PART);
    Ok(lines)
}

fn appends(disk: &Mounted, (name, batch): (&str, usize), effort: &Effort) -> Result<Line> {
    let folder = disk.path().join(format!("batch-{batch}"));
    std::fs::create_dir(&folder)?;
    let records: Vec<Vec<u8>> = (0..batch).map(|number| record(number as u64)).collect();
    let mut writers = [journal(&folder, &records)?, sqlite(&folder, &records)?, bare(&folder, &records)?];
    let mut rounds: Vec<[f64; 3]> = Vec::new();
    for round in 0..effort.rounds {
        let mut rates = [0.0; 3];
        // In changing order: what one leaves to be written back is the next one's burden.
        for turn in 0..writers.len() {
            let which = (round + turn) % writers.len();
            rates[which] = per_second(&mut writers[which], batch, effort.round)?;
        }
        rounds.push(rates);
    }
    drop(writers);
    std::fs::remove_dir_all(&folder)?;
    let median = |of: &dyn Fn(&[f64; 3]) -> f64| rounds.iter().map(of).collect::<Values>().median();
    let [ours, theirs, least] = [0, 1, 2].map(|which| median(&|rates| rates[which]));
    let (of_sqlite, of_bare) = (median(&|rates| rates[0] / rates[1]), median(&|rates| rates[0] / rates[2]));
    // In between, the disk decides as much as the writer does.
    let floor = match batch {
        1 => Some(1.0),
        1024 => Some(2.0),
        _ => None,
    };
    let floor_said = floor.map_or_else(String::new, |floor| format!("{floor:.1} of SQLite, "));
    let figures = json!({
        "file_system": name, "batch": batch, "journal": ours, "sqlite": theirs, "bare": least,
    });
    let measured = format!(
        "{ours:.0}/s; SQLite {theirs:.0}/s, bare {least:.0}/s: {of_sqlite:.2} of SQLite, {of_bare:.2} of bare"
    );
    let met = floor.is_none_or(|floor| of_sqlite >= floor) && of_bare >= 0.7;
    let line = Line::judged(PART, format!("{name}, batch {batch}"), format!("{floor_said}0.7 of bare"));
    Ok(line.found(measured, figures).met(met))
}

fn record(number: u64) -> Vec<u8> {
    // What a hash makes of a number: nothing that compresses or repeats.
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'a' + (state % 26) as u8
    };
    (0..RECORD_BYTES).map(|_| next()).collect()
}

/// Makes a batch durable.
type Commit<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

fn journal<'a>(folder: &Path, records: &'a [Vec<u8>]) -> Result<Commit<'a>> {
    let (journal, _) = Journal::open(&folder.join("journal"), OpenOptions::default())?;
    let bodies: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    Ok(Box::new(move || journal.append_all(&bodies).map(drop).map_err(Into::into)))
}

fn sqlite<'a>(folder: &Path, records: &'a [Vec<u8>]) -> Result<Commit<'a>> {
    let mut connection = Connection::open(folder.join("sqlite.db"))?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    ensure!(mode == "wal", "SQLite keeps the journal mode `{mode}`");
    connection.pragma_update(None, "synchronous", "FULL")?;
    // As the journal keeps it: number, time, body.
    connection.execute(
        "CREATE TABLE record (seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, body BLOB NOT NULL)",
        [],
    )?;
    let mut time = 0_i64;
    Ok(Box::new(move || {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare("INSERT INTO record (time, body) VALUES (?1, ?2)")?;
            for record in records {
                time += 1;
                insert.execute(params![time, record])?;
            }
        }
        transaction.commit().map_err(Into::into)
    }))
}

fn bare<'a>(folder: &Path, records: &'a [Vec<u8>]) -> Result<Commit<'a>> {
    let mut file = File::create(folder.join("bare"))?;
    let bytes = records.concat();
    Ok(Box::new(move || file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(Into::into)))
}

fn per_second(commit: &mut Commit<'_>, batch: usize, round: Duration) -> Result<f64> {
    let begun = Instant::now();
    let mut batches = 0_u32;
    while begun.elapsed() < round {
        commit()?;
        batches += 1;
    }
    Ok(f64::from(batches) * batch as f64 / begun.elapsed().as_secs_f64())
}

fn opening(disk: &Path, records: u64) -> Result<Line> {
    let dir = disk.join("opening");
    let (journal, _) = Journal::open(&dir, OpenOptions::default())?;
    let bodies: Vec<Vec<u8>> = (0..BULK).map(|number| record(number as u64)).collect();
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    while journal.size() < records {
        let left = usize::try_from(records - journal.size()).unwrap_or(BULK).min(BULK);
        journal.append_all(&bodies[..left])?;
    }
    drop(journal);
    let begun = Instant::now();
    let (journal, recovered) = Journal::open(&dir, OpenOptions::default()).context("opening it again")?;
    let took = begun.elapsed();
    ensure!(recovered.records == records && journal.size() == records, "not all records are there");
    drop(journal);
    std::fs::remove_dir_all(&dir)?;
    let what = format!("{:.1} million records", records as f64 / 1e6);
    let line = Line::judged(OPEN_PART, what, format!("under {} s", OPEN_FLOOR.as_secs()));
    let figures = json!({"records": records, "seconds": took.as_secs_f64()});
    Ok(line.found(format!("{:.2} s", took.as_secs_f64()), figures).met(took < OPEN_FLOOR))
}
