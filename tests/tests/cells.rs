//! What a version asks of its cell, on the real kernel: a demand that this host cannot meet is refused before anything
//! begins, CPUs that were set aside are one version's alone, and `status` says what was asked and what holds it.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use turnout_protocol::control::ReleaseState;
use turnout_scenarios::cores::{cpus, last_core};
use turnout_scenarios::models::{self, FIRST, Source};
use turnout_scenarios::scenario::{Scene, play};

/// A plan that ends at once.
const AT_ONCE: &str = "\
strategy: {kind: weight}
steps: [{percent: 100}]
window: 200ms
windows: {look_back: 1, consecutive: 1}
objectives: {error_rate: 0.05}
minimum_requests: 5
";

#[test]
fn a_version_that_requires_what_this_host_lacks_is_refused_with_the_reason_and_on_record() {
    play("require", |scene| {
        scene.open_with(&[])?;
        let cases = [
            ("landlock", "landlock>=900", false, "the kernel has"),
            ("memory", "memory", delegated("memory")?, "no cgroup v2 memory controller is delegated"),
            ("always", "seccomp, cgroup", true, ""),
        ];
        let traffic = scene.traffic()?;
        for (label, demands, met, why) in cases {
            asking(
                scene,
                label,
                ("require: []", &format!("require: [\"{}\"]", demands.replace(", ", "\", \""))),
            )?;
            let before = scene.workers()?;
            let asked = scene.try_release(label, AT_ONCE)?;
            if met {
                asked.expect(0)?;
                let release = scene.ended()?;
                ensure!(release.state == ReleaseState::Promoted, "{release:?}");
                continue;
            }
            let refused = asked.expect(3)?;
            for word in ["requires what this host cannot enforce", demands, why, "doctor"] {
                ensure!(refused.stderr.contains(word), "no `{word}` in: {}", refused.stderr);
            }
            ensure!(scene.workers()? == before, "a worker was started or ended");
            let last = scene.records(0)?.pop().context("an empty journal")?;
            ensure!(last["event"] == "refused" && last["why"].to_string().contains(demands), "{last}");
        }
        scene.finish_whole(traffic).map(drop)
    });
}

#[test]
fn cpus_that_are_set_aside_are_one_versions_alone() {
    play("exclusive", |scene| {
        let Some((own, rest)) = last_core()? else { return Ok(()) };
        scene.instance.configure("exclusive_cpus", &format!("{own:?}"))?;
        scene.open_with(&[])?;
        let shared = scene.workers()?;
        ensure!(allowed(shared[0])? == rest, "burstable on {:?}, not {rest:?}", allowed(shared[0])?);
        asking(scene, "own", ("class: burstable", "class: guaranteed"))?;
        let traffic = scene.traffic()?;
        scene.release("own", AT_ONCE)?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        let worker = scene.workers()?.into_iter().find(|pid| !shared.contains(pid)).context("no worker")?;
        ensure!(allowed(worker)? == own, "guaranteed on {:?}, not {own:?}", allowed(worker)?);
        let cell = scene.digits()?.context("digits is gone")?.versions[0].cell.clone().context("no cell")?;
        ensure!(cell.asked.starts_with("guaranteed, memory 512 MiB"), "{cell:?}");
        ensure!(
            cell.enforced.is_some_and(|text| text.contains("; enforced: seccomp, cgroup")),
            "no word of it"
        );
        // Its cores are taken as long as it serves: a second one has no place, and the first goes on.
        asking(scene, "another", ("class: burstable", "class: guaranteed"))?;
        scene.release("another", AT_ONCE)?;
        let release = scene.ended()?;
        let cause = release.cause.unwrap_or_default();
        ensure!(release.state == ReleaseState::RolledBack && cause.contains("0 of 1 are free"), "{cause}");
        scene.finish_whole(traffic).map(drop)
    });
}

#[test]
fn a_version_gets_the_devices_that_it_asks_for_by_the_hosts_name_and_a_tenants_users() {
    play("shared", |scene| {
        scene.instance.configure("devices", "{ gpu0 = [\"/dev/zero\"], gpu1 = [\"/dev/no-such-gpu\"] }")?;
        let tenant = format!("{{ risk = {{ models = [\"dig*\"], uid_base = {TENANT_UID}, cells = 2 }} }}");
        scene.instance.configure("tenants", &tenant)?;
        scene.open_with(&[])?;
        let first = scene.workers()?;
        ensure!(TENANT_UIDS.contains(&user(first[0])?), "worker of user {}", user(first[0])?);
        for (label, devices, why) in [
            ("unknown", "gpu7", "which this host does not know (it has `gpu0`, `gpu1`)"),
            ("absent", "gpu1", "`/dev/no-such-gpu` is not there"),
        ] {
            asking(scene, label, ("devices: []", &format!("devices: [{devices}]")))?;
            let refused = scene.try_release(label, AT_ONCE)?.expect(3)?;
            ensure!(refused.stderr.contains(why), "no `{why}` in: {}", refused.stderr);
        }
        asking(scene, "gpu", ("devices: []", "devices: [gpu0]"))?;
        let traffic = scene.traffic()?;
        scene.release("gpu", AT_ONCE)?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        let worker = scene.workers()?.into_iter().find(|pid| !first.contains(pid)).context("no worker")?;
        ensure!(
            TENANT_UIDS.contains(&user(worker)?) && user(worker)? != user(first[0]).unwrap_or(0),
            "one user for two"
        );
        let devices = names(&Path::new("/proc").join(worker.to_string()).join("root/dev"))?;
        ensure!(devices == ["null", "zero"], "the cell shows {devices:?}");
        let digits = scene.digits()?.context("digits is gone")?;
        let cell = digits.versions[0].cell.clone().context("no cell")?;
        ensure!(cell.asked.ends_with(", devices gpu0, of tenant risk"), "{cell:?}");
        ensure!(digits.tenant.is_some_and(|tenant| tenant.as_str() == "risk"), "nobody's");
        scene.finish_whole(traffic).map(drop)
    });
}

/// First user of the tenant's cells: nobody's on any machine of ours.
const TENANT_UID: u32 = 1_990_000;
const TENANT_UIDS: std::ops::Range<u32> = TENANT_UID..TENANT_UID + 64;

/// The user of a process.
fn user(pid: i32) -> Result<u32> {
    Ok(fs::metadata(format!("/proc/{pid}"))?.uid())
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut names: Vec<_> =
        entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// The first version again, under another label and with one line of its description changed.
fn asking(scene: &Scene, label: &str, (from, to): (&str, &str)) -> Result<()> {
    let source = Source { model: "digits", version: FIRST, label };
    let folder = models::unsigned(&scene.ctl, &scene.bundles, source)?;
    models::describe(&folder, from, to)?;
    models::sign(&scene.ctl, &folder, &scene.key)?;
    models::import(&scene.ctl, &folder)?.expect(0).map(drop)
}

/// Whether the kernel offers this cgroup v2 controller.
fn delegated(controller: &str) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let root =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|line| line[2] == "cgroup2");
    let root = root.context("no cgroup2 file system")?[1];
    let controllers = fs::read_to_string(Path::new(root).join("cgroup.controllers"))?;
    Ok(controllers.split_whitespace().any(|name| name == controller))
}

/// CPUs that the first thread of a process may run on, as the kernel says.
fn allowed(pid: i32) -> Result<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    cpus(line.context("no list of CPUs")?)
}
