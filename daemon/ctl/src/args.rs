//! The command line. The doc comments here are the help and the manual pages; what a command does lives in its noun's file.

// Their places are said, because the manuals take this file in from elsewhere.
#[path = "args/proofs.rs"]
pub mod proofs;
#[path = "args/snapshots.rs"]
mod snapshots;
#[path = "args/trust.rs"]
mod trust;
#[path = "args/window.rs"]
mod window;

pub use snapshots::{ExportArguments, Since, SnapshotCommand, SnapshotsArguments, StoreCommand};
pub use trust::{
    AddArguments, DraftArguments, DraftCommand, KeyArguments, KeyCommand, NewOrderArguments, OrderCommand,
    OwnedKey, SecretSource, TrustCommand,
};
pub use window::{Moment, WindowArguments, WindowBounds};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use turnout_manifest::{ModelName, ReleaseId, SetName, Version, VersionRef};
use turnout_onnx::Format;
use turnout_protocol::client::DEFAULT_SOCKET;

/// Heading of what every command takes, so that a command's own options stand together.
const EVERYWHERE: &str = "Options of every command";

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a check or gate, 4 daemon unreachable, 5 denied.
`--wait` and `release wait`: 0 promoted, 3 rolled back or cancelled, 1 stuck or timed out.
`rollback --wait`: 0 when the version before has the traffic again, 1 stuck or timed out.";

const PLAN_EXAMPLE: &str = "\
A plan:
  strategy: {kind: weight}             # each connection; source-hash: each client; by request:
                                       # {kind: user-hash, header: x-user-id}
                                       # {kind: header, header: x-canary, value: always}
                                       # {kind: expression, expression: '...'}
                                       # {kind: in-place}: the worker that runs
  steps: [{percent: 5}, {percent: 25}, {percent: 50}, {percent: 100}]
  window: 30s                          # 200ms to 1h
  windows: {look_back: 5, consecutive: 3}
  objectives: {p95_ms: 200, error_rate: 0.01, assertion_failures: 0.001}
  minimum_requests: 50                 # fewer in a window: insufficient to judge it
  patience: 10m                        # how long a step may wait for requests
  on_breach: rollback                  # rollback or pause";

/// Moves live inference traffic from one version of a model to another: verified, audited, rolled back on its own.
#[derive(Debug, Parser)]
#[command(name = "turnoutctl", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Control socket of the daemon
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "TURNOUT_SOCKET")]
    #[arg(value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Form of what is printed
    #[arg(long, global = true, help_heading = EVERYWHERE, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What may lie in a version's folder though it is refused by default.
#[derive(Debug, Args)]
pub struct ContentArguments {
    /// Let models use operators of this domain, such as `com.microsoft`; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    pub allow_domain: Vec<String>,
    /// Let files of a format that runs code be there: pickle, archive, hdf5, script, native; may be repeated
    #[arg(long, value_name = "FORMAT")]
    pub allow_format: Vec<Format>,
}

/// The nouns, and the verbs that stand alone.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every live version, its weight, why, and what happens next
    Status {
        /// Only this model
        model: Option<ModelName>,
    },
    /// Start, watch and steer releases
    #[command(subcommand)]
    Release(ReleaseCommand),
    /// Move all traffic of a model back to the version before, at once, from every state
    Rollback {
        #[command(flatten)]
        intervene: InterveneArguments,
        /// Wait until the traffic is home and the release is over
        #[arg(long)]
        wait: bool,
        /// With --wait: give up waiting after this time (`90s`, `10m`); the rollback goes on
        #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "wait")]
        timeout: Option<Duration>,
    },
    /// Everything about one release, from its journal records alone
    Report(ReportArguments),
    /// Import and list versions
    #[command(subcommand)]
    Model(ModelCommand),
    /// Write, sign and verify manifests
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// Verify and write signatures in the OpenSSF Model Signing format
    #[command(subcommand)]
    Oms(OmsCommand),
    /// Make signing keys, and show their public halves
    #[command(subcommand)]
    Key(KeyCommand),
    /// Say whose signature counts for which models
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Write and sign orders to release a version on a host or group of hosts
    #[command(subcommand)]
    Order(OrderCommand),
    /// Read and verify the journal, take and reach snapshots
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Print the events as the systemd journal has them, the newest last
    Log(LogArguments),
    /// Look after the store that versions and snapshots lie in
    #[command(subcommand)]
    Store(StoreCommand),
    /// Is this host ready? One line per requirement, with the remedy; exits 3 when one is missing, 5 when only root
    /// could have tried some
    Doctor,
}

