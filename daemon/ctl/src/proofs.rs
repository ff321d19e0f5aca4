//! `turnoutctl audit checkpoint`, `prove` and `consistency`: what the journal's signed checkpoints prove, with the daemon
//! or on any copy. Nothing that the daemon says is taken on trust but, where no key is given, its key.

use crate::args::proofs::{JournalArguments, ProofCommand, ProveArguments};
use crate::audit;
use crate::error::{Exit, Failure, chain};
use crate::files;
use crate::render::{DIM, GOOD, STRONG, Screen, count, safe, time};
use crate::witness;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use turnout_journal::{
    Checkpoint, ECDSA, Hash, JournalError, Note, NoteKey, PROOF_MAX, ProofFile, newest, prove,
    prove_consistency, verify_consistency,
};
use turnout_manifest::key::PublicKey;
use turnout_protocol::client::Client;
use turnout_protocol::control::{AuditRecord, SCHEMA};

/// Runs one of the commands.
pub async fn run(client: &Client, screen: &mut Screen, command: ProofCommand) -> Result<Exit, Failure> {
    match command {
        ProofCommand::Checkpoint { key } => checkpoint(client, screen, key).await,
        ProofCommand::Prove(ProveArguments { check: Some(file), journal, .. }) => {
            check(screen, &file, &journal.key)
        }
        ProofCommand::Prove(ProveArguments { seq, journal, .. }) => {
            record(client, screen, (seq.unwrap_or_default(), &journal)).await
        }
        ProofCommand::Consistency { old, journal } => consistency(client, screen, (&old, &journal)).await,
        ProofCommand::Witness { url, key } => witness::run(client, screen, (&url, &key)).await,
    }
}

async fn checkpoint(client: &Client, screen: &mut Screen, key: bool) -> Result<Exit, Failure> {
    let signed = client.checkpoint().await?;
    let text = if key { format!("{}\n", signed.key) } else { signed.checkpoint.clone() };
    screen.show(&signed, &text)?;
    Ok(Exit::Done)
}

async fn record(
    client: &Client,
    screen: &mut Screen,
    (seq, journal): (u64, &JournalArguments),
) -> Result<Exit, Failure> {
    let (proof, keys) = match &journal.dir {
        None => {
            let made = client.record_proof(seq).await?;
            let proof =
                ProofFile::parse(made.proof.as_bytes()).map_err(|error| refused("the proof", &error))?;
            let keys = trusted(&journal.key, proof.signed(), Some(&made.key))?;
            (proof, keys)
        }
        Some(dir) => proof_in(&journal_in(dir), seq, &journal.key)?,
    };
    proof.check(&keys, &holds).map_err(|error| refused("the proof", &error))?;
    let value = json!({"schema": SCHEMA, "seq": seq, "proof": proof.to_string()});
    screen.show(&value, &proof.to_string())?;
    Ok(Exit::Done)
}

/// The proof out of a folder, and the keys that count for it. The records are read once one of them has signed what the
/// folder says of their number.
fn proof_in(dir: &Path, seq: u64, keys: &[PathBuf]) -> Result<(ProofFile, Vec<NoteKey>), Failure> {
    let signed = newest_of(dir)?;
    let keys = trusted(keys, &signed, None)?;
    Checkpoint::of(&signed, &keys, &holds).map_err(|error| refused(NEWEST, &error))?;
    let proof = prove(dir, seq, &signed).map_err(|error| of_journal(&error))?;
    Ok((proof, keys))
}

fn check(screen: &mut Screen, file: &Path, keys: &[PathBuf]) -> Result<Exit, Failure> {
    let what = format!("`{}`", file.display());
    let bytes = files::read(file)?;
    if bytes.len() > PROOF_MAX {
        return Err(Failure::new(Exit::Refused, format!("{what} is longer than {PROOF_MAX} bytes")));
    }
    let proof = ProofFile::parse(&bytes).map_err(|error| refused(&what, &error))?;
    let keys = trusted(keys, proof.signed(), None)?;
    let proven = proof.check(&keys, &holds).map_err(|error| {
        refused(&what, &error)
            .hint("the record is not proven; compare the key with `turnoutctl audit key` on the host")
    })?;
    let record = AuditRecord {
        schema: SCHEMA.to_owned(),
        seq: proven.record.seq,
        time_ms: u64::try_from(proven.record.time_ns / 1_000_000).unwrap_or(0),
        body: serde_json::from_slice(&proven.record.body).unwrap_or(Value::Null),
        leaf: proven.record.leaf().to_string(),
    };
    let size = proven.checkpoint.head.size;
    let text = format!(
        "{GOOD}proven{GOOD:#}: record {STRONG}{}{STRONG:#}, written {}, is among the first {} of {}\n{}",
        record.seq,
        time(record.time_ms),
        count(size, "record"),
        safe(&proven.checkpoint.origin),
        audit::line(&record),
    );
    let value = json!({"schema": SCHEMA, "size": size, "origin": proven.checkpoint.origin, "record": record});
    screen.show(&value, &text)?;
    Ok(Exit::Done)
}

