//! libFuzzer around one target, which `TURNOUT_FUZZ_TARGET` names. Writes what the target starts from into the folder
//! `TURNOUT_FUZZ_SEEDS` before the search begins. With `TURNOUT_FUZZ_LIST` it only names the targets.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use turnout_fuzz::{PeakAlloc, Target};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

static TARGET: OnceLock<&Target> = OnceLock::new();

fn begin() {
    if std::env::var_os("TURNOUT_FUZZ_LIST").is_some() {
        turnout_fuzz::TARGETS.iter().for_each(|target| println!("{}", target.name));
        std::process::exit(0);
    }
    let name = std::env::var("TURNOUT_FUZZ_TARGET").expect("TURNOUT_FUZZ_TARGET names a target");
    let target = turnout_fuzz::find(&name).expect("TURNOUT_FUZZ_TARGET names a target that there is");
    assert!(TARGET.set(target).is_ok(), "the engine begins once");
    let Some(folder) = std::env::var_os("TURNOUT_FUZZ_SEEDS") else { return };
    for (at, seed) in target.seeds().into_iter().enumerate() {
        fs::write(Path::new(&folder).join(format!("{at:04}")), seed)
            .expect("the folder of seeds can be written");
    }
}

libfuzzer_sys::fuzz_target!(init: begin(), |bytes: &[u8]| {
    let target = TARGET.get().expect("the engine has begun");
    target.run_within(&ALLOCATOR, bytes);
});
