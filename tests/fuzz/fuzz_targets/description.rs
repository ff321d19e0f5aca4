//! `turnout.yaml` as people write it.
#![no_main]

use turnout_manifest::Description;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = Description::from_yaml(text);
});