/// `turnoutctl release ...`
#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// Release an imported version, or several models as one set
    Start(StartArguments),
    /// List the releases under way and the newest that ended; older ones are in `audit log`
    List,
    /// Show one release
    Show {
        /// The release, as `release list` names it
        #[arg(value_name = "RELEASE")]
        id: ReleaseId,
    },
    /// Follow releases live: step, weights asked and seen, latencies, verdicts, what comes next (NDJSON when piped). Does
    /// not end by itself: `release wait` does
    Watch {
        /// Only this model, or the model of this release
        #[arg(value_name = "MODEL|RELEASE")]
        model: Option<ModelName>,
    },
    /// Wait until a release is over, and say how it ended; exits as `release start --wait`
    Wait {
        /// The release, or the model whose release under way, or else last one, is meant
        #[arg(value_name = "MODEL|RELEASE")]
        name: ModelName,
        /// Give up waiting after this time (`90s`, `10m`); the release goes on
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        timeout: Option<Duration>,
    },
    /// Go on to the next step without waiting for more windows at this one
    Promote(InterveneArguments),
    /// Hold a release at its present weights; of a set, all its releases
    Pause(InterveneArguments),
    /// Let a held release go on
    Resume(InterveneArguments),
    /// End a release before it is done: as a rollback, but it counts as cancelled
    Cancel(InterveneArguments),
}

/// `turnoutctl release start ...`
#[derive(Debug, Args)]
#[command(after_help = PLAN_EXAMPLE)]
pub struct StartArguments {
    /// What to release: `fraud@1.4.0`; with --set, a version each of several models
    #[arg(value_name = "MODEL@VERSION", required = true)]
    pub versions: Vec<VersionRef>,
    /// Release them as this set: promoted together or not at all, and shown in one folder that is swapped in one step
    #[arg(long, value_name = "NAME")]
    pub set: Option<SetName>,
    /// Plan (YAML); without it, straight to 100 % when nothing is live, the default plan otherwise
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Wait until the release is over, and say how it ended
    #[arg(long)]
    pub wait: bool,
    /// With --wait: give up waiting after this time (`90s`, `10m`); the release goes on
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "wait")]
    pub timeout: Option<Duration>,
    /// Signed order to release it, from `order new` and `order sign`; with --set, one for each version that needs one
    #[arg(long, value_name = "FILE")]
    pub order: Vec<PathBuf>,
    /// Only print the steps it would take
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
}

/// A model and a reason.
#[derive(Debug, Args)]
pub struct InterveneArguments {
    /// The model
    pub model: ModelName,
    /// Why, kept in the journal
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `turnoutctl report ...`
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// The release, as `release list` names it
    #[arg(value_name = "RELEASE")]
    pub id: ReleaseId,
    /// Form of the report; without it, what --output says
    #[arg(long, value_enum)]
    pub format: Option<ReportFormat>,
    /// Write it to this file instead of standard output
    #[arg(short = 'o', long = "file", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Form of what a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON value with a `schema`.
    Json,
    /// One JSON value per line.
    Ndjson,
}

/// Form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For a terminal
    Text,
    /// For programs
    Json,
    /// One self-contained page
    Html,
}

/// `turnoutctl model ...`
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Send a signed version to the daemon: verified, stored read-only, snapshot
    Import {
        /// Folder with the files and `turnout.dsse.json`
        dir: PathBuf,
        #[command(flatten)]
        content: ContentArguments,
    },
    /// List every version in the store
    List,
    /// Delete a version from the store (as root); refused while it is live, last good, in a release, held or mounted
    Remove {
        /// What to delete: `fraud@1.3.7`. Its label stays bound to its content
        #[arg(value_name = "MODEL@VERSION")]
        version: VersionRef,
    },
}

/// `turnoutctl manifest ...`
#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    /// Write `turnout.yaml` from what the ONNX file says of itself
    New {
        /// Folder with the files of the version
        dir: PathBuf,
        /// Name of the model
        #[arg(long)]
        model: ModelName,
        /// Label of this version
        #[arg(long, value_name = "VERSION")]
        version: Version,
        /// The ONNX file in DIR; without it, the only one there
        #[arg(long, value_name = "NAME")]
        file: Option<String>,
    },
    /// Hash every file and write the signed manifest, `turnout.dsse.json`
    Sign {
        /// Folder with `turnout.yaml`
        dir: PathBuf,
        /// Add a signature to the manifest that is there, which the files must still fit; nothing that was signed changes
        #[arg(long)]
        append: bool,
        #[command(flatten)]
        key: KeyArguments,
        #[command(flatten)]
        content: ContentArguments,
    },
    /// Write the signed bytes and each signature on their own, for `openssl dgst -verify` and other tools
    ExportSignature {
        /// Folder with `turnout.dsse.json`, or any signed document of Turnout
        path: PathBuf,
        /// Folder to write to: `signed.bin`, and for each signer KEY_ID.sig (DER)
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Make every check that an import makes; exits 0 when valid, 3 otherwise
    Verify {
        /// Folder with the files and `turnout.dsse.json`
        dir: PathBuf,
        /// Trust store (JSON); without it, the daemon's
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
        #[command(flatten)]
        content: ContentArguments,
    },
}

/// `turnoutctl oms ...`
#[derive(Debug, Subcommand)]
pub enum OmsCommand {
    /// Check a folder against a bundle, without the daemon; exits 0 when valid, 3 otherwise
    Verify(OmsVerifyArguments),
    /// Send a version that only a bundle vouches for to the daemon: verified there, stored read-only, snapshot
    Import(OmsImportArguments),
    /// Sign a folder: write a bundle that every verifier of the format takes
    Export {
        /// Folder with the model
        dir: PathBuf,
        /// Where to write the bundle
        #[arg(long, value_name = "FILE")]
        signature: PathBuf,
        #[command(flatten)]
        key: KeyArguments,
        /// What the bundle calls the model; without it, the folder's name
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// Replace a bundle that is there
        #[arg(long)]
        force: bool,
    },
}

