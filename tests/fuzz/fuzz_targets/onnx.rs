//! A file of a version's folder, as a model and as any other: the policy ends with an answer, never with a panic.
#![no_main]

use std::io::Cursor;
use turnout_onnx::{Policy, Role, examine};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for path in ["model.onnx", "weights.bin"] {
        let _ = examine((path, Role::Beside), &mut Cursor::new(bytes), &Policy::default(), &|_| false);
    }
});
