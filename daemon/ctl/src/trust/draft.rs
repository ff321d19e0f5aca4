//! Changes to the draft of a trust root: a file that begins as the successor of the root in force, is changed by one
//! command after another, and is then signed. Nothing here reaches the daemon but the question what is in force.

use super::{after_ms, find, now_ms, public_text, show};
use crate::args::{
    AddArguments, DraftArguments, DraftCommand, Moment, OwnedKey, WindowArguments, WindowBounds,
};
use crate::error::{Exit, Failure, chain};
use crate::render::{Screen, safe};
use crate::signed;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use turnout_manifest::key::{KeyId, PublicKey};
use turnout_manifest::quorum::Quorum;
use turnout_manifest::root::{
    Denied, ExceptionPolicy, Issuer, KeyState, KeyWindow, Member, OrderPolicy, ROOT_SCHEMA, ROOT_TYPE,
    RevocationReason, RootKey, SignerRole, TrustRoot,
};
use turnout_manifest::trust::{ModelGlob, TrustError};
use turnout_manifest::{Channel, Sha256};
use turnout_protocol::client::Client;

/// Runs a command that begins or changes a draft.
pub async fn change(client: &Client, screen: &mut Screen, command: DraftCommand) -> Result<Exit, Failure> {
    let draft = match command {
        DraftCommand::Init { draft, root_key, threshold, expires, adopt } => {
            signed::must_be_new(&draft)?;
            let mut draft = Draft { file: draft, root: first(&root_key, (threshold, after_ms(expires)))? };
            if adopt {
                draft.adopt(client).await?;
            }
            draft
        }
        DraftCommand::RootKeys { add, remove, threshold, draft } => {
            let mut draft = Draft::open(client, &draft).await?;
            draft.root_keys(&add, &remove, threshold)?;
            draft
        }
        DraftCommand::Rotate { key_id, file, window, draft } => {
            let mut draft = Draft::open(client, &draft).await?;
            draft.rotate(&key_id, &file, window)?;
            draft
        }
        DraftCommand::Revoke { key_id, reason, draft } => {
            let mut draft = Draft::open(client, &draft).await?;
            draft.revoke(&key_id, reason.into())?;
            draft
        }
        DraftCommand::Deny { digest, reason, draft } => {
            let mut draft = Draft::open(client, &draft).await?;
            draft.deny(digest, reason);
            draft
        }
        DraftCommand::Orders { key, threshold, require, floor, draft } => {
            let mut draft = Draft::open(client, &draft).await?;
            draft.orders((&key, threshold), require, floor)?;
            draft
        }
        DraftCommand::Exceptions { key, threshold, channel, draft } => {
            let mut draft = Draft::open(client, &draft).await?;
            let before = draft.root.exceptions.as_ref().map(|exceptions| exceptions.signers.threshold);
            let threshold = threshold.or(before).unwrap_or(1);
            let signers = Quorum { keys: draft.know_all(&key)?, threshold };
            draft.root.exceptions = Some(ExceptionPolicy { signers, channels: channel });
            draft
        }
        DraftCommand::Renew { draft } if draft.expires.is_none() => {
            return Err(Failure::new(Exit::Usage, "say until when, with `--expires TIME`"));
        }
        DraftCommand::Renew { draft } => Draft::open(client, &draft).await?,
    };
    draft.save(screen)
}

/// Runs `turnoutctl trust add ... --draft FILE`.
pub async fn add(client: &Client, screen: &mut Screen, arguments: AddArguments) -> Result<Exit, Failure> {
    let file = arguments.draft.clone().unwrap_or_default();
    let mut draft = Draft::open(client, &DraftArguments { draft: file, expires: None }).await?;
    draft.add(arguments)?;
    draft.save(screen)
}

/// Runs `turnoutctl trust window`.
pub async fn window(
    client: &Client,
    screen: &mut Screen,
    arguments: WindowArguments,
) -> Result<Exit, Failure> {
    let mut draft = Draft::open(client, &arguments.draft).await?;
    let key_id = draft.find(&arguments.key_id)?;
    if arguments.none {
        draft.set_window(key_id, KeyWindow::default());
    } else {
        draft.bound(key_id, arguments.bounds)?;
    }
    draft.save(screen)
}