/// `turnoutctl oms verify ...`
#[derive(Debug, Args)]
pub struct OmsVerifyArguments {
    /// Folder with the model
    pub dir: PathBuf,
    /// The bundle
    #[arg(long, value_name = "FILE")]
    pub signature: PathBuf,
    /// Public key (PEM) whose signature counts; may be repeated
    #[arg(long, value_name = "PEM", required_unless_present = "cert_root")]
    pub key: Vec<PathBuf>,
    /// Root certificates (PEM): whoever has a code-signing certificate of theirs counts
    #[arg(long, value_name = "PEM", conflicts_with = "key")]
    pub cert_root: Option<PathBuf>,
    /// With --cert-root: only this subject counts, as in `CN=release-signer`
    #[arg(long, value_name = "SUBJECT", requires = "cert_root")]
    pub cert_subject: Option<String>,
    /// A path that the signature may leave out besides the git names and its own file; may be repeated
    #[arg(long, value_name = "PATH")]
    pub allow_ignored: Vec<String>,
    #[command(flatten)]
    pub content: ContentArguments,
}

/// `turnoutctl oms import ...`
#[derive(Debug, Args)]
pub struct OmsImportArguments {
    /// Folder with the model; a `turnout.yaml` in it that is signed with the rest describes the version
    pub dir: PathBuf,
    /// The bundle, signed by a key that the daemon trusts for this model
    #[arg(long, value_name = "FILE")]
    pub signature: PathBuf,
    /// Name of the model, where no `turnout.yaml` says it
    #[arg(long, requires = "version")]
    pub model: Option<ModelName>,
    /// Label of this version, where no `turnout.yaml` says it
    #[arg(long, value_name = "VERSION", requires = "model")]
    pub version: Option<Version>,
    /// The ONNX file in DIR; without it, the only one there
    #[arg(long, value_name = "NAME", requires = "model")]
    pub file: Option<String>,
    /// A path that the signature may leave out besides the git names and its own file; may be repeated
    #[arg(long, value_name = "PATH")]
    pub allow_ignored: Vec<String>,
    #[command(flatten)]
    pub content: ContentArguments,
}

/// `turnoutctl audit ...`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Print the journal
    Log(AuditLogArguments),
    /// How far back the journal goes, how long its records stay, what keeps them, and what was pruned
    Journal,
    /// Read every record again and check it, and every signed checkpoint; with DIR without the daemon; exits 3 when
    /// something does not hold
    Verify {
        /// A journal's folder, for instance inside a snapshot
        dir: Option<PathBuf>,
        /// With DIR: the host's public key, a PEM file from `audit key` or what `audit checkpoint --key` prints; may be
        /// repeated. Without it, signatures are not checked
        #[arg(long, value_name = "FILE", requires = "dir")]
        key: Vec<PathBuf>,
    },
    #[command(flatten)]
    Proofs(proofs::ProofCommand),
    #[command(flatten)]
    Snapshots(SnapshotCommand),
}

/// `turnoutctl audit log ...`
#[derive(Debug, Args)]
pub struct AuditLogArguments {
    /// Go on as records are written, also when the daemon is restarted
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the newest; without it, all
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// First record; without it, the first that is there
    #[arg(long, value_name = "SEQ")]
    pub from: Option<u64>,
    /// Only those about this model and its releases
    #[arg(long)]
    pub model: Option<ModelName>,
    /// Only those of this release
    #[arg(long)]
    pub release: Option<ReleaseId>,
}

/// `turnoutctl log ...`
#[derive(Debug, Args)]
pub struct LogArguments {
    /// Go on as events come
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the newest
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub lines: usize,
    /// Only those about this model
    #[arg(long)]
    pub model: Option<ModelName>,
    /// Only those of this release
    #[arg(long)]
    pub release: Option<ReleaseId>,
    /// Read the journal files in this folder instead of this host's own
    #[arg(short = 'D', long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}` is not a time such as `500ms`, `90s`, `10m` or `2h`");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    milliseconds.map(Duration::from_millis).ok_or_else(refused)
}

/// A date or a moment of it, in milliseconds since the epoch; nothing where the text is neither.
fn parse_date(text: &str) -> Option<Result<u64, String>> {
    let whole = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00Z") };
    let moment: jiff::Timestamp = whole.parse().ok()?;
    Some(u64::try_from(moment.as_millisecond()).map_err(|_| format!("`{text}` is before 1970")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_plan_in_the_help_is_a_plan() {
        let plan = PLAN_EXAMPLE.strip_prefix("A plan:\n").unwrap();
        assert!(turnout_manifest::Plan::from_yaml(plan).is_ok());
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(parse_time("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "90", "s", "-1s", "1.5s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_time(bad).is_err(), "{bad:?}");
        }
    }
}
