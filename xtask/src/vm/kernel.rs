//! A system's kernel, and the small first root that finds its disk: busybox and the few modules that this takes, all from
//! the system's own packages.

use super::cpio::{Archive, Kind};
use super::system::System;
use crate::command;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Modules of the first root, those of the root's file system aside; what is built in is skipped.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "virtio_console"];

/// Finds the disk and hands over to the system's own init.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do
    $b insmod "/modules/$module" || echo "first root: $module cannot be loaded"
done
for attempt in $($b seq 100); do
    [ -b /dev/vda ] && break
    $b sleep 0.1
done
for word in $($b cat /proc/cmdline); do
    case $word in rootfstype=*) type=${word#*=} ;; esac
done
$b mount -t "$type" -o rw /dev/vda /root || { echo "first root: no root on /dev/vda"; $b poweroff -f; }
$b umount /proc /sys
$b mount --move /dev /root/dev
exec $b switch_root /root /sbin/init
"#;

/// What a first root is made of beside the system's own files.
pub fn made_of() -> String {
    format!("{MODULES:?} {INIT}")
}

/// A tree of installed packages with one kernel in it.
pub struct Kernel<'a> {
    tree: &'a Path,
    version: String,
}

impl<'a> Kernel<'a> {
    /// Finds the kernel that was installed into a tree.
    ///
    /// # Errors
    /// When there is not exactly one, or not of the version that the system is named for.
    pub fn find(tree: &'a Path, system: &System) -> Result<Self> {
        let folder = tree.join("lib/modules");
        let entries = fs::read_dir(&folder).with_context(|| format!("no `{}`", folder.display()))?;
        let found: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        ensure!(found.len() == 1, "{} kernels in `{}`, not one", found.len(), folder.display());
        let version = found[0].to_string_lossy().into_owned();
        ensure!(
            version.starts_with(system.kernel),
            "`{}` has kernel {version}, not {}; remedy: Debian's archive has moved on, look at `SYSTEMS`",
            system.suite,
            system.kernel
        );
        Ok(Self { tree, version })
    }

    /// As `uname -r` says.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The kernel's image.
    pub fn image(&self) -> PathBuf {
        self.tree.join("boot").join(format!("vmlinuz-{}", self.version))
    }

    /// The first root, as an archive.
    ///
    /// # Errors
    /// When a module is neither there nor built in.
    pub fn first_root(&self, system: &System) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "proc", "sys", "root", "modules"] {
            archive.add(folder, Kind::Folder, &[]);
        }
        let busybox = self.busybox();
        let content = fs::read(&busybox).with_context(|| format!("no `{}`", busybox.display()))?;
        archive.add("bin/busybox", Kind::Program, &content);
        archive.add("init", Kind::Program, INIT.as_bytes());
        let mut order = String::new();
        for (number, module) in self.modules(system)?.iter().enumerate() {
            let name = format!("{number:02}.ko");
            archive.add(&format!("modules/{name}"), Kind::Program, &self.unpacked(module)?);
            order += &format!("{name}\n");
        }
        archive.add("modules/order", Kind::Program, order.as_bytes());
        Ok(archive.finish())
    }

    fn busybox(&self) -> PathBuf {
        self.tree.join("bin/busybox")
    }

    /// The modules' files in the order of loading, below the kernel's folder.
    fn modules(&self, system: &System) -> Result<Vec<String>> {
        let read = |name: &str| {
            let path = self.folder().join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))
        };
        let wanted: Vec<_> = MODULES.into_iter().chain([system.root.name()]).collect();
        loading_order(&read("modules.dep")?, &read("modules.builtin")?, &wanted)
    }

    fn folder(&self) -> PathBuf {
        self.tree.join("lib/modules").join(&self.version)
    }

    /// A module's content; the later kernels' modules are compressed.
    fn unpacked(&self, module: &str) -> Result<Vec<u8>> {
        let path = self.folder().join(module);
        if !module.ends_with(".xz") {
            return fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()));
        }
        let mut xzcat = command::program(self.tree, &self.busybox().to_string_lossy());
        xzcat.arg("xzcat").arg(&path).stdin(Stdio::null());
        let output = xzcat.output().context("cannot start busybox")?;
        ensure!(output.status.success(), "`{}` cannot be unpacked", path.display());
        Ok(output.stdout)
    }
}

/// The files of modules and of what they depend on, each once, dependencies first.
fn loading_order(dependencies: &str, built_in: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut order: Vec<String> = Vec::new();
    for module in wanted {
        if built_in.lines().any(|file| name_of(file) == *module) {
            continue;
        }
        let line = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(file, _)| name_of(file) == *module);
        let (file, needs) = line.with_context(|| format!("the kernel has no module `{module}`"))?;
        // The list names what is needed last first.
        for need in needs.split_whitespace().rev().chain([file]) {
            if !order.iter().any(|known| known == need) {
                order.push(need.to_owned());
            }
        }
    }
    Ok(order)
}

fn name_of(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "k/virtio_blk.ko.xz: k/virtio_ring.ko.xz k/virtio.ko.xz\nk/virtio_ring.ko.xz: k/virtio.ko.xz\n\
                                k/virtio.ko.xz:\nk/btrfs.ko.xz: k/xor.ko.xz\nk/xor.ko.xz:\n";

    #[test]
    fn modules_come_after_what_they_need_each_once_and_built_in_ones_not_at_all() {
        let order =
            loading_order(DEPENDENCIES, "k/ext4.ko\n", &["virtio_ring", "virtio_blk", "btrfs", "ext4"]);
        let names: Vec<_> = order.unwrap().iter().map(|file| name_of(file).to_owned()).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_blk", "xor", "btrfs"]);
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        let error = loading_order(DEPENDENCIES, "", &["ext4"]).unwrap_err();
        assert!(error.to_string().contains("`ext4`"), "{error}");
    }
}
