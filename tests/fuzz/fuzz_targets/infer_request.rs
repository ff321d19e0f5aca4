//! An inference request, JSON alone and with binary tensors behind it.
#![no_main]

use turnout_inference::InferRequest;

libfuzzer_sys::fuzz_target!(|input: (u16, &[u8])| {
    let (header, body) = input;
    let _ = InferRequest::parse(body, None);
    let _ = InferRequest::parse(body, Some(usize::from(header)));
});
