//! The .rpm, packed by rpmbuild and checked by rpm itself and by rpmlint. What remains of rpmlint's findings is in one
//! file of filters; the reasons are in `docs/install.md`.

use super::list::{Depends, Kind, List};
use super::{Job, Packing, fresh, made, stage, write};
use crate::{command, setup};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const ARCHITECTURE: &str = "x86_64";
const SCRIPTS: [&str; 3] = ["post", "preun", "postun"];
/// Folders that are ours alone, by their names: those, and what lies below them.
const OWN_FOLDERS: [&str; 2] = ["turnout", "turnoutd.service.d"];
/// Makes two builds the same, and leaves the files as they were staged.
const MACROS: &str = "\
%global debug_package %{nil}
%global __os_install_post %{nil}
%global _build_id_links none
%global _buildhost turnout
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1
%global build_mtime_policy clamp_to_source_date_epoch
# The bundled library is the worker's alone.
%global __provides_exclude_from ^/usr/lib/turnout/.*$
";

/// Packs it.
///
/// # Errors
/// When a file or a tool is missing.
pub fn pack(job: &Job<'_>, list: &List) -> Result<PathBuf> {
    let tree = job.stage(list, Kind::Rpm)?;
    let work = job.folder.join("rpmbuild");
    fresh(&work)?;
    let spec = work.join("turnout.spec");
    write(&spec, specification(job, list, &tree)?)?;
    let mut rpmbuild = command::program(job.root, "rpmbuild");
    rpmbuild.args(["-bb", "--quiet", "--target", ARCHITECTURE, "--define"]);
    rpmbuild.arg(format!("_topdir {}", work.display())).arg(&spec);
    command::run(rpmbuild.env("SOURCE_DATE_EPOCH", &job.epoch))?;
    let name = format!("{}-{}-1.{ARCHITECTURE}.rpm", list.package.name, job.package_version());
    let package = job.folder.join(&name);
    fs::rename(work.join("RPMS").join(ARCHITECTURE).join(&name), &package)
        .with_context(|| format!("rpmbuild left no `{name}`"))?;
    Ok(package)
}

/// Lets rpm verify its digests, and rpmlint look at it.
///
/// # Errors
/// When either finds an error, or rpmlint a warning that no filter explains.
pub fn check(job: &Job<'_>, package: &Path) -> Result<()> {
    command::run(command::program(job.root, "rpm").args(["--checksig", "--nosignature"]).arg(package))?;
    let mut rpmlint = command::program(job.root, &setup::rpmlint(job.root).to_string_lossy());
    rpmlint.args(["--strict", "--config"]).arg(job.root.join("packaging/rpm/rpmlint.toml")).arg(package);
    command::run(&mut rpmlint)
        .context("remedy: mend it; where that cannot be, list it in packaging/rpm/rpmlint.toml, its reason in docs/install.md")
}

fn specification(job: &Job<'_>, list: &List, tree: &Path) -> Result<String> {
    let package = &list.package;
    let payload = match job.packing {
        Packing::Compressed => "w9.xzdio",
        Packing::Plain => "w.ufdio",
    };
    let mut text = format!(
        "{MACROS}%global _binary_payload {payload}\n\nName: {}\nVersion: {}\nRelease: 1\nSummary: {}\nLicense: {}\nPackager: {}\n",
        package.name,
        job.package_version(),
        sentence(&package.summary),
        package.licence,
        package.maintainer
    );
    text += &relations(&list.depends);
    // Its programs are what the scripts call: it is installed before this package and removed after it.
    for script in SCRIPTS {
        writeln!(text, "Requires({script}): systemd")?;
    }
    write!(text, "\n%description\n{}\n", package.description.trim())?;
    write!(text, "\n%install\ncp -a {}/. %{{buildroot}}/\n", tree.display())?;
    for script in SCRIPTS {
        let body = fs::read_to_string(job.root.join("packaging/rpm").join(script))?;
        write!(text, "\n%{script}\n{}\n", body.replace('%', "%%").trim())?;
    }
    text += "\n%files\n%defattr(-,root,root,-)\n";
    for line in contents(list, tree)? {
        writeln!(text, "{line}")?;
    }
    let (date, told) = (made::date(job, "+%a %b %d %Y")?, made::told(job)?);
    let (maintainer, version) = (&package.maintainer, job.package_version());
    write!(text, "\n%changelog\n* {date} {maintainer} - {version}-1\n- {told}\n")?;
    Ok(text)
}

/// What the package needs, and what it takes along where that is to be had.
fn relations(depends: &Depends) -> String {
    let needed = depends.rpm.iter().map(|package| format!("Requires: {package}\n"));
    let wanted = depends.rpm_recommends.iter().map(|package| format!("Recommends: {package}\n"));
    needed.chain(wanted).collect()
}

/// The files with what they are, and the folders that are ours alone.
fn contents(list: &List, tree: &Path) -> Result<Vec<String>> {
    let configured: Vec<_> = list.of(Kind::Rpm).filter(|entry| entry.config).collect();
    let licences: Vec<_> = list.of(Kind::Rpm).filter(|entry| entry.licence).collect();
    let mut lines = Vec::new();
    let mut folders = Vec::new();
    for file in stage::files(tree)? {
        let path = Path::new("/").join(&file);
        let name = path.display().to_string();
        let is_config = configured.iter().any(|entry| entry.installs(&name));
        let is_licence = licences.iter().any(|entry| entry.installs(&name));
        let kind = match () {
            () if is_config => "%config(noreplace) ",
            () if is_licence => "%license ",
            () if name.starts_with("/usr/share/man/") => "%doc ",
            () if name.starts_with("/usr/share/doc/") => "%doc ",
            () => "",
        };
        lines.push(format!("{kind}{name}"));
        let is_ours = |folder: &&Path| folder.iter().any(|part| OWN_FOLDERS.iter().any(|own| part == *own));
        for folder in path.ancestors().skip(1).take_while(is_ours) {
            if !folders.iter().any(|known: &PathBuf| known == folder) {
                folders.push(folder.to_owned());
            }
        }
    }
    lines.extend(folders.iter().map(|folder| format!("%dir {}", folder.display())));
    match lines.is_empty() {
        true => bail!("the package is empty"),
        false => Ok(lines),
    }
}

/// With a capital letter, as rpm's users expect.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_down_from_one_that_is_ours_alone_is_the_packages() {
        let list =
            List::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/files.toml")).unwrap();
        let tree = std::env::temp_dir().join(format!("turnout-xtask-rpm-{}", std::process::id()));
        for file in ["usr/bin/turnoutctl", "usr/share/turnout/grafana/turnout.json"] {
            fs::create_dir_all(tree.join(file).parent().unwrap()).unwrap();
            fs::write(tree.join(file), "").unwrap();
        }
        let lines = contents(&list, &tree).unwrap();
        fs::remove_dir_all(&tree).unwrap();
        let folders: Vec<_> = lines.iter().filter(|line| line.starts_with("%dir")).collect();
        assert_eq!(folders, ["%dir /usr/share/turnout/grafana", "%dir /usr/share/turnout"]);
    }

    #[test]
    fn a_host_without_btrfs_can_install_it() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/files.toml");
        let relations = relations(&List::read(&file).unwrap().depends);
        assert!(relations.contains("Recommends: (btrfs-progs or btrfsprogs)\n"), "{relations}");
        assert!(
            !relations.lines().any(|line| line.starts_with("Requires") && line.contains("btrfs")),
            "{relations}"
        );
    }
}
