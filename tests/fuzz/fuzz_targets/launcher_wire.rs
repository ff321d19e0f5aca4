//! The launcher's requests and replies: what decodes encodes to what decodes to the same.
#![no_main]

use turnout_launcher_wire::{MESSAGE_SIZE, Reply, Request};

libfuzzer_sys::fuzz_target!(|bytes: [u8; MESSAGE_SIZE]| {
    if let Ok(request) = Request::decode(&bytes) {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    if let Ok(reply) = Reply::decode(&bytes) {
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }
});
