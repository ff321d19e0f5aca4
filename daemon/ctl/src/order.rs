//! `turnoutctl order ...`: orders to release one version on one host or group, written and signed off the host.

use crate::args::{NewOrderArguments, OrderCommand};
use crate::bundle;
use crate::error::{Exit, Failure, chain};
use crate::render::{DIM, STRONG, Screen, safe, time};
use crate::signed;
use crate::trust::{Shown, now_ms};
use serde::Serialize;
use std::path::Path;
use turnout_manifest::canonical;
use turnout_manifest::envelope::Envelope;
use turnout_manifest::order::{ORDER_SCHEMA, ORDER_TYPE, OrderTarget, ReleaseOrder};
use turnout_manifest::{Channel, Manifest, ModelName, Sha256, VersionRef};
use turnout_protocol::client::Client;

/// Runs `turnoutctl order ...`.
pub async fn run(client: &Client, screen: &mut Screen, command: OrderCommand) -> Result<Exit, Failure> {
    match command {
        OrderCommand::New(arguments) => new(client, screen, arguments).await,
        OrderCommand::Sign { file, key } => signed::sign(screen, (&file, &[ORDER_TYPE]), &key),
        OrderCommand::Show { file } => show(screen, &file),
    }
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    shown: Shown<'a, ReleaseOrder>,
    draft: &'a Path,
    order: &'a ReleaseOrder,
}

impl<'a> Written<'a> {
    fn new(file: &'a Path, envelope: &Envelope, order: &'a ReleaseOrder) -> Self {
        Self { shown: Shown::new((file, envelope), order), draft: file, order }
    }
}

async fn new(client: &Client, screen: &mut Screen, arguments: NewOrderArguments) -> Result<Exit, Failure> {
    let NewOrderArguments { version, draft, dir, host, group, channel, epoch, counter, time } = arguments;
    signed::must_be_new(&draft)?;
    let (manifest, channel) = match dir {
        Some(dir) => of_folder(&dir, &version)?,
        None => (of_store(client, &version).await?, channel),
    };
    let target = match (host, group) {
        (Some(host), _) => OrderTarget::Host(host),
        (None, Some(group)) => OrderTarget::Group(group),
        (None, None) => {
            return Err(Failure::new(Exit::Usage, "name the host or the group that the order is for"));
        }
    };
    let (epoch, counter) = match (epoch, counter) {
        (Some(epoch), Some(counter)) => (epoch, counter),
        _ => next_counter(client, &channel).await?,
    };
    let created_ms = now_ms();
    let lasts = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let order = ReleaseOrder {
        schema: ORDER_SCHEMA.to_owned(),
        target,
        channel,
        epoch,
        counter,
        created_ms,
        expires_ms: created_ms.saturating_add(lasts),
        model: version.model,
        manifest,
    };
    let payload =
        canonical::to_canonical(&order).map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    signed::write_draft(&draft, ORDER_TYPE, payload)?;
    let hint = format!(
        "{DIM}hint:{DIM:#} have it signed with `turnoutctl order sign {} --key KEY`\n",
        draft.display()
    );
    let text = format!("wrote `{}`\n{}", draft.display(), lines(&order)) + &hint;
    screen.show(&Written::new(&draft, &signed::read(&draft)?, &order), &text)?;
    Ok(Exit::Done)
}

/// Digest and channel of the version that is signed in a folder.
fn of_folder(dir: &Path, version: &VersionRef) -> Result<(Sha256, Channel), Failure> {
    let (digest, manifest) = signed_manifest(dir)?;
    if manifest.reference() != *version {
        let what = format!("`{}` holds {}, not {version}", dir.display(), manifest.reference());
        return Err(Failure::new(Exit::Refused, what));
    }
    Ok((digest, manifest.channel))
}

/// The manifest that is signed in a folder, and its digest. Whether its signatures count is for the daemon to say.
pub fn signed_manifest(dir: &Path) -> Result<(Sha256, Manifest), Failure> {
    let refused = |what: String| Failure::new(Exit::Refused, format!("`{}`: {what}", dir.display()));
    let envelope = Envelope::parse(&bundle::envelope(dir)?).map_err(|error| refused(chain(&error)))?;
    let manifest = Manifest::from_canonical(envelope.payload()).map_err(|found| {
        refused("the signed manifest is not well-formed".to_owned())
            .details(crate::manifest::problems(&found))
    })?;
    Ok((Sha256::of(envelope.payload()), manifest))
}

async fn of_store(client: &Client, version: &VersionRef) -> Result<Sha256, Failure> {
    let versions = client.versions().await?.versions;
    let found = versions.iter().find(|stored| stored.version == *version).map(|stored| stored.digest);
    found.ok_or_else(|| {
        Failure::new(Exit::Failed, format!("`{version}` is not in the daemon's store"))
            .hint("import it first, or name its signed folder with `--dir DIR`")
    })
}

async fn next_counter(client: &Client, channel: &Channel) -> Result<(u64, u64), Failure> {
    let state = client.trust_state().await?;
    let orders = state.root.as_ref().and_then(|root| root.document.orders.as_ref());
    let Some(orders) = orders else {
        return Err(Failure::new(Exit::Refused, "the daemon's trust root lets nobody sign orders").hint(
            "`turnoutctl trust orders --draft FILE` says who may; `--epoch` and `--counter` need no daemon",
        ));
    };
    let floor = orders.floors.get(channel).copied().unwrap_or(1);
    let last = state.orders.iter().find(|last| last.channel == *channel && last.epoch == orders.epoch);
    Ok((orders.epoch, last.map_or(floor, |last| floor.max(last.counter + 1))))
}

fn show(screen: &mut Screen, file: &Path) -> Result<Exit, Failure> {
    let envelope = signed::read(file)?;
    let order = parse(file, &envelope)?;
    let signers = signed::signers(&envelope);
    let mut text = lines(&order);
    for signer in &signers {
        text += &format!("signed     by {}\n", safe(signer));
    }
    if signers.is_empty() {
        text += "signed     by nobody yet\n";
    }
    screen.show(&Written::new(file, &envelope, &order), &text)?;
    Ok(Exit::Done)
}

/// The model that a signed order is for; whether it counts is for the daemon to say.
pub fn model_of(file: &Path) -> Result<ModelName, Failure> {
    Ok(parse(file, &signed::read(file)?)?.model)
}

fn parse(file: &Path, envelope: &Envelope) -> Result<ReleaseOrder, Failure> {
    let refused =
        |what: String| Failure::new(Exit::Refused, format!("`{}` is no order: {what}", file.display()));
    if envelope.payload_type() != ORDER_TYPE {
        return Err(refused(format!("it is a {}", signed::kind(envelope))));
    }
    canonical::from_canonical(envelope.payload()).map_err(|error| refused(chain(&error)))
}

fn lines(order: &ReleaseOrder) -> String {
    format!(
        "order      {STRONG}{}{STRONG:#} of epoch {} on channel {}\nfor        {}\nreleases   {}  {}\nholds      until {}\n",
        order.counter,
        order.epoch,
        order.channel,
        order.target,
        order.model,
        order.manifest,
        time(order.expires_ms),
    )
}
