//! `turnoutctl manifest verify`: every check that an import makes, on a folder, with the daemon's trust store or a file.

use crate::bundle::{self, DESCRIPTION, ENVELOPE};
use crate::content;
use crate::error::{Exit, Failure};
use crate::files;
use crate::folder::Folder;
use crate::manifest::check_rows;
use crate::render::{BAD, DIM, GOOD, STRONG, Screen, WARN};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;
use turnout_manifest::trust::{
    Authority, CHANNELS_KEY, CheckResult, History, Occasion, Outcome, Purpose, TrustStore, Verdict,
    Verification, check_files, verify, verify_by,
};
use turnout_manifest::{Manifest, Sha256, VersionRef, canonical};
use turnout_onnx::Policy;
use turnout_protocol::client::Client;
use turnout_protocol::control::{SCHEMA, Trust, Versions};
use turnout_protocol::trust::AcceptedException;

/// The result as printed; `verdict` and `checks` are part of the contract.
#[derive(Serialize)]
pub struct Verified {
    /// The control API's.
    pub schema: &'static str,
    /// The word.
    pub verdict: Verdict,
    /// What was signed, where the signed document says it.
    pub version: Option<VersionRef>,
    /// SHA-256 of the signed payload.
    pub digest: Option<Sha256>,
    /// Whose signatures hold.
    pub signed_by: Vec<String>,
    /// Every check.
    pub checks: Vec<CheckResult>,
}

impl Verified {
    /// 0 when valid, 3 otherwise.
    pub fn exit(&self) -> Exit {
        if self.verdict == Verdict::Valid { Exit::Done } else { Exit::Refused }
    }

    /// The checks and the verdict, without a hint.
    pub fn text(&self) -> String {
        let style = match self.verdict {
            Verdict::Valid => GOOD,
            Verdict::Untrusted => WARN,
            Verdict::Rejected => BAD,
        };
        let mut text = check_rows(&self.checks);
        text += &format!("\nverdict: {style}{}{style:#}", self.verdict);
        if let Some(version) = &self.version {
            text += &format!("  {STRONG}{version}{STRONG:#}");
        }
        if let Some(digest) = &self.digest {
            text += &format!("  {digest}");
        }
        text + "\n"
    }
}

/// Verifies the folder; exits 0 when valid, 3 otherwise.
pub async fn run(
    client: &Client,
    screen: &mut Screen,
    (dir, policy): (&Path, &Policy),
    trust: Option<&Path>,
) -> Result<Exit, Failure> {
    let envelope = match bundle::envelope(dir) {
        Ok(envelope) => envelope,
        Err(refused) if refused.exit == Exit::Refused => return show_unsigned(screen, dir, &refused),
        Err(failure) => return Err(failure),
    };
    let mut verification = match trust {
        Some(file) => verify(&envelope, &store_of_file(file)?),
        None => by_daemon(client, &envelope).await?,
    };
    if let Some(manifest) = verification.manifest().cloned() {
        verification = verification.with_files(compare(dir, &manifest));
        verification = verification.with_files(content::check_version(dir, &manifest, policy));
    }
    let verified = Verified {
        schema: SCHEMA,
        verdict: verification.verdict,
        version: verification.manifest().map(Manifest::reference),
        digest: verification.digest,
        signed_by: verification.signed_by,
        checks: verification.checks,
    };
    screen.show(&verified, &text(&verified, dir))?;
    Ok(verified.exit())
}

/// Without a signed manifest the first check fails: that is a verdict too.
fn show_unsigned(screen: &mut Screen, dir: &Path, refused: &Failure) -> Result<Exit, Failure> {
    let (name, detail) = ("envelope".to_owned(), refused.message().to_owned());
    let verified = Verified {
        schema: SCHEMA,
        verdict: Verdict::Rejected,
        version: None,
        digest: None,
        signed_by: Vec::new(),
        checks: vec![CheckResult { name, result: Outcome::Fail, detail }],
    };
    let hint = format!("sign it with `turnoutctl manifest sign {} --key PEM`", dir.display());
    screen.show(&verified, &(verified.text() + &format!("{DIM}hint:{DIM:#} {hint}\n")))?;
    Ok(verified.exit())
}

