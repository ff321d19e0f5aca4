//! The toolchain that builds: where it lies, and which it is.

use crate::command;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// Rust's compiler and library.
pub struct Toolchain {
    /// Its folder.
    pub sysroot: PathBuf,
    /// The commit of Rust that it was built from.
    pub commit: String,
}

/// Asks the compiler beside cargo: another one may be on the path.
///
/// # Errors
/// When it does not say.
pub fn read(root: &Path) -> Result<Toolchain> {
    let compiler = Path::new(command::cargo(root).get_program()).with_file_name("rustc");
    let ask = |arguments: &[&str]| -> Result<String> {
        let mut rustc = command::program(root, &compiler.to_string_lossy());
        let answer = command::capture(rustc.args(arguments))?;
        ensure!(answer.success, "`rustc` failed: {}", answer.stderr.trim());
        Ok(answer.stdout)
    };
    let version = ask(&["--version", "--verbose"])?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: "));
    let commit = commit.with_context(|| format!("`{}` does not say its commit", compiler.display()))?;
    Ok(Toolchain { sysroot: ask(&["--print", "sysroot"])?.trim().into(), commit: commit.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toolchain_in_use_holds_its_own_notices() {
        let toolchain = read(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert_eq!(toolchain.commit.len(), 40, "{}", toolchain.commit);
        assert!(toolchain.sysroot.join("share/doc/rust/COPYRIGHT-library.html").is_file());
    }
}
