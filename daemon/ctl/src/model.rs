//! `turnoutctl model ...`: send versions to the daemon's store, list what is in it.

use crate::args::ModelCommand;
use crate::bundle::{self, Content};
use crate::content;
use crate::error::{Exit, Failure};
use crate::manifest::{check_rows, problems};
use crate::render::{DIM, GOOD, STRONG, Screen, Table, bytes, count, figure, safe, styled, time, words};
use std::path::Path;
use turnout_manifest::Manifest;
use turnout_manifest::envelope::Envelope;
use turnout_onnx::Policy;
use turnout_protocol::archive::Removed;
use turnout_protocol::client::{Bundle, Client};
use turnout_protocol::control::{Imported, Versions};

/// Runs `turnoutctl model ...`.
pub async fn run(client: &Client, screen: &mut Screen, command: ModelCommand) -> Result<Exit, Failure> {
    match command {
        ModelCommand::Import { dir, content } => import(client, screen, (&dir, &content.policy())).await,
        ModelCommand::List => {
            let list = client.versions().await?;
            screen.show(&list, &versions(&list))?;
            Ok(Exit::Done)
        }
        ModelCommand::Remove { version } => {
            let removed = client.remove_version(&version).await?;
            screen.show(&removed, &removal(&removed))?;
            Ok(Exit::Done)
        }
    }
}

/// The daemon makes every check; here the manifest is read only for the order and the sizes of the files.
async fn import(
    client: &Client,
    screen: &mut Screen,
    (dir, policy): (&Path, &Policy),
) -> Result<Exit, Failure> {
    let bytes = bundle::envelope(dir)?;
    let refused = |what: String| Failure::new(Exit::Refused, format!("`{}`: {what}", dir.display()));
    let envelope = Envelope::parse(&bytes).map_err(|error| refused(crate::error::chain(&error)))?;
    let manifest = Manifest::from_canonical(envelope.payload()).map_err(|found| {
        refused("the signed manifest is not well-formed".to_owned()).details(problems(&found))
    })?;
    let (content, length) = Content::open(dir, &manifest.files)?;
    content::demand(dir, &manifest, policy)?;
    let imported = client.import(Bundle { envelope: bytes, content, length }).await?;
    show_imported(screen, &imported)?;
    Ok(Exit::Done)
}

/// Prints what came of an import.
pub fn show_imported(screen: &mut Screen, imported: &Imported) -> Result<(), Failure> {
    Ok(screen.show(imported, &text(imported))?)
}

fn text(imported: &Imported) -> String {
    let state =
        if imported.already_there { "was in the store already" } else { "is in the store, read-only" };
    let mut text = check_rows(&imported.checks);
    text += &format!("{GOOD}imported{GOOD:#}: {STRONG}{}{STRONG:#} {state}\n", imported.version);
    text += &format!("digest    {}\n", imported.digest);
    if let Some(snapshot) = &imported.snapshot {
        text += &format!("snapshot  {}\n", safe(snapshot));
    }
    text + &format!(
        "{DIM}hint:{DIM:#} release it with `turnoutctl release start {} --wait`\n",
        imported.version
    )
}

fn removal(removed: &Removed) -> String {
    let mut text =
        format!("{GOOD}deleted{GOOD:#}: {STRONG}{}{STRONG:#} is no longer in the store\n", removed.version);
    text += &format!("digest  {}, to which the label stays bound\n", removed.digest);
    if !removed.kept_in.is_empty() {
        let number = removed.kept_in.len() as u64;
        text += &format!("{DIM}hint:{DIM:#} its files stay in {}\n", count(number, "snapshot"));
    }
    text
}

fn versions(list: &Versions) -> String {
    let mut table = Table::new(&["VERSION", "DIGEST", "SIZE", "IMPORTED", "SIGNED BY", "LIVE"]);
    for stored in &list.versions {
        table.row(vec![
            styled(STRONG, stored.version.to_string()),
            words(stored.digest.short()),
            figure(bytes(stored.bytes)),
            words(time(stored.imported_ms)),
            words(safe(&stored.signed_by.join(", "))),
            words(if stored.live { "live" } else { "-" }),
        ]);
    }
    if list.versions.is_empty() {
        format!(
            "the store is empty\n{DIM}hint:{DIM:#} import a signed folder with `turnoutctl model import DIR`\n"
        )
    } else {
        table.text()
    }
}