/// As the daemon would judge it at an import now: by its signed root where there is one, by its single keys otherwise.
async fn by_daemon(client: &Client, envelope: &[u8]) -> Result<Verification, Failure> {
    let state = client.trust_state().await?;
    let now_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    let history = Known { versions: client.versions().await?, exceptions: &state.exceptions };
    let occasion =
        Occasion { now_ms, purpose: Purpose::NewWork, channels: Some(&state.channels), history: &history };
    if let Some(why) = &state.lost {
        return Ok(Verification::without_authority(why.clone()));
    }
    if let Some(root) = &state.root {
        return Ok(verify_by(envelope, Authority::Root(&root.document), &occasion));
    }
    let store = store_of(&client.trust().await?, "the daemon's trust store")?;
    Ok(verify_by(envelope, Authority::Store(&store), &occasion))
}

/// What the daemon knows of manifests from before.
struct Known<'a> {
    versions: Versions,
    exceptions: &'a [AcceptedException],
}

impl History for Known<'_> {
    fn first_seen_ms(&self, manifest: Sha256) -> Option<u64> {
        let of = self.versions.versions.iter().filter(|version| version.digest == manifest);
        of.map(|version| version.imported_ms).min()
    }

    fn exception(&self, manifest: Sha256) -> Option<&str> {
        let found = self.exceptions.iter().find(|exception| exception.manifest == manifest);
        found.map(|exception| exception.envelope.as_str())
    }
}

fn store_of_file(file: &Path) -> Result<TrustStore, Failure> {
    let what = format!("trust store `{}`", file.display());
    let trust: Trust = serde_json::from_slice(&files::read(file)?).map_err(|error| {
        Failure::new(Exit::Refused, format!("{what} is not well-formed: {error}"))
            .hint("`turnoutctl trust list --output json` prints one")
    })?;
    store_of(&trust, &what)
}

/// The store's own reader takes canonical JSON alone, so that both ways in meet the same checks.
fn store_of(trust: &Trust, what: &str) -> Result<TrustStore, Failure> {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(Exit::Refused, format!("{what} cannot be used: {}", crate::error::chain(error)))
    };
    let bytes = canonical::to_canonical(trust).map_err(|error| refused(&error))?;
    TrustStore::from_json(&bytes).map_err(|error| refused(&error))
}

/// Holds the folder's files against the manifest.
pub fn compare(dir: &Path, manifest: &Manifest) -> CheckResult {
    let folder = match Folder::whole(dir) {
        Ok(folder) => folder,
        Err(failure) => {
            let detail = failure.message().to_owned();
            return CheckResult { name: "files".to_owned(), result: Outcome::Fail, detail };
        }
    };
    let own = |path: &String| path != DESCRIPTION && path != ENVELOPE;
    let present: BTreeSet<String> = folder.found().files.into_keys().filter(own).collect();
    check_files(manifest, &present, &mut |entry| {
        folder.open(&entry.path).and_then(|mut file| Sha256::of_reader(&mut file))
    })
}

fn text(verified: &Verified, dir: &Path) -> String {
    let dir = dir.display();
    let exempt =
        verified.checks.iter().any(|check| check.name == "exception" && check.result == Outcome::Pass);
    let hint = match verified.verdict {
        Verdict::Valid => format!("import it with `turnoutctl model import {dir}`"),
        Verdict::Untrusted if exempt => {
            format!("a signed exception holds: import it with `turnoutctl model import {dir}`")
        }
        Verdict::Untrusted | Verdict::Rejected => remedy(verified, &dir.to_string()),
    };
    verified.text() + &format!("{DIM}hint:{DIM:#} {hint}\n")
}

