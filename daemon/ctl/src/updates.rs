//! The daemon's state as it changes, across a restart of the daemon: what `release watch` shows and `--wait` waits for.

use crate::error::Failure;
use std::time::Duration;
use tokio::time::Instant;
use turnout_manifest::ModelName;
use turnout_protocol::client::{Client, ClientError, Lines};
use turnout_protocol::control::Update;

/// How long a daemon that was there may be away, for a restart or an upgrade.
const AWAY_MAX: Duration = Duration::from_secs(120);
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
                Ok(None) => self.lines = self.reconnect().await?,
                Err(error) if error.is_away() => self.lines = self.reconnect().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn reconnect(&self) -> Result<Lines<Update>, Failure> {
        again(async || self.client.events(self.model.as_ref()).await).await
    }
}

/// Calls a daemon that went away until it answers, or [`AWAY_MAX`] is over.
pub async fn again<Reply>(call: impl AsyncFn() -> Result<Reply, ClientError>) -> Result<Reply, Failure> {
    let deadline = Instant::now() + AWAY_MAX;
    loop {
        // Not at once: a daemon that ends every stream would be called without a pause.
        tokio::time::sleep(RETRY).await;
        match call().await {
            Ok(reply) => return Ok(reply),
            Err(error) if error.is_away() && Instant::now() < deadline => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_daemon_that_does_not_answer_while_it_starts_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            // The service manager holds the socket: nobody answers this call.
            let unanswered = listener.accept();
            for answered in listener.incoming() {
                let mut answered = answered.unwrap();
                // Who has run out of patience meanwhile calls again.
                if answered.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
                    drop(answered.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 0\r\n\r\n"));
                }
            }
            drop(unanswered);
        });
        let client = Client::new(&socket).with_patience(Duration::from_millis(500));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(again(async || client.events(None).await)).map(drop).unwrap();
    }
}
