//! A running guest: boots it, has its agent run commands, and ends it. Every wait has a deadline, and a guest that died is
//! told from one that is slow.

use super::emulator::{Console, Emulator, Machine};
use super::image::Image;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Longest wait for the emulator to make its socket.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for a system to be up: many times what it takes alone on a machine.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// Longest wait for a system to go down.
const DOWN_LIMIT: Duration = Duration::from_secs(180);
/// What the host grants a command over its own limit in the guest, whose clock runs slower.
const GRACE: Duration = Duration::from_secs(120);
/// How often a process and a socket are looked at that cannot report.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The folder of a guest: its disk, its console, its socket.
#[derive(Clone)]
pub struct Place {
    folder: PathBuf,
}

impl Place {
    /// A folder of this name for a guest, empty.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn fresh(folder: PathBuf) -> Result<Self> {
        super::remove(&folder)?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        Ok(Self { folder })
    }

    /// The folder of an earlier guest.
    pub fn of(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The guest's disk: what differs from its image.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.qcow2")
    }

    /// What the guest's kernel and init have printed, all boots after one another.
    pub fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// What the console has shown so far, in all boots.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn shown(&self) -> Result<Vec<u8>> {
        let console = self.console();
        if !console.exists() {
            return Ok(Vec::new());
        }
        fs::read(&console).with_context(|| format!("cannot read `{}`", console.display()))
    }

    /// Where every write to the disk is recorded, if this file is there before the boot.
    pub fn writes(&self) -> PathBuf {
        self.folder.join("writes.log")
    }

    /// Where the socket of the agent's line is.
    pub fn link(&self) -> PathBuf {
        self.folder.join("agent")
    }
}

/// Whether a guest's kernel died of the emulator: two emulated processors, one of which changes an instruction by way of a
/// breakpoint (`text_poke_bp` of the kernel) while the other one executes it, and the breakpoint is then nobody's. Seen once,
/// with kernel 6.12, two seconds after its start.
pub fn failed_by_emulator(shown: &[u8]) -> bool {
    let shown = String::from_utf8_lossy(shown);
    shown.contains("Oops: int3: 0000") && shown.contains("Kernel panic")
}

/// A running guest. Dropping it is a power cut.
pub struct Guest {
    child: Child,
    writer: UnixStream,
    lines: Receiver<String>,
    commands: u32,
    /// How long it took to be up.
    pub booted_in: Duration,
}

impl Guest {
    /// Boots a guest from its disk and waits until it is up.
    ///
    /// # Errors
    /// When it does not come up in time.
    pub fn boot(emulator: &Emulator, image: &Image, payload: &Path, place: &Place) -> Result<Self> {
        let began = Instant::now();
        let (link, disk, console, writes) = (place.link(), place.disk(), place.console(), place.writes());
        super::remove(&link)?;
        let log = File::create(place.folder.join("qemu.log"))?;
        let machine = Machine {
            image,
            disk: &disk,
            // Whoever made the file wants the writes in it.
            log: writes.is_file().then_some(writes.as_path()),
            payload,
            link: &link,
            console: Console::File(&console),
        };
        let mut child = emulator
            .boot(&machine)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the emulator cannot be started")?;
        let connected =
            connect(&mut child, &link).and_then(|writer| Ok((heard(writer.try_clone()?), writer)));
        let (lines, writer) = match connected {
            Ok(found) => found,
            Err(error) => {
                end(&mut child);
                return Err(error.context(format!("see `{}`", place.folder.join("qemu.log").display())));
            }
        };
        let mut guest = Self { child, writer, lines, commands: 0, booted_in: Duration::ZERO };
        let ready = guest.line(began + BOOT_LIMIT).with_context(|| {
            let (system, folder) = (image.system.name, place.folder.display());
            format!(
                "{system} does not come up; see `console.log` and the emulator's `qemu.log` in `{folder}`"
            )
        })?;
        ensure!(ready.starts_with("ready "), "the agent of {} begins with `{ready}`", image.system.name);
        guest.booted_in = began.elapsed();
        Ok(guest)
    }

    /// Has the guest's shell run a command; its output comes line by line. Gives its exit code.
    ///
    /// # Errors
    /// When the guest dies, or does not answer in time.
    pub fn run(&mut self, command: &str, limit: Duration, mut heard: impl FnMut(&str)) -> Result<i32> {
        self.run_while(command, limit, |line| {
            heard(line);
            true
        })
        .and_then(|code| code.context("a command that is wanted to its end has one"))
    }

