//! The .deb, packed by dpkg's own tools and checked by lintian. What remains of its findings is in one file of
//! overrides; the reasons are in `docs/install.md`.

use super::list::{Kind, List};
use super::{Job, Packing, fresh, stage, write};
use crate::command;
use anyhow::{Context, Result, bail};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
const ARCHITECTURE: &str = "amd64";

/// Packs it.
///
/// # Errors
/// When a file or a tool is missing.
pub fn pack(job: &Job<'_>, list: &List) -> Result<PathBuf> {
    let tree = job.stage(list, Kind::Deb)?;
    let control = tree.join("DEBIAN");
    let installed = stage::files(&tree)?;
    write(&control.join("control"), fields(job, list, &tree)?)?;
    write(&control.join("conffiles"), conffiles(list))?;
    write(&control.join("md5sums"), checksums(job, &tree, &installed)?)?;
    write(&control.join("triggers"), fs::read(job.root.join("packaging/deb/triggers"))?)?;
    for script in SCRIPTS {
        let content = fs::read(job.root.join("packaging/deb").join(script))?;
        write(&control.join(script), content)?;
        fs::set_permissions(control.join(script), Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(&control, Permissions::from_mode(0o755))?;
    let package =
        job.folder.join(format!("{}_{}_{ARCHITECTURE}.deb", list.package.name, job.package_version()));
    let mut dpkg = command::program(job.root, "dpkg-deb");
    let compressor = match job.packing {
        Packing::Compressed => "-Zxz",
        Packing::Plain => "-Znone",
    };
    // One thread: with several, the blocks of the archive would follow from the machine.
    dpkg.args(["--root-owner-group", compressor, "--threads-max=1", "--build"]).arg(&tree).arg(&package);
    command::run(dpkg.env("SOURCE_DATE_EPOCH", &job.epoch))?;
    Ok(package)
}

/// Lets lintian look at it.
///
/// # Errors
/// When it finds an error or a warning that no override explains.
pub fn check(job: &Job<'_>, package: &Path) -> Result<()> {
    let mut lintian = command::program(job.root, "lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning", "--no-tag-display-limit"]).arg(package);
    command::run(&mut lintian).context(
        "remedy: mend it; where that cannot be, list it in packaging/deb/lintian-overrides, its reason in docs/install.md",
    )
}

fn fields(job: &Job<'_>, list: &List, tree: &Path) -> Result<String> {
    let package = &list.package;
    let mut depends = linked(job, tree)?;
    depends.extend(list.depends.deb.iter().cloned());
    depends.sort();
    let kilobytes = size(tree)?.div_ceil(1024);
    let mut text = format!(
        "Package: {}\nVersion: {}\nArchitecture: {ARCHITECTURE}\nMaintainer: {}\nInstalled-Size: {kilobytes}\n\
         Depends: {}\nSection: net\nPriority: optional\nDescription: {}\n",
        package.name,
        job.package_version(),
        package.maintainer,
        depends.join(", "),
        package.summary
    );
    for line in package.description.trim().lines() {
        text += &format!(" {line}\n");
    }
    Ok(text)
}

/// The packages of the libraries that the programs are linked against, as dpkg-shlibdeps finds them.
fn linked(job: &Job<'_>, tree: &Path) -> Result<Vec<String>> {
    let work = job.folder.join("shlibdeps");
    fresh(&work)?;
    write(&work.join("debian/control"), "Source: turnout\n\nPackage: turnout\nArchitecture: any\n")?;
    let mut tool = command::program(job.root, "dpkg-shlibdeps");
    tool.current_dir(&work).arg("-O").args(objects(tree)?);
    let answer = command::capture(&mut tool)?;
    let found = answer.stdout.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    let Some(found) = found.filter(|_| answer.success) else {
        bail!("`dpkg-shlibdeps` failed: {}", answer.stderr.trim());
    };
    Ok(found.split(", ").map(str::to_owned).collect())
}

/// Programs and libraries.
fn objects(tree: &Path) -> Result<Vec<PathBuf>> {
    let mut objects = Vec::new();
    for file in stage::files(tree)? {
        let file = tree.join(file);
        if fs::read(&file)?.starts_with(b"\x7fELF") {
            objects.push(file);
        }
    }
    Ok(objects)
}

fn conffiles(list: &List) -> String {
    let configured = list.of(Kind::Deb).filter(|entry| entry.config);
    let names = configured.map(|entry| match entry.from.rsplit('/').next() {
        Some(name) if entry.to.ends_with('/') => format!("{}{name}\n", entry.to),
        _ => format!("{}\n", entry.to),
    });
    names.collect()
}

fn checksums(job: &Job<'_>, tree: &Path, files: &[PathBuf]) -> Result<String> {
    let answer = command::capture(command::program(job.root, "md5sum").current_dir(tree).args(files))?;
    if !answer.success {
        bail!("`md5sum` failed: {}", answer.stderr.trim());
    }
    Ok(answer.stdout)
}

fn size(tree: &Path) -> Result<u64> {
    let mut bytes = 0;
    for file in stage::files(tree)? {
        bytes += tree.join(file).metadata()?.len();
    }
    Ok(bytes)
}
