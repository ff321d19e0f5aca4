//! The commands about keys, trust, exceptions and orders. The doc comments here are the help.

use super::window::{WindowArguments, WindowBounds};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use turnout_manifest::root::{RevocationReason, SignerRole};
use turnout_manifest::{Channel, HostName, Sha256, VersionRef};

const KEY_HELP: &str = "\
A key is one of
  release.pem                     a file: PKCS#8, perhaps encrypted
  credential:NAME                 a credential that systemd hands over (LoadCredential=, LoadCredentialEncrypted=)
  pkcs11:token=...;object=...?module-path=/PATH/TO/MODULE.so&pin-source=/PATH/TO/PIN
                                  a key in a token (RFC 7512); it never leaves it";

/// What to sign with.
#[derive(Debug, Clone, Args)]
#[command(after_help = KEY_HELP)]
pub struct KeyArguments {
    /// Private key: a file, `credential:NAME` or `pkcs11:...`
    #[arg(long, value_name = "KEY")]
    pub key: String,
    /// Where the passphrase of an encrypted key is: `file:PATH`, `env:NAME` or `credential:NAME`
    #[arg(long, value_name = "SOURCE")]
    pub passphrase: Option<SecretSource>,
}

/// Where a secret is read from. It never stands on the command line, which everybody on the host can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The first line of a file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// A credential that systemd hands over.
    Credential(String),
}

impl FromStr for SecretSource {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.to_owned())),
            Some(("credential", name)) if !name.is_empty() => Ok(Self::Credential(name.to_owned())),
            // What stands here may be the secret itself: it is not repeated.
            _ => {
                Err("write `file:PATH`, `env:NAME` or `credential:NAME`, never the secret itself".to_owned())
            }
        }
    }
}

/// `turnoutctl key ...`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a P-256 key: FILE (PKCS#8, mode 0600) and its public half beside it (`release.pub.pem` for `release.pem`)
    Generate {
        /// Where to write the private key
        file: PathBuf,
        /// Encrypt it; where the passphrase is: `file:PATH`, `env:NAME` or `credential:NAME`
        #[arg(long, value_name = "SOURCE")]
        passphrase: Option<SecretSource>,
        /// Replace files that are there
        #[arg(long)]
        force: bool,
    },
    /// Print the public half of a key, for `trust add`
    Public {
        #[command(flatten)]
        key: KeyArguments,
    },
}

/// A public key of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedKey {
    /// Whose; without it, what the file is called.
    pub owner: Option<String>,
    /// Its file.
    pub file: PathBuf,
}

impl FromStr for OwnedKey {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('=') {
            Some((owner, file)) => Self { owner: Some(owner.to_owned()), file: file.into() },
            None => Self { owner: None, file: text.into() },
        })
    }
}

/// The draft of a trust root that a command changes.
#[derive(Debug, Clone, Args)]
pub struct DraftArguments {
    /// The draft; where there is no such file, it begins as the successor of the root in force
    #[arg(long, value_name = "FILE")]
    pub draft: PathBuf,
    /// When the root expires, counted from now: `365d`
    #[arg(long, value_name = "TIME", value_parser = parse_days)]
    pub expires: Option<Duration>,
}

/// `turnoutctl trust add ...`
#[derive(Debug, Args)]
pub struct AddArguments {
    /// Public key (PEM)
    pub file: PathBuf,
    /// Whose signature it is; several keys can belong to one issuer
    #[arg(long, value_name = "NAME")]
    pub issuer: String,
    /// Models it may sign, globs with `*`; may be repeated. In a draft they are the issuer's, the same for all its keys
    #[arg(long, value_name = "GLOB", required = true)]
    pub models: Vec<String>,
    /// Change this draft of a trust root instead of the daemon's keys
    #[arg(long, value_name = "FILE")]
    pub draft: Option<PathBuf>,
    /// In a draft: whose key it is; without it, what the file is called
    #[arg(long, value_name = "NAME", requires = "draft")]
    pub owner: Option<String>,
    /// In a draft: channels the issuer may sign for; `prod` unless given; may be repeated
    #[arg(long, value_name = "CHANNEL", requires = "draft")]
    pub channel: Vec<Channel>,
    /// In a draft: how many keys of the issuer must have signed
    #[arg(long, value_name = "N", requires = "draft")]
    pub threshold: Option<u32>,
    /// In a draft: what the key's owner may be in a release; may be repeated; what is there stays unless given
    #[arg(long, value_enum, requires = "draft")]
    pub role: Vec<Role>,
    /// In a draft: a role that must be filled, by keys that differ; may be repeated
    #[arg(long, value_enum, value_name = "ROLE", requires = "draft")]
    pub require: Vec<Role>,
    #[command(flatten)]
    pub window: WindowBounds,
}

