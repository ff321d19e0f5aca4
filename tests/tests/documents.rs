//! The documents as somebody follows them: each command in a code block of `docs/` is run here as it stands there, in
//! its order, on a daemon of this test's own. What only a booted system can run names the scenario that does, and a
//! command without a place fails.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use turnout_scenarios::models;
use turnout_scenarios::scenario::{LIMIT, Scene, play, until};

/// Documents in the order of a newcomer. What comes later finds what earlier ones made.
const DOCUMENTS: [&str; 8] = [
    "guide.md",
    "audit.md",
    "monitoring.md",
    "install.md",
    "model-signing.md",
    "cells.md",
    "vm-test.md",
    // The last one: with a signed root in force, single keys count no longer.
    "trust.md",
];
/// For how long a command that follows something is watched: it must not end by itself.
const FOLLOWED: Duration = Duration::from_millis(700);

/// How a command is run.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// To its end, which is good.
    Here,
    /// Once the other documents were followed.
    Last,
    /// It follows or serves: it must still run when this document ends.
    Stays,
    /// Elsewhere: a file of this checkout that has this text.
    Elsewhere(&'static str, &'static str),
}

/// What is run otherwise than here and to its end; by the beginning of the command, the first that fits.
const WAYS: &[(&str, Way)] = &[
    ("target/release/turnoutd --config turnout.toml doctor", Way::Here),
    ("target/release/turnoutd --config", Way::Elsewhere("tests/src/daemon.rs", r#"arg("--config")"#)),
    ("turnoutctl release watch", Way::Stays),
    ("turnoutctl audit log [--from SEQ] [--follow]", Way::Stays),
    ("turnout-export --journal <state>/journal --cursor /var/lib/my-export/cursor --follow --to", JOURNALD),
    ("turnout-export --journal", Way::Stays),
    ("turnoutd --config turnout.toml dismantle", Way::Last),
    ("find <state>/store", Way::Last),
    ("rm -r <state> <runtime>", Way::Last),
    (
        "find /var/lib/turnout/store",
        Way::Elsewhere(
            "packaging/deb/postrm",
            "-xdev -depth -inum 256 -type d -exec btrfs --quiet subvolume delete",
        ),
    ),
    ("rm -r /var/lib/turnout /var", Way::Elsewhere("packaging/deb/postrm", "rm -rf /var/lib/turnout-export")),
    (
        "turnout-export metrics --listen",
        Way::Elsewhere("systemd/turnout-metrics.service", "turnout-export metrics --cursor"),
    ),
    ("turnout-export metrics", Way::Stays),
    ("turnoutctl log", JOURNALD),
    ("journalctl", JOURNALD),
    ("systemctl enable --now turnout-metrics", booted("systemctl start turnout-metrics.service")),
    ("systemctl enable --now turnout-export", booted("systemctl start turnout-export.service")),
    ("systemctl enable --now turnout-audit-view", booted("systemctl start turnout-audit-view.socket")),
    ("curl -s localhost:8790/", booted("curl -sf localhost:8790/")),
    ("turnoutctl audit witness http", Way::Elsewhere("tests/tests/checkpoints.rs", r#""audit", "witness""#)),
    (
        "turnoutd --config /etc/turnout/turnout.toml new-log",
        Way::Elsewhere("tests/tests/checkpoints.rs", "\"new-log\""),
    ),
    (
        "turnoutd --config /etc/turnout/turnout.toml --launcher-service",
        Way::Elsewhere("packaging/deb/prerm", "/turnout-launcher.service dismantle"),
    ),
    (
        "systemctl stop turnoutd.socket turnoutd.service",
        restored("systemctl stop turnoutd.socket turnoutd.service"),
    ),
    ("btrfs receive -f turnout-NAME.btrfs", restored("btrfs receive -q -f")),
    (
        "rm -r /var/lib/turnout/journal",
        restored("rm -r /var/lib/turnout/journal /var/lib/turnout/journal-signed"),
    ),
    (
        "cp -a /mnt/archive/NAME/journal",
        restored("cp -a \"$ARCHIVE/$name/journal\" \"$BACKUP/trust.json\" /var/lib/turnout/"),
    ),
    ("systemctl stop turnout.slice", moved("systemctl stop turnout.slice")),
    ("systemctl disable --now turnout-export", booted("systemctl stop turnout-export.service")),
    ("rm -f /var/lib/turnout-export/cursor", moved("rm -f /var/lib/turnout-export/cursor")),
    ("mount /var/lib/turnout", moved("mount -o loop \"$WORK/$kind.img\" /var/lib/turnout")),
    ("chgrp -R turnout-export", restored("chgrp -R turnout-export /var/lib/turnout/journal")),
    (
        "systemd-tmpfiles --create",
        Way::Elsewhere("packaging/deb/postinst", "systemd-tmpfiles --create turnout.conf"),
    ),
    (
        "systemctl start turnoutd.socket turnoutd.service",
        restored("systemctl start turnoutd.socket turnoutd.service"),
    ),
    ("apt install ./turnout_0.1.0", Way::Elsewhere("tests/vm/lib.sh", "dpkg -i \"$TURNOUT_DEB\"")),
    ("apt install ./turnout_0.2.0", Way::Elsewhere("tests/vm/scenarios/upgrade", "TURNOUT_DEB_NEXT")),
    ("usermod --append --groups turnout", Way::Elsewhere("tests/vm/lib.sh", "--groups turnout")),
    ("cargo xtask dist", Way::Elsewhere("xtask/src/vm/payload.rs", "dist")),
    ("turnoutctl oms verify digits --signature digits.sig --cert-root", CERTIFICATES),
    ("model_signing verify", Way::Elsewhere("tests/tests/oms.rs", "model_signing")),
    (
        "turnoutctl release start fraud@1.4.0 limits",
        Way::Elsewhere("tests/tests/together.rs", r#""--set", "vision""#),
    ),
    ("turnoutctl release start digits@memory", Way::Elsewhere("tests/tests/cells.rs", "require")),
    (
        "turnoutctl manifest sign ./fraud-1.4.0 --key 'pkcs11:",
        Way::Elsewhere("daemon/ctl/tests/signing.rs", "pkcs11:"),
    ),
    // It waits for traffic, which this reader has not; one whose order does not count ends at once.
    ("turnoutctl release start fraud@1.4.0 --order", Way::Stays),
    ("systemd-run -P --wait", Way::Elsewhere("daemon/ctl/tests/signing.rs", "credential:")),
];
const JOURNALD: Way = Way::Elsewhere("tests/tests/log.rs", "journalctl");
const CERTIFICATES: Way = Way::Elsewhere("daemon/ctl/tests/oms.rs", "--cert-root");

const fn booted(text: &'static str) -> Way {
    Way::Elsewhere("tests/vm/scenarios/install", text)
}

const fn moved(text: &'static str) -> Way {
    Way::Elsewhere("tests/vm/scenarios/another-disk", text)
}

const fn restored(text: &'static str) -> Way {
    Way::Elsewhere("tests/vm/scenarios/restore", text)
}

/// What the reader has by then, made before the command that begins so.
const BEFORE: &[(&str, &str)] = &[
    // Two documents begin with it.
    ("turnoutctl trust add release.pub.pem", "turnoutctl trust remove sha256: || true"),
    ("turnoutctl manifest new ./fraud-1.3.7", "mkdir fraud-1.3.7 && cp $MODEL fraud-1.3.7/model.onnx"),
    ("turnoutctl audit mount 00000121-20261122T152727Z mnt", "mkdir mnt"),
    ("btrfs receive", "mkdir <state>/store/archive"),
    (
        "turnoutctl model remove fraud@1.2.0",
        "mkdir old && cp $MODEL old/model.onnx && turnoutctl manifest new old --model fraud --version 1.2.0 && \
         turnoutctl manifest sign old --key release.pem && turnoutctl model import old",
    ),
    ("cp -a /var/lib/turnout/trust.json", "mkdir BACKUP"),
    (
        "turnoutctl oms verify digits --signature digits.sig --key",
        "mkdir digits && cp $MODEL digits/model.onnx && turnoutctl key generate signer.pem && \
         turnoutctl oms export digits --signature digits.sig --key signer.pem",
    ),
    ("turnoutctl oms export digits", "rm digits.sig"),
    (
        "turnoutctl key generate release.pem --passphrase",
        "rm release.pem release.pub.pem && (umask 077; echo secret > release.pass) && mkdir fraud-1.4.0 && \
         cp $MODEL fraud-1.4.0/model.onnx && turnoutctl manifest new fraud-1.4.0 --model fraud --version 1.4.0",
    ),
    ("turnoutctl manifest sign ./fraud-1.4.0 --append", "turnoutctl key generate approver.pem"),
    // Signed by one alone, so that there is one signature to be checked.
    (
        "turnoutctl manifest export-signature",
        "turnoutctl manifest sign ./fraud-1.4.0 --key release.pem --passphrase file:release.pass",
    ),
    ("turnoutctl trust init", "for name in alice bob ci risk; do turnoutctl key generate $name.pem; done"),
    ("turnoutctl trust history ./trust-root", "cp -r <state>/trust-root ."),
    (
        "turnoutctl trust except ",
        "cp -r fraud-1.4.0 fraud-1.4.1 && sed -i 's/1.4.0/1.4.1/; s/^channel: .*/channel: staging/' fraud-1.4.1/turnout.yaml && \
         turnoutctl manifest sign fraud-1.4.1 --key ci.pem",
    ),
    ("turnoutctl trust apply exception.json", IN_FORCE),
    ("turnoutctl order new", IN_FORCE),
    (
        "turnoutctl order new",
        "turnoutctl manifest sign fraud-1.4.0 --key ci.pem && turnoutctl manifest sign fraud-1.4.0 --append --key risk.pem && \
         turnoutctl model import fraud-1.4.0",
    ),
];
/// The draft of the next root, signed by both who may change it, as it is wanted for what comes.
const IN_FORCE: &str = "turnoutctl trust sign next.json --key alice.pem && turnoutctl trust sign next.json --key bob.pem && \
     turnoutctl trust apply next.json && rm next.json";

/// What the reader would do after the command that begins so, to go on.
const AFTER: &[(&str, &str)] = &[
    (
        "turnoutctl trust remove",
        "turnoutctl trust add release.pub.pem --issuer risk-models --models 'fraud*'",
    ),
    ("turnoutctl audit mount 00000121-20261122T152727Z mnt", "turnoutctl audit unmount mnt"),
];

#[test]
fn each_command_of_the_documents_does_what_it_is_there_for() {
    play("documents", |scene| {
        scene.instance.start()?;
        let reader = Reader::begin(scene)?;
        let mut last = Vec::new();
        for document in DOCUMENTS {
            let mut staying = Vec::new();
            for command in commands(document)? {
                let within = || format!("docs/{document}: `{command}`");
                match way(&command) {
                    Way::Here => reader.follow(&command).with_context(within)?,
                    Way::Last => last.push(command),
                    Way::Stays => staying.push((reader.start(&command).with_context(within)?, command)),
                    Way::Elsewhere(file, text) => is_run_in(file, text).with_context(within)?,
                }
            }
            std::thread::sleep(FOLLOWED);
            staying.into_iter().try_for_each(|(child, command)| ended(child, &command))?;
        }
        scene.instance.stop()?;
        last.iter().try_for_each(|command| reader.follow(command))
    });
}

/// The commands in a document's code blocks: after `$`, or after `#` where root is meant.
fn commands(document: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("docs").join(document))?;
    let mut block = None;
    let mut found = Vec::new();
    for line in text.replace("\\\n", "").lines() {
        if let Some(language) = line.strip_prefix("```") {
            block = block.is_none().then_some(language);
        } else if block == Some("")
            && let Some(command) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "))
        {
            let command = command.split_once("  #").map_or(command, |(command, _)| command);
            found.push(command.trim_end().to_owned());
        }
    }
    Ok(found)
}

fn way(command: &str) -> Way {
    WAYS.iter().find(|(begin, _)| command.starts_with(begin)).map_or(Way::Here, |(_, way)| *way)
}

fn is_run_in(file: &str, text: &str) -> Result<()> {
    let found = fs::read_to_string(root().join(file)).with_context(|| file.to_owned())?;
    ensure!(found.contains(text), "`{file}` no longer has `{text}`: where is this command run now?");
    Ok(())
}

fn ended(mut child: Child, command: &str) -> Result<()> {
    if let Some(status) = child.try_wait()? {
        bail!("`{command}` ended by itself: {status}");
    }
    // The shell was replaced by the program.
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Somebody who reads, and types what stands there into a shell in a folder of their own.
struct Reader {
    folder: PathBuf,
    state: PathBuf,
    runtime: PathBuf,
    socket: PathBuf,
    programs: PathBuf,
}

impl Reader {
    fn begin(scene: &Scene) -> Result<Self> {
        let folder = scene.instance.folder().join("reader");
        fs::create_dir(&folder)?;
        fs::copy(scene.instance.config(), folder.join("turnout.toml"))?;
        let socket = scene.instance.socket();
        let runtime = socket.parent().context("a socket lies in a folder")?.to_owned();
        let programs = scene.ctl.program.parent().context("a program lies in a folder")?.to_owned();
        Ok(Self { folder, state: scene.instance.state(), runtime, socket, programs })
    }

    /// The command, with what is made before it and after it.
    fn follow(&self, command: &str) -> Result<()> {
        let of = |table: &[(&str, &'static str)]| {
            let wanted = table.iter().filter(|(begin, _)| command.contains(begin));
            wanted.map(|(_, extra)| *extra).collect::<Vec<_>>()
        };
        for command in of(BEFORE).into_iter().chain([command]).chain(of(AFTER)) {
            // What serves at the other end may have begun only just now.
            let patient = command.starts_with("curl");
            let done = until("the command does not fail", LIMIT, || {
                let done = self.shell(command)?.output()?;
                Ok((done.status.success() || !patient).then_some(done))
            })?;
            succeeded(&done)?;
        }
        Ok(())
    }

    fn start(&self, command: &str) -> Result<Child> {
        let command = format!("exec {command}");
        self.shell(&command)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(Into::into)
    }

    fn shell(&self, command: &str) -> Result<Command> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", &self.meant(command)?])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .env("TURNOUT_SOCKET", &self.socket)
            .env("MODEL", models::file("digits", models::FIRST))
            .env("EDITOR", "true");
        Ok(shell)
    }

    /// The command with this machine's names in place of the document's.
    fn meant(&self, command: &str) -> Result<String> {
        let shown = |path: &Path| path.display().to_string();
        let mut meant = command.to_owned();
        for (written, here) in [
            ("target/release/", String::new()),
            ("[--from SEQ] [--follow]", "--from 0 --follow".to_owned()),
            ("audit verify DIR", "audit verify <state>/journal".to_owned()),
            ("/var/lib/my-export", shown(&self.folder)),
            ("/mnt/archive", "<state>/store/archive".to_owned()),
            ("/var/lib/turnout", "<state>".to_owned()),
            ("/run/turnout", "<runtime>".to_owned()),
            ("ssh backup", "bash -c".to_owned()),
            ("<state>", shown(&self.state)),
            ("<runtime>", shown(&self.runtime)),
            ("r-4", "r-1".to_owned()),
            ("16acfed4...c5b65100.sig", "*.sig".to_owned()),
            ("--host web-1", "--host $(uname -n)".to_owned()),
        ] {
            meant = meant.replace(written, &here);
        }
        if meant.contains("sha256:16acfed4...") {
            let key =
                self.said("turnoutctl trust list --output ndjson | grep -o 'sha256:[0-9a-f]*' | head -n 1")?;
            meant = meant.replace("sha256:16acfed4...", &key);
        }
        self.snapshots(meant)
    }

    /// Each name of a snapshot, in its order, by one that is there.
    fn snapshots(&self, mut command: String) -> Result<String> {
        let written =
            ["00000121-20261122T152727Z", "00000042-20261122T135501Z", "00000071-20261123T090000Z", "NAME"];
        if written.iter().any(|name| command.contains(name)) {
            let list = self.said("turnoutctl audit snapshots --output json | grep -o '[0-9]\\{8\\}-[0-9]\\{8\\}T[0-9]\\{6\\}Z' | sort -u")?;
            let (first, newest) = (list.lines().next(), list.lines().last());
            let (first, newest) = first.zip(newest).context("there is no snapshot")?;
            for (name, here) in written.into_iter().zip([newest, first, newest, first]) {
                command = command.replace(name, here);
            }
        }
        Ok(command)
    }

    fn said(&self, command: &str) -> Result<String> {
        let mut shell = self.shell(command)?;
        let done = shell.output()?;
        succeeded(&done)?;
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    }
}

fn succeeded(done: &Output) -> Result<()> {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(done.status.success(), "{}: {}\n{}", done.status, said(&done.stderr), said(&done.stdout));
    Ok(())
}
