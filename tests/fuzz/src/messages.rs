//! What other processes say: requests for inference, workers, the router, the launcher, and who asks for what.

use crate::fixture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use turnout_inference::InferRequest;
use turnout_launcher_wire::{DevicePath, MESSAGE_SIZE, Reply, Request, Tenant, TenantName};
use turnout_manifest::{AuditContext, Operator};
use turnout_protocol::router::{FromRouter, ToRouter};
use turnout_protocol::worker::{Counts, FromWorker, LINK_VERSION, ToWorker};

/// An inference request: JSON alone, and with binary tensors behind a part whose length the first two bytes give.
pub fn infer_request(bytes: &[u8]) -> bool {
    let plain = InferRequest::parse(bytes, None).is_ok();
    let Some((length, body)) = bytes.split_first_chunk() else { return plain };
    InferRequest::parse(body, Some(usize::from(u16::from_be_bytes(*length)))).is_ok() || plain
}

/// Requests of the test models, and a binary one.
pub fn infer_requests() -> Vec<Vec<u8>> {
    let rows = fixture("tests/models/requests/cancer.json");
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&rows).expect("it is a list of requests");
    let mut requests: Vec<Vec<u8>> = rows.iter().take(2).map(|row| row["body"].to_string().into()).collect();
    let json = br#"{"id":"7","inputs":[{"name":"input","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}],"outputs":[{"name":"label","parameters":{"binary_data":true}}]}"#;
    let length = u16::try_from(json.len()).expect("it is short").to_be_bytes();
    requests.push([&length[..], json, &1.5_f32.to_le_bytes(), &2.5_f32.to_le_bytes()].concat());
    requests
}

/// The launcher's requests and replies: what decodes encodes to what decodes to the same.
pub fn launcher_wire(bytes: &[u8]) -> bool {
    let mut message = [0; MESSAGE_SIZE];
    let taken = bytes.len().min(MESSAGE_SIZE);
    message[..taken].copy_from_slice(&bytes[..taken]);
    let request = Request::decode(&message);
    if let Ok(request) = &request {
        assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(request));
    }
    let reply = Reply::decode(&message);
    if let Ok(reply) = &reply {
        assert_eq!(Reply::decode(&reply.encode()).as_ref(), Ok(reply));
    }
    request.is_ok() || reply.is_ok()
}

/// One request, one reply.
pub fn launcher_messages() -> Vec<Vec<u8>> {
    let path = DevicePath::new("/dev/nvidia0").expect("a path");
    let name = TenantName::new("risk").expect("a name");
    let tenant = Tenant {
        uid_base: 62_000,
        memory_bytes: 1 << 30,
        pids_max: 9,
        cpu_thousandths: 1500,
        cells_max: 2,
        name,
    };
    vec![
        Request::CellAt { index: 7 }.encode().to_vec(),
        Request::GrantDevice { generation: 7, path }.encode().to_vec(),
        Request::SetTenant(tenant).encode().to_vec(),
        Reply::Done.encode().to_vec(),
    ]
}

/// Reads a message: what is read is written as what is read as the same.
fn holds<Message: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = serde_json::from_slice::<Message>(bytes) else { return false };
    let again = serde_json::to_vec(&message).expect("wire types serialize");
    assert_eq!(serde_json::from_slice::<Message>(&again).expect("what was written reads back"), message);
    true
}

/// What a worker may say to the daemon, and the daemon to a worker.
pub fn worker_link(bytes: &[u8]) -> bool {
    holds::<FromWorker>(bytes) | holds::<ToWorker>(bytes)
}

/// What a worker says.
pub fn worker_messages() -> Vec<Vec<u8>> {
    let said = [
        FromWorker::Hello { link_version: LINK_VERSION },
        FromWorker::Ready { load_ms: 17 },
        FromWorker::Failed { reason: "no such file".to_owned() },
        FromWorker::Counts(Counts { requests: 1, ..Counts::default() }),
    ];
    let told = [ToWorker::ConnectionLife { milliseconds: Some(9) }, ToWorker::Drain { idle_ms: 100 }];
    let said = said.iter().map(serde_json::to_vec);
    said.chain(told.iter().map(serde_json::to_vec)).map(|made| made.expect("wire types serialize")).collect()
}

/// What the daemon may say to the router, and the other way round: routes are taken whole or not at all.
pub fn router_link(bytes: &[u8]) -> bool {
    holds::<FromRouter>(bytes) | holds::<ToRouter>(bytes)
}

/// The frozen samples of the protocol's tests.
pub fn router_messages() -> Vec<Vec<u8>> {
    let golden = |name: &&str| fixture(&format!("daemon/protocol/tests/golden/router/{name}.json"));
    ["hello", "in-force", "refused", "routes", "stats"].iter().map(golden).collect()
}

/// An audit context as a record has it: who is named is named by numbers alone, and its id has one form.
pub fn audit_context(bytes: &[u8]) -> bool {
    holds::<AuditContext>(bytes)
}

/// The two kinds of operators.
pub fn audit_contexts() -> Vec<Vec<u8>> {
    let peer = Operator::Peer { uid: 0, gid: 4, pid: 4711, login_uid: Some(1000) };
    let begin = |operator| AuditContext::begin(operator, 1_790_000_000_000, [7; 10]);
    let written = |operator| serde_json::to_vec(&begin(operator)).expect("a context serializes");
    [peer, Operator::Internal].map(written).to_vec()
}
