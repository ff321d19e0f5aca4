//! Signed checkpoints over whole journals: what was signed and is not there any more, or is there otherwise, is found.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::note::tests::{holds, key, mark};
use crate::signed::read_mark;
use crate::{
    CHECKPOINTS, Checkpoint, CheckpointError, Checkpoints, Hash, Note, NoteError, NoteKey, ProofError,
    ProofFile, Signer, Tiles, TreeHead, check_signed, log_origin, prove, prove_consistency, raw_leaf,
    verify_consistency, verify_signed,
};

/// A journal and its mark.
pub(super) struct Place(tempfile::TempDir);

impl Place {
    pub(super) fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    /// With records, signed at each of these sizes.
    pub(super) fn signed_at(sizes: &[u64]) -> Place {
        let place = Place::new();
        let mut written = 0;
        for size in sizes {
            place.write(size - written);
            written = *size;
            place.sign().unwrap();
        }
        place
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.0.path().join("journal")
    }

    pub(super) fn mark(&self) -> PathBuf {
        self.0.path().join("mark")
    }

    pub(super) fn write(&self, count: u64) {
        write_records(&self.journal(), count);
    }

    pub(super) fn key(&self) -> NoteKey {
        key(&log_origin(&self.journal()).unwrap())
    }

    pub(super) fn sign(&self) -> Result<Note, JournalError> {
        let (journal, _) = open(&self.journal());
        self.sign_head(journal.head())
    }

    fn sign_head(&self, head: TreeHead) -> Result<Note, JournalError> {
        let key = self.key();
        let mut checkpoints = Checkpoints::open(&self.journal(), &self.mark()).unwrap();
        checkpoints.sign(head, &Signer { key: &key, sign: &|message| mark(&key, message) })
    }

    pub(super) fn check(&self) -> Result<(), JournalError> {
        check_signed(&self.journal(), &self.mark())
    }

    pub(super) fn verify(&self) -> Result<Verified, JournalError> {
        verify_signed(&self.journal(), &[self.key()], &holds)
    }

    fn checkpoints(&self) -> PathBuf {
        self.journal().join(CHECKPOINTS)
    }

    /// Puts back the journal's folder as it was, and leaves the mark.
    fn put_back(&self, copy: &Path) {
        fs::remove_dir_all(self.journal()).unwrap();
        fs::create_dir(self.journal()).unwrap();
        super::copy(copy, &self.journal());
    }

    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        super::copy(&self.journal(), copy.path());
        copy
    }
}

#[test]
fn what_was_signed_is_on_disk_and_verifies_offline_with_the_key_alone() {
    let place = Place::signed_at(&[3, 4, 9]);
    place.write(2);
    let verified = place.verify().unwrap();
    assert_eq!((verified.checkpoints, verified.signed, verified.signed_size), (3, 3, Some(9)));
    assert_eq!(verify(&place.journal()).unwrap().signed, 0, "without a key no signature counts");
    assert_eq!(read_mark(&place.mark()).unwrap()[0].head.size, 9);
    place.check().unwrap();
    let strangers = verify_signed(&place.journal(), &[key("stranger")], &holds);
    assert!(matches!(
        strangers,
        Err(JournalError::Checkpoint { cause: CheckpointError::Note(NoteError::NotSigned(_)) })
    ));
}

#[test]
fn the_same_head_is_signed_once_and_no_head_that_disagrees_ever() {
    let place = Place::signed_at(&[5]);
    let length = || fs::metadata(place.checkpoints()).unwrap().len();
    let before = length();
    let note = place.sign().unwrap();
    assert_eq!(length(), before);
    let head = Checkpoint::unverified(&note).unwrap().head;
    let other = TreeHead { root: Hash::of(b"other"), ..head };
    assert!(matches!(place.sign_head(other), Err(JournalError::Rewritten { .. })));
    assert!(matches!(place.sign_head(TreeHead { size: 4, ..head }), Err(JournalError::Shorter { .. })));
    assert_eq!(length(), before);
    // The mark alone is enough to know: a folder without its checkpoints does not sign against it.
    fs::remove_file(place.checkpoints()).unwrap();
    assert!(matches!(place.sign_head(other), Err(JournalError::Rewritten { .. })));
    // And so are the checkpoints alone.
    let place = Place::signed_at(&[5]);
    fs::remove_file(place.mark()).unwrap();
    assert!(matches!(place.sign_head(other), Err(JournalError::Rewritten { .. })));
}

