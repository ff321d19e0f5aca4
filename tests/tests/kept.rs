//! An auditor's day, through the command line on a real store: snapshots on demand, mounted for a while, held, compared,
//! exported and checked, while traffic flows and the daemon dies in between; then versions are deleted.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::io::FdFlags;
use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use turnout_manifest::Sha256;
use turnout_protocol::control::ReleaseState;
use turnout_scenarios::models::{self, FIRST, Source};
use turnout_scenarios::scenario::{LIMIT, Scene, names, play, until};

/// Time for which a snapshot is mounted; the daemon is dead when it is over.
const SHORT: Duration = Duration::from_secs(10);

#[test]
fn evidence_is_taken_read_exported_and_deleted_beside_traffic() {
    play("kept", |scene| {
        scene.instance.configure("retention.keep_last", "2")?;
        scene.open_with(&["better", "slow"])?;
        let traffic = scene.traffic()?;
        let first = taken(scene, "before the change")?;
        scene.ctl.ok(&[
            "release",
            "start",
            "digits@better",
            "--wait",
            "--timeout",
            "30s",
            "--plan",
            &at_once(scene)?,
        ])?;
        let second = taken(scene, "after the change")?;
        index_shows(scene)?;
        mounts_end(scene, &first)?;
        compares(scene, (&first, &second))?;
        exports(scene, &first)?;
        prunes(scene, &first)?;
        removes(scene)?;
        let verified = scene.ctl.ok(&["audit", "verify"])?;
        ensure!(verified.value["size"].as_u64().is_some_and(|size| size > 50), "{}", verified.value);
        scene.finish_whole(traffic).map(drop)
    });
}

fn at_once(scene: &Scene) -> Result<String> {
    scene.plan("steps: [{percent: 100}]\nwindow: 200ms\nminimum_requests: 1\nwindows: {look_back: 1, consecutive: 1}\n")
}

fn taken(scene: &Scene, note: &str) -> Result<String> {
    let made = scene.ctl.ok(&["audit", "snapshot", "--note", note])?;
    ensure!(made.text("/note")? == note, "{}", made.value);
    made.text("/name").map(str::to_owned)
}

fn rows(scene: &Scene, filters: &[&str]) -> Result<Vec<Value>> {
    let list = scene.ctl.ok(&[&["audit", "snapshots"], filters].concat())?;
    list.value["snapshots"].as_array().cloned().context("no list of snapshots")
}

fn index_shows(scene: &Scene) -> Result<()> {
    let all = rows(scene, &[])?;
    let reasons: Vec<&str> = all.iter().filter_map(|row| row["reason"].as_str()).collect();
    let of = |reason: &str| reasons.iter().filter(|word| **word == reason).count();
    ensure!((of("import"), of("release"), of("request")) == (3, 4, 2), "{reasons:?}");
    let better = rows(scene, &["--model", "digits", "--version", "better", "--since", "1h"])?;
    ensure!(!better.is_empty() && better.len() < all.len(), "{} of {}", better.len(), all.len());
    ensure!(rows(scene, &["--model", "cancer"])?.is_empty(), "no snapshot shows another model");
    Ok(())
}

/// Mounted until its time is over, although the daemon is killed meanwhile and its time is over before the next one runs.
fn mounts_end(scene: &mut Scene, snapshot: &str) -> Result<()> {
    let dir = scene.instance.folder().join("mnt");
    fs::create_dir(&dir)?;
    let at = models::text(&dir)?.to_owned();
    scene.ctl.ok(&["audit", "mount", snapshot, &at, "--for", "10m"])?;
    ensure!(
        names(&dir) == ["config.toml", "journal", "state.json", "trust.json", "versions"],
        "{:?}",
        names(&dir)
    );
    let refused = fs::write(dir.join("state.json"), "x").err().map(|error| error.kind());
    ensure!(refused == Some(std::io::ErrorKind::ReadOnlyFilesystem), "{refused:?}");
    scene.ctl.ok(&["audit", "verify", &at])?;
    scene.ctl.ok(&["audit", "unmount", &at])?;
    ensure!(names(&dir).is_empty(), "{:?}", names(&dir));

    let short = format!("{}s", SHORT.as_secs());
    scene.ctl.ok(&["audit", "mount", snapshot, &at, "--for", &short])?;
    scene.instance.kill()?;
    std::thread::sleep(SHORT + Duration::from_secs(1));
    ensure!(!names(&dir).is_empty(), "nobody is there to take it away");
    scene.instance.start()?;
    until("the mount is taken away", LIMIT, || Ok(names(&dir).is_empty().then_some(())))?;
    let ended = |record: &Value| record["event"] == "mount-ended" && record["why"] == "its time was over";
    until("the journal says so", LIMIT, || Ok(scene.records(0)?.iter().any(ended).then_some(())))
}

