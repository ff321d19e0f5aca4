//! `turnoutctl trust ...`: whose signature counts for which models: single keys in the daemon's trust store, or a signed
//! trust root that is drafted, signed by several people and applied.

use crate::args::{AddArguments, TrustCommand};
use crate::error::{Exit, Failure};
use crate::files;
use crate::manifest::check_rows;
use crate::render::{DIM, GOOD, STRONG, Screen, Table, safe, styled, words};
use crate::signed;
use jiff::Timestamp;
use std::path::Path;
use std::time::Duration;
use turnout_manifest::canonical;
use turnout_manifest::exception::{EXCEPTION_SCHEMA, EXCEPTION_TYPE, TrustException};
use turnout_manifest::root::ROOT_TYPE;
use turnout_protocol::client::Client;
use turnout_protocol::control::{AddTrust, Trust};
use turnout_protocol::trust::{ApplyTrust, TrustApplied};

mod draft;
mod show;

pub use show::Shown;

/// How many characters of a key's id are shown.
const SHOWN: usize = "sha256:".len() + 16;

/// Milliseconds since the Unix epoch, now.
pub fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// So long after now, in the same unit.
fn after_ms(time: Duration) -> u64 {
    now_ms().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Runs `turnoutctl trust ...`.
pub async fn run(client: &Client, screen: &mut Screen, command: TrustCommand) -> Result<Exit, Failure> {
    let store = match command {
        TrustCommand::Add(arguments) if arguments.draft.is_some() => {
            return draft::add(client, screen, arguments).await;
        }
        TrustCommand::Add(AddArguments { file, issuer, models, .. }) => {
            let public_key = public_text(&file)?;
            client.add_trust(&AddTrust { public_key, issuer, models }).await?
        }
        TrustCommand::List => client.trust().await?,
        TrustCommand::Remove { key_id } => {
            let store = client.trust().await?;
            let ids = store.keys.iter().map(|key| key.key_id.as_str());
            let full = find(ids, &key_id, "`turnoutctl trust list` shows the ids")?.to_owned();
            client.remove_trust(&full).await?
        }
        TrustCommand::Sign { file, key } => {
            return signed::sign(screen, (&file, &[ROOT_TYPE, EXCEPTION_TYPE]), &key);
        }
        TrustCommand::Apply { file } => return apply(client, screen, &file).await,
        TrustCommand::Show { file: Some(file) } => return show::document(screen, &file),
        TrustCommand::Show { file: None } => return show::in_force(client, screen).await,
        TrustCommand::History { dir } => return show::history(client, screen, dir.as_deref()).await,
        TrustCommand::Except { dir, reason, time, draft } => {
            return except(screen, (&dir, reason), (time, &draft));
        }
        TrustCommand::Window(arguments) => return draft::window(client, screen, arguments).await,
        TrustCommand::Draft(command) => return draft::change(client, screen, command).await,
    };
    screen.show(&store, &text(&store))?;
    Ok(Exit::Done)
}

/// The text of a public key's file. The private half is never read on, sent or written anywhere.
fn public_text(file: &Path) -> Result<String, Failure> {
    let text = files::read_text(file)?;
    if text.contains("PRIVATE KEY") {
        let message = format!("`{}` is a private key: it must not leave its owner", file.display());
        return Err(Failure::new(Exit::Refused, message).hint(
            "give the public half, the `.pub.pem` file that `turnoutctl key generate` wrote beside it",
        ));
    }
    Ok(text)
}

/// The one id that begins so, with or without `sha256:`.
fn find<'a>(ids: impl Iterator<Item = &'a str>, wanted: &str, hint: &str) -> Result<&'a str, Failure> {
    let begins = |id: &str| {
        id.starts_with(wanted) || id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(wanted))
    };
    let mut found = ids.filter(|id| !wanted.is_empty() && begins(id));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => {
            Err(Failure::new(Exit::Failed, format!("no trusted key has the id `{}`", safe(wanted)))
                .hint(hint))
        }
        (Some(_), Some(_)) => {
            Err(Failure::new(Exit::Usage, format!("more than one key's id begins with `{}`", safe(wanted)))
                .hint("give more digits"))
        }
    }
}

fn text(store: &Trust) -> String {
    let mut table = Table::new(&["ISSUER", "MODELS", "KEY ID"]);
    for key in &store.keys {
        table.row(vec![
            styled(STRONG, safe(&key.issuer)),
            words(safe(&key.models.join(", "))),
            words(safe(&short(&key.key_id))),
        ]);
    }
    if store.keys.is_empty() {
        format!(
            "no key is trusted by itself\n{DIM}hint:{DIM:#} `turnoutctl trust show` tells whether a signed trust root \
             says whose signatures count; without one, nothing can be imported\n"
        )
    } else {
        table.text()
    }
}

fn short(key_id: &str) -> String {
    key_id.chars().take(SHOWN).collect()
}

async fn apply(client: &Client, screen: &mut Screen, file: &Path) -> Result<Exit, Failure> {
    let envelope = signed::read(file)?;
    let kind = signed::kind(&envelope);
    let request = ApplyTrust { envelope: files::read_text(file)? };
    let applied = match envelope.payload_type() {
        ROOT_TYPE => client.apply_root(&request).await?,
        EXCEPTION_TYPE => client.apply_exception(&request).await?,
        _ => {
            return Err(Failure::new(
                Exit::Refused,
                format!("`{}` is a {kind}: it is not applied", file.display()),
            )
            .hint("an order is brought with `release start --order`, a version with `model import`"));
        }
    };
    screen.show(&applied, &applied_text(&applied, kind))?;
    Ok(Exit::Done)
}

fn applied_text(applied: &TrustApplied, kind: &str) -> String {
    if applied.already_there {
        return format!("{GOOD}in force{GOOD:#}: this {kind} was in force already, nothing was changed\n");
    }
    let mut text = check_rows(&applied.checks);
    text += &format!("{GOOD}in force{GOOD:#}: {kind} {}\n", applied.digest);
    for line in &applied.shut_out {
        text += &format!("can no longer be released: {}\n", safe(line));
    }
    text
}

fn except(
    screen: &mut Screen,
    (dir, reason): (&Path, String),
    (time, draft): (Duration, &Path),
) -> Result<Exit, Failure> {
    signed::must_be_new(draft)?;
    let (manifest, signed) = crate::order::signed_manifest(dir)?;
    let exception = TrustException {
        schema: EXCEPTION_SCHEMA.to_owned(),
        manifest,
        model: signed.model,
        channel: signed.channel,
        reason,
        created_ms: now_ms(),
        expires_ms: after_ms(time),
    };
    let payload =
        canonical::to_canonical(&exception).map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    signed::write_draft(draft, EXCEPTION_TYPE, payload)?;
    let text = show::exception_lines(&exception) + &show::next(draft);
    screen.show(&Shown::new((draft, &signed::read(draft)?), &exception), &text)?;
    Ok(Exit::Done)
}