#[test]
fn a_mark_without_its_note_is_taken_up_and_a_torn_note_is_cut_off() {
    let place = Place::signed_at(&[5]);
    let whole = fs::read(place.checkpoints()).unwrap();
    for length in 0..whole.len() {
        fs::write(place.checkpoints(), &whole[..length]).unwrap();
        place.check().unwrap();
        assert_eq!(verify(&place.journal()).unwrap().checkpoints, 0, "at {length}");
        place.sign().unwrap();
        assert_eq!(fs::read(place.checkpoints()).unwrap(), whole, "at {length}");
    }
    let twice = [&whole[..], &whole[..whole.len() / 2]].concat();
    fs::write(place.checkpoints(), twice).unwrap();
    place.write(1);
    place.sign().unwrap();
    assert_eq!(place.verify().unwrap().checkpoints, 2);
}

#[test]
fn a_note_takes_the_place_of_a_longer_one_that_was_not_made_durable() {
    let place = Place::signed_at(&[2]);
    place.write(1);
    let mut checkpoints = Checkpoints::open(&place.journal(), &place.mark()).unwrap();
    let before = fs::read_to_string(place.checkpoints()).unwrap();
    // Written, and the sync failed.
    fs::write(place.checkpoints(), before.repeat(3)).unwrap();
    let (head, key) = (open(&place.journal()).0.head(), place.key());
    let note = checkpoints.sign(head, &Signer { key: &key, sign: &|message| mark(&key, message) }).unwrap();
    assert_eq!(fs::read_to_string(place.checkpoints()).unwrap(), format!("{before}{note}\n"));
    assert_eq!(place.verify().unwrap().signed_size, Some(head.size));
}

#[test]
fn an_end_of_the_checkpoints_that_no_interrupted_write_leaves_is_refused_and_stays() {
    let place = Place::signed_at(&[5]);
    let bytes = [fs::read(place.checkpoints()).unwrap(), vec![b'x'; 300 << 10]].concat();
    fs::write(place.checkpoints(), &bytes).unwrap();
    assert!(Checkpoints::open(&place.journal(), &place.mark()).is_err());
    assert!(verify(&place.journal()).is_err());
    assert_eq!(fs::read(place.checkpoints()).unwrap(), bytes);
}

#[test]
fn an_older_folder_put_back_is_shorter_than_what_was_signed() {
    let place = Place::signed_at(&[4]);
    let old = place.copy();
    place.write(3);
    place.sign().unwrap();
    place.put_back(old.path());
    match place.check() {
        Err(JournalError::Shorter { signed, found }) => assert_eq!((signed.size, found), (7, 4)),
        other => panic!("{other:?}"),
    }
    assert!(place.verify().is_ok(), "it is whole in itself: only the mark shows it");
}

#[test]
fn a_tail_cut_at_the_border_of_a_batch_is_found_by_the_checkpoint() {
    let place = Place::signed_at(&[4]);
    let name = segments(&place.journal()).pop().unwrap();
    let path = place.journal().join(&name);
    let before = fs::read(&path).unwrap();
    place.write(1);
    place.sign().unwrap();
    assert!(segments(&place.journal()).last() == Some(&name), "the record is in the same segment");
    fs::write(&path, before).unwrap();
    for found in [place.check().unwrap_err(), verify(&place.journal()).unwrap_err()] {
        assert!(matches!(found, JournalError::Shorter { found: 4, .. }), "{found}");
    }
}

#[test]
fn a_tail_cut_inside_a_frame_that_was_signed_is_found_by_the_checkpoint() {
    let place = Place::signed_at(&[5]);
    let path = place.journal().join(segments(&place.journal()).pop().unwrap());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    for found in [place.check().unwrap_err(), verify(&place.journal()).unwrap_err()] {
        assert!(matches!(found, JournalError::Shorter { found: 4, .. }), "{found}");
    }
}

