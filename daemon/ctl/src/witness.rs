//! `turnoutctl audit witness`: another machine looks at the newest checkpoint, checks that it goes on from the one it saw
//! last, and signs it too (c2sp.org/tlog-witness). Its cosignature is checked here and kept beside the checkpoint.

use crate::error::{Exit, Failure, chain};
use crate::files;
use crate::proofs::{holds as holds_host, refused};
use crate::render::{DIM, GOOD, STRONG, Screen, count, safe};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use turnout_journal::{
    COSIGNATURE, Checkpoint, Hash, Note, NoteKey, NoteSignature, SIGNATURES_MAX, add_checkpoint,
};
use turnout_protocol::checkpoint::KeepCosigned;
use turnout_protocol::client::Client;
use turnout_protocol::control::SCHEMA;

/// Longest answer of a witness, bytes.
const ANSWER_MAX: usize = 128 << 10;
/// Longest wait for it.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often a witness is asked: what it has seen is known after the first time, and others may ask it meanwhile.
const ATTEMPTS: u32 = 4;

/// Asks the witness at this address, until it has signed the newest checkpoint.
pub async fn run(client: &Client, screen: &mut Screen, (url, key): (&str, &Path)) -> Result<Exit, Failure> {
    let address: Address = url.parse()?;
    let key = witness_key(key)?;
    let mut seen = 0;
    for _ in 0..ATTEMPTS {
        let (note, proof) = offer(client, seen).await?;
        let answer = address.send(add_checkpoint(seen, &proof, &note)).await?;
        match answer {
            Answer::Cosigned(text) => {
                let cosigned = cosigned(&note, &text, &key)?;
                client.keep_cosigned(&KeepCosigned { checkpoint: cosigned.to_string() }).await?;
                return show(screen, (&cosigned, &key));
            }
            Answer::Seen(size) => seen = size,
        }
    }
    Err(Failure::new(Exit::Failed, "the witness was asked by others at the same time").hint("ask it again"))
}

/// The newest checkpoint, and the proof that it goes on from what the witness has seen.
async fn offer(client: &Client, seen: u64) -> Result<(Note, Vec<Hash>), Failure> {
    let parsed =
        |text: &str| Note::parse(text.as_bytes()).map_err(|error| refused("the newest checkpoint", &error));
    let newest = client.checkpoint().await?;
    if seen == 0 {
        return Ok((parsed(&newest.checkpoint)?, Vec::new()));
    }
    if seen > newest.size {
        let why =
            format!("the witness has seen {} of this journal, it has {}", count(seen, "record"), newest.size);
        return Err(Failure::new(Exit::Refused, why)
            .hint("its end was cut, or an older copy of the disk was put back: keep it as it is, and tell your auditors"));
    }
    let made = client.consistency(seen).await?;
    let hashes: Result<Vec<Hash>, _> = made.hashes.iter().map(|hash| hash.parse()).collect();
    let hashes = hashes.map_err(|error| refused("the daemon's proof", &error))?;
    Ok((parsed(&made.checkpoint)?, hashes))
}

/// The note with the cosignature of this key, which must be in the answer and hold.
fn cosigned(note: &Note, answer: &str, key: &NoteKey) -> Result<Note, Failure> {
    let bad = |why: &str| Failure::new(Exit::Refused, format!("the witness's answer is none: {why}"));
    let lines: Option<Vec<NoteSignature>> =
        answer.lines().take(SIGNATURES_MAX + 1).map(NoteSignature::parse).collect();
    let lines = lines.ok_or_else(|| bad("a line that is no signature"))?;
    let ours: Vec<NoteSignature> =
        lines.into_iter().filter(|line| line.name == key.name() && line.key_id == key.id()).collect();
    if ours.is_empty() {
        return Err(
            bad("no cosignature of the key given").hint("compare `--key` with the key of the witness")
        );
    }
    let cosigned = note.with(ours).map_err(|error| refused("the witness's answer", &error))?;
    cosigned
        .verify(std::slice::from_ref(key), &holds)
        .map_err(|error| refused("the witness's answer", &error))?;
    Ok(cosigned)
}

fn show(screen: &mut Screen, (note, key): (&Note, &NoteKey)) -> Result<Exit, Failure> {
    let size = Checkpoint::unverified(note).map_err(|error| refused("the checkpoint", &error))?.head.size;
    let text = format!(
        "{GOOD}cosigned{GOOD:#}: {} by {STRONG}{}{STRONG:#}\n\
         {DIM}hint:{DIM:#} `turnoutctl audit checkpoint` prints both signatures\n",
        count(size, "record"),
        safe(key.name()),
    );
    let value = json!({
        "schema": SCHEMA, "witness": key.name(), "size": size, "checkpoint": note.to_string(),
    });
    screen.show(&value, &text)?;
    Ok(Exit::Done)
}

fn witness_key(file: &Path) -> Result<NoteKey, Failure> {
    let what = format!("`{}`", file.display());
    let key: NoteKey = files::read_text(file)?.trim().parse().map_err(|error| refused(&what, &error))?;
    if key.kind() != COSIGNATURE || ed25519(key.public()).is_none() {
        return Err(Failure::new(Exit::Refused, format!("{what} is no Ed25519 key of a witness"))
            .hint("a witness gives its key as `NAME+ID+BASE64` of signature type 4"));
    }
    Ok(key)
}

