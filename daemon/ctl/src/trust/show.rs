//! How trust roots, their drafts and their chain are shown.

use super::{now_ms, short};
use crate::error::{Exit, Failure, chain};
use crate::manifest::check_rows;
use crate::render::{
    BAD, Cell, DIM, GOOD, STRONG, Screen, Table, WARN, count, figure, safe, styled, time, words,
};
use crate::{files, signed};
use serde::Serialize;
use std::path::Path;
use turnout_manifest::canonical;
use turnout_manifest::envelope::Envelope;
use turnout_manifest::exception::{EXCEPTION_TYPE, TrustException};
use turnout_manifest::key::KeyId;
use turnout_manifest::quorum::Quorum;
use turnout_manifest::root::{Issuer, KeyState, KeyWindow, Outside, ROOT_TYPE, TrustRoot};
use turnout_manifest::root_chain::ROOT_FILE_SUFFIX;
use turnout_manifest::trust::CheckResult;
use turnout_manifest::{Sha256, SignedRoot};
use turnout_protocol::client::Client;
use turnout_protocol::control::SCHEMA;
use turnout_protocol::trust::TrustState;

/// Most roots of a chain that are read from a folder.
const ROOTS_MAX: usize = 10_000;

/// A draft or signed document as printed: the same around each kind.
#[derive(Serialize)]
pub struct Shown<'a, Document> {
    schema: &'static str,
    kind: &'static str,
    file: &'a Path,
    digest: Sha256,
    signers: Vec<String>,
    document: &'a Document,
}

