//! `turnoutctl oms ...`: folders signed in the OpenSSF Model Signing format, checked and signed without the daemon.
//! Importing is in `oms_import`.

use crate::args::{KeyArguments, OmsCommand, OmsVerifyArguments};
use crate::content;
use crate::error::{Exit, Failure, chain};
use crate::files;
use crate::folder::{Folder, LeftOut};
use crate::oms_import;
use crate::render::{DIM, GOOD, STRONG, Screen, count};
use crate::signing_key::SigningKey;
use crate::verify::Verified;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use turnout_manifest::Sha256;
use turnout_manifest::key::PublicKey;
use turnout_manifest::oms::{
    Authorities, BUNDLE_MAX, Export, GIT_NAMES, Signer, Signers, Statement, Verification, compare, verify,
};
use turnout_manifest::trust::{CheckResult, Outcome, Verdict};
use turnout_onnx::Policy;
use turnout_protocol::client::Client;
use turnout_protocol::control::SCHEMA;

/// Runs `turnoutctl oms ...`.
pub async fn run(client: &Client, screen: &mut Screen, command: OmsCommand) -> Result<Exit, Failure> {
    match command {
        OmsCommand::Import(arguments) => oms_import::import(client, screen, &arguments).await,
        OmsCommand::Verify(arguments) => run_verify(screen, &arguments),
        OmsCommand::Export { dir, signature, key, name, force } => {
            let there = if force { Existing::Replace } else { Existing::Keep };
            let name = name.map_or_else(|| folder_name(&dir), Ok)?;
            export(screen, &dir, (&signature, there), (&key, &name))
        }
    }
}

fn run_verify(screen: &mut Screen, arguments: &OmsVerifyArguments) -> Result<Exit, Failure> {
    let verification = match signers(arguments)? {
        Ok(signers) => verified(arguments, &signers)?,
        Err(unusable) => unusable,
    };
    let verified = Verified {
        schema: SCHEMA,
        verdict: verification.verdict,
        version: None,
        digest: verification.digest,
        signed_by: verification.signed_by.into_iter().collect(),
        checks: verification.checks,
    };
    let hint = match verified.verdict {
        Verdict::Valid => "every file is as its signer signed it",
        Verdict::Untrusted => "nothing is wrong with the bundle, but who signed it is not known here",
        Verdict::Rejected => "the failed check says what is wrong",
    };
    screen.show(&verified, &(verified.text() + &format!("{DIM}hint:{DIM:#} {hint}\n")))?;
    Ok(verified.exit())
}

fn verified(arguments: &OmsVerifyArguments, signers: &Signers) -> Result<Verification, Failure> {
    let allowed: BTreeSet<String> = arguments.allow_ignored.iter().cloned().collect();
    let bundle = match Bundle::read(&arguments.signature)? {
        Ok(bundle) => bundle,
        Err(refused) => return Ok(refused),
    };
    let allowed = allowed.into_iter().chain(bundle.path_below(&arguments.dir)).collect();
    let verification = verify(&bundle.bytes, signers, &allowed);
    let Some(statement) = verification.statement().cloned() else { return Ok(verification) };
    let checks = checks_of_files((&arguments.dir, &arguments.content.policy()), &statement, &bundle)?;
    Ok(checks.into_iter().fold(verification, Verification::with_files))
}

/// Holds the folder against the statement, and its files against the content policy.
pub fn checks_of_files(
    (dir, policy): (&Path, &Policy),
    statement: &Statement,
    bundle: &Bundle,
) -> Result<Vec<CheckResult>, Failure> {
    if !dir.is_dir() {
        return Err(Failure::new(Exit::Failed, format!("`{}` is no folder", dir.display())));
    }
    let left_out = LeftOut { covers: &|path| statement.ignored.covers(path), signature: Some(&bundle.file) };
    let folder = match Folder::list(dir, &left_out) {
        Ok(folder) => folder,
        Err(error) => {
            let (name, result) = ("files".to_owned(), Outcome::Fail);
            return Ok(vec![CheckResult { name, result, detail: chain(&error) }]);
        }
    };
    let files = compare(statement, &folder.found(), &mut |path| {
        folder.open(path).map(|reader| Box::new(reader) as Box<dyn Read>)
    });
    let names = content::Files { paths: folder.found().files.into_keys().collect(), served: None };
    let content = content::check(&names, policy, &|path| {
        folder.open(path).map(|reader| Box::new(reader) as Box<dyn content::Source>)
    });
    Ok(vec![files, content])
}