fn ed25519(public: &[u8]) -> Option<ed25519_dalek::VerifyingKey> {
    ed25519_dalek::VerifyingKey::from_bytes(public.try_into().ok()?).ok()
}

/// Whether a witness's or a host's key has made a signature.
fn holds(key: &NoteKey, message: &[u8], signature: &[u8]) -> bool {
    if key.kind() != COSIGNATURE {
        return holds_host(key, message, signature);
    }
    let signature = signature.try_into().map(ed25519_dalek::Signature::from_bytes);
    let (Some(key), Ok(signature)) = (ed25519(key.public()), signature) else { return false };
    key.verify_strict(message, &signature).is_ok()
}

/// Where a witness takes checkpoints.
#[derive(Debug, PartialEq, Eq)]
enum Address {
    Http { host: String, prefix: String },
    Unix(PathBuf),
}

/// What a witness says.
enum Answer {
    /// Its signature lines.
    Cosigned(String),
    /// It has seen a checkpoint of this size.
    Seen(u64),
}

impl FromStr for Address {
    type Err = Failure;

    fn from_str(url: &str) -> Result<Self, Failure> {
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let usage = |why: &str| Failure::new(Exit::Usage, format!("`{url}`: {why}"));
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(usage("a witness is reached by `http://HOST:PORT/PREFIX` or `unix:PATH`")
                .hint("for a witness behind TLS, run a proxy that listens on a Unix socket"));
        };
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() || url.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
            return Err(usage("it names no host, or is no plain address"));
        }
        let port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host = if port { host.to_owned() } else { format!("{host}:80") };
        Ok(Self::Http { host, prefix: prefix.trim_end_matches('/').to_owned() })
    }
}

impl Address {
    async fn send(&self, body: String) -> Result<Answer, Failure> {
        let late = |_| {
            Failure::new(Exit::Failed, format!("the witness did not answer within {} s", DEADLINE.as_secs()))
        };
        let (status, text) = tokio::time::timeout(DEADLINE, self.call(body)).await.map_err(late)??;
        let said = safe(text.lines().next().unwrap_or_default());
        let refused = |why: &str, hint: &str| {
            Failure::new(Exit::Refused, format!("the witness refused the checkpoint: {why} ({said})"))
                .hint(hint)
        };
        match status {
            StatusCode::OK => Ok(Answer::Cosigned(text)),
            StatusCode::CONFLICT => text.trim_end().parse().map(Answer::Seen).map_err(|_| {
                refused("it has seen another checkpoint", "its answer does not say of how many records")
            }),
            StatusCode::NOT_FOUND => Err(refused(
                "it does not know this log",
                "give the key to whoever runs the witness: `turnoutctl audit checkpoint --key`",
            )),
            StatusCode::FORBIDDEN => Err(refused(
                "it does not trust this host's key",
                "give the key to whoever runs the witness: `turnoutctl audit checkpoint --key`",
            )),
            StatusCode::UNPROCESSABLE_ENTITY => Err(refused(
                "this journal does not go on from the one it has seen",
                "records were rewritten: keep the journal as it is, and tell your auditors",
            )),
            status => Err(Failure::new(Exit::Failed, format!("the witness answered {status}: {said}"))),
        }
    }

    async fn call(&self, body: String) -> Result<(StatusCode, String), Failure> {
        let failed = |what: &str, error: &(dyn std::error::Error + 'static)| {
            Failure::new(Exit::Failed, format!("cannot {what} the witness: {}", chain(error)))
        };
        let (host, path) = match self {
            Self::Http { host, prefix } if prefix.is_empty() => (host.as_str(), "/add-checkpoint".to_owned()),
            Self::Http { host, prefix } => (host.as_str(), format!("/{prefix}/add-checkpoint")),
            Self::Unix(_) => ("localhost", "/add-checkpoint".to_owned()),
        };
        let request = Request::post(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| failed("ask", &error))?;
        let answer = match self {
            Self::Http { host, .. } => {
                let stream = TcpStream::connect(host).await.map_err(|error| failed("reach", &error))?;
                post(stream, request).await
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| failed("reach", &error))?;
                post(stream, request).await
            }
        };
        let answer = answer.map_err(|error| failed("ask", &error))?;
        let status = answer.status();
        let limited = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        let bytes =
            limited.map_err(|error| Failure::new(Exit::Failed, format!("the witness's answer: {error}")))?;
        let text =
            String::from_utf8(bytes.to_bytes().into()).map_err(|error| failed("understand", &error))?;
        Ok((status, text))
    }
}

async fn post<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<Response<hyper::body::Incoming>, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_plain_http_or_a_socket() {
        let http =
            |host: &str, prefix: &str| Address::Http { host: host.to_owned(), prefix: prefix.to_owned() };
        for (url, wanted) in [
            ("http://w.example", http("w.example:80", "")),
            ("http://127.0.0.1:8080/", http("127.0.0.1:8080", "")),
            ("http://[::1]:8080/a/b/", http("[::1]:8080", "a/b")),
            ("unix:/run/w.sock", Address::Unix("/run/w.sock".into())),
        ] {
            assert_eq!(url.parse::<Address>().unwrap(), wanted);
        }
        for bad in ["https://w.example", "w.example", "http://", "http://a b/", "http://a/\r\nx"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
