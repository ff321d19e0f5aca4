//! The emulator: QEMU of Debian 13, unpacked beside this checkout and run with its own libraries, on every host alike.
//! QEMU 7.2 of Debian 12 does not boot Debian 13's kernel dependably. There is no KVM in it: any machine can run this.

use super::image::Image;
use super::{archive, bounded, system};
use crate::command;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SUITE: &str = "trixie";
const PACKAGES: &str = "qemu-system-x86,qemu-utils";
const INSTALL_LIMIT: Duration = Duration::from_secs(600);
const IMAGE_LIMIT: Duration = Duration::from_secs(120);
const PROCESSORS: &str = "2";
const MEMORY_MIB: &str = "1536";
/// The processor's own clock cannot be measured while the emulator waits for a busy host: a guest that trusts it may run
/// ten times too fast. The emulated HPET is right.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 rw quiet mitigations=off tsc=unstable clocksource=hpet no_timer_check \
                                   panic=-1 systemd.show_status=false";
/// Units that only cost a guest time when nobody logs in.
const UNWANTED: [&str; 4] =
    ["serial-getty@ttyS0.service", "getty@tty1.service", "systemd-logind.service", "e2scrub_reap.service"];

/// The unpacked emulator.
#[derive(Clone)]
pub struct Emulator {
    root: PathBuf,
}

/// Where a guest's first serial line goes.
pub enum Console<'a> {
    /// To a file: a record for when it dies.
    File(&'a Path),
    /// To this terminal.
    Terminal,
}

/// What a guest is made of.
pub struct Machine<'a> {
    /// Its system.
    pub image: &'a Image,
    /// Its disk, written to.
    pub disk: &'a Path,
    /// Where every write to it is recorded, if it is.
    pub log: Option<&'a Path>,
    /// The disk with what the host brings, only read.
    pub payload: &'a Path,
    /// Where the socket of the agent's line is made.
    pub link: &'a Path,
    /// Its console.
    pub console: Console<'a>,
}

