//! `turnoutctl manifest ...`: write the description of a version, sign its files, make every check of an import.

use crate::args::ManifestCommand;
use crate::bundle::{self, DESCRIPTION, ENVELOPE};
use crate::content;
use crate::error::{Exit, Failure, chain};
use crate::files;
use crate::render::{BAD, DIM, GOOD, STRONG, Screen, Table, WARN, count, safe, styled, words};
use crate::signed;
use crate::signing_key::SigningKey;
use crate::verify;
use serde::Serialize;
use std::path::{Path, PathBuf};
use turnout_manifest::assertion::{Assertion, Check};
use turnout_manifest::contract::{Contract, Datatype, TensorContract};
use turnout_manifest::description::Description;
use turnout_manifest::envelope::{ENVELOPE_MAX, Envelope, MANIFEST_TYPE};
use turnout_manifest::problem::Problems;
use turnout_manifest::trust::{CheckResult, Outcome};
use turnout_manifest::{Manifest, ModelName, Sha256, Version, VersionRef};
use turnout_onnx::{Header, Policy};
use turnout_protocol::client::Client;
use turnout_protocol::control::SCHEMA;

/// Runs `turnoutctl manifest ...`.
pub async fn run(client: &Client, screen: &mut Screen, command: ManifestCommand) -> Result<Exit, Failure> {
    match command {
        ManifestCommand::New { dir, model, version, file } => new(screen, &dir, (model, version), file),
        ManifestCommand::Sign { dir, append, key, content } => {
            let key = SigningKey::open(&key)?;
            if append {
                append_signature(screen, (&dir, &content.policy()), &key)
            } else {
                sign(screen, (&dir, &content.policy()), &key)
            }
        }
        ManifestCommand::ExportSignature { path, to } => signed::export(screen, &path, &to),
        ManifestCommand::Verify { dir, trust, content } => {
            verify::run(client, screen, (&dir, &content.policy()), trust.as_deref()).await
        }
    }
}

#[derive(Serialize)]
struct Written {
    schema: &'static str,
    description: PathBuf,
    inputs: usize,
    outputs: usize,
}

fn new(
    screen: &mut Screen,
    dir: &Path,
    (model, version): (ModelName, Version),
    file: Option<String>,
) -> Result<Exit, Failure> {
    let target = dir.join(DESCRIPTION);
    if target.symlink_metadata().is_ok() {
        return Err(Failure::new(Exit::Failed, format!("`{}` is there already", target.display()))
            .hint("edit it, or remove it to begin anew"));
    }
    let model_file = file.map_or_else(|| only_onnx_file(dir), Ok)?;
    let header = read_header(&dir.join(&model_file))?;
    let description = describe(Description::template(model, version, model_file), &header);
    files::write_new(&target, description.to_yaml().as_bytes(), 0o644)?;
    let text = format!(
        "wrote `{}`: {}, {}, from what the model says of itself\n\
         {DIM}hint:{DIM:#} look through it, then sign the folder with `turnoutctl manifest sign {} --key PEM`\n",
        target.display(),
        count(header.inputs.len() as u64, "input"),
        count(header.outputs.len() as u64, "output"),
        dir.display(),
    );
    let (inputs, outputs) = (header.inputs.len(), header.outputs.len());
    screen.show(&Written { schema: SCHEMA, description: target, inputs, outputs }, &text)?;
    Ok(Exit::Done)
}

/// The name of the only ONNX file in the folder.
pub fn only_onnx_file(dir: &Path) -> Result<String, Failure> {
    let mut models = files::list(dir)?;
    models.retain(|path| path.ends_with(".onnx"));
    match (models.pop(), models.is_empty()) {
        (Some(model), true) => Ok(model),
        (None, _) => Err(Failure::new(Exit::Failed, format!("`{}` holds no `.onnx` file", dir.display()))
            .hint("put the model there, or name it with `--file NAME`")),
        (Some(_), false) => {
            Err(Failure::new(Exit::Usage, format!("`{}` holds more than one `.onnx` file", dir.display()))
                .hint("name the one that is served with `--file NAME`"))
        }
    }
}

/// What an ONNX file says of itself.
pub fn read_header(path: &Path) -> Result<Header, Failure> {
    let file = files::open_regular(path).map_err(|error| Failure::file("read", path, &error))?;
    turnout_onnx::header(file).map_err(|error| {
        Failure::new(Exit::Refused, format!("`{}` {}", path.display(), chain(&error)))
            .hint("export the model to ONNX, for instance with skl2onnx or `torch.onnx.export`")
    })
}

/// The contract is the model's own words; every output that can hold NaN must be finite.
pub fn describe(mut description: Description, header: &Header) -> Description {
    let contract = |tensors: &[turnout_onnx::Tensor]| tensors.iter().map(tensor_contract).collect::<Vec<_>>();
    description.contract = Contract { inputs: contract(&header.inputs), outputs: contract(&header.outputs) };
    description.assertions = header
        .outputs
        .iter()
        .filter(|output| matches!(output.datatype, Datatype::Fp32 | Datatype::Fp64))
        .map(|output| Assertion {
            name: format!("{} is finite", output.name),
            output: output.name.clone(),
            check: Check::Finite,
        })
        .collect();
    description
}

fn tensor_contract(tensor: &turnout_onnx::Tensor) -> TensorContract {
    let turnout_onnx::Tensor { name, datatype, shape } = tensor.clone();
    TensorContract { name, datatype, shape, minimum: None, maximum: None }
}

