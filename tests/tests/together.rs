//! Two models released as one set under live traffic: all or none, in one step for whoever reads their files, whatever
//! happens to the daemon meanwhile.

use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use turnout_protocol::control::{ReleaseState, ReleaseStatus};
use turnout_scenarios::kills::{kill_once, kind, of_a_release};
use turnout_scenarios::load::Running;
use turnout_scenarios::models::{FIRST, MODELS, Source};
use turnout_scenarios::scenario::{CANARY, RELEASE_LIMIT, Scene, THOROUGH, play, until, whole};

/// Kills that one release may take: a few for each of its records.
const KILLS_MAX: usize = 600;

#[test]
fn two_models_are_promoted_in_one_step_and_neither_clients_nor_readers_notice_a_gap() {
    play("set", |scene| {
        open(scene, &[("digits", "better"), ("cancer", "better")])?;
        let traffic = traffic(scene)?;
        let reader = Reader::begin(scene)?;
        let plan = scene.plan(CANARY)?;
        let start = ["release", "start", "digits@better", "cancer@better", "--set", "vision"];
        let dry = scene.ctl.run(&[&start[..], &["--dry-run"]].concat())?.expect(0)?;
        ensure!(dry.value["releases"][1]["steps"].to_string().contains("wait for the rest"), "{}", dry.value);
        scene.ctl.run(&[&start[..], &["--plan", &plan, "--wait", "--timeout", "30s"]].concat())?.expect(0)?;
        for release in ended(scene)? {
            ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        }
        let (old, new) = reader.end()?;
        ensure!(old > 0 && new > 0, "{old} reads of the old versions, {new} of the new ones");
        // Released alone, a model is shown by its set too.
        scene.ctl.ok(&["release", "start", "digits@1.0.0", "--plan", &plan, "--wait", "--timeout", "30s"])?;
        let models = &scene.status()?.sets[0].models;
        let shown: Vec<_> = models.iter().filter_map(|model| model.version.as_ref()).collect();
        ensure!(shown[0].as_str() == "better" && shown[1].as_str() == FIRST, "{shown:?}");
        let read = fs::read(folder(scene)?.join("digits/manifest.dsse.json"))?;
        ensure!(read == manifest(scene, "digits", FIRST)?, "the set shows another version than what is live");
        for traffic in traffic {
            scene.finish_whole(traffic)?;
        }
        scene.ctl.ok(&["audit", "verify"]).map(drop)
    });
}

#[test]
fn a_bad_member_takes_the_good_one_home_with_it() {
    play("set-bad", |scene| {
        open(scene, &[("digits", "errors"), ("cancer", "better")])?;
        let [digits, cancer] = traffic(scene)?;
        let plan = scene.plan(THOROUGH)?;
        let start =
            ["release", "start", "digits@errors", "cancer@better", "--set", "vision", "--plan", &plan];
        scene.ctl.run(&[&start[..], &["--wait", "--timeout", "30s"]].concat())?.expect(3)?;
        let [digits_ended, cancer_ended] = &ended(scene)?[..] else { bail!("there are two releases") };
        for (release, cause) in
            [(digits_ended, "error rate"), (cancer_ended, "`digits`, of the same set: error rate")]
        {
            let found = release.cause.clone().unwrap_or_default();
            ensure!(release.state == ReleaseState::RolledBack && found.starts_with(cause), "{release:?}");
        }
        let read = fs::read(folder(scene)?.join("cancer/manifest.dsse.json"))?;
        ensure!(read == manifest(scene, "cancer", FIRST)?, "the set shows what was rolled back");
        whole(&scene.finish(cancer))?;
        let tally = scene.finish(digits);
        ensure!(tally.failed == 0, "{:?}", tally.failures);
        let good = tally.version(FIRST).context("the old version was never asked")?;
        ensure!(good.all.errors == 0, "{} errors from the good version", good.all.errors);
        scene.ctl.ok(&["audit", "verify"]).map(drop)
    });
}