#[test]
fn a_log_replaced_removed_or_rewritten_is_none_of_what_was_signed() {
    let place = Place::signed_at(&[4]);
    fs::remove_dir_all(place.journal()).unwrap();
    assert!(matches!(place.check(), Err(JournalError::Gone { signed }) if signed.head.size == 4));
    place.write(9);
    assert!(matches!(place.check(), Err(JournalError::OtherLog { .. })));
    // Another log whose id was made to be the same.
    let place = Place::signed_at(&[4]);
    let first = place.journal().join(&segments(&place.journal())[0]);
    let header = fs::read(&first).unwrap();
    let (header, _) = crate::segment::Header::parse(&header).unwrap();
    for name in segments(&place.journal()) {
        fs::remove_file(place.journal().join(name)).unwrap();
    }
    fs::write(&first, header.encode()).unwrap();
    let (journal, _) = open(&place.journal());
    for number in 100..106 {
        journal.append(&body(number)).unwrap();
    }
    drop(journal);
    for found in [place.check().unwrap_err(), verify(&place.journal()).unwrap_err()] {
        assert!(matches!(found, JournalError::Rewritten { .. }), "{found}");
    }
}

#[test]
fn old_checkpoints_signed_again_with_a_new_key_do_not_pass_for_the_old_key() {
    let place = Place::signed_at(&[4]);
    let new = NoteKey::new(place.key().name(), crate::ECDSA, b"new".to_vec()).unwrap();
    fs::remove_file(place.checkpoints()).unwrap();
    fs::remove_file(place.mark()).unwrap();
    let mut checkpoints = Checkpoints::open(&place.journal(), &place.mark()).unwrap();
    let (journal, _) = open(&place.journal());
    let signer = Signer { key: &new, sign: &|message| mark(&new, message) };
    checkpoints.sign(journal.head(), &signer).unwrap();
    assert!(matches!(place.verify(), Err(JournalError::Checkpoint { .. })));
    // Under the old key's name and id it is a false signature.
    let text = fs::read_to_string(place.checkpoints()).unwrap();
    let note = Note::parse(
        text.trim_end_matches('\n').as_bytes().iter().chain(b"\n").copied().collect::<Vec<_>>().as_slice(),
    );
    let forged = place.key().signature(note.unwrap().signatures()[0].signature.clone());
    let note = Note::new(text.split("\n\n").next().unwrap().to_owned() + "\n", vec![forged]).unwrap();
    fs::write(place.checkpoints(), format!("{note}\n")).unwrap();
    let found = place.verify();
    assert!(
        matches!(
            found,
            Err(JournalError::Checkpoint { cause: CheckpointError::Note(NoteError::BadSignature(_)) })
        ),
        "{found:?}"
    );
}

#[test]
fn a_smaller_checkpoint_presented_as_the_newest_and_two_of_one_size_are_found() {
    let place = Place::signed_at(&[4]);
    let first = fs::read(place.checkpoints()).unwrap();
    place.write(3);
    place.sign().unwrap();
    let both = fs::read(place.checkpoints()).unwrap();
    fs::write(place.checkpoints(), [&both[..], &first].concat()).unwrap();
    let found = verify(&place.journal()).unwrap_err();
    assert!(matches!(found, JournalError::Checkpoint { cause: CheckpointError::Form(_) }), "{found}");
    // Another root of the same size, well signed.
    let key = place.key();
    let head = TreeHead { size: 7, root: Hash::of(b"other") };
    let other = Checkpoint { origin: key.name().to_owned(), head };
    let other = other.sign(&key, &|message| mark(&key, message)).unwrap();
    fs::write(place.checkpoints(), [&both[..], format!("{other}\n").as_bytes()].concat()).unwrap();
    for found in [place.check().unwrap_err(), place.verify().unwrap_err()] {
        assert!(matches!(found, JournalError::Rewritten { .. }), "{found}");
    }
}

#[test]
fn a_mark_that_is_none_is_refused_and_changed_by_nobody() {
    let place = Place::signed_at(&[4]);
    for bad in ["", "x", "log\n1\n", &"x".repeat(5000)] {
        fs::write(place.mark(), bad).unwrap();
        assert!(matches!(place.check(), Err(JournalError::Mark { .. })), "{bad:.9}");
        assert!(Checkpoints::open(&place.journal(), &place.mark()).is_err());
        assert_eq!(fs::read_to_string(place.mark()).unwrap(), bad);
    }
}

