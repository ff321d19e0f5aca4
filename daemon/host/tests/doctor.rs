//! The examination on this very host, as root and as nobody.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use turnout_host::doctor::{Finding, Places, Standing, examine};
use turnout_host::mounts::{in_private_namespace, mount_table};
use turnout_host::volume::StoreKind;

/// Set in the environment of the process that examines as nobody.
const AS_NOBODY: &str = "TURNOUT_TEST_AS_NOBODY";
const NOBODY: u32 = 65_534;

fn findings(folder: &Path) -> Vec<Finding> {
    examine(&Places {
        state: &folder.join("not/yet/there"),
        runtime: &folder.join("not/yet/there"),
        store: StoreKind::Btrfs,
        image_bytes: None,
        lowest_port: 8700,
        group: None,
        cgroup: None,
        worker: Path::new("/bin/sh"),
        launcher: &folder.join("no-launcher"),
        onnxruntime: Path::new("/etc/passwd"),
        launcher_unit: None,
    })
}

fn standing(findings: &[Finding], name: &str) -> Standing {
    findings.iter().find(|finding| finding.name == name).unwrap().standing
}

#[test]
fn what_works_and_what_is_missing_is_told_with_the_remedy() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // In a namespace of its own, because others may mount on this host meanwhile.
    let (before, found, after) =
        in_private_namespace(|| Ok((mount_table()?, findings(folder.path()), mount_table()?))).unwrap();
    assert_eq!(before, after, "no mount is left");
    for finding in &found {
        println!("{:?} {}: {}", finding.standing, finding.name, finding.found);
        assert!(![finding.found.as_str(), finding.why, finding.remedy.as_str()].contains(&""), "{finding:?}");
    }
    let names: BTreeSet<_> = found.iter().map(|finding| finding.name).collect();
    assert_eq!(names.len(), found.len(), "each requirement comes once");
    // What the other tests of this crate stand on works here, so it must be found.
    for name in ["root", "btrfs", "swap", "namespaces", "worker"] {
        assert_eq!(standing(&found, name), Standing::Ok, "{name}");
    }
    for name in ["launcher", "onnxruntime"] {
        assert_eq!(standing(&found, name), Standing::Missing, "{name}");
    }
    assert_eq!(standing(&found, "router"), Standing::Degraded, "plans of the kernel's need none");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn without_root_the_list_is_complete_and_says_so() {
    if std::env::var_os(AS_NOBODY).is_some() {
        let found = findings(Path::new("/"));
        for name in ["root", "btrfs"] {
            assert_eq!(standing(&found, name), Standing::Untried, "{name}");
        }
        // What only root can try is not held against the host.
        let missing = found.iter().filter(|finding| finding.standing == Standing::Missing);
        let missing: Vec<_> = missing.map(|finding| finding.name).collect();
        assert_eq!(missing, ["onnxruntime", "launcher"]);
        return;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "without_root_the_list_is_complete_and_says_so"])
        .env(AS_NOBODY, "1")
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .unwrap();
    assert!(status.success());
}
