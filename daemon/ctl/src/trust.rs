//! `turnoutctl trust ...`: whose signature counts for which models, in the daemon's trust store.

use crate::args::TrustCommand;
use crate::error::{Exit, Failure};
use crate::files;
use crate::render::{STRONG, Screen, Table, safe, styled, words};
use turnout_protocol::client::Client;
use turnout_protocol::control::{AddTrust, Trust};

/// How many characters of a key's id are shown.
const SHOWN: usize = "sha256:".len() + 16;

/// Runs `turnoutctl trust ...`.
pub async fn run(client: &Client, screen: &mut Screen, command: TrustCommand) -> Result<Exit, Failure> {
    let store = match command {
        TrustCommand::Add { file, issuer, models } => {
            let public_key = files::read_text(&file)?;
            if public_key.contains("PRIVATE KEY") {
                let message = format!("`{}` is a private key: it must not leave its owner", file.display());
                return Err(Failure::new(Exit::Refused, message)
                    .hint("give the public half, the `.pub.pem` file that `turnoutctl key generate` wrote beside it"));
            }
            client.add_trust(&AddTrust { public_key, issuer, models }).await?
        }
        TrustCommand::List => client.trust().await?,
        TrustCommand::Remove { key_id } => {
            let store = client.trust().await?;
            let full = find(&store, &key_id)?.to_owned();
            client.remove_trust(&full).await?
        }
    };
    screen.show(&store, &text(&store))?;
    Ok(Exit::Done)
}

/// The one key whose id begins so, with or without `sha256:`.
fn find<'a>(store: &'a Trust, wanted: &str) -> Result<&'a str, Failure> {
    let begins = |id: &str| {
        id.starts_with(wanted) || id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(wanted))
    };
    let mut found =
        store.keys.iter().map(|key| key.key_id.as_str()).filter(|id| !wanted.is_empty() && begins(id));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(Failure::new(Exit::Failed, format!("no trusted key has the id `{}`", safe(wanted)))
            .hint("`turnoutctl trust list` shows the ids")),
        (Some(_), Some(_)) => {
            Err(Failure::new(Exit::Usage, format!("more than one key's id begins with `{}`", safe(wanted)))
                .hint("give more digits"))
        }
    }
}

fn text(store: &Trust) -> String {
    let mut table = Table::new(&["ISSUER", "MODELS", "KEY ID"]);
    for key in &store.keys {
        let id: String = key.key_id.chars().take(SHOWN).collect();
        table.row(vec![
            styled(STRONG, safe(&key.issuer)),
            words(safe(&key.models.join(", "))),
            words(safe(&id)),
        ]);
    }
    if store.keys.is_empty() {
        "no key is trusted: nothing can be imported\n".to_owned()
    } else {
        table.text()
    }
}
