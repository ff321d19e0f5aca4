//! What the journal acknowledged is there after the power goes and while the disk is full, on the file systems it is
//! meant for. `TURNOUT_IMAGES=200 cargo test -p turnout-scenarios --test durability -- --nocapture` makes more copies.

use anyhow::{Result, ensure};
use std::fs;
use turnout_journal::{Journal, JournalError, OpenOptions, RESERVE, verify};
use turnout_scenarios::images::{Copied, FileSystem, Place, Syncs, count, fill, seed, summary};
use turnout_scenarios::scenario::{LIMIT, until};

fn copies(name: &str, (kind, syncs): (FileSystem, Syncs), count: u32) -> Result<Vec<Result<Copied>>> {
    let copies = Place::new(name)?.copies((kind, syncs), count, seed())?;
    println!("{kind:?}, syncs {syncs:?}: {}", summary(&copies));
    Ok(copies)
}

fn holds(copy: &Result<Copied>) -> bool {
    copy.as_ref().is_ok_and(Copied::is_whole)
}

fn check_nothing_is_lost(name: &str, kind: FileSystem) -> Result<()> {
    let copies = copies(name, (kind, Syncs::Made), count())?;
    ensure!(copies.iter().all(holds), "{copies:?}");
    Ok(())
}

/// The same test must be able to fail: without syncs, it does.
fn check_a_loss_is_found(name: &str, kind: FileSystem) -> Result<()> {
    let copies = copies(name, (kind, Syncs::Removed), 8)?;
    ensure!(!copies.iter().all(holds), "no copy has lost anything: {copies:?}");
    Ok(())
}

#[test]
fn no_acknowledged_record_is_missing_in_an_image_of_ext4() {
    check_nothing_is_lost("images-ext4", FileSystem::Ext4).unwrap();
}

#[test]
fn no_acknowledged_record_is_missing_in_an_image_of_btrfs() {
    check_nothing_is_lost("images-btrfs", FileSystem::Btrfs).unwrap();
}

#[test]
fn a_writer_that_does_not_sync_is_found_out_on_ext4() {
    check_a_loss_is_found("images-ext4-control", FileSystem::Ext4).unwrap();
}

#[test]
fn a_writer_that_does_not_sync_is_found_out_on_btrfs() {
    check_a_loss_is_found("images-btrfs-control", FileSystem::Btrfs).unwrap();
}

/// Records that must fit into the reserve.
const LAST_RECORDS: u64 = 100;

fn full(name: &str, (kind, bytes): (FileSystem, u64)) -> Result<()> {
    let place = Place::new(name)?;
    let disk = place.file_system(kind, bytes)?;
    let dir = disk.path().join("journal");
    let options = OpenOptions { segment_bytes: 64 << 10, reserve_bytes: 4 << 20, ..OpenOptions::default() };
    let (journal, _) = Journal::open(&dir, options.clone())?;
    let body = vec![b'x'; 2000];
    journal.append(&body)?;
    ensure!(!journal.is_on_reserve(), "there is room");
    let filler = fill(disk.path())?;
    while !journal.is_on_reserve() {
        journal.append(&body)?;
    }
    for _ in 0..LAST_RECORDS {
        journal.append(&body)?;
    }
    ensure!(!journal.restore_reserve()?, "there is no room for a reserve yet");
    let acknowledged = loop {
        match journal.append(&body) {
            Ok(_) => {}
            Err(JournalError::Poisoned { .. }) => break journal.size(),
            Err(error) => return Err(error.into()),
        }
    };
    drop(journal);
    fs::remove_file(filler)?;
    ensure!(verify(&dir)?.size >= acknowledged, "a record is missing");
    // A process that another test starts has the lock too, from its fork until its exec.
    let (journal, _) = until("the lock is free", LIMIT, || match Journal::open(&dir, options.clone()) {
        Err(JournalError::Locked { .. }) => Ok(None),
        opened => Ok(Some(opened?)),
    })?;
    ensure!(journal.size() >= acknowledged && !journal.is_on_reserve(), "it goes on with a reserve");
    ensure!(dir.join(RESERVE).is_file(), "the reserve is a file");
    journal.append(&body)?;
    Ok(())
}

#[test]
fn a_full_ext4_takes_the_last_records_and_loses_none() {
    full("full-ext4", (FileSystem::Ext4, 24 << 20)).unwrap();
}

#[test]
fn a_full_btrfs_takes_the_last_records_and_loses_none() {
    full("full-btrfs", (FileSystem::Btrfs, 160 << 20)).unwrap();
}