/// What to do about the check that decided, by whoever says whose signatures count.
fn remedy(verified: &Verified, dir: &str) -> String {
    let rooted = verified.checks.iter().any(|check| check.name == "deny-list");
    let failed = |check: &&CheckResult| check.result == Outcome::Fail;
    let of_files = |check: &&CheckResult| ["files", "content"].contains(&check.name.as_str());
    let first = verified.checks.iter().find(failed);
    // Nobody's signature helps files that differ, whatever else there is.
    let decided = verified.checks.iter().filter(of_files).find(failed).or(first);
    let (name, detail) = decided.map_or(("", ""), |check| (check.name.as_str(), check.detail.as_str()));
    let sign = format!("`turnoutctl manifest sign {dir} --key KEY`");
    let append = format!("`turnoutctl manifest sign {dir} --append --key KEY`");
    match (name, rooted, verified.verdict) {
        ("trust-root", ..) => {
            "put the missing roots back with `turnoutctl trust apply`, oldest first".to_owned()
        }
        ("files", ..) => format!("restore the files, or sign them as they are with {sign}"),
        ("content", ..) => "take out what is not allowed and sign again; `--allow-domain` and `--allow-format` allow \
                            it here, and the daemon's configuration must allow it too"
            .to_owned(),
        ("deny-list", ..) => "release another version: nobody can override what is denied".to_owned(),
        ("key-state", _, Verdict::Rejected) => {
            format!("nothing that this key signed counts: have another key sign it anew with {sign}")
        }
        ("key-state", ..) => {
            format!("have a key that counts now sign it beside the others with {append}, or anew with {sign}")
        }
        ("channel", ..) => channel_remedy(),
        ("trust", false, _) if detail.contains(CHANNELS_KEY) => channel_remedy(),
        ("trust", false, _) => {
            "have another key sign it, or widen the models of this one: `turnoutctl trust remove KEY_ID`, then \
             `turnoutctl trust add` with every `--models` that it is to have"
                .to_owned()
        }
        ("signature", false, Verdict::Untrusted) => {
            "let the signer sign for this model with `turnoutctl trust add KEY.pub.pem --issuer NAME --models GLOB`"
                .to_owned()
        }
        ("signature" | "trust", true, Verdict::Untrusted) => format!(
            "have a key that the trust root names for this model and channel sign it with {append}, or name the \
             signer in the next root, with `turnoutctl trust add --draft FILE`"
        ),
        ("threshold" | "roles", ..) => format!("have more keys of the issuer sign it with {append}"),
        ("expiry", ..) => "set the clock right where it is wrong; else `turnoutctl trust renew --draft FILE --expires \
                           TIME`, have it signed, and `turnoutctl trust apply FILE`"
            .to_owned(),
        _ => format!("sign it again with {sign}"),
    }
}

fn channel_remedy() -> String {
    format!(
        "sign it for a channel that this host serves (`channel` in `turnout.yaml`), or name its channel in \
         `{CHANNELS_KEY}` of the daemon's configuration"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verdict: Verdict, rows: &[(&str, &str)], says: &str) {
        let row = |(name, detail): &(&str, &str)| CheckResult {
            name: (*name).to_owned(),
            result: if detail.is_empty() { Outcome::Pass } else { Outcome::Fail },
            detail: (*detail).to_owned(),
        };
        let verified = Verified {
            schema: SCHEMA,
            verdict,
            version: None,
            digest: None,
            signed_by: Vec::new(),
            checks: rows.iter().map(row).collect(),
        };
        let hint = remedy(&verified, "fraud");
        assert!(hint.contains(says), "{rows:?}: {hint}");
        let rooted = rows.iter().any(|(name, _)| *name == "deny-list");
        let plain = hint.contains("trust add") && !hint.contains("--draft");
        assert!(!(rooted && plain), "refused under a signed root: {hint}");
    }

    #[test]
    fn the_hint_is_about_what_failed_and_works_under_what_is_in_force() {
        let served = format!("this host serves prod: see `{CHANNELS_KEY}` of its configuration");
        for (rows, says) in [
            (&[("signature", "no trusted key")][..], "turnoutctl trust add KEY.pub.pem"),
            (&[("trust", "no signer may sign model `fraud`")], "turnoutctl trust remove KEY_ID"),
            (&[("trust", &served)], "channel that this host serves"),
            (&[("trust-root", "trust root 2 is not there")], "trust apply"),
            (&[("signature", "no trusted key"), ("deny-list", "")], "--append"),
            (&[("deny-list", ""), ("trust", "no signer")], "trust add --draft FILE"),
            (&[("deny-list", ""), ("key-state", "ci is retired")], "a key that counts now"),
            (&[("deny-list", ""), ("channel", &served)], "channel that this host serves"),
            (&[("deny-list", ""), ("threshold", "1 of 2")], "manifest sign fraud --append"),
            (&[("deny-list", ""), ("roles", "no approver")], "manifest sign fraud --append"),
            (&[("deny-list", ""), ("expiry", "has expired")], "turnoutctl trust renew"),
        ] {
            check(Verdict::Untrusted, rows, says);
        }
        for (rows, says) in [
            (&[("deny-list", "it is bad")][..], "another version"),
            (&[("deny-list", ""), ("key-state", "ci is revoked")], "have another key sign it anew"),
            (&[("signature", "does not hold")], "sign it again"),
            (&[("trust", "no signer"), ("files", "`a` is missing")], "restore the files"),
            (&[("content", "a pickle")], "--allow-format"),
        ] {
            check(Verdict::Rejected, rows, says);
        }
    }
}
