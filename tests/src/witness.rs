//! A small witness (c2sp.org/tlog-witness) for tests: one log, the newest checkpoint in memory, a socket of its own.

use anyhow::{Context, Result};
use ed25519_dalek::{Signer as _, SigningKey};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use turnout_journal::{COSIGNATURE, Checkpoint, Hash, Note, NoteKey, TreeHead, cosigned, verify_consistency};
use turnout_manifest::key::PublicKey;

/// Longest request, bytes.
const REQUEST_MAX: u64 = 1 << 20;
const NAME: &str = "witness.example/test";

/// A witness that runs until the test ends.
pub struct Witness {
    state: Arc<Mutex<Option<TreeHead>>>,
    key: NoteKey,
}

impl Witness {
    /// One that takes checkpoints of the log with this key on this socket.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(socket: &Path, log: NoteKey) -> Result<Self> {
        let signing = SigningKey::from_bytes(&[7; 32]);
        let key = NoteKey::new(NAME, COSIGNATURE, signing.verifying_key().to_bytes().to_vec())?;
        let listener = UnixListener::bind(socket).context("no socket for the witness")?;
        let state = Arc::new(Mutex::new(None));
        let (seen, name) = (Arc::clone(&state), key.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = serve(stream, &mut seen, (&log, &name, &signing)) {
                    eprintln!("witness: {error:#}");
                }
            }
        });
        Ok(Self { state, key })
    }

    /// Its key, as verifiers take it.
    pub fn key(&self) -> &NoteKey {
        &self.key
    }

    /// What it has seen last.
    pub fn seen(&self) -> Option<TreeHead> {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it believe that it has seen this.
    pub fn believe(&self, seen: TreeHead) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    }
}

fn serve(
    stream: UnixStream,
    seen: &mut Option<TreeHead>,
    keys: (&NoteKey, &NoteKey, &SigningKey),
) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?.take(REQUEST_MAX));
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, text) = answer(&String::from_utf8(body)?, seen, keys)?;
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )?;
    Ok(())
}

fn answer(
    body: &str,
    seen: &mut Option<TreeHead>,
    (log, name, signing): (&NoteKey, &NoteKey, &SigningKey),
) -> Result<(u16, String)> {
    let (head, note) = body.split_once("\n\n").context("no checkpoint")?;
    let mut lines = head.lines();
    let old: u64 = lines.next().and_then(|line| line.strip_prefix("old ")).context("no old size")?.parse()?;
    let proof = lines.map(hash).collect::<Result<Vec<Hash>>>()?;
    let note = Note::parse(note.as_bytes())?;
    if Checkpoint::unverified(&note)?.origin != log.name() {
        return Ok((404, "unknown log\n".to_owned()));
    }
    let holds = |key: &NoteKey, message: &[u8], signature: &[u8]| {
        PublicKey::from_der(key.public()).is_ok_and(|key| key.verifies(message, signature))
    };
    let Ok(checkpoint) = Checkpoint::of(&note, std::slice::from_ref(log), &holds) else {
        return Ok((403, "no known key\n".to_owned()));
    };
    let known = seen.map_or(0, |seen| seen.size);
    if old != known {
        return Ok((409, format!("{known}\n")));
    }
    if seen.is_some_and(|seen| !verify_consistency(seen, checkpoint.head, &proof)) {
        return Ok((422, "not consistent\n".to_owned()));
    }
    *seen = Some(checkpoint.head);
    let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let signature = signing.sign(&cosigned(time, note.text())).to_bytes();
    Ok((200, format!("{}\n", name.signature([&time.to_be_bytes()[..], &signature].concat()))))
}

fn hash(line: &str) -> Result<Hash> {
    use base64::Engine as _;
    let bytes: [u8; 32] = base64::engine::general_purpose::STANDARD
        .decode(line)?
        .try_into()
        .map_err(|_| anyhow::anyhow!("no hash: {line}"))?;
    Ok(Hash::from(bytes))
}
