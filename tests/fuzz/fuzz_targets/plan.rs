//! A plan as people write it: what is accepted has no problem left.
#![no_main]

use turnout_manifest::Plan;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(plan) = Plan::from_yaml(text) {
        assert!(plan.problems().is_empty());
    }
});