/// A journal of one record more than two tiles hold, with its tiles.
fn tiled() -> (Place, Note) {
    let place = Place::new();
    let (journal, _) = Journal::open(&place.journal(), OpenOptions::default()).unwrap();
    let bodies: Vec<Vec<u8>> = (0..513).map(body).collect();
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    journal.append_all(&bodies).unwrap();
    drop(journal);
    let note = place.sign().unwrap();
    assert!(Tiles::open(&place.journal()).unwrap().extend(u64::MAX).unwrap());
    (place, note)
}

#[test]
fn a_proof_of_any_record_holds_with_tiles_and_without_them() {
    let (place, note) = tiled();
    let tiles = place.journal().join("tile/0");
    assert_eq!(fs::read_dir(&tiles).unwrap().count(), 2);
    for seq in [0, 1, 255, 256, 511, 512] {
        let proof = prove(&place.journal(), seq, &note).unwrap();
        let read = ProofFile::parse(proof.to_string().as_bytes()).unwrap();
        assert_eq!(read, proof);
        let proven = read.check(&[place.key()], &holds).unwrap();
        assert_eq!((proven.record.seq, proven.record.body), (seq, body(seq)));
    }
    assert!(matches!(
        prove(&place.journal(), 513, &note),
        Err(JournalError::NoRecord { seq: 513, size: 513 })
    ));
    let with = prove(&place.journal(), 300, &note).unwrap();
    // A tile of 255 hashes, and one with a wrong hash: the records decide.
    let tile = tiles.join("001");
    let bytes = fs::read(&tile).unwrap();
    for bad in [&bytes[..255 * 32], &[&bytes[32..], &bytes[..32]].concat(), b"" as &[u8]] {
        fs::write(&tile, bad).unwrap();
        assert_eq!(prove(&place.journal(), 300, &note).unwrap(), with);
    }
    fs::remove_dir_all(place.journal().join("tile")).unwrap();
    assert_eq!(prove(&place.journal(), 300, &note).unwrap(), with);
}

#[test]
fn a_proof_for_another_leaf_place_tree_or_key_does_not_hold() {
    let (place, note) = tiled();
    let good = prove(&place.journal(), 300, &note).unwrap().to_string();
    let other = prove(&place.journal(), 301, &note).unwrap().to_string();
    let line = |text: &str, number: usize| text.lines().nth(number).unwrap().to_owned();
    let check =
        |text: &str| ProofFile::parse(text.as_bytes()).and_then(|proof| proof.check(&[place.key()], &holds));
    assert!(check(&good).is_ok());
    let swapped = good.replace(&line(&good, 1), &line(&other, 1));
    assert!(matches!(check(&swapped), Err(ProofError::OtherRecord { record: 301, index: 300 })));
    let off_by_one = good.replace("index 300\n", "index 301\n");
    assert!(matches!(check(&off_by_one), Err(ProofError::OtherRecord { .. })));
    let both = swapped.replace("index 300\n", "index 301\n");
    assert!(matches!(check(&both), Err(ProofError::NotIncluded { index: 301, size: 513 })));
    let hash = line(&good, 3);
    assert!(matches!(check(&good.replace(&format!("{hash}\n"), "")), Err(ProofError::NotIncluded { .. })));
    let proof = ProofFile::parse(good.as_bytes()).unwrap();
    assert!(matches!(proof.check(&[key("other")], &holds), Err(ProofError::Checkpoint(_))));
    for bad in [
        good.replace("tlog-proof@v1", "tlog-proof@v2"),
        good.replace("index 300", "index 0300"),
        good.replace("index 300\n", ""),
        good.replace(&format!("{}\n", line(&good, 1)), ""),
        good.replace(&hash, &hash[4..]),
        good.replace("\n\n", "\n"),
        good.replace("index 300\n", &format!("index 300\n{}", format!("{hash}\n").repeat(64))),
        format!("{good}\n"),
    ] {
        assert!(check(&bad).is_err(), "{bad:.200}");
    }
}

