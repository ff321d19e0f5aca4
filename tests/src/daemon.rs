//! Runs a daemon of its own: state, store, socket, ports and cgroup apart from every other. Starts, kills and restarts
//! it, and clears up after it, also after an earlier run that was killed. What is cleared, and how, is in `remains.rs`.

use crate::remains::Remains;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where instances live: on disk, because the store is a file behind a loop device.
const BASE: &str = "/var/tmp/turnout-instances";
/// Size of the store's image.
const STORE_BYTES: u64 = 512 << 20;
/// Longest wait for the daemon's socket after its start.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait for the daemon's end after it was asked to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// How often the socket and the child are looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Lines of the daemon's log that a failure repeats.
const LOG_LINES: usize = 30;

/// What an instance is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name: an instance of the same name that was left behind is cleared first.
    pub name: String,
    /// Ports it may give to models.
    pub ports: RangeInclusive<u16>,
    /// First user id of its workers.
    pub worker_uid_base: u32,
    /// Models with a port of their own.
    pub models: BTreeMap<String, u16>,
    /// Folder of the built programs.
    pub programs: PathBuf,
    /// The ONNX Runtime library.
    pub onnxruntime: PathBuf,
}

/// A daemon of this test's own. Dropping it ends it and clears up.
#[derive(Debug)]
pub struct Instance {
    settings: Settings,
    remains: Remains,
    child: Option<Child>,
    kept: bool,
}

impl Instance {
    /// Makes the folder, the cgroup's name and the configuration; starts nothing.
    ///
    /// # Errors
    /// When a program is not built, or an earlier instance of this name cannot be cleared.
    pub fn create(settings: Settings) -> Result<Self> {
        for program in ["turnoutd", "turnoutctl", "turnout-launcher", "turnout-worker", "turnout-router"] {
            if !settings.programs.join(program).is_file() {
                bail!(
                    "`{program}` is not in `{}`; remedy: `cargo xtask demo` builds it",
                    settings.programs.display()
                );
            }
        }
        let remains = fresh_place(&settings.name)?;
        let instance = Self { settings, remains, child: None, kept: false };
        fs::write(instance.config(), instance.configuration())?;
        Ok(instance)
    }

    /// Sets one key of the configuration; counts from the next start.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, key: &str, value: &str) -> Result<()> {
        let text = fs::read_to_string(self.config())?;
        let others = text.lines().filter(|line| line.split(" = ").next() != Some(key));
        let lines: Vec<_> =
            std::iter::once(format!("{key} = {value}")).chain(others.map(str::to_owned)).collect();
        fs::write(self.config(), lines.join("\n") + "\n").map_err(Into::into)
    }

    /// Where a built program lies.
    pub fn program(&self, name: &str) -> PathBuf {
        self.settings.programs.join(name)
    }

    /// Starts the daemon and waits until its socket answers.
    ///
    /// # Errors
    /// When it ends or stays silent; the end of its log is in the message.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(self.program("turnoutd"));
        command.arg("--config").arg(self.config()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: what a terminal sends to the test is not meant for a daemon that may be kept.
        let mut child = command.process_group(0).spawn().context("cannot start `turnoutd`")?;
        let deadline = Instant::now() + START_DEADLINE;
        while UnixStream::connect(self.socket()).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("`turnoutd` ended with {status} before its socket was there\n{}", self.log_end());
            }
            if Instant::now() > deadline {
                self.child = Some(child);
                bail!("`turnoutd` has no socket after {} s\n{}", START_DEADLINE.as_secs(), self.log_end());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.child = Some(child);
        Ok(())
    }

    /// Kills the daemon with SIGKILL; launcher and workers live on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the daemon does not run")?;
        child.kill()?;
        Ok(child.wait()?)
    }

    /// Asks the daemon to stop and waits for its end; launcher and workers live on.
    ///
    /// # Errors
    /// When it does not run or does not end in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("the daemon does not run")?;
        kill_process(Pid::from_child(child), Signal::TERM)?;
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("`turnoutd` does not stop within {} s\n{}", STOP_DEADLINE.as_secs(), self.log_end());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Process id of the daemon, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The command line, set to this daemon.
    pub fn ctl(&self) -> Ctl {
        Ctl { program: self.program("turnoutctl"), socket: self.socket() }
    }

    /// A folder of this instance, for what the test itself writes.
    pub fn folder(&self) -> &Path {
        &self.remains.folder
    }

    /// Where the daemon keeps journal and store.
    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// The root of this instance's cgroups.
    pub fn cgroup(&self) -> &Path {
        &self.remains.cgroup
    }

    /// The daemon's control socket.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("run/control.sock")
    }

    /// Every process of this instance: the program's name and the process id.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<(String, i32)>> {
        let named = |pid: i32| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            Some((program.file_name()?.to_string_lossy().into_owned(), pid))
        };
        Ok(self.remains.processes()?.into_iter().filter_map(named).collect())
    }

    /// The last lines of the daemon's log.
    pub fn log_end(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Leaves everything running when this value is dropped; clearing is then for [`clear_by_name`].
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// The configuration's file.
    pub fn config(&self) -> PathBuf {
        self.folder().join("turnoutd.toml")
    }

    /// Where what the daemon writes to its standard error goes.
    pub fn log(&self) -> PathBuf {
        self.folder().join("turnoutd.log")
    }

    /// The configuration, every place in this instance's own folder.
    fn configuration(&self) -> String {
        let Settings { ports, worker_uid_base, models, programs, onnxruntime, .. } = &self.settings;
        let folder = self.folder();
        let mut lines = vec![
            format!("state = {:?}", self.state()),
            format!("runtime = {:?}", folder.join("run")),
            format!("socket = {:?}", self.socket()),
            format!("store_image_bytes = {STORE_BYTES}"),
            format!("cgroup = {:?}", self.remains.cgroup),
            "listen = \"127.0.0.1\"".to_owned(),
            format!("ports = \"{}-{}\"", ports.start(), ports.end()),
            format!("worker_uid_base = {worker_uid_base}"),
            format!("worker = {:?}", programs.join("turnout-worker")),
            format!("launcher = {:?}", programs.join("turnout-launcher")),
            format!("onnxruntime = {onnxruntime:?}"),
        ];
        lines.extend(models.iter().map(|(model, port)| format!("[models.{model}]\nport = {port}")));
        lines.join("\n") + "\n"
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if let Err(error) = clear(&self.remains) {
            eprintln!("warning: instance `{}` is not cleared: {error:#}", self.settings.name);
        }
    }
}