fn compares(scene: &Scene, (first, second): (&str, &str)) -> Result<()> {
    let found = scene.ctl.ok(&["audit", "diff", first, second])?.value;
    let live = &found["live"][0];
    ensure!(live["from"]["version"] == FIRST && live["to"]["version"] == "better", "{live}");
    ensure!(found["versions"][0]["weights"][0]["change"] == "changed", "{}", found["versions"]);
    ensure!(
        found["trust"] == serde_json::json!([]) && found["journal_records"].as_i64() > Some(5),
        "{found}"
    );
    Ok(())
}

/// The stream, received on another Btrfs, has the files that the host signed; one changed byte is found.
fn exports(scene: &Scene, snapshot: &str) -> Result<()> {
    let folder = scene.instance.folder();
    let (file, key) = (folder.join("case.btrfs"), folder.join("host.pem"));
    scene.ctl.ok(&["audit", "export", snapshot, "-o", models::text(&file)?])?;
    let printed = scene.ctl.ok(&["audit", "key"])?;
    fs::write(&key, printed.text("/public_key")?)?;
    // The test's own store has room for a second copy, beside the first.
    let into = scene.instance.state().join("store/received");
    fs::create_dir(&into)?;
    let received =
        std::process::Command::new("btrfs").arg("receive").arg("-f").arg(&file).arg(&into).output()?;
    ensure!(received.status.success(), "{received:?}");
    let copy = into.join(snapshot);
    let list = folder.join("case.btrfs.digests.json");
    let check = |dir: &Path, key: &Path| {
        let arguments = [models::text(dir)?, "--digests", models::text(&list)?, "--key", models::text(key)?];
        scene.ctl.run(&[&["audit", "check"], &arguments[..]].concat())
    };
    check(&copy, &key)?.expect(0)?;
    let tampered = folder.join("tampered");
    let copied = std::process::Command::new("cp").arg("-r").arg(&copy).arg(&tampered).status()?;
    ensure!(copied.success(), "cp");
    fs::write(tampered.join("state.json"), "{}")?;
    fs::write(tampered.join("more"), "x")?;
    let found = check(&tampered, &key)?.expect(3)?;
    ensure!(found.value["differences"].as_array().is_some_and(|lines| lines.len() == 2), "{}", found.value);
    let other = folder.join("other.pem");
    scene.ctl.ok(&["key", "generate", models::text(&other)?])?;
    check(&copy, &folder.join("other.pub.pem"))?.expect(3)?;
    let deleted = std::process::Command::new("btrfs").args(["subvolume", "delete"]).arg(&copy).status()?;
    ensure!(deleted.success(), "btrfs subvolume delete");
    fs::remove_dir(&into).map_err(Into::into)
}

/// Two snapshots are to be kept; more stay: those of the live and the last good version, and the held one.
fn prunes(scene: &Scene, held: &str) -> Result<()> {
    scene.ctl.ok(&["audit", "hold", held, "--reason", "case 17"])?;
    let before = rows(scene, &[])?;
    let would = scene.ctl.ok(&["audit", "prune", "--dry-run"])?.value;
    ensure!(rows(scene, &[])? == before, "a dry run changes nothing");
    let went = scene.ctl.ok(&["audit", "prune"])?.value;
    ensure!(
        went["gone"] == would["gone"] && went["gone"].as_array().is_some_and(|gone| gone.len() == 3),
        "{went}"
    );
    let left = rows(scene, &[])?;
    ensure!(left.len() + 3 == before.len(), "{left:?}");
    let notes: Vec<&str> = left.iter().filter_map(|row| row["note"].as_str()).collect();
    for note in
        ["before the change", "before r-1", "after r-1", "before r-2", "after r-2", "after the change"]
    {
        ensure!(notes.contains(&note), "{note} is gone: {notes:?}");
    }
    let records = scene.records(0)?;
    let at = |event: &str| records.iter().position(|record| record["event"] == event);
    ensure!(at("snapshot-deleting") < at("snapshot-deleted"), "announced before it happens");
    scene.ctl.ok(&["audit", "release-hold", held]).map(drop)
}

