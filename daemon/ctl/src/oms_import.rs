//! `turnoutctl oms import`: a version that is signed by a bundle alone. The daemon verifies the bundle over its raw bytes
//! with the keys that it trusts; what is put together here, name, label and contract, is told to it as a statement.

use crate::args::OmsImportArguments;
use crate::bundle::{Content, DESCRIPTION};
use crate::content;
use crate::error::{Exit, Failure, chain};
use crate::files;
use crate::manifest::{describe, only_onnx_file, problems, read_header};
use crate::model;
use crate::oms::{self, Bundle};
use crate::render::Screen;
use std::collections::BTreeSet;
use std::path::Path;
use turnout_manifest::manifest::FileEntry;
use turnout_manifest::oms::{ASIDE, Bundle as Signed, Coverage, Evidence, Statement};
use turnout_manifest::trust::{CheckResult, Outcome};
use turnout_manifest::{Description, Manifest, Sha256, VersionRef};
use turnout_protocol::client::{Bundle as Upload, Client};

/// Runs `turnoutctl oms import`.
pub async fn import(
    client: &Client,
    screen: &mut Screen,
    arguments: &OmsImportArguments,
) -> Result<Exit, Failure> {
    let dir = &arguments.dir;
    let bundle = Bundle::read(&arguments.signature)?
        .map_err(|verification| refused(&arguments.signature, failed(&verification.checks)))?;
    let allowed: Vec<String> =
        arguments.allow_ignored.iter().cloned().chain(bundle.path_below(dir)).collect();
    let statement = statement(&bundle, &allowed).map_err(|what| refused(&arguments.signature, what))?;
    let checks = oms::checks_of_files((dir, &arguments.content.policy()), &statement, &bundle)?;
    if checks.iter().any(|check| check.result == Outcome::Fail) {
        return Err(refused(dir, failed(&checks)).hint("`turnoutctl oms verify` makes every check"));
    }
    let manifest = manifest(arguments, &statement)?;
    content::demand(dir, &manifest, &arguments.content.policy())?;
    let text = String::from_utf8(bundle.bytes)
        .map_err(|_| refused(&arguments.signature, "is not UTF-8".to_owned()))?;
    let (content, length) = Content::open(dir, &manifest.files)?;
    let evidence = Evidence { bundle: text, allowed, manifest };
    let envelope = evidence.to_json().map_err(|error| Failure::from_error(Exit::Refused, &error))?;
    let imported = client.import(Upload { envelope, content, length }).await?;
    model::show_imported(screen, &imported)?;
    Ok(Exit::Done)
}

fn refused(path: &Path, what: String) -> Failure {
    Failure::new(Exit::Refused, format!("`{}`: {what}", path.display()))
}

fn failed(checks: &[CheckResult]) -> String {
    let failed = checks.iter().filter(|check| check.result == Outcome::Fail);
    failed.map(|check| check.detail.clone()).collect::<Vec<_>>().join("; ")
}

/// What is signed, read for the files alone: whether the signature holds and counts is the daemon's to say.
fn statement(bundle: &Bundle, allowed: &[String]) -> Result<Statement, String> {
    let signed = Signed::parse(&bundle.bytes).map_err(|error| chain(&error))?;
    let allowed: BTreeSet<String> = allowed.iter().cloned().collect();
    Statement::parse(&signed.payload, &allowed).map_err(|error| chain(&error))
}

fn manifest(arguments: &OmsImportArguments, statement: &Statement) -> Result<Manifest, Failure> {
    let dir = &arguments.dir;
    let Coverage::Files(signed) = &statement.coverage else {
        return Err(refused(
            dir,
            "is signed in shards, and a version needs the digest of whole files".to_owned(),
        )
        .hint("have it signed with the method `files`, which is the default"));
    };
    let description = if signed.contains_key(DESCRIPTION) {
        let text = files::read_text(&dir.join(DESCRIPTION))?;
        let description = Description::from_yaml(&text).map_err(|found| {
            refused(dir, format!("`{DESCRIPTION}` is not well-formed")).details(problems(&found))
        })?;
        check_name(arguments, &description)?;
        description
    } else {
        let (Some(model), Some(version)) = (&arguments.model, &arguments.version) else {
            return Err(Failure::new(Exit::Usage, format!("`{}` does not say what it is", dir.display()))
                .hint("name it with `--model NAME --version LABEL`"));
        };
        let file = arguments.file.clone().map_or_else(|| only_onnx_file(dir), Ok)?;
        let header = read_header(&dir.join(&file))?;
        describe(Description::template(model.clone(), version.clone(), file), &header)
    };
    let entries = entries(dir, signed.iter().filter(|(path, _)| !ASIDE.contains(&path.as_str())))?;
    description
        .into_manifest(entries)
        .map_err(|found| refused(dir, "makes no version".to_owned()).details(problems(&found)))
}

/// A signed description decides; a name on the command line may only agree with it.
fn check_name(arguments: &OmsImportArguments, description: &Description) -> Result<(), Failure> {
    let (Some(model), Some(version)) = (&arguments.model, &arguments.version) else { return Ok(()) };
    let asked = VersionRef { model: model.clone(), version: version.clone() };
    let signed = VersionRef { model: description.model.clone(), version: description.version.clone() };
    if asked == signed {
        return Ok(());
    }
    Err(Failure::new(Exit::Refused, format!("the signed `{DESCRIPTION}` says `{signed}`, not `{asked}`"))
        .hint("leave `--model` and `--version` out"))
}

fn entries<'a>(
    dir: &Path,
    signed: impl Iterator<Item = (&'a String, &'a Sha256)>,
) -> Result<Vec<FileEntry>, Failure> {
    signed
        .map(|(path, sha256)| {
            let full = dir.join(path);
            let metadata = full.symlink_metadata().map_err(|error| Failure::file("read", &full, &error))?;
            Ok(FileEntry { path: path.clone(), size: metadata.len(), sha256: *sha256 })
        })
        .collect()
}