/// An empty folder and a cgroup's name for whatever a test runs, cleared of what an earlier run of this name has left.
///
/// # Errors
/// What could not be cleared or made.
pub(crate) fn fresh_place(name: &str) -> Result<Remains> {
    own_base()?;
    let cgroup = cgroup_root()?.join(format!("turnout-{name}"));
    let remains = Remains { folder: Path::new(BASE).join(name), cgroup };
    clear(&remains).with_context(|| format!("an earlier instance `{name}` cannot be cleared"))?;
    fs::create_dir(&remains.folder)
        .with_context(|| format!("cannot create `{}`", remains.folder.display()))?;
    Ok(remains)
}

/// Copies a program that is then started. A process of its own makes the copy: a file that this one wrote would be open for
/// writing in each child that another test starts meanwhile, and cannot be executed until that child has its program.
///
/// # Errors
/// When `cp` fails.
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg(from).arg(to).status().context("cannot start `cp`")?;
    if !copied.success() {
        bail!("cannot copy `{}` to `{}`", from.display(), to.display());
    }
    Ok(())
}

/// Ends and clears an instance that was kept, or left behind by a killed test.
///
/// # Errors
/// What could not be cleared.
pub fn clear_by_name(name: &str) -> Result<()> {
    let cgroup = cgroup_root()?.join(format!("turnout-{name}"));
    clear(&Remains { folder: Path::new(BASE).join(name), cgroup })
}

/// Takes everything away, the folder last.
///
/// # Errors
/// What could not be taken away.
pub(crate) fn clear(remains: &Remains) -> Result<()> {
    remains.clear()?;
    match fs::remove_dir_all(&remains.folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", remains.folder.display()))
        }
        _ => Ok(()),
    }
}

/// Makes sure the folder of all instances is this user's own: what is in it gets mounted and executed.
fn own_base() -> Result<()> {
    match DirBuilder::new().mode(0o711).create(BASE) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => return other.with_context(|| format!("cannot create `{BASE}`")),
    }
    let found = fs::symlink_metadata(BASE)?;
    let own =
        found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if !own {
        bail!("`{BASE}` is not a folder that only this user can write to; remedy: remove it");
    }
    Ok(())
}

