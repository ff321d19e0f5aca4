//! Which archive the systems' packages come from: the one that this machine's own apt is set to, with the release
//! replaced.

use crate::command;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::Path;

/// What to do when packages cannot be fetched.
pub const REMEDY: &str = "check the network and this machine's /etc/apt/sources.list*, then run it again";

/// Sources of a release, in apt's one-line format: the release itself and its security updates.
///
/// # Errors
/// When apt here has no archive of Debian's.
pub fn sources(root: &Path, suite: &str) -> Result<Vec<String>> {
    let mut apt = command::program(root, "apt-get");
    apt.args(["indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Created-By: Packages"]);
    let answer = command::capture(&mut apt).context("cannot ask apt for its archives")?;
    let found = of_release(&answer.stdout, suite);
    ensure!(
        !found.is_empty(),
        "apt on this machine knows no archive of Debian's; remedy: `apt-get update`, and look at /etc/apt/sources.list*"
    );
    Ok(found)
}

fn of_release(archives: &str, suite: &str) -> Vec<String> {
    let mut sources = BTreeSet::new();
    for line in archives.lines() {
        let Some((codename, uri)) = line.strip_prefix("Debian ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        // `bookworm` and `bookworm-security`, but not the suites beside them, which another release may lack.
        let kind = match codename.split_once('-') {
            None => "",
            Some((_, "security")) => "-security",
            Some(_) => continue,
        };
        sources.insert(format!("deb {uri} {suite}{kind} main"));
    }
    sources.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_archives_serve_any_release() {
        let archives = "Debian bookworm http://a/debian/\nDebian bookworm http://a/debian/\n\
                        Debian bookworm-updates http://a/debian/\nDebian bookworm-security http://a/security/\n\
                        . nodistro https://b/\n";
        assert_eq!(
            of_release(archives, "trixie"),
            ["deb http://a/debian/ trixie main", "deb http://a/security/ trixie-security main"]
        );
        assert!(of_release(". nodistro https://b/\n", "trixie").is_empty());
    }
}
