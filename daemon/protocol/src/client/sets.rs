//! Calls about sets.

use super::{Call, Client, ClientError};
use crate::set::{SetDryRun, SetStarted, StartSet};

impl Client {
    /// `POST /v1/sets`: starts the releases of a set, whatever `dry_run` says.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start_set(&self, request: &StartSet) -> Result<SetStarted, ClientError> {
        let request = StartSet { dry_run: false, ..request.clone() };
        self.call(Call::post("/v1/sets").json(&request)).await
    }

    /// `POST /v1/sets` with `dry_run`: only the steps they would take, whatever `dry_run` says.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn plan_set(&self, request: &StartSet) -> Result<SetDryRun, ClientError> {
        let request = StartSet { dry_run: true, ..request.clone() };
        self.call(Call::post("/v1/sets").json(&request)).await
    }
}
