//! What a worker may say to the daemon.
#![no_main]

use turnout_protocol::worker::{FromWorker, ToWorker};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<FromWorker>(bytes);
    let _ = serde_json::from_slice::<ToWorker>(bytes);
});
