//! A journal that cannot be written: changes are refused, what serves goes on serving. The journal is made to fail by
//! the greatest size of a file (setrlimit(2)), which holds for a whole process, so each run is a process of its own.

use crate::stage::{GOOD, Load, SMALL_DISK, Stage, V1, V2, plan};
use std::process::Command;
use tokio::sync::oneshot;
use turnout_engine::advance::Wish;
use turnout_engine::record::End;
use turnout_engine::{Entry, LogRecord, Record};
use turnout_journal::{MAX_BODY_BYTES, Reader};
use turnout_manifest::{Percent, Plan};
use turnoutd::driver::{Denial, FULL, Input};

/// Set in the process that has the limit.
const LIMITED: &str = "TURNOUT_TEST_FILE_LIMIT";
/// Greatest file, in the blocks of `ulimit -f`; a journal of some hundred records.
const BLOCKS: u32 = 128;

/// Runs one test of this file again, in a process that can write no large file.
fn in_a_small_world(test: &str) {
    let program = std::env::current_exe().unwrap();
    // An ignored SIGXFSZ stays ignored across exec: the write then fails with EFBIG.
    let script =
        format!("trap '' XFSZ; ulimit -f {BLOCKS}; exec \"$0\" --exact read_only::{test} --nocapture");
    let done = Command::new("sh").arg("-c").arg(script).arg(program).env(LIMITED, "1").output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

/// Has a record of some length written.
fn note(stage: &mut Stage, length: usize) -> Result<(), Denial> {
    let record =
        Record::Refused { by: "uid 1000".into(), what: "fill".into(), why: vec!["x".repeat(length)] };
    let (reply, mut answer) = oneshot::channel();
    let entry = Entry { record, audit_context: None };
    stage.running().sender.send(Input::Note(Box::new(entry), reply)).unwrap();
    // Other inputs may come first.
    loop {
        stage.turn();
        if let Ok(answered) = answer.try_recv() {
            return answered;
        }
    }
}

/// Notes until the journal is full; gives why it takes no more.
fn fill(stage: &mut Stage) -> String {
    loop {
        match note(stage, 3000) {
            Ok(()) => {}
            Err(Denial::ReadOnly(why)) => return why,
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_record_that_is_too_long_is_refused_and_the_next_is_written() {
    let mut stage = Stage::live();
    let records = stage.records();
    let refused = note(&mut stage, MAX_BODY_BYTES);
    assert!(matches!(&refused, Err(Denial::TooLong(why)) if why.contains("bytes")), "{refused:?}");
    assert_eq!(stage.records(), records);
    assert_eq!(note(&mut stage, 10), Ok(()));
    assert_eq!(stage.running().views.borrow().read_only, None);
}

#[test]
fn nothing_is_started_and_the_live_version_serves() {
    if std::env::var_os(LIMITED).is_none() {
        return in_a_small_world("nothing_is_started_and_the_live_version_serves");
    }
    let mut stage = Stage::live();
    let why = fill(&mut stage);
    assert!(why.starts_with("journal: ") && why.contains("File too large"), "{why}");
    let (records, calls) = (stage.records(), stage.host.trace().len());
    let refused = stage.ask(Stage::start("2", plan()));
    assert_eq!(refused, Err(Denial::ReadOnly(why.clone())));
    for _ in 0..3 {
        stage.turn();
    }
    assert_eq!(stage.running().views.borrow().read_only, Some(why));
    assert_eq!((stage.records(), stage.host.trace().len()), (records, calls), "no effect without a record");
    assert_eq!(stage.arms(), [(V1, Percent::ALL)]);
    assert_eq!(stage.known().current, None);
    let journal = stage.folder.path().join("journal");
    stage.close();
    assert_eq!(
        turnoutd::recover::replay(&journal).unwrap().models.len(),
        1,
        "what was acknowledged is readable"
    );
}

#[test]
fn a_release_under_way_stays_where_it_is() {
    if std::env::var_os(LIMITED).is_none() {
        return in_a_small_world("a_release_under_way_stays_where_it_is");
    }
    let mut stage = Stage::live();
    stage.ask(Stage::start("2", plan())).unwrap();
    stage.until(|_, _, release| (release?.asked != Percent::NONE).then_some(()));
    let arms = stage.arms();
    // Windows are records too: the release may move until the journal is full, but never without a record.
    fill(&mut stage);
    let (split, release) = (stage.arms(), stage.release());
    for _ in 0..5 {
        stage.turn();
    }
    assert_eq!((stage.arms(), stage.release()), (split.clone(), release));
    assert!(split == arms || split.len() == 1);
}

/// Where the journal of a test lies that runs again with a disk of its own there.
const DISK: &str = "/dev/shm";
/// Size of that disk.
const DISK_BYTES: u32 = 3 << 20;

/// Runs one test of this file again, in a process whose disk is small and its own.
fn on_a_small_disk(test: &str) {
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "mount -t tmpfs -o size={DISK_BYTES} none {DISK} && exec \"$0\" --exact read_only::{test} --nocapture"
    );
    let mut small = Command::new("unshare");
    let done =
        small.args(["--mount", "sh", "-c", &script]).arg(program).env(SMALL_DISK, "1").output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn on_a_full_disk_what_is_under_way_is_rolled_back_and_nothing_is_begun_until_there_is_room() {
    let test = "on_a_full_disk_what_is_under_way_is_rolled_back_and_nothing_is_begun_until_there_is_room";
    if std::env::var_os(SMALL_DISK).is_none() {
        return on_a_small_disk(test);
    }
    let mut stage = Stage::live();
    // No window ends before the disk is full.
    let patient = Plan { window_ms: 3_600_000, ..plan() };
    stage.ask(Stage::start("2", patient)).unwrap();
    stage.until(|_, _, release| (release?.asked != Percent::NONE).then_some(()));
    assert_eq!(fill(&mut stage), FULL);
    let full = Err(Denial::ReadOnly(FULL.to_owned()));
    assert_eq!(stage.ask(Stage::wish(Wish::Promote)), full);
    assert_eq!(stage.running().views.borrow().read_only.as_deref(), Some(FULL));
    stage.ask(Stage::wish(Wish::Rollback)).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    assert_eq!(stage.arms(), [(V1, Percent::ALL)]);
    assert_eq!(stage.ask(Stage::start("3", plan())), full);
    let grown = Command::new("mount").args(["-o", "remount,size=32m", DISK]).status().unwrap();
    assert!(grown.success());
    stage.ask(Stage::start("3", plan())).unwrap();
    assert_eq!(stage.running().views.borrow().read_only, None);
    let journal = stage.folder.path().join("journal");
    let told = Reader::open(&journal, 0).unwrap().filter_map(|record| {
        match serde_json::from_slice(&record.unwrap().body).unwrap() {
            Record::Log(record) => Some(record),
            _ => None,
        }
    });
    assert_eq!(told.collect::<Vec<_>>(), [LogRecord::ReserveSpent, LogRecord::ReserveRestored]);
}

#[test]
fn on_a_full_disk_the_windows_of_a_release_that_waits_leave_the_reserve_for_its_end() {
    let test = "on_a_full_disk_the_windows_of_a_release_that_waits_leave_the_reserve_for_its_end";
    if std::env::var_os(SMALL_DISK).is_none() {
        return on_a_small_disk(test);
    }
    let mut stage = Stage::live();
    stage.loads.insert(V2, Load { requests: 0, errors: 0, ..GOOD });
    stage.ask(Stage::start("2", Plan { patience_ms: 8, ..plan() })).unwrap();
    stage.until(|_, _, release| release?.held.is_some().then_some(()));
    stage.loads.insert(V2, GOOD);
    let windows = |stage: &Stage| stage.release().windows.len();
    let before = windows(&stage);
    stage.until(|stage, _, _| (windows(stage) > before).then_some(()));
    assert_eq!(fill(&mut stage), FULL);
    let records = stage.records();
    for _ in 0..50 {
        stage.turn();
    }
    assert_eq!(stage.records(), records, "a met window is not worth it");
    stage.ask(Stage::wish(Wish::Rollback)).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    assert_eq!(stage.arms(), [(V1, Percent::ALL)]);
}
