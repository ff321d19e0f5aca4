//! What a command signs with: a key in a file or a credential, or one that stays in a token.

use crate::args::KeyArguments;
use crate::error::{Exit, Failure};
use crate::{files, secret, token};
use std::path::PathBuf;
use turnout_manifest::envelope::Envelope;
use turnout_manifest::key::{KeyError, PrivateKey, PublicKey};
use zeroize::Zeroizing;

/// A key that can sign.
pub enum SigningKey {
    /// In memory.
    Software(PrivateKey),
    /// In a token.
    Token(token::TokenKey),
}

impl SigningKey {
    /// Opens the key that the arguments name.
    pub fn open(arguments: &KeyArguments) -> Result<Self, Failure> {
        if !arguments.key.starts_with(token::SCHEME) {
            return software(arguments).map(Self::Software);
        }
        if arguments.passphrase.is_some() {
            return Err(Failure::new(Exit::Usage, "a token has a PIN and no passphrase")
                .hint("name the PIN's file in the URI: `?pin-source=/PATH`"));
        }
        token::open(&arguments.key).map(Self::Token)
    }

    /// Its public half.
    pub fn public_key(&self) -> PublicKey {
        match self {
            Self::Software(key) => key.public_key(),
            Self::Token(key) => key.public_key().clone(),
        }
    }

    /// Its signature over a message: DER, low-S.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Software(key) => Ok(key.sign(message)),
            Self::Token(key) => key.sign(message),
        }
    }

    /// Adds its signature to what the envelope holds.
    pub fn seal(&self, envelope: &mut Envelope) -> Result<(), Failure> {
        let signature = self.sign(&envelope.signed_bytes())?;
        envelope.attach(&self.public_key(), signature).map_err(|error| {
            Failure::from_error(Exit::Refused, &error)
                .hint("each key signs once: another signer uses a key of their own")
        })
    }
}

/// A key in a file or a credential, opened with its passphrase where it has one.
fn software(arguments: &KeyArguments) -> Result<PrivateKey, Failure> {
    let KeyArguments { key, passphrase } = arguments;
    let path = match key.strip_prefix("credential:") {
        Some(name) => secret::credential(name)?,
        None => PathBuf::from(key),
    };
    let text = Zeroizing::new(files::read_text(&path)?);
    if text.contains("PRIVATE KEY") {
        secret::must_be_private(&path)?;
    }
    let opened = match passphrase {
        Some(source) => PrivateKey::from_encrypted_pem(&text, secret::read(source)?.as_bytes()),
        None => PrivateKey::from_pem(&text),
    };
    opened.map_err(|error| {
        let failure = Failure::new(Exit::Refused, format!("key `{}`: {error}", path.display()));
        match error {
            KeyError::Encrypted | KeyError::NotEncrypted | KeyError::Passphrase => failure.hint(
                "the passphrase is read from `--passphrase file:PATH`, `env:NAME` or `credential:NAME`",
            ),
            _ => failure.hint("make a key with `turnoutctl key generate FILE`"),
        }
    })
}
