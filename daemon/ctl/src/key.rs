//! `turnoutctl key ...`: a signing key on disk, its public half beside it.

use crate::args::{KeyCommand, SecretSource};
use crate::error::{Exit, Failure};
use crate::files;
use crate::render::{DIM, Screen};
use crate::secret;
use crate::signing_key::SigningKey;
use serde::Serialize;
use std::path::{Path, PathBuf};
use turnout_manifest::key::{KeyError, PrivateKey};
use turnout_protocol::control::SCHEMA;

#[derive(Serialize)]
struct Generated {
    schema: &'static str,
    private_key: PathBuf,
    public_key: PathBuf,
    key_id: String,
}

/// Runs `turnoutctl key ...`.
pub fn run(screen: &mut Screen, command: KeyCommand) -> Result<Exit, Failure> {
    match command {
        KeyCommand::Generate { file, passphrase, force } => {
            let there = if force { Existing::Replace } else { Existing::Keep };
            generate(screen, (file, there), passphrase.as_ref())
        }
        KeyCommand::Public { key } => {
            let public = SigningKey::open(&key)?.public_key();
            let (public_key, key_id) = (public.to_pem(), public.id().to_string());
            screen.show(&Public { schema: SCHEMA, public_key: &public_key, key_id }, &public_key)?;
            Ok(Exit::Done)
        }
    }
}

#[derive(Serialize)]
struct Public<'a> {
    schema: &'static str,
    public_key: &'a str,
    key_id: String,
}

/// Whether a key that is there may be replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

fn generate(
    screen: &mut Screen,
    (file, existing): (PathBuf, Existing),
    passphrase: Option<&SecretSource>,
) -> Result<Exit, Failure> {
    let public = public_path(&file);
    let there = [&file, &public].into_iter().find(|path| path.symlink_metadata().is_ok());
    if let (Some(there), Existing::Keep) = (there, existing) {
        return Err(Failure::new(Exit::Failed, format!("`{}` is there already", there.display()))
            .hint("choose another name; `--force` replaces it, and what it signed can then no longer be signed anew"));
    }
    let failed = |error: KeyError| Failure::from_error(Exit::Failed, &error);
    let key = PrivateKey::generate().map_err(failed)?;
    let (pem, sealed) = match passphrase {
        Some(source) => {
            (key.to_encrypted_pem(secret::read(source)?.as_bytes()).map_err(failed)?, "encrypted, ")
        }
        None => (key.to_pem(), ""),
    };
    files::replace(&file, pem.as_bytes(), 0o600)?;
    files::replace(&public, key.public_key().to_pem().as_bytes(), 0o644)?;
    let text = format!(
        "private key  {}  ({sealed}mode 0600: keep it secret)\npublic key   {}\nkey id       {}\n\
         {DIM}hint:{DIM:#} let it sign with `turnoutctl trust add {} --issuer NAME --models 'GLOB'`\n",
        file.display(),
        public.display(),
        key.public_key().id(),
        public.display(),
    );
    let key_id = key.public_key().id().to_string();
    screen.show(&Generated { schema: SCHEMA, private_key: file, public_key: public, key_id }, &text)?;
    Ok(Exit::Done)
}

/// `release.pub.pem` for `release.pem`, `release.key.pub.pem` for `release.key`.
fn public_path(private: &Path) -> PathBuf {
    match private.extension() {
        Some(extension) if extension == "pem" => private.with_extension("pub.pem"),
        _ => {
            let mut name = private.file_name().unwrap_or_default().to_owned();
            name.push(".pub.pem");
            private.with_file_name(name)
        }
    }
}