async fn consistency(
    client: &Client,
    screen: &mut Screen,
    (old, journal): (&Path, &JournalArguments),
) -> Result<Exit, Failure> {
    let what = format!("`{}`", old.display());
    let note = Note::parse(&files::read(old)?).map_err(|error| refused(&what, &error))?;
    let shown = match &journal.dir {
        None => Some(client.checkpoint().await?.key),
        Some(_) => None,
    };
    let keys = trusted(&journal.key, &note, shown.as_deref())?;
    let old = Checkpoint::of(&note, &keys, &holds).map_err(|error| refused(&what, &error))?;
    let step = match &journal.dir {
        None => step_of_daemon(client, &old).await?,
        Some(dir) => step_in(&journal_in(dir), &old, &keys)?,
    };
    let claimed = Checkpoint::unverified(&step.newest).map_err(|error| refused(NEWEST, &error))?;
    if old.origin != claimed.origin {
        return Err(Failure::new(
            Exit::Refused,
            format!("{what} is of {}, the journal is {}", safe(&old.origin), safe(&claimed.origin)),
        )
        .hint("a new log was opened or the journal was replaced: look for `log-opened` in `turnoutctl audit log`"));
    }
    // Only now: the keys are known under the name of this one log.
    let new = Checkpoint::of(&step.newest, &keys, &holds).map_err(|error| refused(NEWEST, &error))?;
    step.check(&old, &new).map_err(|why| {
        Failure::new(Exit::Refused, format!("the journal does not go on from {what}: {why}"))
            .hint("keep both: they prove that records were removed or rewritten")
    })?;
    let text = format!(
        "{GOOD}consistent{GOOD:#}: the journal of {} goes on from that of {}\nlog    {}\nroot   {}\n\
         {DIM}hint:{DIM:#} keep the newest one too: `turnoutctl audit checkpoint`\n",
        count(new.head.size, "record"),
        old.head.size,
        safe(&new.origin),
        new.head.root,
    );
    let value = json!({
        "schema": SCHEMA, "origin": new.origin, "from": old.head.size, "size": new.head.size,
        "root": new.head.root.to_string(),
    });
    screen.show(&value, &text)?;
    Ok(Exit::Done)
}

/// What the newest checkpoint is called in errors.
const NEWEST: &str = "the newest checkpoint";

/// From an older checkpoint to the newest.
struct Step {
    newest: Note,
    /// Root over the older one's records as they are now, and the proof; nothing where the journal is not so long, or
    /// another one.
    proof: Option<(Hash, Vec<Hash>)>,
}

impl Step {
    /// Checks that it leads from one to the other, or says why not.
    fn check(&self, old: &Checkpoint, new: &Checkpoint) -> Result<(), String> {
        if old.head.size > new.head.size {
            return Err(format!("it has {} of {} records", new.head.size, old.head.size));
        }
        if old.head.size == 0 {
            return Ok(());
        }
        let (root, hashes) = self.proof.as_ref().ok_or("there is no proof")?;
        if *root != old.head.root {
            return Err(format!("its first {} have another root", count(old.head.size, "record")));
        }
        if verify_consistency(old.head, new.head, hashes) {
            Ok(())
        } else {
            Err("the proof does not hold".to_owned())
        }
    }
}

async fn step_of_daemon(client: &Client, old: &Checkpoint) -> Result<Step, Failure> {
    let parsed = |text: &str| Note::parse(text.as_bytes()).map_err(|error| refused(NEWEST, &error));
    let signed = client.checkpoint().await?;
    let newest = parsed(&signed.checkpoint)?;
    let claimed = Checkpoint::unverified(&newest).map_err(|error| refused(NEWEST, &error))?;
    if old.head.size == 0 || old.head.size > signed.size || old.origin != claimed.origin {
        return Ok(Step { newest, proof: None });
    }
    let made = client.consistency(old.head.size).await?;
    let odd = |error| refused("the daemon's proof", &error);
    let hashes: Result<Vec<Hash>, _> = made.hashes.iter().map(|hash| hash.parse()).collect();
    let proof = Some((made.root.parse().map_err(odd)?, hashes.map_err(odd)?));
    Ok(Step { newest: parsed(&made.checkpoint)?, proof })
}

fn step_in(dir: &Path, old: &Checkpoint, keys: &[NoteKey]) -> Result<Step, Failure> {
    let newest = newest_of(dir)?;
    let new = Checkpoint::unverified(&newest).map_err(|error| refused(NEWEST, &error))?;
    if old.head.size == 0 || old.head.size > new.head.size || old.origin != new.origin {
        return Ok(Step { newest, proof: None });
    }
    Checkpoint::of(&newest, keys, &holds).map_err(|error| refused(NEWEST, &error))?;
    let proof = prove_consistency(dir, old.head.size, new.head).map_err(|error| of_journal(&error))?;
    Ok(Step { newest, proof: Some(proof) })
}