fn removes(scene: &Scene) -> Result<()> {
    for needed in [FIRST, "better"] {
        let refused = scene.ctl.run(&["model", "remove", &format!("digits@{needed}")])?.expect(1)?;
        ensure!(refused.stderr.contains("must stay"), "{}", refused.stderr);
    }
    scene.ctl.ok(&["model", "remove", "digits@slow"])?;
    let stored = names(&scene.instance.state().join("store/versions"));
    ensure!(stored.len() == 2, "{stored:?}");
    // The label stays bound to its content, which may come back.
    models::import(&scene.ctl, &scene.bundles.join("digits-slow"))?.expect(0)?;
    let shown = scene.ctl.ok(&["store", "show"])?.value;
    ensure!(shown["kind"] == "btrfs-image" && shown["versions"] == 3, "{shown}");
    let total = shown["total_bytes"].as_u64().context("no size")?;
    let larger = format!("{}MiB", (total >> 20) + 64);
    let grown = scene.ctl.ok(&["store", "grow", &larger])?.value;
    ensure!(grown["total_bytes"].as_u64() == Some(total + (64 << 20)), "{grown}");
    let scrubbed = scene.ctl.ok(&["store", "scrub"])?.value;
    ensure!(scrubbed["errors"] == 0 && scrubbed["bytes"].as_u64() > Some(0), "{scrubbed}");
    Ok(())
}

#[test]
fn a_store_whose_disk_fails_leaves_traffic_as_it_is() {
    play("failing-store", |scene| {
        let disk = sparse_store(scene)?;
        scene.open_with(&["better"])?;
        let traffic = scene.traffic()?;
        let filler = fs::File::create(disk.join("filler"))?;
        for size in [1 << 20, 4096] {
            while (&filler).write_all(&vec![1; size]).is_ok() {}
        }
        until("the kernel stops writing to the store", LIMIT, || {
            scene.ctl.run(&["audit", "snapshot"])?;
            let shown = scene.ctl.ok(&["store", "show"])?.value;
            Ok((shown["read_only"] == true).then_some(()))
        })?;
        let refused = scene.ctl.run(&["audit", "snapshot"])?.expect(1)?;
        ensure!(refused.stderr.contains("the store is read-only"), "{}", refused.stderr);
        let bundle = scene.signed(Source::of("digits", "slow"))?;
        let refused = models::import(&scene.ctl, &bundle)?.expect(1)?;
        ensure!(refused.stderr.contains("the store is read-only"), "{}", refused.stderr);
        // A new release does not begin without its evidence, and leaves no stuck model behind.
        scene
            .ctl
            .run(&[
                "release",
                "start",
                "digits@better",
                "--wait",
                "--timeout",
                "30s",
                "--plan",
                &at_once(scene)?,
            ])?
            .expect(3)?;
        let release = scene.last_release()?.context("no release")?;
        ensure!(release.state == ReleaseState::RolledBack && release.causes.len() == 2, "{release:?}");
        // The next daemon comes up on it as well.
        scene.instance.kill()?;
        scene.instance.start()?;
        let live = scene.digits()?.context("digits is gone")?.versions;
        ensure!(live.len() == 1 && live[0].version.as_str() == FIRST, "{live:?}");
        scene.finish_whole(traffic).map(drop)
    });
}

/// Puts the store on a sparse image of a small disk, which the daemon itself never would: a disk that can be filled is
/// a way to real I/O errors.
fn sparse_store(scene: &Scene) -> Result<PathBuf> {
    let disk = scene.instance.folder().join("disk");
    fs::create_dir(&disk)?;
    rustix::mount::mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), c"size=96m")?;
    let image = disk.join("store.img");
    fs::File::create(&image)?.set_len(300 << 20)?;
    let made = std::process::Command::new("mkfs.btrfs").arg("--quiet").arg(&image).status()?;
    ensure!(made.success(), "mkfs.btrfs");
    fs::create_dir(scene.instance.state())?;
    std::os::unix::fs::symlink(&image, scene.instance.state().join("store.img"))?;
    Ok(disk)
}

