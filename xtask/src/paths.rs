//! The folders of whoever builds, which nothing that is packaged may name: flags that give them other names, and a look
//! into what was built. Who builds with these flags is for `dist.rs` and `ebpf.rs` to say.

use anyhow::{Context, Result, ensure};
use std::env;
use std::path::{Path, PathBuf};

/// What the checkout is called in what is built.
const ROOT: &str = "/turnout";
/// What cargo's folder, with the sources of crates in it, is called there.
const CARGO_HOME: &str = "/cargo";

/// Flags of rustc that give the checkout and cargo's folder other names.
///
/// # Errors
/// When nothing says where cargo's folder is.
pub fn remapped(root: &Path) -> Result<Vec<String>> {
    let mut flags = Vec::new();
    for (folder, name) in [(root.to_owned(), ROOT), (cargo_home()?, CARGO_HOME)] {
        // The compiler is told of a folder as it is written, and finds out by itself where it is.
        let resolved = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let mut spelled = vec![folder];
        spelled.extend(Some(resolved).filter(|resolved| *resolved != spelled[0]));
        flags.extend(spelled.iter().map(|from| format!("--remap-path-prefix={}={name}", from.display())));
    }
    Ok(flags)
}

/// Refuses a program that names the checkout or cargo's folder: it would not be the same from another.
///
/// # Errors
/// When it does, with the file and the folder.
pub fn ensure_absent(root: &Path, file: &Path, content: &[u8]) -> Result<()> {
    for folder in [root.to_owned(), cargo_home()?] {
        let named = folder.join("").into_os_string().into_encoded_bytes();
        ensure!(
            !content.windows(named.len()).any(|window| window == named),
            "`{}` holds the path `{}`, so it is not the same from another folder; remedy: look with `strings` where \
             it comes from, and keep it out, as the flags in xtask/src/paths.rs do",
            file.display(),
            folder.display()
        );
    }
    Ok(())
}

fn cargo_home() -> Result<PathBuf> {
    let named = env::var_os("CARGO_HOME").map(PathBuf::from);
    let own = || env::home_dir().map(|home| home.join(".cargo"));
    named.or_else(own).context("neither CARGO_HOME nor HOME says where cargo keeps the sources of crates")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_behind_a_link_has_one_name_however_it_is_spelled() {
        let folder = env::temp_dir().join(format!("turnout-xtask-link-{}", std::process::id()));
        let real = folder.join("real");
        std::fs::create_dir_all(&real).unwrap();
        std::os::unix::fs::symlink(&real, folder.join("link")).unwrap();
        let flags = remapped(&folder.join("link")).unwrap();
        for spelled in [folder.join("link"), real.canonicalize().unwrap()] {
            assert!(
                flags.contains(&format!("--remap-path-prefix={}=/turnout", spelled.display())),
                "{flags:?}"
            );
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_program_that_names_the_checkout_is_refused_by_name() {
        let (root, file) = (Path::new("/home/ann/turnout"), Path::new("turnoutd"));
        assert!(ensure_absent(root, file, b"\x7fELF/turnout/daemon/a.rs").is_ok());
        let refusal = ensure_absent(root, file, b"\x7fELF/home/ann/turnout/daemon/a.rs").unwrap_err();
        assert!(
            refusal.to_string().starts_with("`turnoutd` holds the path `/home/ann/turnout`"),
            "{refusal}"
        );
    }

    #[test]
    fn a_program_that_names_the_sources_of_crates_is_refused() {
        let crates = cargo_home().unwrap().join("registry/src/a.rs").into_os_string().into_encoded_bytes();
        assert!(ensure_absent(Path::new("/home/ann/turnout"), Path::new("turnoutd"), &crates).is_err());
    }
}