impl<'a, Document> Shown<'a, Document> {
    /// What the envelope in this file holds.
    pub fn new((file, envelope): (&'a Path, &Envelope), document: &'a Document) -> Self {
        Self {
            schema: SCHEMA,
            kind: signed::kind(envelope),
            file,
            digest: Sha256::of(envelope.payload()),
            signers: signed::signers(envelope),
            document,
        }
    }
}

/// What a draft says, after it was written.
pub fn draft(screen: &mut Screen, file: &Path, root: &TrustRoot) -> Result<Exit, Failure> {
    let shown = Shown::new((file, &signed::read(file)?), root);
    let text = format!("wrote `{}`\n{}", file.display(), text(root, shown.digest)) + &next(file);
    screen.show(&shown, &text)?;
    Ok(Exit::Done)
}

/// What is left to be done with a draft.
pub fn next(file: &Path) -> String {
    let file = file.display();
    format!(
        "{DIM}hint:{DIM:#} have it signed with `turnoutctl trust sign {file} --key KEY`, then `turnoutctl trust apply {file}`\n"
    )
}

/// Runs `turnoutctl trust show FILE`.
pub fn document(screen: &mut Screen, file: &Path) -> Result<Exit, Failure> {
    let envelope = signed::read(file)?;
    let refused = |what: String| Failure::new(Exit::Refused, format!("`{}`: {what}", file.display()));
    if envelope.payload_type() == EXCEPTION_TYPE {
        let exception: TrustException =
            canonical::from_canonical(envelope.payload()).map_err(|error| refused(chain(&error)))?;
        let text = exception_lines(&exception) + &signers_lines(&envelope, None);
        screen.show(&Shown::new((file, &envelope), &exception), &text)?;
        return Ok(Exit::Done);
    }
    if envelope.payload_type() != ROOT_TYPE {
        return Err(refused(format!("it is a {}", signed::kind(&envelope))));
    }
    let root = TrustRoot::from_json(envelope.payload()).map_err(|error| refused(chain(&error)))?;
    let shown = Shown::new((file, &envelope), &root);
    let text = text(&root, shown.digest) + &signers_lines(&envelope, Some(&root));
    screen.show(&shown, &text)?;
    Ok(Exit::Done)
}

/// What an exception says.
pub fn exception_lines(exception: &TrustException) -> String {
    format!(
        "exception   {STRONG}{}{STRONG:#} on channel {}\nmanifest    {}\nbecause     {}\nholds       until {}\n",
        exception.model,
        exception.channel,
        exception.manifest,
        safe(&exception.reason),
        time(exception.expires_ms),
    )
}

fn signers_lines(envelope: &Envelope, root: Option<&TrustRoot>) -> String {
    let mut lines = String::new();
    for signature in envelope.signatures() {
        let owner = root.and_then(|root| root.find(signature.key_id)).map(|key| key.owner.as_str());
        lines +=
            &format!("signed      by {} ({})\n", safe(owner.unwrap_or("a key not in it")), signature.key_id);
    }
    if lines.is_empty() { "signed      by nobody yet\n".to_owned() } else { lines }
}

/// Runs `turnoutctl trust show`.
pub async fn in_force(client: &Client, screen: &mut Screen) -> Result<Exit, Failure> {
    let state = client.trust_state().await?;
    screen.show(&state, &state_text(&state))?;
    Ok(Exit::Done)
}

fn state_text(state: &TrustState) -> String {
    let mut text = String::new();
    if let Some(why) = &state.lost {
        text += &format!("{BAD}nothing new is trusted{BAD:#}: {}\n", safe(why));
        text += &format!(
            "{DIM}hint:{DIM:#} put the missing roots back with `turnoutctl trust apply`, oldest first\n"
        );
    }
    match &state.root {
        Some(root) => text += &self::text(&root.document, root.digest),
        None if state.lost.is_none() => {
            text += "no signed trust root: keys count one by one, as `turnoutctl trust list` shows them\n";
            text += &format!(
                "{DIM}hint:{DIM:#} begin one with `turnoutctl trust init --draft FILE --root-key OWNER=PEM --adopt`\n"
            );
        }
        None => {}
    }
    let names =
        |list: &[turnout_manifest::HostName]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let channels: Vec<String> = state.channels.iter().map(ToString::to_string).collect();
    text += &format!("this host   {}", state.host);
    if !state.groups.is_empty() {
        text += &format!(", of {}", names(&state.groups).join(", "));
    }
    text += &format!("; serves {}\n", channels.join(", "));
    for last in &state.orders {
        text +=
            &format!("last order  {} of epoch {} on channel {}\n", last.counter, last.epoch, last.channel);
    }
    for exception in &state.exceptions {
        let over = if exception.expires_ms <= now_ms() { ", which is over" } else { "" };
        text += &format!(
            "exception   {} {} until {}{over}: {}\n",
            exception.model,
            exception.manifest.short(),
            time(exception.expires_ms),
            safe(&exception.reason)
        );
    }
    text
}

fn text(root: &TrustRoot, digest: Sha256) -> String {
    let (style, over) = if root.expires_ms <= now_ms() { (BAD, ", which is over") } else { (GOOD, "") };
    let mut text = format!(
        "trust root  {STRONG}{}{STRONG:#}  {digest}\ncreated     {}\nexpires     {style}{}{over}{style:#}\nchanged by  {}\n",
        root.version,
        time(root.created_ms),
        time(root.expires_ms),
        quorum(root, &root.root),
    );
    if let Some(orders) = &root.orders {
        text += &format!("orders by   {}; epoch {}", quorum(root, &orders.signers), orders.epoch);
        let required: Vec<String> = orders.required.iter().map(ToString::to_string).collect();
        if !required.is_empty() {
            text += &format!("; needed on {}", required.join(", "));
        }
        for (channel, floor) in &orders.floors {
            text += &format!("; {channel} from {floor}");
        }
        text += "\n";
    }
    if let Some(exceptions) = &root.exceptions {
        let channels: Vec<String> = exceptions.channels.iter().map(ToString::to_string).collect();
        text += &format!("exceptions  {}; on {}\n", quorum(root, &exceptions.signers), channels.join(", "));
    }
    for denied in &root.deny {
        text += &format!("denied      {}: {}\n", denied.manifest, safe(&denied.reason));
    }
    text + &keys(root) + &issuers(root)
}

/// `2 of alice, bob`.
fn quorum(root: &TrustRoot, quorum: &Quorum) -> String {
    format!("{} of {}", quorum.threshold, owners(root, quorum.keys.iter().copied()))
}

fn owners(root: &TrustRoot, keys: impl Iterator<Item = KeyId>) -> String {
    let owner = |key: KeyId| match root.find(key) {
        Some(key) => match (key.state, key.window.outside(now_ms())) {
            (KeyState::Active, None) => safe(&key.owner),
            (KeyState::Active, Some(outside)) => format!("{} ({outside})", safe(&key.owner)),
            (state, _) => format!("{} ({state})", safe(&key.owner)),
        },
        None => key.to_string(),
    };
    keys.map(owner).collect::<Vec<_>>().join(", ")
}

fn keys(root: &TrustRoot) -> String {
    let windows = root.keys.iter().any(|key| key.window.is_bounded());
    let mut table = if windows {
        Table::new(&["KEY OF", "STATE", "SINCE", "WINDOW", "KEY ID"])
    } else {
        Table::new(&["KEY OF", "STATE", "SINCE", "KEY ID"])
    };
    for key in &root.keys {
        let (style, since) = match key.state {
            KeyState::Active => (GOOD, "-".to_owned()),
            KeyState::Retired { since_ms } => (WARN, time(since_ms)),
            KeyState::Revoked { since_ms, .. } => (BAD, time(since_ms)),
        };
        let mut row =
            vec![styled(STRONG, safe(&key.owner)), styled(style, key.state.to_string()), words(since)];
        row.extend(windows.then(|| window(key.window)));
        row.push(words(short(&key.key_id.to_string())));
        table.row(row);
    }
    table.text()
}

/// `from 2027-01-01 00:00:00 UTC until 2028-01-01 00:00:00 UTC`.
fn window(window: KeyWindow) -> Cell {
    let from = window.not_before_ms().map(|ms| format!("from {}", time(ms)));
    let until = window.not_after_ms().map(|ms| format!("until {}", time(ms)));
    let bounds: Vec<String> = from.into_iter().chain(until).collect();
    match window.outside(now_ms()) {
        _ if bounds.is_empty() => words("-".to_owned()),
        None => words(bounds.join(" ")),
        Some(Outside::NotYet(_)) => styled(WARN, bounds.join(" ")),
        Some(Outside::NoLonger(_)) => styled(BAD, bounds.join(" ")),
    }
}

fn issuers(root: &TrustRoot) -> String {
    if root.issuers.is_empty() {
        return "no issuer: nothing can be imported\n".to_owned();
    }
    let mut table = Table::new(&["ISSUER", "MODELS", "CHANNELS", "NEEDS", "ROLES", "KEYS OF"]);
    for issuer in &root.issuers {
        let Issuer { name, keys, threshold, models, channels, require } = issuer;
        let list = |words: Vec<String>| words.join(", ");
        let roles = list(require.iter().map(ToString::to_string).collect());
        table.row(vec![
            styled(STRONG, safe(name)),
            words(list(models.iter().map(ToString::to_string).collect())),
            words(list(channels.iter().map(ToString::to_string).collect())),
            figure(threshold.to_string()),
            words(if roles.is_empty() { "-".to_owned() } else { roles }),
            words(owners(root, keys.iter().map(|member| member.key_id))),
        ]);
    }
    table.text()
}

#[derive(Serialize)]
struct History {
    schema: &'static str,
    holds: bool,
    roots: Vec<Replayed>,
    /// The checks of the first root that does not follow.
    failed: Vec<CheckResult>,
}

#[derive(Serialize)]
struct Replayed {
    version: u64,
    digest: Sha256,
    created_ms: u64,
    expires_ms: u64,
    signed_by: Vec<String>,
}

/// Runs `turnoutctl trust history`: every root is verified against the one before it.
pub async fn history(client: &Client, screen: &mut Screen, dir: Option<&Path>) -> Result<Exit, Failure> {
    let all: Vec<Vec<u8>> = match dir {
        Some(dir) => of_folder(dir)?,
        None => client.trust_history().await?.roots.into_iter().map(String::into_bytes).collect(),
    };
    let mut history = History { schema: SCHEMA, holds: true, roots: Vec::new(), failed: Vec::new() };
    let mut head: Option<SignedRoot> = None;
    for bytes in &all {
        let examined = head.as_ref().map_or_else(|| SignedRoot::first(bytes), |head| head.next(bytes));
        let checks = examined.checks.clone();
        let Some(next) = examined.into_accepted() else {
            (history.holds, history.failed) = (false, checks);
            break;
        };
        history.roots.push(replayed(&next, head.as_ref()));
        head = Some(next);
    }
    screen.show(&history, &history_text(&history))?;
    Ok(if history.holds { Exit::Done } else { Exit::Refused })
}

fn replayed(root: &SignedRoot, before: Option<&SignedRoot>) -> Replayed {
    let envelope = Envelope::parse(root.bytes());
    let owner = |key_id: KeyId| {
        let known = root.root().find(key_id).or_else(|| before.and_then(|before| before.root().find(key_id)));
        known.map_or_else(|| key_id.to_string(), |key| key.owner.clone())
    };
    let signatures = envelope.map(|envelope| envelope.signatures().to_vec()).unwrap_or_default();
    Replayed {
        version: root.root().version,
        digest: root.digest(),
        created_ms: root.root().created_ms,
        expires_ms: root.root().expires_ms,
        signed_by: signatures.into_iter().map(|signature| owner(signature.key_id)).collect(),
    }
}

fn of_folder(dir: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let mut names = files::list(dir)?;
    names.retain(|name| name.ends_with(ROOT_FILE_SUFFIX));
    if names.is_empty() {
        return Err(Failure::new(Exit::Failed, format!("`{}` holds no trust root", dir.display()))
            .hint("name a copy of the folder `trust-root` in the daemon's state"));
    }
    names.iter().take(ROOTS_MAX).map(|name| files::read(&dir.join(name))).collect()
}

fn history_text(history: &History) -> String {
    let mut table = Table::new(&["ROOT", "CREATED", "EXPIRES", "SIGNED BY", "DIGEST"]);
    for root in &history.roots {
        table.row(vec![
            figure(root.version.to_string()),
            words(time(root.created_ms)),
            words(time(root.expires_ms)),
            words(safe(&root.signed_by.join(", "))),
            words(root.digest.short()),
        ]);
    }
    let roots = count(history.roots.len() as u64, "root");
    match (history.holds, history.roots.is_empty()) {
        (true, true) => {
            "no signed trust root: keys count one by one, as `turnoutctl trust list` shows them\n".to_owned()
        }
        (true, false) => {
            table.text()
                + &format!("{GOOD}holds{GOOD:#}: {roots}, each signed by the one before and by itself\n")
        }
        (false, _) => {
            let mut text = table.text() + &check_rows(&history.failed);
            text += &format!("{BAD}broken{BAD:#}: after {roots} comes one that does not follow\n");
            text
        }
    }
}