/// What a signer is in a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Made the version
    Builder,
    /// Looked at it and agrees
    Approver,
}

impl From<Role> for SignerRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Builder => Self::Builder,
            Role::Approver => Self::Approver,
        }
    }
}

/// Why a key is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reason {
    /// Somebody else may have it: whatever it signed is rejected
    Compromise,
    /// Another key has taken its place
    Superseded,
    /// Its owner signs no more
    Cessation,
}

impl From<Reason> for RevocationReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Compromise => Self::Compromise,
            Reason::Superseded => Self::Superseded,
            Reason::Cessation => Self::Cessation,
        }
    }
}

/// `turnoutctl trust ...`, as far as it is about the draft of a trust root.
#[derive(Debug, Subcommand)]
pub enum DraftCommand {
    /// Begin a signed trust root: write the draft of the first version, to be signed and applied
    Init {
        /// Where to write the draft
        #[arg(long, value_name = "FILE")]
        draft: PathBuf,
        /// Public key of somebody who may change the root: `FILE` or `OWNER=FILE`; may be repeated
        #[arg(long, value_name = "OWNER=PEM", required = true)]
        root_key: Vec<OwnedKey>,
        /// How many of them must sign each change
        #[arg(long, value_name = "N", default_value_t = 1)]
        threshold: u32,
        /// When the root expires, counted from now
        #[arg(long, value_name = "TIME", value_parser = parse_days, default_value = "365d")]
        expires: Duration,
        /// Take over the keys that the daemon trusts one by one, as issuers for channel `prod`
        #[arg(long)]
        adopt: bool,
    },
    /// In a draft: change who may change the root
    RootKeys {
        /// Public key to add: `FILE` or `OWNER=FILE`; may be repeated
        #[arg(long, value_name = "OWNER=PEM")]
        add: Vec<OwnedKey>,
        /// Key to take out, by its id or the first digits of it; may be repeated
        #[arg(long, value_name = "KEY_ID")]
        remove: Vec<String>,
        /// How many of them must sign each change
        #[arg(long, value_name = "N")]
        threshold: Option<u32>,
        #[command(flatten)]
        draft: DraftArguments,
    },
    /// In a draft: put a new key in the place of another wherever it stands; the old one is retired
    Rotate {
        /// The old key's id, or the first digits of it
        key_id: String,
        /// The new public key (PEM)
        file: PathBuf,
        #[command(flatten)]
        window: WindowBounds,
        #[command(flatten)]
        draft: DraftArguments,
    },
    /// In a draft: revoke a key; it counts nowhere any more
    Revoke {
        /// The key's id, or the first digits of it
        key_id: String,
        /// Why
        #[arg(long, value_enum)]
        reason: Reason,
        #[command(flatten)]
        draft: DraftArguments,
    },
    /// In a draft: say that a version must not run, whoever signed it
    Deny {
        /// Digest of its manifest
        digest: Sha256,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        draft: DraftArguments,
    },
    /// In a draft: say who may order releases, and where an order is needed
    Orders {
        /// Public key of somebody who may sign orders: `FILE` or `OWNER=FILE`; may be repeated; replaces those there
        #[arg(long, value_name = "OWNER=PEM")]
        key: Vec<OwnedKey>,
        /// How many of them must sign an order
        #[arg(long, value_name = "N")]
        threshold: Option<u32>,
        /// Channel on which nothing is released without an order; may be repeated
        #[arg(long, value_name = "CHANNEL")]
        require: Vec<Channel>,
        /// Smallest counter that is accepted on a channel: `prod=40`; may be repeated
        #[arg(long, value_name = "CHANNEL=N", value_parser = parse_floor)]
        floor: Vec<(Channel, u64)>,
        #[command(flatten)]
        draft: DraftArguments,
    },
    /// In a draft: say who may sign exceptions, and on which channels they hold
    Exceptions {
        /// Public key of somebody who may sign exceptions: `FILE` or `OWNER=FILE`; may be repeated; replaces those there
        #[arg(long, value_name = "OWNER=PEM", required = true)]
        key: Vec<OwnedKey>,
        /// How many of them must sign an exception; without it, as many as before, at first 1
        #[arg(long, value_name = "N")]
        threshold: Option<u32>,
        /// Where exceptions hold; on `prod` only when it is named here; may be repeated
        #[arg(long, value_name = "CHANNEL", required = true)]
        channel: Vec<Channel>,
        #[command(flatten)]
        draft: DraftArguments,
    },
    /// In a draft: only give the root a later end, with --expires
    Renew {
        #[command(flatten)]
        draft: DraftArguments,
    },
}