#[test]
fn a_set_killed_at_each_of_its_records_is_promoted_whole() {
    play("set-each-record", |scene| {
        open(scene, &[("digits", "better"), ("cancer", "better")])?;
        let traffic = traffic(scene)?;
        let reader = Reader::begin(scene)?;
        let from = scene.status()?.journal.size;
        let plan = scene.plan(CANARY)?;
        scene.ctl.ok(&[
            "release",
            "start",
            "digits@better",
            "cancer@better",
            "--set",
            "vision",
            "--plan",
            &plan,
        ])?;
        let (mut next, mut ends, mut kills) = (from, 0, 0);
        while ends < 2 {
            ensure!(kills < KILLS_MAX, "the releases do not end");
            kill_once(scene, next, of_a_release)?;
            kills += 1;
            let records = scene.records(from)?;
            next = from + records.len() as u64;
            ends = records.iter().filter(|record| kind(record) == "ended").count();
            scene.instance.start()?;
        }
        for release in ended(scene)? {
            ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        }
        ensure!(kills > 20, "few kills: {kills}");
        let (old, new) = reader.end()?;
        ensure!(old > 0 && new > 0, "{old} reads of the old versions, {new} of the new ones");
        for traffic in traffic {
            scene.finish_whole(traffic)?;
        }
        scene.ctl.ok(&["audit", "verify"]).map(drop)
    });
}

/// Both models live with their first versions, as a set, and these versions in the store.
fn open(scene: &mut Scene, others: &[(&str, &str)]) -> Result<()> {
    scene.open()?;
    let first = MODELS.map(|model| (model, FIRST));
    for (model, version) in first.iter().chain(others) {
        scene.import(Source::of(model, version))?;
    }
    let start = ["release", "start", "digits@1.0.0", "cancer@1.0.0", "--set", "vision"];
    scene.ctl.ok(&[&start[..], &["--wait", "--timeout", "30s"]].concat()).map(drop)
}

/// Live traffic on each of [`MODELS`].
fn traffic(scene: &Scene) -> Result<[Running; 2]> {
    let [digits, cancer] = MODELS.map(|model| scene.begin(&scene.load_on(model)?));
    Ok([digits?, cancer?])
}

/// The last releases of [`MODELS`], once both are over.
fn ended(scene: &Scene) -> Result<Vec<ReleaseStatus>> {
    until("both releases are over", RELEASE_LIMIT, || {
        let status = scene.status()?;
        let release = |name: &str| {
            let model = status.models.iter().find(|model| model.model.as_str() == name)?;
            model.release.clone().filter(|release| release.state.is_final())
        };
        let releases: Vec<_> = MODELS.into_iter().filter_map(release).collect();
        Ok(Some(releases).filter(|releases| releases.len() == MODELS.len()))
    })
}

fn folder(scene: &Scene) -> Result<PathBuf> {
    Ok(scene.status()?.sets.first().context("no set is shown")?.folder.clone().into())
}

fn manifest(scene: &Scene, model: &str, version: &str) -> Result<Vec<u8>> {
    Ok(fs::read(scene.bundles.join(format!("{model}-{version}")).join("turnout.dsse.json"))?)
}

/// A program that reads the set's files as the guide says: the folder once, then everything below it.
struct Reader {
    stop: Arc<AtomicBool>,
    reads: Arc<[AtomicU64; 2]>,
    reading: JoinHandle<Result<()>>,
}

impl Reader {
    fn begin(scene: &Scene) -> Result<Self> {
        let (stop, reads) = (Arc::<AtomicBool>::default(), Arc::<[AtomicU64; 2]>::default());
        let folder = folder(scene)?;
        let pair = |version| -> Result<Vec<Vec<u8>>> {
            MODELS.iter().map(|model| manifest(scene, model, version)).collect()
        };
        let pairs = [pair(FIRST)?, pair("better")?];
        let reading = std::thread::spawn({
            let (stop, reads) = (Arc::clone(&stop), Arc::clone(&reads));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let found = read_both(&folder)?;
                    let which = pairs.iter().position(|pair| *pair == found).context("a mix of versions")?;
                    reads[which].fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
        });
        Ok(Self { stop, reads, reading })
    }

    /// Reads of the old versions, and of the new ones.
    fn end(self) -> Result<(u64, u64)> {
        let new = || self.reads[1].load(Ordering::Relaxed);
        until("the new versions are read", RELEASE_LIMIT, || {
            Ok((new() > 0 || self.reading.is_finished()).then_some(()))
        })?;
        self.stop.store(true, Ordering::Relaxed);
        let reads = [&self.reads[0], &self.reads[1]].map(|reads| reads.load(Ordering::Relaxed));
        match self.reading.join() {
            Ok(read) => read?,
            Err(_) => bail!("the reader panicked"),
        }
        Ok((reads[0], reads[1]))
    }
}

fn read_both(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let open = File::open(folder).with_context(|| format!("a gap at `{}`", folder.display()))?;
    let below = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    let read =
        |model: &&str| fs::read(below.join(model).join("manifest.dsse.json")).context("a gap in the set");
    MODELS.iter().map(read).collect()
}
