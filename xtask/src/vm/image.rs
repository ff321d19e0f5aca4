//! Images of booted systems, made of Debian's packages alone and kept below `target/vm` until what they are made of
//! changes. Nothing is mounted on this machine for it: a tree is filled in a namespace of its own, and made into a file
//! system by its `mkfs`.

use super::kernel::{self, Kernel};
use super::system::{self, PACKAGES, RootFileSystem, System};
use super::{archive, bounded};
use crate::command;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Longest time for fetching and installing a system's packages.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);
/// Longest time for making a file system of a tree.
const MAKE_LIMIT: Duration = Duration::from_secs(180);
/// Size of the root file system; the file is sparse.
const ROOT_BYTES: u64 = 6 << 30;
/// To be raised when images must be made anew although nothing below has changed.
const EDITION: &str = "2";
/// What is left out of the packages: it is never read here.
const LEFT_OUT: [&str; 2] = ["/usr/share/doc/*", "/usr/share/locale/*"];

/// Files that are put into every image: path below the root, mode, content.
const FILES: [(&str, u32, &str); 7] = [
    ("usr/lib/turnout-vm/agent", 0o755, include_str!("guest/agent.sh")),
    ("etc/systemd/system/turnout-vm.service", 0o644, include_str!("guest/agent.service")),
    ("etc/systemd/system/serial-getty@ttyS0.service.d/login.conf", 0o644, include_str!("guest/login.conf")),
    ("etc/hostname", 0o644, "turnout-vm\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 turnout-vm\n"),
    ("etc/fstab", 0o644, "# The first root mounts the root.\n"),
    // The same identity in every copy; without it each first boot is a "first boot" with its own services.
    ("etc/machine-id", 0o444, "7475726e6f75742d766d2d6775657374\n"),
];

/// A system's image and how it is booted.
pub struct Image {
    /// The system it is of.
    pub system: &'static System,
    folder: PathBuf,
}

impl Image {
    /// The image of a system, which may have to be made first.
    pub fn of(root: &Path, system: &'static System) -> Self {
        Self { system, folder: system::folder(root).join("images").join(system.name) }
    }

    /// The root's file system; never written to.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("root.img")
    }

    /// The kernel.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The first root.
    pub fn first_root(&self) -> PathBuf {
        self.folder.join("first-root.cpio")
    }

    /// The kernel's version and the file system, for people; nothing when the image is not there or out of date.
    pub fn found(&self) -> Option<String> {
        let known = fs::read_to_string(self.stamp()).ok()?;
        let (key, what) = known.split_once('\n')?;
        (key == self.key()).then(|| what.trim().to_owned())
    }

    /// Tells this image from any other: a disk that keeps what differs from it is of use with it alone.
    ///
    /// # Errors
    /// When the image is not there.
    pub fn identity(&self) -> Result<String> {
        let made = self.disk().metadata()?.modified()?.duration_since(UNIX_EPOCH)?;
        Ok(format!("{} {}\n", self.key(), made.as_nanos()))
    }

    /// Makes the image.
    ///
    /// # Errors
    /// When Debian's archive cannot be reached, or a package is not in it.
    pub fn make(&self, root: &Path) -> Result<()> {
        let began = Instant::now();
        let tree = self.folder.join("tree");
        super::remove(&self.folder)?;
        fs::create_dir_all(&self.folder)?;
        self.install(root, &tree)?;
        add_files(&tree)?;
        let kernel = Kernel::find(&tree, self.system)?;
        fs::copy(kernel.image(), self.kernel()).context("the kernel cannot be copied")?;
        fs::write(self.first_root(), kernel.first_root(self.system)?)?;
        self.make_root(root, &tree)?;
        let what = format!("kernel {}, root on {}", kernel.version(), self.system.root.name());
        super::remove(&tree)?;
        // Last: an image without it is not there.
        fs::write(self.stamp(), format!("{}\n{what}\n", self.key()))?;
        println!("vm: {}: made in {:.0} s: {what}", self.system.name, began.elapsed().as_secs_f64());
        Ok(())
    }

    fn install(&self, root: &Path, tree: &Path) -> Result<()> {
        let mut install = bounded::with_descendants(root, INSTALL_LIMIT, "mmdebstrap");
        install.args(["--mode=root", "--variant=minbase", "--format=directory", "--quiet"]);
        install.arg(format!("--include={}", PACKAGES.join(",")));
        install.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
        install.arg(self.system.suite).arg(tree).args(archive::sources(root, self.system.suite)?);
        // The first root is this program's own: Debian's would take half a minute to make and longer to boot.
        command::run(install.env("INITRD", "No").env("DEBIAN_FRONTEND", "noninteractive"))
            .with_context(|| format!("{} cannot be installed: {}", self.system.name, archive::REMEDY))
    }

    fn make_root(&self, root: &Path, tree: &Path) -> Result<()> {
        let disk = self.disk();
        fs::File::create(&disk)?.set_len(ROOT_BYTES)?;
        let mut make = match self.system.root {
            RootFileSystem::Ext4 => {
                let mut make = bounded::within(root, MAKE_LIMIT, "mkfs.ext4");
                make.args(["-q", "-F", "-d"]).arg(tree).arg(&disk);
                make
            }
            RootFileSystem::Btrfs => {
                let mut make = bounded::within(root, MAKE_LIMIT, "mkfs.btrfs");
                make.args(["-q", "--rootdir"]).arg(tree).arg(&disk);
                make
            }
        };
        command::run(&mut make).context("the root file system cannot be made")
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("made-of")
    }

    /// Changes with everything the image is made of, Debian's archive aside: a newer package is no reason to make it anew.
    fn key(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{EDITION} {:?} {PACKAGES:?} {LEFT_OUT:?} {ROOT_BYTES}", self.system));
        for (path, mode, content) in FILES {
            hash.update(format!("{path} {mode} {content}"));
        }
        hash.update(kernel::made_of());
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn add_files(tree: &Path) -> Result<()> {
    for (path, mode, content) in FILES {
        let file = tree.join(path);
        let folder = file.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        super::remove(&file)?;
        fs::write(&file, content).with_context(|| format!("cannot write `{}`", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
    }
    let wanted = tree.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wanted)?;
    symlink("../turnout-vm.service", wanted.join("turnout-vm.service"))?;
    // What is in a guest's journal must survive a power cut of the guest.
    fs::create_dir_all(tree.join("var/log/journal"))?;
    // Left by the installation, these would keep a package from starting its service, and from installing its texts.
    super::remove(&tree.join("usr/sbin/policy-rc.d"))?;
    super::remove(&tree.join("etc/dpkg/dpkg.cfg.d/99mmdebstrap"))
}