#[derive(Serialize)]
struct Signed {
    schema: &'static str,
    version: VersionRef,
    digest: Sha256,
    key_id: String,
    signatures: usize,
    files: usize,
    envelope: PathBuf,
}

fn sign(screen: &mut Screen, (dir, policy): (&Path, &Policy), key: &SigningKey) -> Result<Exit, Failure> {
    let path = dir.join(DESCRIPTION);
    if dir.is_dir() && !path.exists() {
        return Err(Failure::new(Exit::Failed, format!("`{}` holds no `{DESCRIPTION}`", dir.display()))
            .hint(format!(
                "write it with `turnoutctl manifest new {} --model NAME --version LABEL`",
                dir.display()
            )));
    }
    let wrong = |found: Problems| {
        Failure::new(Exit::Refused, format!("`{}` is not well-formed", path.display()))
            .details(problems(&found))
    };
    let description = Description::from_yaml(&files::read_text(&path)?).map_err(wrong)?;
    let manifest = description.into_manifest(bundle::entries(dir)?).map_err(wrong)?;
    content::demand(dir, &manifest, policy)?;
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::from_error(Exit::Failed, error);
    let payload = manifest.to_canonical().map_err(|error| failed(&error))?;
    let envelope = Envelope::unsigned(MANIFEST_TYPE, payload).map_err(|error| failed(&error))?;
    seal(screen, (dir, &manifest), (envelope, key))
}

/// One more signature over the same bytes. Whoever adds it looks at the same files as the first signer did.
fn append_signature(
    screen: &mut Screen,
    (dir, policy): (&Path, &Policy),
    key: &SigningKey,
) -> Result<Exit, Failure> {
    let refused = |what: String| Failure::new(Exit::Refused, format!("`{}`: {what}", dir.display()));
    let envelope = Envelope::parse(&bundle::envelope(dir)?).map_err(|error| refused(chain(&error)))?;
    if envelope.payload_type() != MANIFEST_TYPE {
        return Err(refused("what is signed there is no manifest".to_owned()));
    }
    let manifest = Manifest::from_canonical(envelope.payload()).map_err(|found| {
        refused("the signed manifest is not well-formed".to_owned()).details(problems(&found))
    })?;
    let files = verify::compare(dir, &manifest);
    if files.result == Outcome::Fail {
        return Err(refused(format!(
            "the files are not as the first signer signed them: {}",
            safe(&files.detail)
        ))
        .hint("restore them, or begin anew: the same command without `--append`"));
    }
    content::demand(dir, &manifest, policy)?;
    seal(screen, (dir, &manifest), (envelope, key))
}

fn seal(
    screen: &mut Screen,
    (dir, manifest): (&Path, &Manifest),
    (mut envelope, key): (Envelope, &SigningKey),
) -> Result<Exit, Failure> {
    key.seal(&mut envelope)?;
    let target = dir.join(ENVELOPE);
    let json = envelope.to_json().map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    fits(dir, json.len() as u64)?;
    files::replace(&target, &json, 0o644)?;
    let signed = Signed {
        schema: SCHEMA,
        version: manifest.reference(),
        digest: Sha256::of(envelope.payload()),
        key_id: key.public_key().id().to_string(),
        signatures: envelope.signatures().len(),
        files: manifest.files.len(),
        envelope: target,
    };
    screen.show(&signed, &signed_text(&signed, dir))?;
    Ok(Exit::Done)
}

/// What is longer would be written, and then be read by nobody.
fn fits(dir: &Path, length: u64) -> Result<(), Failure> {
    if length <= ENVELOPE_MAX {
        return Ok(());
    }
    let message = format!(
        "the signed manifest of `{}` would have {length} bytes, {ENVELOPE_MAX} are allowed",
        dir.display()
    );
    Err(Failure::new(Exit::Refused, message).hint(format!("shorten the annotations in `{DESCRIPTION}`")))
}

fn signed_text(signed: &Signed, dir: &Path) -> String {
    let others =
        if signed.signatures > 1 { format!(", the {}. signature", signed.signatures) } else { String::new() };
    format!(
        "{GOOD}signed{GOOD:#}: {STRONG}{}{STRONG:#} with {}{others}\ndigest  {}\nkey id  {}\nwrote   {}\n\
         {DIM}hint:{DIM:#} check it with `turnoutctl manifest verify {}`; where no daemon runs, with \
         `--trust FILE`\n",
        signed.version,
        count(signed.files as u64, "file"),
        signed.digest,
        signed.key_id,
        signed.envelope.display(),
        dir.display(),
    )
}

/// Each problem of a document as one line.
pub fn problems(found: &Problems) -> Vec<String> {
    found.0.iter().map(|problem| safe(&problem.to_string())).collect()
}

/// Every check with its result.
pub fn check_rows(checks: &[CheckResult]) -> String {
    let mut table = Table::new(&["RESULT", "CHECK", "FOUND"]);
    for check in checks {
        let (style, word) = match check.result {
            Outcome::Pass => (GOOD, "pass"),
            Outcome::Fail => (BAD, "FAIL"),
            Outcome::Skipped => (WARN, "skipped"),
        };
        table.row(vec![styled(style, word), words(safe(&check.name)), words(safe(&check.detail))]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_would_be_refused_is_not_written() {
        assert!(fits(Path::new("fraud"), ENVELOPE_MAX).is_ok());
        assert_eq!(fits(Path::new("fraud"), ENVELOPE_MAX + 1).unwrap_err().exit, Exit::Refused);
    }
}