/// The first root: its own keys and nothing else.
fn first(keys: &[OwnedKey], (threshold, expires_ms): (u32, u64)) -> Result<TrustRoot, Failure> {
    let root = TrustRoot {
        schema: ROOT_SCHEMA.to_owned(),
        version: 1,
        created_ms: now_ms(),
        expires_ms,
        keys: Vec::new(),
        root: Quorum { keys: Vec::new(), threshold },
        issuers: Vec::new(),
        orders: None,
        exceptions: None,
        deny: Vec::new(),
    };
    let mut draft = Draft { file: PathBuf::new(), root };
    draft.root.root.keys = draft.know_all(keys)?;
    Ok(draft.root)
}

/// A root that is being written.
struct Draft {
    file: PathBuf,
    root: TrustRoot,
}

impl Draft {
    /// The draft in the file, or a new one after the root in force.
    async fn open(client: &Client, arguments: &DraftArguments) -> Result<Self, Failure> {
        let file = arguments.draft.clone();
        let mut root = match file.symlink_metadata() {
            Ok(_) => unsigned(&file)?,
            Err(_) => successor(client).await?,
        };
        if let Some(expires) = arguments.expires {
            root.expires_ms = after_ms(expires);
        }
        Ok(Self { file, root })
    }

    fn save(self, screen: &mut Screen) -> Result<Exit, Failure> {
        let payload = self.root.to_json().map_err(|error| {
            Failure::new(Exit::Refused, format!("the draft would not hold: {}", chain(&error)))
                .hint(format!("`{}` is as it was before", self.file.display()))
        })?;
        signed::write_draft(&self.file, ROOT_TYPE, payload)?;
        show::draft(screen, &self.file, &self.root)
    }

    /// The single keys that the daemon trusts, each as an issuer's.
    async fn adopt(&mut self, client: &Client) -> Result<(), Failure> {
        for trusted in client.trust().await?.keys {
            let refused = |what: String| {
                Failure::new(Exit::Refused, format!("key of `{}`: {what}", safe(&trusted.issuer)))
            };
            let key = PublicKey::from_pem(&trusted.public_key).map_err(|error| refused(error.to_string()))?;
            let models = trusted.models.iter().map(|glob| glob.parse()).collect::<Result<Vec<_>, _>>();
            let models = models.map_err(|error: TrustError| refused(error.to_string()))?;
            let member = Member { key_id: self.know(&trusted.issuer, key)?, roles: Vec::new() };
            let same = |issuer: &&mut Issuer| issuer.name == trusted.issuer && issuer.models == models;
            match self.root.issuers.iter_mut().find(same) {
                Some(issuer) => issuer.keys.push(member),
                None => {
                    let name = self.free_name(&trusted.issuer);
                    let (keys, channels, require) = (vec![member], vec![Channel::default()], Vec::new());
                    self.root.issuers.push(Issuer { name, keys, threshold: 1, models, channels, require });
                }
            }
        }
        Ok(())
    }

    /// An issuer of single keys may have had other models for each; here each set of models is an issuer.
    fn free_name(&self, name: &str) -> String {
        let taken = |name: &str| self.root.issuers.iter().any(|issuer| issuer.name == name);
        if !taken(name) {
            return name.to_owned();
        }
        (2..).map(|number| format!("{name}.{number}")).find(|name| !taken(name)).unwrap_or_default()
    }

    fn add(&mut self, arguments: AddArguments) -> Result<(), Failure> {
        let AddArguments { file, issuer, models, owner, channel, threshold, role, require, window, .. } =
            arguments;
        let key_id = self.know_all(&[OwnedKey { owner, file }])?[0];
        self.bound(key_id, window)?;
        let models = models.iter().map(|glob| glob.parse()).collect::<Result<Vec<_>, _>>();
        let models = models.map_err(|error: TrustError| Failure::from_error(Exit::Usage, &error))?;
        let mut member = Member { key_id, roles: role.into_iter().map(SignerRole::from).collect() };
        let require: Vec<SignerRole> = require.into_iter().map(SignerRole::from).collect();
        let Some(known) = self.root.issuers.iter_mut().find(|known| known.name == issuer) else {
            let channels = if channel.is_empty() { vec![Channel::default()] } else { channel };
            let threshold = threshold.unwrap_or(1);
            self.root.issuers.push(Issuer {
                name: issuer,
                keys: vec![member],
                threshold,
                models,
                channels,
                require,
            });
            return Ok(());
        };
        match known.keys.iter().position(|other| other.key_id == key_id) {
            Some(at) => {
                let before = known.keys.remove(at);
                if member.roles.is_empty() {
                    member.roles = before.roles;
                }
            }
            // Whoever adds a key speaks of that key, and the models hold for the others too.
            None => same_models(known, &models)?,
        }
        known.keys.push(member);
        known.models = models;
        known.threshold = threshold.unwrap_or(known.threshold);
        if !channel.is_empty() {
            known.channels = channel;
        }
        if !require.is_empty() {
            known.require = require;
        }
        Ok(())
    }