/// `turnoutctl trust ...`
#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// Let a key sign for models: at once where single keys count, or in a draft of the next trust root
    Add(AddArguments),
    /// List the keys that count one by one
    List,
    /// Take one of these keys out
    Remove {
        /// The key's id, or the first digits of it
        key_id: String,
    },
    #[command(flatten)]
    Draft(DraftCommand),
    /// In a draft: say from when on and until when a key counts
    Window(WindowArguments),
    /// Sign a draft of a trust root or an exception; one person after another, on one file
    Sign {
        /// The draft
        file: PathBuf,
        #[command(flatten)]
        key: KeyArguments,
    },
    /// Put a signed trust root or a signed exception in force (as root)
    Apply {
        /// The signed document
        file: PathBuf,
    },
    /// Show the trust root in force, or a draft and who signed it
    Show {
        /// A draft or signed document; without it, what is in force
        file: Option<PathBuf>,
    },
    /// List every trust root from the first on, and replay the chain
    History {
        /// A folder of roots, for instance a copy of `trust-root` in the state; without it, the daemon's
        dir: Option<PathBuf>,
    },
    /// Except an untrusted version for a time: write the draft of an exception, to be signed and applied
    Except {
        /// Folder with the signed version
        dir: PathBuf,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// For how long, counted from now; at most `30d`
        #[arg(long = "for", value_name = "TIME", value_parser = parse_days)]
        time: Duration,
        /// Where to write the draft
        #[arg(long, value_name = "FILE")]
        draft: PathBuf,
    },
}

/// `turnoutctl order ...`
#[derive(Debug, Subcommand)]
pub enum OrderCommand {
    /// Write the draft of an order to release a version, to be signed with `order sign`
    New(NewOrderArguments),
    /// Sign an order
    Sign {
        /// The draft
        file: PathBuf,
        #[command(flatten)]
        key: KeyArguments,
    },
    /// Show an order and who signed it
    Show {
        /// The order
        file: PathBuf,
    },
}

/// `turnoutctl order new ...`
#[derive(Debug, Args)]
pub struct NewOrderArguments {
    /// What to release: `fraud@1.4.0`
    #[arg(value_name = "MODEL@VERSION")]
    pub version: VersionRef,
    /// Where to write the draft
    #[arg(long, value_name = "FILE")]
    pub draft: PathBuf,
    /// Folder with the signed version; without it, what the daemon's store holds
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The host that it is for
    #[arg(long, value_name = "NAME", required_unless_present = "group")]
    pub host: Option<HostName>,
    /// The group of hosts that it is for
    #[arg(long, value_name = "NAME", conflicts_with = "host")]
    pub group: Option<HostName>,
    /// The version's channel, where no folder says it
    #[arg(long, conflicts_with = "dir", default_value = "prod")]
    pub channel: Channel,
    /// The epoch; without it, the daemon's
    #[arg(long, value_name = "N", requires = "counter")]
    pub epoch: Option<u64>,
    /// The counter; without it, the one after the last that the daemon used on this channel
    #[arg(long, value_name = "N", requires = "epoch")]
    pub counter: Option<u64>,
    /// How long it holds, counted from now
    #[arg(long = "for", value_name = "TIME", value_parser = parse_days, default_value = "7d")]
    pub time: Duration,
}

/// A number of days or hours.
pub(super) fn parse_days(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}` is not a time such as `12h` or `365d`");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let seconds = match unit {
        "h" => number.checked_mul(3600),
        "d" => number.checked_mul(86_400),
        _ => None,
    };
    // A hundred years: what is longer was meant otherwise.
    let fits = |seconds: &u64| (1..=3_155_760_000).contains(seconds);
    seconds.filter(fits).map(Duration::from_secs).ok_or_else(refused)
}

fn parse_floor(text: &str) -> Result<(Channel, u64), String> {
    let (channel, counter) = text.split_once('=').ok_or("write CHANNEL=N, such as `prod=40`")?;
    let counter = counter.parse().map_err(|_| format!("`{counter}` is not a number"))?;
    Ok((channel.parse().map_err(|error| format!("{error}"))?, counter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
        assert_eq!("env:PASS".parse(), Ok(SecretSource::Environment("PASS".to_owned())));
        for bad in ["hunter2", "file:", "pass:hunter2"] {
            let refused = bad.parse::<SecretSource>().unwrap_err();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }

    #[test]
    fn lifetimes_are_hours_or_days() {
        assert_eq!(parse_days("365d"), Ok(Duration::from_secs(31_536_000)));
        for bad in ["", "1", "d", "0d", "90s", "99999999999999d", "-1d"] {
            assert!(parse_days(bad).is_err(), "{bad}");
        }
    }
}
