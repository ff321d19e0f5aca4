//! What a version asks of its cell, on the real kernel: a demand that this host cannot meet is refused before anything
//! begins, CPUs that were set aside are one version's alone, and `status` says what was asked and what holds it.

use anyhow::{Context, Result, ensure};
use std::fs;
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