    fn root_keys(
        &mut self,
        add: &[OwnedKey],
        remove: &[String],
        threshold: Option<u32>,
    ) -> Result<(), Failure> {
        for wanted in remove {
            let key_id = self.find(wanted)?;
            self.root.root.keys.retain(|key| *key != key_id);
        }
        for key_id in self.know_all(add)? {
            if !self.root.root.keys.contains(&key_id) {
                self.root.root.keys.push(key_id);
            }
        }
        self.root.root.threshold = threshold.unwrap_or(self.root.root.threshold);
        Ok(())
    }

    /// The old key is retired, and the new one stands wherever it stood to sign something new. Issuers keep the old one
    /// beside it, for what it signed before. Its window was for it alone.
    fn rotate(&mut self, wanted: &str, file: &Path, window: WindowBounds) -> Result<(), Failure> {
        let old = self.find(wanted)?;
        let owner = self.root.find(old).map(|key| key.owner.clone());
        let new = self.know_all(&[OwnedKey { owner, file: file.to_owned() }])?[0];
        self.bound(new, window)?;
        self.set_state(old, KeyState::Retired { since_ms: now_ms() });
        for issuer in &mut self.root.issuers {
            if let Some(member) = issuer.keys.iter().find(|member| member.key_id == old).cloned() {
                issuer.keys.retain(|member| member.key_id != new);
                issuer.keys.push(Member { key_id: new, ..member });
            }
        }
        self.replace(old, Some(new));
        Ok(())
    }

    fn revoke(&mut self, wanted: &str, reason: RevocationReason) -> Result<(), Failure> {
        let key_id = self.find(wanted)?;
        self.set_state(key_id, KeyState::Revoked { since_ms: now_ms(), reason });
        self.replace(key_id, None);
        Ok(())
    }

    fn set_state(&mut self, key_id: KeyId, state: KeyState) {
        for key in self.root.keys.iter_mut().filter(|key| key.key_id == key_id) {
            key.state = state;
        }
    }

    /// Gives a key the bounds that are said; a bound that is not said stays as it is.
    fn bound(&mut self, key_id: KeyId, bounds: WindowBounds) -> Result<(), Failure> {
        let Some(key) = self.root.find(key_id) else { return Ok(()) };
        let begin_ms = bounds.not_before.map(moment_ms).or(key.window.not_before_ms());
        let end_ms = bounds.not_after.map(moment_ms).or(key.window.not_after_ms());
        let window = KeyWindow::new(begin_ms, end_ms).map_err(|error| {
            Failure::new(Exit::Refused, format!("key of {}: {error}", safe(&key.owner)))
                .hint("a bound that is not given stays as it is; `turnoutctl trust window KEY_ID --none` takes both away")
        })?;
        self.set_window(key_id, window);
        Ok(())
    }

    fn set_window(&mut self, key_id: KeyId, window: KeyWindow) {
        for key in self.root.keys.iter_mut().filter(|key| key.key_id == key_id) {
            key.window = window;
        }
    }

    /// Puts a key in another's place in every quorum, or takes it out. Orders begin a new epoch then: whoever had the old
    /// key may have signed counters ahead.
    fn replace(&mut self, old: KeyId, new: Option<KeyId>) {
        let swap = |quorum: &mut Quorum| {
            let was = quorum.keys.contains(&old);
            quorum.keys.retain(|key| *key != old && Some(*key) != new);
            quorum.keys.extend(new.filter(|_| was));
            was
        };
        swap(&mut self.root.root);
        if let Some(exceptions) = &mut self.root.exceptions {
            swap(&mut exceptions.signers);
        }
        if let Some(orders) = &mut self.root.orders
            && swap(&mut orders.signers)
        {
            begin_epoch(orders);
        }
    }

    fn deny(&mut self, manifest: Sha256, reason: String) {
        self.root.deny.retain(|denied| denied.manifest != manifest);
        self.root.deny.push(Denied { manifest, reason });
    }