/// Where cgroup2 is mounted.
fn cgroup_root() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let line = table.lines().find(|line| line.contains(" - cgroup2 "));
    let point = line.and_then(|line| line.split(' ').nth(4)).map(PathBuf::from);
    point.context("no cgroup2 is mounted; remedy: `mount -t cgroup2 none /sys/fs/cgroup/unified`")
}

/// `turnoutctl`, set to one daemon.
#[derive(Debug, Clone)]
pub struct Ctl {
    /// The program.
    pub program: PathBuf,
    /// The daemon's socket.
    pub socket: PathBuf,
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The command as typed, without socket and output format.
    pub command: String,
    /// Exit code; absent when it was killed.
    pub code: Option<i32>,
    /// The last line of its standard output that is JSON, or null.
    pub value: Value,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ctl {
    /// Runs a command for its JSON, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Answered> {
        let mut command = Command::new(&self.program);
        command
            .arg("--socket")
            .arg(&self.socket)
            .args(["--output", "json"])
            .args(arguments)
            .stdin(Stdio::null());
        let output =
            command.output().with_context(|| format!("cannot start `{}`", self.program.display()))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let whole = serde_json::from_str(&stdout).ok();
        let last = || stdout.lines().rev().find_map(|line| serde_json::from_str(line).ok());
        Ok(Answered {
            command: format!("turnoutctl {}", arguments.join(" ")),
            code: output.status.code(),
            value: whole.or_else(last).unwrap_or_default(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            stdout,
        })
    }

    /// Runs a command that must succeed.
    ///
    /// # Errors
    /// When it does not: with its own message.
    pub fn ok(&self, arguments: &[&str]) -> Result<Answered> {
        self.run(arguments)?.expect(0)
    }
}

impl Answered {
    /// This answer, if the command ended with this exit code.
    ///
    /// # Errors
    /// When it ended otherwise: with its own message.
    pub fn expect(self, code: i32) -> Result<Self> {
        if self.code == Some(code) {
            return Ok(self);
        }
        let ended = self.code.map_or("a signal".to_owned(), |code| format!("code {code}"));
        let said = if self.stderr.trim().is_empty() { self.stdout.trim() } else { self.stderr.trim() };
        bail!("`{}` ended with {ended}, not {code}: {said}", self.command)
    }

    /// A text in its JSON, by pointer: `/state`.
    ///
    /// # Errors
    /// When there is none.
    pub fn text(&self, pointer: &str) -> Result<&str> {
        let found = self.value.pointer(pointer).and_then(Value::as_str);
        found.with_context(|| {
            format!("the answer of `{}` has no text at `{pointer}`: {}", self.command, self.value)
        })
    }

    /// A number in its JSON, by pointer, if there is one.
    pub fn number(&self, pointer: &str) -> Option<u64> {
        self.value.pointer(pointer).and_then(Value::as_u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answered(code: i32, stderr: &str) -> Answered {
        let command = "turnoutctl model import x".to_owned();
        let value = json!({"state": "promoted", "timings": {"ready_ms": 40, "breach_to_home_ms": null}});
        Answered { command, code: Some(code), value, stdout: String::new(), stderr: stderr.to_owned() }
    }

    #[test]
    fn an_unexpected_exit_code_is_an_error_with_the_commands_own_words() {
        assert!(answered(3, "").expect(3).is_ok());
        let error = answered(3, "error: not signed\n").expect(0).unwrap_err().to_string();
        assert_eq!(error, "`turnoutctl model import x` ended with code 3, not 0: error: not signed");
    }

    #[test]
    fn fields_of_an_answer_are_found_or_said_to_be_missing() {
        let answer = answered(0, "");
        assert_eq!(answer.text("/state").unwrap(), "promoted");
        assert!(answer.text("/cause").unwrap_err().to_string().contains("has no text at `/cause`"));
        let numbers = ["/timings/ready_ms", "/timings/breach_to_home_ms"].map(|at| answer.number(at));
        assert_eq!(numbers, [Some(40), None]);
    }

    #[test]
    fn an_instance_without_its_programs_is_refused_and_leaves_nothing() {
        let empty = tempfile::tempdir().unwrap();
        let name = format!("no-programs-{}", std::process::id());
        let refusal = Instance::create(Settings {
            name: name.clone(),
            ports: 8700..=8701,
            worker_uid_base: 61_000,
            models: BTreeMap::new(),
            programs: empty.path().to_owned(),
            onnxruntime: empty.path().join("libonnxruntime.so"),
        });
        assert!(refusal.unwrap_err().to_string().contains("remedy"));
        assert!(!Path::new(BASE).join(name).exists());
    }
}
