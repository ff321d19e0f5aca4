//! Signed documents as files, whatever they say: drafts that several people sign one after another, who has signed, and
//! the bytes and signatures on their own for other tools.

use crate::args::KeyArguments;
use crate::bundle::ENVELOPE;
use crate::error::{Exit, Failure, chain};
use crate::files;
use crate::render::{DIM, GOOD, STRONG, Screen, count};
use crate::signing_key::SigningKey;
use serde::Serialize;
use std::fs::File;
use std::path::{Path, PathBuf};
use turnout_manifest::Sha256;
use turnout_manifest::envelope::{ENVELOPE_MAX, Envelope, MANIFEST_TYPE};
use turnout_manifest::exception::EXCEPTION_TYPE;
use turnout_manifest::order::ORDER_TYPE;
use turnout_manifest::root::ROOT_TYPE;
use turnout_protocol::control::SCHEMA;

/// The document in a file, signed or not.
pub fn read(path: &Path) -> Result<Envelope, Failure> {
    let bytes = files::read_all(File::open(path), path, ENVELOPE_MAX)?;
    Envelope::parse_draft(&bytes).map_err(|error| {
        Failure::new(
            Exit::Refused,
            format!("`{}` is no draft or signed document: {}", path.display(), chain(&error)),
        )
        .hint("give the file that `--draft` wrote; it must not be edited")
    })
}

/// Writes a draft that nobody has signed yet. A signed document there is not replaced.
pub fn write_draft(path: &Path, payload_type: &str, payload: Vec<u8>) -> Result<(), Failure> {
    let failed = |error| Failure::from_error(Exit::Failed, &error);
    let envelope = Envelope::unsigned(payload_type, payload).map_err(failed)?;
    files::replace(path, &envelope.to_json().map_err(failed)?, 0o644)
}

/// Refuses to write a new draft where something is.
pub fn must_be_new(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("`{}` is there already", path.display()))
        .hint("choose another name, or remove it"))
}

/// What a kind of document is called.
pub fn kind(envelope: &Envelope) -> &'static str {
    match envelope.payload_type() {
        ROOT_TYPE => "trust root",
        EXCEPTION_TYPE => "exception",
        ORDER_TYPE => "order",
        MANIFEST_TYPE => "manifest",
        _ => "document of another kind",
    }
}

/// What comes when all who must have signed.
fn next(envelope: &Envelope, file: &Path) -> String {
    let file = file.display();
    match envelope.payload_type() {
        ORDER_TYPE => format!("release with `turnoutctl release start MODEL@VERSION --order {file}`"),
        _ => format!("put it in force with `turnoutctl trust apply {file}`"),
    }
}

#[derive(Serialize)]
struct Signed {
    schema: &'static str,
    kind: &'static str,
    digest: Sha256,
    key_id: String,
    signers: Vec<String>,
    file: PathBuf,
}

/// Adds a signature to a draft of one of these kinds.
pub fn sign(
    screen: &mut Screen,
    (file, kinds): (&Path, &[&str]),
    key: &KeyArguments,
) -> Result<Exit, Failure> {
    let mut envelope = read(file)?;
    if !kinds.contains(&envelope.payload_type()) {
        let kind = kind(&envelope);
        return Err(Failure::new(
            Exit::Refused,
            format!("`{}` is a {kind}: it is signed otherwise", file.display()),
        )
        .hint("`trust sign` signs roots and exceptions, `order sign` orders, `manifest sign` versions"));
    }
    let key = SigningKey::open(key)?;
    key.seal(&mut envelope)?;
    let json = envelope.to_json().map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    files::replace(file, &json, 0o644)?;
    let (kind, next) = (kind(&envelope), next(&envelope, file));
    let signed = Signed {
        schema: SCHEMA,
        kind,
        digest: Sha256::of(envelope.payload()),
        key_id: key.public_key().id().to_string(),
        signers: signers(&envelope),
        file: file.to_owned(),
    };
    let text = format!(
        "{GOOD}signed{GOOD:#}: {STRONG}{kind}{STRONG:#}, now with {}\ndigest  {}\nkey id  {}\nwrote   {}\n\
         {DIM}hint:{DIM:#} when all who must have signed: {next}\n",
        count(signed.signers.len() as u64, "signature"),
        signed.digest,
        signed.key_id,
        file.display(),
    );
    screen.show(&signed, &text)?;
    Ok(Exit::Done)
}

/// The ids of the keys that are said to have signed.
pub fn signers(envelope: &Envelope) -> Vec<String> {
    envelope.signatures().iter().map(|signature| signature.key_id.to_string()).collect()
}

#[derive(Serialize)]
struct Exported {
    schema: &'static str,
    digest: Sha256,
    signed_bytes: PathBuf,
    signatures: Vec<PathBuf>,
}

/// Writes what was signed (DSSE's pre-authentication encoding) and each signature (DER) to files of their own.
pub fn export(screen: &mut Screen, path: &Path, to: &Path) -> Result<Exit, Failure> {
    let file = if path.is_dir() { path.join(ENVELOPE) } else { path.to_owned() };
    let envelope = read(&file)?;
    std::fs::create_dir_all(to).map_err(|error| Failure::file("make", to, &error))?;
    let signed_bytes = to.join("signed.bin");
    files::replace(&signed_bytes, &envelope.signed_bytes(), 0o644)?;
    let mut signatures = Vec::new();
    for signature in envelope.signatures() {
        let key_id = signature.key_id.to_string();
        let file = to.join(format!("{}.sig", key_id.trim_start_matches("sha256:")));
        files::replace(&file, &signature.signature, 0o644)?;
        signatures.push(file);
    }
    let mut text = format!("wrote   {}\n", signed_bytes.display());
    for file in &signatures {
        text += &format!("wrote   {}\n", file.display());
    }
    if let Some(first) = signatures.first() {
        text += &format!(
            "{DIM}hint:{DIM:#} `openssl dgst -sha256 -verify PUBLIC.pem -signature {} {}`\n",
            first.display(),
            signed_bytes.display()
        );
    }
    let digest = Sha256::of(envelope.payload());
    screen.show(&Exported { schema: SCHEMA, digest, signed_bytes, signatures }, &text)?;
    Ok(Exit::Done)
}
