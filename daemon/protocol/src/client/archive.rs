//! Calls about snapshots, what is kept and the store; and a reply of bytes that goes on.

use super::{Call, Client, ClientError, path_segment};
use crate::archive::{
    GrowStore, HoldSnapshot, HostKey, MountSnapshot, Mounted, Prune, Pruned, Removed, Scrub, SignedDigests,
    Snapshot, SnapshotDiff, Snapshots, Store, TakeSnapshot, UnmountSnapshot, Unmounted,
};
use crate::journal::{HoldJournal, JournalState};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use turnout_manifest::{ModelName, Version, VersionRef};

/// Which snapshots are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// Those that show this model.
    pub model: Option<ModelName>,
    /// Those that show this version.
    pub version: Option<Version>,
    /// Those made at this time or later, milliseconds since the epoch.
    pub since_ms: Option<u64>,
}

/// A reply of bytes, as they come.
pub struct Download {
    call: String,
    body: Incoming,
}

impl Download {
    /// The next bytes; `None` at the end, which the daemon only reaches when all of it was sent.
    ///
    /// # Errors
    /// [`ClientError::Broken`] when the daemon broke it off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|source| ClientError::Broken { call: self.call.clone(), source })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl Client {
    /// `GET /v1/audit/snapshots`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn snapshots(&self, filter: &SnapshotFilter) -> Result<Snapshots, ClientError> {
        let model = filter.model.as_ref().map(|model| format!("model={model}"));
        let version =
            filter.version.as_ref().map(|version| format!("version={}", path_segment(version.as_str())));
        let since = filter.since_ms.map(|since| format!("since_ms={since}"));
        let query: Vec<String> = model.into_iter().chain(version).chain(since).collect();
        self.call(Call::get(format!("/v1/audit/snapshots?{}", query.join("&")))).await
    }

    /// `POST /v1/audit/snapshots`, without a deadline: what is written first may be much.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn take_snapshot(&self, request: &TakeSnapshot) -> Result<Snapshot, ClientError> {
        self.call(Call { deadline: None, ..Call::post("/v1/audit/snapshots").json(request) }).await
    }

    /// `POST /v1/audit/snapshots/{name}/hold`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn hold_snapshot(&self, name: &str, request: &HoldSnapshot) -> Result<Snapshot, ClientError> {
        self.call(Call::post(snapshot_path(name, "/hold")).json(request)).await
    }

    /// `DELETE /v1/audit/snapshots/{name}/hold`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn release_hold(&self, name: &str) -> Result<Snapshot, ClientError> {
        self.call(Call::new(Method::DELETE, snapshot_path(name, "/hold"))).await
    }

    /// `POST /v1/audit/snapshots/{name}/mount`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn mount_snapshot(&self, name: &str, request: &MountSnapshot) -> Result<Mounted, ClientError> {
        self.call(Call::post(snapshot_path(name, "/mount")).json(request)).await
    }

    /// `POST /v1/audit/unmount`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn unmount_snapshot(&self, request: &UnmountSnapshot) -> Result<Unmounted, ClientError> {
        self.call(Call::post("/v1/audit/unmount").json(request)).await
    }

    /// `GET /v1/audit/diff?from=A&to=B`, without a deadline: files may have to be read.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn diff_snapshots(&self, from: &str, to: &str) -> Result<SnapshotDiff, ClientError> {
        let path = format!("/v1/audit/diff?from={}&to={}", path_segment(from), path_segment(to));
        self.call(Call { deadline: None, ..Call::get(path) }).await
    }

    /// `GET /v1/audit/snapshots/{name}/digests`, without a deadline: every file is read.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn snapshot_digests(&self, name: &str) -> Result<SignedDigests, ClientError> {
        self.call(Call { deadline: None, ..Call::get(snapshot_path(name, "/digests")) }).await
    }

    /// `GET /v1/audit/snapshots/{name}/stream`: the bytes of `btrfs send`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn snapshot_stream(&self, name: &str) -> Result<Download, ClientError> {
        let call = Call::get(snapshot_path(name, "/stream"));
        let name = call.name();
        let response = self.send(call).await?;
        Ok(Download { call: name, body: response.into_body() })
    }

    /// `GET /v1/audit/key`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn host_key(&self) -> Result<HostKey, ClientError> {
        self.call(Call::get("/v1/audit/key")).await
    }

    /// `POST /v1/audit/prune`, without a deadline.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn prune(&self, request: &Prune) -> Result<Pruned, ClientError> {
        self.call(Call { deadline: None, ..Call::post("/v1/audit/prune").json(request) }).await
    }

    /// `GET /v1/audit/journal`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn journal(&self) -> Result<JournalState, ClientError> {
        self.call(Call::get("/v1/audit/journal")).await
    }

    /// `POST /v1/audit/journal/hold`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn hold_journal(&self, request: &HoldJournal) -> Result<JournalState, ClientError> {
        self.call(Call::post("/v1/audit/journal/hold").json(request)).await
    }

    /// `DELETE /v1/audit/journal/hold`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn release_journal_hold(&self) -> Result<JournalState, ClientError> {
        self.call(Call::new(Method::DELETE, "/v1/audit/journal/hold")).await
    }

    /// `DELETE /v1/versions/{version}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_version(&self, version: &VersionRef) -> Result<Removed, ClientError> {
        let path = format!("/v1/versions/{}", path_segment(&version.to_string()));
        self.call(Call::new(Method::DELETE, path)).await
    }

    /// `GET /v1/store`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn store(&self) -> Result<Store, ClientError> {
        self.call(Call::get("/v1/store")).await
    }

    /// `POST /v1/store/grow`, without a deadline: space is reserved.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn grow_store(&self, request: &GrowStore) -> Result<Store, ClientError> {
        self.call(Call { deadline: None, ..Call::post("/v1/store/grow").json(request) }).await
    }

    /// `POST /v1/store/scrub`, without a deadline: the whole store is read.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn scrub_store(&self) -> Result<Scrub, ClientError> {
        self.call(Call { deadline: None, ..Call::post("/v1/store/scrub") }).await
    }
}

fn snapshot_path(name: &str, rest: &str) -> String {
    format!("/v1/audit/snapshots/{}{rest}", path_segment(name))
}