impl Emulator {
    /// The emulator of a checkout, which may have to be fetched first.
    pub fn of(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Its version, if it is there.
    pub fn found(&self) -> Option<String> {
        let asked = command::capture(self.program("qemu-system-x86_64").arg("--version")).ok()?;
        let version = asked.stdout.lines().next()?.to_owned();
        (asked.success && self.stamp().is_file()).then_some(version)
    }

    /// Fetches and unpacks it.
    ///
    /// # Errors
    /// When Debian's archive cannot be reached.
    pub fn fetch(&self) -> Result<()> {
        let tree = self.tree();
        super::remove(&tree)?;
        fs::create_dir_all(tree.parent().context("it lies in a folder")?)?;
        let mut fetch = bounded::with_descendants(&self.root, INSTALL_LIMIT, "mmdebstrap");
        fetch.args(["--mode=root", "--variant=extract", "--format=directory", "--quiet"]);
        fetch.arg(format!("--include={PACKAGES}")).arg(SUITE).arg(&tree);
        fetch.args(archive::sources(&self.root, SUITE)?);
        command::run(&mut fetch).with_context(|| format!("QEMU cannot be fetched: {}", archive::REMEDY))?;
        fs::write(self.stamp(), PACKAGES)?;
        ensure!(self.found().is_some(), "QEMU was unpacked but does not answer to `--version`");
        Ok(())
    }

    /// The command that boots a guest.
    pub fn boot(&self, machine: &Machine) -> Command {
        let mut qemu = self.program("qemu-system-x86_64");
        qemu.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-machine",
            "q35",
            "-nodefaults",
            "-no-reboot",
        ]);
        qemu.args(["-smp", PROCESSORS, "-m", MEMORY_MIB, "-display", "none"]);
        qemu.arg("-L")
            .arg(self.tree().join("usr/share/qemu"))
            .arg("-L")
            .arg(self.tree().join("usr/share/seabios"));
        qemu.arg("-kernel").arg(machine.image.kernel()).arg("-initrd").arg(machine.image.first_root());
        let root = machine.image.system.root.name();
        let mut command_line = format!("{KERNEL_COMMAND_LINE} rootfstype={root}");
        if matches!(machine.console, Console::File(_)) {
            command_line.extend(UNWANTED.map(|unit| format!(" systemd.mask={unit}")));
        }
        qemu.arg("-append").arg(command_line);
        root_disk(&mut qemu, machine);
        let payload = format!("if=none,id=payload,file={},format=raw,readonly=on", machine.payload.display());
        qemu.args(["-drive", &payload, "-device", "virtio-blk-pci,drive=payload"]);
        qemu.args(["-device", "virtio-serial-pci", "-chardev"]);
        qemu.arg(format!("socket,id=agent,path={},server=on,wait=off", machine.link.display()));
        qemu.args(["-device", "virtserialport,chardev=agent,name=turnout.agent"]);
        match machine.console {
            Console::File(file) => {
                let record = format!("file,id=console,path={},append=on", file.display());
                qemu.arg("-chardev").arg(record).args(["-serial", "chardev:console"])
            }
            Console::Terminal => qemu.args(["-serial", "mon:stdio"]),
        };
        qemu
    }

    /// Makes a disk that keeps only what differs from another one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn overlay(&self, below: &Path, disk: &Path) -> Result<()> {
        let mut make = self.limited("qemu-img");
        make.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(below).arg(disk);
        let made = command::capture(&mut make)?;
        ensure!(made.success, "`{}` cannot be made: {}", disk.display(), made.stderr.trim());
        Ok(())
    }

    /// Writes a guest's disk out as it is: a file of the disk's size, with holes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_out(&self, disk: &Path, raw: &Path) -> Result<()> {
        let mut convert = self.limited("qemu-img");
        convert.args(["convert", "-q", "-O", "raw"]).arg(disk).arg(raw);
        let done = command::capture(&mut convert)?;
        ensure!(done.success, "`{}` cannot be written out: {}", disk.display(), done.stderr.trim());
        Ok(())
    }

    /// A program of the emulator, tied to this one.
    fn program(&self, name: &str) -> Command {
        let mut command = bounded::tied(&self.root, &self.loader());
        self.with_libraries(&mut command, name);
        command
    }

    fn limited(&self, name: &str) -> Command {
        let mut command = bounded::within(&self.root, IMAGE_LIMIT, &self.loader().to_string_lossy());
        self.with_libraries(&mut command, name);
        command
    }

    fn with_libraries(&self, command: &mut Command, name: &str) {
        command.arg("--library-path").arg(self.tree().join("usr/lib/x86_64-linux-gnu"));
        command.arg(self.tree().join("usr/bin").join(name));
    }

    fn loader(&self) -> PathBuf {
        self.tree().join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    }

    fn tree(&self) -> PathBuf {
        system::folder(&self.root).join("emulator")
    }

    fn stamp(&self) -> PathBuf {
        system::folder(&self.root).join("emulator.made-of")
    }
}

/// The guest's own disk, by way of the recorder if its writes are recorded.
fn root_disk(qemu: &mut Command, machine: &Machine) {
    // What a guest flushes stays in the host's memory, which outlives the guest: a cut is made of the log, which has the
    // flushes in it, and the host's own disk would only be waited for.
    let file = format!("driver=file,node-name=file,cache.no-flush=on,filename={}", machine.disk.display());
    qemu.args(["-blockdev", &file, "-blockdev", "driver=qcow2,node-name=disk,file=file"]);
    let node = match machine.log {
        None => "disk",
        Some(log) => {
            let log = format!("driver=file,node-name=log,cache.no-flush=on,filename={}", log.display());
            qemu.args([
                "-blockdev",
                &log,
                "-blockdev",
                "driver=blklogwrites,node-name=logged,file=disk,log=log",
            ]);
            "logged"
        }
    };
    qemu.args(["-device", &format!("virtio-blk-pci,drive={node}")]);
}