    /// The same, while what is heard is wanted to go on; gives no exit code when it was given up.
    ///
    /// # Errors
    /// When the guest dies, or does not answer in time.
    pub fn run_while(
        &mut self,
        command: &str,
        limit: Duration,
        mut heard: impl FnMut(&str) -> bool,
    ) -> Result<Option<i32>> {
        let number = self.send(command, limit)?;
        let deadline = Instant::now() + limit + GRACE;
        loop {
            let line = self.line(deadline).with_context(|| format!("while the guest ran `{command}`"))?;
            match Said::of(number, &line) {
                Some(Said::Output(text)) if heard(text) => {}
                Some(Said::Output(_)) => return Ok(None),
                Some(Said::Ended(code)) => return Ok(Some(code)),
                // Of an earlier command, which was given up.
                None => {}
            }
        }
    }

    /// Begins a command without waiting for its end; gives its number.
    ///
    /// # Errors
    /// When the guest is dead.
    pub fn send(&mut self, command: &str, limit: Duration) -> Result<u32> {
        ensure!(!command.contains('\n'), "a command for a guest is one line");
        self.commands += 1;
        writeln!(self.writer, "{} {} {command}", self.commands, limit.as_secs())
            .context("the guest's agent is gone")?;
        Ok(self.commands)
    }

    /// Runs a command that must succeed; gives its output.
    ///
    /// # Errors
    /// When it does not succeed, with its output.
    pub fn ask(&mut self, command: &str, limit: Duration) -> Result<String> {
        let mut output = String::new();
        let code = self.run(command, limit, |line| {
            output.push_str(line);
            output.push('\n');
        })?;
        ensure!(code == 0, "`{command}` ended with {code} in the guest: {}", output.trim());
        Ok(output)
    }

    /// Shuts the system down in an orderly way and waits until it is off.
    ///
    /// # Errors
    /// When it is not off in time.
    pub fn shut_down(mut self) -> Result<()> {
        self.send("systemctl --no-block reboot", Duration::from_secs(60))?;
        let deadline = Instant::now() + DOWN_LIMIT;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the guest is not down after {} s", DOWN_LIMIT.as_secs());
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn line(&self, deadline: Instant) -> Result<String> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("the guest does not answer in time"),
            Err(RecvTimeoutError::Disconnected) => bail!("the guest has died"),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// What a line of the agent says about a command.
enum Said<'a> {
    Output(&'a str),
    Ended(i32),
}

impl<'a> Said<'a> {
    fn of(number: u32, line: &'a str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ')?;
        let (of, text) = rest.split_once(' ').unwrap_or((rest, ""));
        if of.parse() != Ok(number) {
            return None;
        }
        match kind {
            "o" => Some(Self::Output(text)),
            "x" => text.parse().ok().map(Self::Ended),
            _ => None,
        }
    }
}

/// Connects to the socket that the emulator makes.
fn connect(child: &mut Child, link: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Ok(stream) = UnixStream::connect(link) {
            return Ok(stream);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the emulator ended with {status}");
        }
        ensure!(Instant::now() < deadline, "the emulator has no socket after {} s", START_LIMIT.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The lines that come from a guest. What a program wrote that is no text does not end them.
fn heard(stream: UnixStream) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}

fn end(child: &mut Child) {
    // Both fail only when it has ended.
    drop(child.kill());
    drop(child.wait());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_breakpoint_that_is_nobodys_is_the_emulators_fault() {
        let panic = "[    2.015742] Kernel panic - not syncing: Fatal exception in interrupt\r\n";
        let fault = format!("[!p]104[    2.012692] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\r\n{panic}");
        assert!(failed_by_emulator(fault.as_bytes()));
        let own = format!("[    9.1] Oops: general protection fault: 0000 [#1] PREEMPT SMP NOPTI\r\n{panic}");
        for other in [own.as_str(), panic, "Oops: int3: 0000 of a module", "\u{fffd}"] {
            assert!(!failed_by_emulator(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn only_what_is_said_of_the_command_in_hand_counts() {
        let of = |line| Said::of(7, line);
        assert!(matches!(of("o 7 a  b"), Some(Said::Output("a  b"))));
        assert!(matches!(of("o 7 "), Some(Said::Output(""))));
        assert!(matches!(of("x 7 124"), Some(Said::Ended(124))));
        for other in ["o 6 a", "x 6 0", "x 7", "x 7 no", "ready 6.1", "", "kernel: o 7 a"] {
            assert!(of(other).is_none(), "{other}");
        }
    }
}
