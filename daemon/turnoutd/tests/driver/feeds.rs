//! Answers that go on, as a client takes them: what cannot be given whole does not look whole.

use crate::door::Door;
use std::fs;
use turnout_protocol::client::{Client, ClientError, Tail};

/// How many records come before the log ends, and how it ends.
fn read(door: &Door) -> (u64, Result<(), ClientError>) {
    door.block_on(async {
        let mut records = 0;
        let lines = Client::new(door.socket()).audit_log(Some(0), Tail::Stop).await;
        let mut lines = match lines {
            Ok(lines) => lines,
            Err(error) => return (records, Err(error)),
        };
        loop {
            match lines.next().await {
                Ok(Some(_)) => records += 1,
                Ok(None) => return (records, Ok(())),
                Err(error) => return (records, Err(error)),
            }
        }
    })
}

#[test]
fn an_audit_log_with_a_record_that_cannot_be_read_is_broken_off() {
    let door = Door::open();
    assert_eq!(door.import(&crate::stage::bundle("1")).status, 200);
    assert_eq!(door.release_and_wait("1")["state"], "promoted");
    let (records, ended) = read(&door);
    assert!(ended.is_ok() && records > 4, "{records}: {ended:?}");

    let segment = door.stage.folder.path().join("journal/000000000000.seg");
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    // Some records come before it, and some after.
    let name: &[u8] = br#""event":"planned""#;
    let at = whole.windows(name.len()).position(|part| part == name).unwrap();
    damaged[at + 10] ^= 1;
    fs::write(&segment, &damaged).unwrap();
    let (given, ended) = read(&door);
    assert!(given > 0 && given < records, "{given} of {records}");
    assert!(matches!(ended, Err(ClientError::Broken { .. })), "{ended:?}");

    // Cut shorter, as where pruning overtakes a reader.
    fs::write(&segment, &whole[..at]).unwrap();
    let (given, ended) = read(&door);
    assert!(given < records && matches!(ended, Err(ClientError::Broken { .. })), "{given}: {ended:?}");
    fs::write(&segment, &whole).unwrap();
    assert!(read(&door).1.is_ok());
}
