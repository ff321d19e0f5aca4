//! `turnoutctl store ...`: what the store is and how full, its growth, its scrub.

use crate::args::StoreCommand;
use crate::error::{Exit, Failure};
use crate::render::{BAD, DIM, GOOD, STRONG, Screen, bytes, count, duration_ms, safe, time};
use turnout_protocol::archive::{GrowStore, Scrub, Store};
use turnout_protocol::client::Client;

/// Runs `turnoutctl store ...`.
pub async fn run(client: &Client, screen: &mut Screen, command: StoreCommand) -> Result<Exit, Failure> {
    match command {
        StoreCommand::Show => {
            let store = client.store().await?;
            screen.show(&store, &text(&store))?;
            Ok(Exit::Done)
        }
        StoreCommand::Grow { size } => {
            let store = client.grow_store(&GrowStore { bytes: size }).await?;
            screen.show(&store, &format!("{GOOD}grown{GOOD:#}\n{}", text(&store)))?;
            Ok(Exit::Done)
        }
        StoreCommand::Scrub => {
            let found = client.scrub_store().await?;
            screen.show(&found, &(scrub(&found) + "\n"))?;
            Ok(if found.uncorrectable > 0 { Exit::Refused } else { Exit::Done })
        }
    }
}

fn text(store: &Store) -> String {
    let kind = match (&store.image, store.kind.as_str()) {
        (Some(image), _) => format!("Btrfs in the image `{}`", safe(image)),
        (None, "folder") => "a plain folder: no snapshots, no scrubs".to_owned(),
        (None, _) => "a subvolume of the host's own Btrfs".to_owned(),
    };
    let mut text = format!("{STRONG}{}{STRONG:#}: {kind}\n", safe(&store.path));
    if store.read_only {
        text +=
            &format!("{BAD}read-only{BAD:#}: the kernel stopped writing to it after an error; see `dmesg`\n");
    }
    text += &format!(
        "free       {} of {}, of which imports leave {}\n",
        bytes(store.free_bytes),
        bytes(store.total_bytes),
        bytes(store.reserve_bytes)
    );
    text +=
        &format!("holds      {}, {}\n", count(store.versions, "version"), count(store.snapshots, "snapshot"));
    let last = store.scrub.as_ref().map_or_else(|| "never".to_owned(), scrub);
    text += &format!("scrub      {last}\n");
    if let Some(next) = store.next_scrub_ms {
        text += &format!("next       {}\n", time(next));
    }
    for rule in &store.retention {
        text += &format!("retention  {}\n", safe(rule));
    }
    if store.retention.is_empty() {
        text += &format!(
            "retention  everything is kept\n{DIM}hint:{DIM:#} `[retention]` in the configuration says otherwise\n"
        );
    }
    text
}

fn scrub(found: &Scrub) -> String {
    let seen =
        format!("{} read in {}, {}", bytes(found.bytes), duration_ms(found.took_ms), time(found.at_ms));
    if found.errors == 0 {
        return format!("{GOOD}no damage{GOOD:#}: {seen}");
    }
    format!(
        "{BAD}{} damaged{BAD:#}: {} mended, {} lost; {seen}",
        count(found.errors, "block"),
        found.corrected,
        found.uncorrectable
    )
}
