//! The daemon's state as it changes, across a restart of the daemon: what `release watch` shows and `--wait` waits for.

use crate::error::Failure;
use std::time::Duration;
use tokio::time::Instant;
use turnout_manifest::ModelName;
use turnout_protocol::client::{Client, ClientError, Lines};
use turnout_protocol::control::Update;

/// How long a daemon that was there may be away, for a restart or an upgrade.
const AWAY_MAX: Duration = Duration::from_secs(30);
/// How often to look whether it is back: nothing tells that a socket will be answered again.
const RETRY: Duration = Duration::from_millis(100);

/// Updates of one model or of all.
pub struct Updates {
    client: Client,
    model: Option<ModelName>,
    lines: Lines<Update>,
}

impl Updates {
    /// Begins to follow; the first update is the state now.
    pub async fn follow(client: &Client, model: Option<ModelName>) -> Result<Self, Failure> {
        let lines = client.events(model.as_ref()).await?;
        Ok(Self { client: client.clone(), model, lines })
    }

    /// The next update. A daemon that goes away is looked for again until [`AWAY_MAX`] is over.
    pub async fn next(&mut self) -> Result<Update, Failure> {
        loop {
            match self.lines.next().await {
                Ok(Some(update)) => return Ok(update),
                Ok(None) | Err(ClientError::Broken { .. }) => self.lines = self.reconnect().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn reconnect(&self) -> Result<Lines<Update>, Failure> {
        let deadline = Instant::now() + AWAY_MAX;
        loop {
            // Not at once: a daemon that ends every stream would be called without a pause.
            tokio::time::sleep(RETRY).await;
            match self.client.events(self.model.as_ref()).await {
                Ok(lines) => return Ok(lines),
                Err(ClientError::Unreachable { .. } | ClientError::Broken { .. })
                    if Instant::now() < deadline => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
