//! What the daemon may say to the router, and the other way round: routes are taken whole or not at all.
#![no_main]

use turnout_protocol::router::{FromRouter, ToRouter};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<FromRouter>(bytes);
    if let Ok(message) = serde_json::from_slice::<ToRouter>(bytes) {
        let again = serde_json::to_vec(&message).expect("wire types serialize");
        assert_eq!(serde_json::from_slice::<ToRouter>(&again).expect("what was written reads back"), message);
    }
});