/// The signature's file, kept open so that the listing can tell it from others.
pub struct Bundle {
    file: File,
    path: PathBuf,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl Bundle {
    /// Reads the bundle; what is no plain file of acceptable size is a verdict, not an error.
    pub fn read(path: &Path) -> Result<Result<Self, Verification>, Failure> {
        let absent = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
        let file = match files::open_regular(path) {
            Ok(file) => file,
            Err(error) if absent.contains(&error.kind()) => return Err(Failure::file("read", path, &error)),
            Err(error) => {
                return Ok(Err(Verification::refused("bundle", format!("is no plain file: {error}"))));
            }
        };
        let mut bytes = Vec::new();
        let read = (&file).take(BUNDLE_MAX as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| Failure::file("read", path, &error))?;
        Ok(Ok(Self { file, path: path.to_owned(), bytes }))
    }

    /// Where it lies below the folder, if it does: a signer leaves it out of the signature under that name.
    pub fn path_below(&self, dir: &Path) -> Option<String> {
        let (dir, path) = (dir.canonicalize().ok()?, self.path.canonicalize().ok()?);
        path.strip_prefix(dir).ok()?.to_str().map(str::to_owned)
    }
}

/// Whose signature counts, or the verdict on a key or root that cannot be used.
fn signers(arguments: &OmsVerifyArguments) -> Result<Result<Signers, Verification>, Failure> {
    if let Some(path) = &arguments.cert_root {
        let text = files::read_text(path)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        return Ok(match Authorities::from_pem(&text, now) {
            Ok(authorities) => Ok(Signers::Authorities(authorities.only(arguments.cert_subject.clone()))),
            Err(error) => Err(unusable(path, &error)),
        });
    }
    let mut keys = Vec::new();
    for path in &arguments.key {
        match PublicKey::from_pem(&files::read_text(path)?) {
            Ok(key) => keys.push(Signer { name: path.display().to_string(), key }),
            Err(error) => return Ok(Err(unusable(path, &error))),
        }
    }
    Ok(Ok(Signers::Keys(keys)))
}

fn unusable(path: &Path, error: &(dyn std::error::Error + 'static)) -> Verification {
    Verification::refused("key", format!("`{}` cannot be used: {}", path.display(), chain(error)))
}

/// Whether a bundle that is there may be replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

#[derive(Serialize)]
struct Exported {
    schema: &'static str,
    signature: PathBuf,
    name: String,
    key_id: String,
    files: usize,
}

fn folder_name(dir: &Path) -> Result<String, Failure> {
    let full = dir.canonicalize().map_err(|error| Failure::file("read", dir, &error))?;
    let name = full.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    name.ok_or_else(|| {
        Failure::new(Exit::Usage, format!("`{}` gives the model no name", dir.display()))
            .hint("give one with `--name TEXT`")
    })
}

fn export(
    screen: &mut Screen,
    dir: &Path,
    (signature, there): (&Path, Existing),
    (key, name): (&KeyArguments, &str),
) -> Result<Exit, Failure> {
    let refused = |path: &Path, error: &(dyn std::error::Error + 'static)| {
        Failure::new(Exit::Refused, format!("`{}` cannot be signed: {}", path.display(), chain(error)))
    };
    let key = SigningKey::open(key)?;
    let old = match files::open_regular(signature) {
        Ok(_) if there == Existing::Keep => {
            return Err(Failure::new(Exit::Failed, format!("`{}` is there already", signature.display()))
                .hint("`--force` replaces it"));
        }
        Ok(file) => Some(file),
        Err(_) => None,
    };
    let ignored = |path: &str| GIT_NAMES.contains(&path);
    let left_out = LeftOut { covers: &ignored, signature: old.as_ref() };
    let folder = Folder::list(dir, &left_out).map_err(|error| refused(dir, &error))?;
    let mut digests = BTreeMap::new();
    for path in folder.found().files.into_keys() {
        let hashed = folder.open(&path).and_then(|mut reader| Sha256::of_reader(&mut reader));
        let (digest, _) = hashed.map_err(|error| Failure::file("read", &dir.join(&path), &error))?;
        digests.insert(path, digest);
    }
    let mut left_out: Vec<String> = GIT_NAMES.map(str::to_owned).to_vec();
    left_out.extend(future_path_below(signature, dir));
    let export = Export { subject: name, files: &digests, ignored: &left_out };
    let signable = export.signable().map_err(|error| refused(dir, &error))?;
    let public = key.public_key();
    let bundle = signable.bundle(&public, &key.sign(&signable.signed_bytes())?);
    files::replace(signature, &bundle, 0o644)?;
    let exported = Exported {
        schema: SCHEMA,
        signature: signature.to_owned(),
        name: name.to_owned(),
        key_id: public.id().to_string(),
        files: digests.len(),
    };
    screen.show(&exported, &exported_text(&exported, dir))?;
    Ok(Exit::Done)
}

/// Where a file that is yet to be written will lie below the folder, if it will.
fn future_path_below(file: &Path, dir: &Path) -> Option<String> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let full = parent.canonicalize().ok()?.join(file.file_name()?);
    full.strip_prefix(dir.canonicalize().ok()?).ok()?.to_str().map(str::to_owned)
}

fn exported_text(exported: &Exported, dir: &Path) -> String {
    format!(
        "{GOOD}signed{GOOD:#}: {STRONG}{}{STRONG:#} with {}\nkey id  {}\nwrote   {}\n\
         {DIM}hint:{DIM:#} check it with `turnoutctl oms verify {} --signature {} --key PUBLIC`\n",
        exported.name,
        count(exported.files as u64, "file"),
        exported.key_id,
        exported.signature.display(),
        dir.display(),
        exported.signature.display(),
    )
}