    fn orders(
        &mut self,
        (keys, threshold): (&[OwnedKey], Option<u32>),
        require: Vec<Channel>,
        floors: Vec<(Channel, u64)>,
    ) -> Result<(), Failure> {
        let keys = self.know_all(keys)?;
        let before = self.root.orders.take();
        if before.is_none() && keys.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                "nobody may sign orders yet: name who, with `--key OWNER=PEM`",
            ));
        }
        let mut orders = before.unwrap_or_else(|| OrderPolicy {
            signers: Quorum { keys: Vec::new(), threshold: 1 },
            epoch: 0,
            floors: std::collections::BTreeMap::new(),
            required: Vec::new(),
        });
        if !keys.is_empty() && keys != orders.signers.keys {
            orders.signers.keys = keys;
            begin_epoch(&mut orders);
        }
        orders.signers.threshold = threshold.unwrap_or(orders.signers.threshold);
        if !require.is_empty() {
            orders.required = require;
        }
        orders.floors.extend(floors);
        self.root.orders = Some(orders);
        Ok(())
    }

    /// The keys of these files, each known to the root from now on.
    fn know_all(&mut self, keys: &[OwnedKey]) -> Result<Vec<KeyId>, Failure> {
        let mut ids = Vec::new();
        for OwnedKey { owner, file } in keys {
            let key = PublicKey::from_pem(&public_text(file)?).map_err(|error| {
                Failure::new(Exit::Refused, format!("`{}` is no key: {error}", file.display()))
            })?;
            let owner = owner.clone().unwrap_or_else(|| stem(file));
            ids.push(self.know(&owner, key)?);
        }
        Ok(ids)
    }

    fn know(&mut self, owner: &str, public_key: PublicKey) -> Result<KeyId, Failure> {
        let key_id = public_key.id();
        if let Some(known) = self.root.find(key_id) {
            if known.state == KeyState::Active {
                return Ok(key_id);
            }
            let what = format!("key `{key_id}` of {} is {}", known.owner, known.state);
            return Err(
                Failure::new(Exit::Refused, what).hint("make a new key with `turnoutctl key generate FILE`")
            );
        }
        self.root.keys.push(RootKey::active(owner.to_owned(), public_key));
        Ok(key_id)
    }

    fn find(&self, wanted: &str) -> Result<KeyId, Failure> {
        let ids: Vec<String> = self.root.keys.iter().map(|key| key.key_id.to_string()).collect();
        let hint = "`turnoutctl trust show FILE` shows the ids of the draft";
        let found = find(ids.iter().map(String::as_str), wanted, hint)?;
        found.parse().map_err(|_| Failure::new(Exit::Failed, "a key id that was printed cannot be read"))
    }
}

fn same_models(issuer: &Issuer, wanted: &[ModelGlob]) -> Result<(), Failure> {
    let texts = |globs: &[ModelGlob]| globs.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let (there, wanted) = (texts(&issuer.models), texts(wanted));
    if there == wanted {
        return Ok(());
    }
    let list = |globs: BTreeSet<String>| globs.into_iter().collect::<Vec<_>>().join(", ");
    let what = format!(
        "issuer `{}` may sign {}, not {}: its models are the same for all its keys",
        safe(&issuer.name),
        list(there),
        list(wanted)
    );
    Err(Failure::new(Exit::Refused, what).hint(
        "give the same `--models`, or another `--issuer`; to change them for all its keys, `trust add` one that it has already",
    ))
}

fn moment_ms(moment: Moment) -> u64 {
    match moment {
        Moment::In(time) => after_ms(time),
        Moment::At(ms) => ms,
    }
}

fn begin_epoch(orders: &mut OrderPolicy) {
    orders.epoch += 1;
    orders.floors.clear();
}

/// `alice` for `keys/alice.pub.pem`.
fn stem(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = name.strip_suffix(".pub.pem").or(name.strip_suffix(".pem")).unwrap_or(&name);
    name.to_owned()
}

fn unsigned(file: &Path) -> Result<TrustRoot, Failure> {
    let envelope = signed::read(file)?;
    let refused = |what: &str| Failure::new(Exit::Refused, format!("`{}` {what}", file.display()));
    if envelope.payload_type() != ROOT_TYPE {
        return Err(refused("is no draft of a trust root"));
    }
    if !envelope.signatures().is_empty() {
        return Err(refused("is signed already: a change would make the signatures void")
            .hint("begin a new draft with another name"));
    }
    TrustRoot::from_json(envelope.payload())
        .map_err(|error| refused(&format!("holds no trust root: {}", chain(&error))))
}

async fn successor(client: &Client) -> Result<TrustRoot, Failure> {
    let state = client.trust_state().await?;
    let Some(root) = state.root else {
        return Err(Failure::new(Exit::Refused, "the daemon has no signed trust root yet")
            .hint("begin one with `turnoutctl trust init --draft FILE --root-key OWNER=PEM`"));
    };
    let mut document = root.document;
    document.version += 1;
    document.created_ms = now_ms();
    Ok(document)
}