/// The folder of a journal; a snapshot keeps its copy in a folder of that name.
pub fn journal_in(dir: &Path) -> PathBuf {
    let inside = dir.join("journal");
    if inside.is_dir() { inside } else { dir.to_owned() }
}

fn newest_of(dir: &Path) -> Result<Note, Failure> {
    let none = || {
        Failure::new(Exit::Refused, format!("nothing in `{}` was ever signed", dir.display()))
            .hint("a daemon signs its journal each minute in which something is written")
    };
    newest(dir).map_err(|error| of_journal(&error))?.ok_or_else(none)
}

/// The keys that count for a note: those in the files, under the name of the note's log, or the one that the daemon shows.
pub fn trusted(keys: &[PathBuf], note: &Note, shown: Option<&str>) -> Result<Vec<NoteKey>, Failure> {
    let checkpoint = Checkpoint::unverified(note).map_err(|error| refused("the checkpoint", &error))?;
    if let (true, Some(shown)) = (keys.is_empty(), shown) {
        return Ok(vec![shown.parse().map_err(|error| refused("the daemon's key", &error))?]);
    }
    if keys.is_empty() {
        return Err(Failure::new(Exit::Usage, "without a daemon, the host's key must be given")
            .hint("`turnoutctl audit key` prints it on the host; give the file with `--key FILE`"));
    }
    keys.iter().map(|file| key_in(file, &checkpoint.origin)).collect()
}

/// The key in a file: PEM, or as signed notes have it.
pub fn key_in(file: &Path, origin: &str) -> Result<NoteKey, Failure> {
    let text = files::read_text(file)?;
    let what = format!("`{}`", file.display());
    if text.starts_with("-----BEGIN ") {
        let key = PublicKey::from_pem(&text).map_err(|error| refused(&what, &error))?;
        return NoteKey::new(origin, ECDSA, key.to_der()).map_err(|error| refused(&what, &error));
    }
    text.trim().parse().map_err(|error| refused(&what, &error))
}

/// Whether a host's key has made a signature on a note.
pub fn holds(key: &NoteKey, message: &[u8], signature: &[u8]) -> bool {
    key.kind() == ECDSA && PublicKey::from_der(key.public()).is_ok_and(|key| key.verifies(message, signature))
}

pub fn refused(what: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Exit::Refused, format!("{what}: {}", chain(error)))
}

/// A failure to read a journal or to prove something with it.
pub fn of_journal(error: &JournalError) -> Failure {
    let pruned = matches!(error, JournalError::Pruned { .. });
    let exit = if matches!(error, JournalError::Io { .. } | JournalError::NoJournal { .. }) {
        Exit::Failed
    } else {
        Exit::Refused
    };
    let failure = Failure::from_error(exit, error);
    if pruned {
        return failure
            .hint("`turnoutctl audit verify DIR` says when and by whom; an older copy may have it");
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnout_journal::{CHECKPOINTS, Journal, OpenOptions, TreeHead, log_origin};
    use turnout_manifest::key::PrivateKey;

    #[test]
    fn no_record_is_read_for_a_newest_checkpoint_that_nobody_known_has_signed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("journal");
        let (journal, _) = Journal::open(&dir, OpenOptions::default()).unwrap();
        journal.append(b"{}").unwrap();
        let (host, stranger) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let origin = log_origin(&dir).unwrap();
        let sign = |head: TreeHead, by: &PrivateKey| {
            let key = NoteKey::new(&origin, ECDSA, by.public_key().to_der()).unwrap();
            let checkpoint = Checkpoint { origin: origin.clone(), head };
            checkpoint.sign(&key, &|message| by.sign(message)).unwrap()
        };
        let key = folder.path().join("key.pem");
        std::fs::write(&key, host.public_key().to_pem()).unwrap();
        let old = Checkpoint { origin: origin.clone(), head: journal.head() };
        let keys = [NoteKey::new(&origin, ECDSA, host.public_key().to_der()).unwrap()];
        let far = TreeHead { size: 1 << 40, ..journal.head() };
        for (newest, holds) in [(sign(journal.head(), &host), true), (sign(far, &stranger), false)] {
            std::fs::write(dir.join(CHECKPOINTS), format!("{newest}\n")).unwrap();
            let proof = proof_in(&dir, 0, std::slice::from_ref(&key)).map(drop);
            let step = step_in(&dir, &old, &keys).map(drop);
            for answer in [proof, step] {
                let said = answer.as_ref().err().map(Failure::message).unwrap_or_default();
                assert_eq!(answer.is_ok(), holds, "{said}");
                assert!(holds || said.starts_with(NEWEST), "{said}");
            }
        }
    }
}
