//! Finds the eBPF object that is embedded into the host, and names the command that makes it when it is missing.

use std::env;
use std::path::PathBuf;

const OBJECT: &str = "TURNOUT_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let built = here.join("../../target/ebpf/turnout.o");
    let object = env::var_os(OBJECT).map_or(built, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo::rustc-env={OBJECT}={}", object.display()),
        Err(error) => println!(
            "cargo::error=the eBPF object `{}` is missing ({error}): build it with `cargo xtask ebpf`",
            object.display()
        ),
    }
}