#[test]
fn a_host_without_btrfs_releases_without_snapshots_and_says_so() {
    play("folder-store", |scene| {
        scene.instance.configure("store.kind", "\"folder\"")?;
        scene.open_with(&["better", "slow"])?;
        let traffic = scene.traffic()?;
        let plan = at_once(scene)?;
        scene.ctl.ok(&[
            "release",
            "start",
            "digits@better",
            "--wait",
            "--timeout",
            "30s",
            "--plan",
            &plan,
        ])?;
        scene.ctl.ok(&["rollback", "digits", "--wait"])?;
        let live = scene.digits()?.context("digits is gone")?.versions;
        ensure!(live.len() == 1 && live[0].version.as_str() == FIRST, "{live:?}");
        ensure!(rows(scene, &[])?.is_empty(), "a snapshot of what?");
        let refused = scene.ctl.run(&["audit", "snapshot"])?.expect(3)?;
        ensure!(refused.stderr.contains("keeps no snapshots"), "{}", refused.stderr);
        scene.ctl.run(&["model", "remove", "digits@better"])?.expect(1)?;
        scene.ctl.ok(&["model", "remove", "digits@slow"])?;
        ensure!(scene.ctl.ok(&["store", "show"])?.value["kind"] == "folder", "another kind of store");
        let told = until("the host is examined", LIMIT, || {
            Ok(scene.status()?.degraded.into_iter().find(|line| line.starts_with("btrfs")))
        })?;
        ensure!(told.contains("No audit snapshots"), "{told}");
        scene.instance.kill()?;
        scene.instance.start()?;
        scene.finish_whole(traffic).map(drop)
    });
}

/// A folder that is open in the daemon and must not be in what it starts.
const LEAKED: &str = "/usr";
/// Where snapshots are served in this network.
const HTTP: &str = "127.0.0.1:8790";

#[test]
fn snapshots_are_read_over_http_through_a_process_without_rights() {
    play("audit-http", |scene| {
        scene.instance.configure("audit.http.listen", &format!("{HTTP:?}"))?;
        // As a library opens it that does not think of execve(2): what the daemon starts has it too.
        let leaked = fs::File::open(LEAKED)?;
        rustix::io::fcntl_setfd(&leaked, FdFlags::empty())?;
        scene.open_with(&[])?;
        drop(leaked);
        let daemon = scene.instance.pid().context("no daemon")?;
        ensure!(held_by(daemon)?.iter().any(|held| held == LEAKED), "the daemon does not have it");
        let snapshot = taken(scene, "to be read")?;
        reads(scene, &snapshot)?;
        leads_nowhere_else(&snapshot)?;
        has_no_rights(scene)?;
        // It is started again when it dies, and goes with the daemon.
        kill_process(view_process(scene)?, Signal::KILL)?;
        until("it is served again", LIMIT, || {
            Ok(get(&format!("/{snapshot}/"), "").ok().filter(|a| a.status == 200))
        })?;
        let process = view_process(scene)?;
        scene.instance.kill()?;
        let gone = || Ok((!Path::new(&format!("/proc/{}", process.as_raw_nonzero())).exists()).then_some(()));
        until("the process is gone with its daemon", LIMIT, gone)
    });
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

/// One request on a connection of its own, with the path as it is.
fn ask(method: &str, path: &str, headers: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(HTTP)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: audit\r\nconnection: close\r\n{headers}\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("no head")?;
    let head = String::from_utf8(bytes[..end].to_vec())?.to_lowercase();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Answer { status, head, body: bytes[end + 4..].to_vec() })
}

fn get(path: &str, headers: &str) -> Result<Answer> {
    ask("GET", path, headers)
}