#[test]
fn a_journal_proves_that_it_goes_on_from_an_older_checkpoint() {
    let (place, _) = tiled();
    place.write(40);
    let newest = Checkpoint::unverified(&place.sign().unwrap()).unwrap().head;
    let mut tree = Tree::empty();
    let records = read_all(&place.journal());
    for (size, record) in (1_u64..).zip(&records) {
        tree.push(record.leaf());
        if [1, 2, 255, 256, 257, 400, 512, 513, 553].contains(&size) {
            let (root, path) = prove_consistency(&place.journal(), size, newest).unwrap();
            assert_eq!(root, tree.root());
            assert!(verify_consistency(TreeHead { size, root }, newest, &path));
        }
    }
    for none in [0, 554] {
        assert!(matches!(
            prove_consistency(&place.journal(), none, newest),
            Err(JournalError::NoRecord { .. })
        ));
    }
    let forged = TreeHead { root: raw_leaf(b"other"), ..newest };
    assert!(matches!(
        prove_consistency(&place.journal(), 9, forged),
        Err(JournalError::Disagrees { size: 553 })
    ));
}

mod succession {
    use super::*;
    use crate::succeed;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_new_log_goes_on_from_a_shorter_one_and_the_old_folder_stays() {
        let place = Place::signed_at(&[4]);
        let old = place.copy();
        place.write(3);
        place.sign().unwrap();
        let before = log_origin(&place.journal()).unwrap();
        place.put_back(old.path());
        let records = read_all(&place.journal());
        let made = succeed(&place.journal(), &place.mark(), |before| {
            assert_eq!((before.taken.size, &before.broken), (4, &None));
            assert_eq!(before.signed.as_ref().unwrap().head.size, 7);
            b"{\"link\":1}".to_vec()
        })
        .unwrap();
        assert_eq!(made.before.origin, Some(before.clone()));
        assert_ne!(made.origin, before);
        place.check().unwrap();
        let (journal, _) = open(&place.journal());
        assert_eq!(journal.size(), 5);
        drop(journal);
        let now = read_all(&place.journal());
        assert_eq!(now[..4], records[..]);
        assert_eq!(now[4].body, b"{\"link\":1}");
        let kept = made.kept_in.unwrap();
        assert_eq!(read_all(&kept), records);
        place.sign().unwrap();
        assert_eq!(place.verify().unwrap().signed, 1);
    }

    #[test]
    fn whoever_may_read_the_old_log_may_read_the_new_one() {
        let place = Place::signed_at(&[4]);
        let (journal, exporter) = (place.journal(), 60_998);
        std::os::unix::fs::chown(&journal, None, Some(exporter)).unwrap();
        fs::set_permissions(&journal, fs::Permissions::from_mode(0o2750)).unwrap();
        succeed(&journal, &place.mark(), |_| b"{}".to_vec()).unwrap();
        place.sign().unwrap();
        let folder = fs::metadata(&journal).unwrap();
        assert_eq!((folder.gid(), folder.mode() & 0o7777), (exporter, 0o2750));
        for file in fs::read_dir(&journal).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().gid(), exporter, "{}", file.path().display());
        }
    }

    #[test]
    fn a_damaged_log_gives_what_comes_before_the_damage_and_a_missing_one_nothing() {
        let place = Place::new();
        place.write(11);
        let names = segments(&place.journal());
        fs::remove_file(place.journal().join(&names[1])).unwrap();
        let made = succeed(&place.journal(), &place.mark(), |_| b"{}".to_vec()).unwrap();
        assert!(made.before.broken.unwrap().contains("missing"));
        let first_after: u64 = names[1].strip_suffix(".seg").unwrap().parse().unwrap();
        assert_eq!(made.before.taken.size, first_after);
        place.check().unwrap();

        let place = Place::signed_at(&[4]);
        fs::remove_dir_all(place.journal()).unwrap();
        let made = succeed(&place.journal(), &place.mark(), |_| b"{}".to_vec()).unwrap();
        assert_eq!((made.kept_in, made.before.taken.size), (None, 0));
        place.check().unwrap();
    }

    #[test]
    fn a_journal_that_a_daemon_has_open_is_not_replaced() {
        let place = Place::signed_at(&[4]);
        let (_journal, _) = open(&place.journal());
        let refused = succeed(&place.journal(), &place.mark(), |_| b"{}".to_vec());
        assert!(matches!(refused, Err(JournalError::Locked { .. })));
    }
}