fn reads(scene: &Scene, snapshot: &str) -> Result<()> {
    let listed = |path: &str| -> Result<Vec<String>> {
        let listing: Value = serde_json::from_slice(&get(path, "")?.body)?;
        let entries = listing["entries"].as_array().context("no entries")?;
        Ok(entries.iter().filter_map(|entry| entry["name"].as_str()).map(str::to_owned).collect())
    };
    let roots = until("the view is up", LIMIT, || Ok(listed("/").ok()))?;
    ensure!(roots.contains(&format!("{snapshot}/")), "{roots:?}");
    let inside = listed(&format!("/{snapshot}/"))?;
    ensure!(inside == ["config.toml", "journal/", "state.json", "trust.json", "versions/"], "{inside:?}");
    let moved = get(&format!("/{snapshot}"), "")?;
    ensure!(
        moved.status == 308 && moved.head.contains(&format!("location: /{snapshot}/").to_lowercase()),
        "{}",
        moved.head
    );

    let file = scene.instance.state().join("store/audit").join(snapshot).join("state.json");
    let bytes = fs::read(file)?;
    let path = format!("/{snapshot}/state.json");
    let whole = get(&path, "want-repr-digest: sha-256=1\r\n")?;
    ensure!(whole.status == 200 && whole.body == bytes, "{}", whole.head);
    let digest = BASE64_STANDARD.encode(Sha256::of(&bytes).0);
    ensure!(
        whole.head.contains(&format!("repr-digest: sha-256=:{}:", digest.to_lowercase())),
        "{}",
        whole.head
    );
    let part = get(&path, "range: bytes=3-9\r\n")?;
    ensure!(part.status == 206 && part.body == bytes[3..10], "{}", part.head);
    ensure!(part.head.contains(&format!("content-range: bytes 3-9/{}", bytes.len())), "{}", part.head);
    let beyond = get(&path, "range: bytes=99999999-\r\n")?;
    ensure!(
        beyond.status == 416 && beyond.head.contains(&format!("bytes */{}", bytes.len())),
        "{}",
        beyond.head
    );
    let head = ask("HEAD", &path, "")?;
    ensure!(head.status == 200 && head.body.is_empty(), "{}", head.head);
    ensure!(head.head.contains(&format!("content-length: {}", bytes.len())), "{}", head.head);
    Ok(())
}

fn leads_nowhere_else(snapshot: &str) -> Result<()> {
    let above =
        ["/..", "/../", "/../versions", "/%2e%2e/versions/", "//etc/passwd", "/%2Fetc/passwd", "/.", "/a%00"];
    for path in above
        .iter()
        .map(|path| (*path).to_owned())
        .chain([format!("/{snapshot}/../../trust.json"), format!("/{snapshot}/%2e%2e/%2e%2e/host-key.pem")])
    {
        ensure!(get(&path, "")?.status == 400, "{path}");
    }
    let too_long = format!("/{snapshot}/{}", "a".repeat(300));
    let no_folder = format!("/{snapshot}/state.json/");
    for path in ["/etc/passwd", "/proc/self/environ", "/nothing", &no_folder, &too_long] {
        ensure!(get(path, "")?.status == 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        ensure!(ask(method, &format!("/{snapshot}/state.json"), "")?.status == 405, "{method}");
    }
    Ok(())
}

fn view_process(scene: &Scene) -> Result<Pid> {
    let serves = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == b"serve-snapshots"))
    };
    let daemon = scene.instance.pid().context("no daemon")?;
    // A child belongs to the thread that made it: all threads are looked at.
    let tasks = fs::read_dir(format!("/proc/{daemon}/task"))?.flatten();
    let all: String =
        tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    let pids = all.split(' ').filter_map(|word| word.trim().parse::<i32>().ok());
    let found = pids.into_iter().find(|pid| serves(pid)).context("no process serves snapshots")?;
    Pid::from_raw(found).context("no process")
}

fn has_no_rights(scene: &Scene) -> Result<()> {
    let pid = view_process(scene)?.as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    for wanted in [
        "Uid:\t60999\t60999\t60999\t60999",
        "Gid:\t60999\t60999\t60999\t60999",
        "Groups:\t \n",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapInh:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        ensure!(status.contains(wanted), "not `{wanted}`: {status}");
    }
    let root = fs::read_dir(format!("/proc/{pid}/root/"))?.flatten().map(|entry| entry.file_name());
    let outside = root.filter(|name| !name.to_string_lossy().starts_with("000")).count();
    ensure!(outside == 0, "its root holds more than snapshots");
    let own = fs::read_link("/proc/thread-self/ns/net")?;
    ensure!(fs::read_link(format!("/proc/{pid}/ns/net"))? != own, "it has a network");
    let (held, log) = (held_by(pid)?, fs::read_link(format!("/proc/{pid}/fd/2"))?);
    let strange = |held: &&String| {
        !["socket:", "anon_inode:", "pipe:"].iter().any(|kind| held.starts_with(kind))
            && *held != "/"
            && Path::new(held) != log
    };
    ensure!(!held.iter().any(|held| strange(&held)), "{held:?}");
    Ok(())
}

/// What a process has open.
fn held_by(pid: impl std::fmt::Display) -> Result<Vec<String>> {
    let files = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    Ok(files.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.display().to_string())).collect())
}
