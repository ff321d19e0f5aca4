//! Live traffic while a large model comes up beside it: p99 of the live version from the command to release the large one
//! until it is promoted (its files checked, its cell made, the model loaded and warm), against p99 at rest, in turn.

use super::client::{self, Ask, Manner, Seen};
use super::figures::Line;
use super::machine::{Pairs, Values};
use super::pin::{Neighbour, first_of_all_on, mask};
use super::stage::Stage;
use super::{Effort, Settings};
use crate::cores::last_core;
use crate::models::{self, Source, text};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

/// p99 beside the load may be this many times p99 at rest.
const FLOOR: f64 = 1.10;
const MODEL: &str = "large";
/// Room for two versions of the large model and what else is in the store.
const STORE_BYTES: &str = "4294967296";
/// Open at one time, as in the measurement of the pinned core.
const CONNECTIONS: usize = 4;
/// Promoted as soon as it is ready: there is no traffic to judge it by.
const PLAN: &str = "\
strategy: {kind: weight}
steps: [{percent: 100}]
window: 200ms
windows: {look_back: 1, consecutive: 1}
objectives: {}
minimum_requests: 0
";

/// Measures the live version on a core of its own, which has the floor, and sharing its CPUs, which is told.
///
/// # Errors
/// On a machine of one core, when a release fails, and when a request failed.
pub fn measure(settings: &Settings, effort: &Effort) -> Result<Vec<Line>> {
    let (own, rest) = last_core()?.context("a machine of one core has none to give away")?;
    let keys = [("store_image_bytes", STORE_BYTES), ("exclusive_cpus", &format!("{own:?}"))];
    let stage = Stage::configured(settings, &[models::FIRST], &keys)?;
    let large = Large::import(&stage, effort.load_side)?;
    // Never on the live version's own core.
    let measured = first_of_all_on(mask(&rest), || rounds(&stage, large, effort, mask(&rest)));
    measured.with_context(|| stage.instance.log_end())
}

fn rounds(stage: &Stage, mut large: Large<'_>, effort: &Effort, rest: u64) -> Result<Vec<Line>> {
    stage.go_live()?;
    let shared = beside(stage, &mut large, effort, 0)?;
    go_live_on_its_own(stage)?;
    let own = beside(stage, &mut large, effort, rest)?;
    let part = part(effort.load_side);
    let floor = format!("at most {FLOOR:.2} x");
    Ok(vec![
        own.told(Line::judged(part, "p99 on a core of its own", floor)).met(own.pairs.ratio() <= FLOOR),
        shared.told(Line::told(part, "p99 sharing the CPUs")),
    ])
}

fn part(side: usize) -> &'static str {
    if side < 16_384 {
        "live traffic while a model of 64 MiB loads and warms"
    } else {
        "live traffic while a model of 1 GiB loads and warms"
    }
}

/// The same version under another label, which has its core.
fn go_live_on_its_own(stage: &Stage) -> Result<()> {
    let source = Source { model: "digits", version: models::FIRST, label: "own" };
    let bundle = models::unsigned(&stage.ctl, stage.instance.folder(), source)?;
    models::describe(&bundle, "class: burstable", "class: guaranteed")?;
    models::sign(&stage.ctl, &bundle, &stage.key)?;
    models::import(&stage.ctl, &bundle)?.expect(0)?;
    promote(stage, "digits@own")
}

fn promote(stage: &Stage, version: &str) -> Result<()> {
    let plan = stage.instance.folder().join("plan-load.yaml");
    fs::write(&plan, PLAN)?;
    let arguments = ["release", "start", version, "--plan", text(&plan)?, "--wait", "--timeout", "300s"];
    let answer = stage.ctl.ok(&arguments)?;
    let state = answer.text("/state")?;
    ensure!(state == "promoted", "{version} ended {state}: {}", answer.stdout);
    Ok(())
}

/// What one arrangement gave: p99 at rest and beside the load, and how long loads took, seconds.
#[derive(Default)]
struct Tails {
    pairs: Pairs,
    took: Vec<f64>,
}

impl Tails {
    fn told(&self, line: Line) -> Line {
        let (ratio, (rest, beside), rounds) = (self.pairs.ratio(), self.pairs.medians(), self.pairs.rounds());
        let took = self.took.iter().copied().collect::<Values>().median();
        let text = format!(
            "{ratio:.2} x: {beside:.0} us beside it, {rest:.0} us at rest, median of {rounds} rounds; it took {took:.1} s"
        );
        line.found(text, json!({"ratio": ratio, "beside_us": beside, "rest_us": rest, "load_s": took}))
    }
}

/// Both in turn. At rest, something spins on these CPUs, where the client is and the load will be: a client that wakes on a
/// CPU which is never idle takes longer to come to it, and that is no latency of the version's.
fn beside(stage: &Stage, large: &mut Large<'_>, effort: &Effort, busy: u64) -> Result<Tails> {
    let requests = client::requests("digits", &models::bodies("digits")?, Manner::KeepAlive);
    let asked = |duration: Duration| Ask {
        address: stage.address,
        requests: &requests,
        connections: CONNECTIONS,
        manner: Manner::KeepAlive,
        duration,
    };
    let p99 = |seen: &Seen| seen.quantile(0.99).as_secs_f64() * 1e6;
    let mut tails = Tails::default();
    // The first finds nothing in the page cache's books and is thrown away; it also says how long to ask at rest.
    let (first, ()) = client::ask_during(&asked(Duration::ZERO), || large.load())?;
    for _ in 0..effort.loads {
        let spinning = Neighbour::on(busy, busy.count_ones())?;
        let (rest, (), ()) = client::ask(&asked(first.elapsed), || Ok(()))?;
        drop(spinning);
        let (loading, ()) = client::ask_during(&asked(Duration::ZERO), || large.load())?;
        tails.pairs.push(p99(&rest), p99(&loading));
        tails.took.push(loading.elapsed.as_secs_f64());
    }
    Ok(tails)
}

/// Two versions of one large model, of which one is live and the other comes up.
struct Large<'a> {
    stage: &'a Stage,
    next: usize,
}

const LABELS: [&str; 2] = ["a", "b"];

impl<'a> Large<'a> {
    fn import(stage: &'a Stage, side: usize) -> Result<Self> {
        let folder = stage.instance.folder();
        let key = folder.join("large.pem");
        stage.ctl.ok(&["key", "generate", text(&key)?])?;
        let public = key.with_extension("pub.pem");
        stage.ctl.ok(&["trust", "add", text(&public)?, "--issuer", "bench", "--models", MODEL])?;
        for label in LABELS {
            let bundle = folder.join(format!("{MODEL}-{label}"));
            fs::create_dir_all(&bundle)?;
            write_model(&bundle.join("model.onnx"), side)?;
            stage.ctl.ok(&["manifest", "new", text(&bundle)?, "--model", MODEL, "--version", label])?;
            models::describe(&bundle, "memory: 512MiB", "memory: 8GiB")?;
            models::sign(&stage.ctl, &bundle, &key)?;
            models::import(&stage.ctl, &bundle)?.expect(0)?;
            fs::remove_dir_all(&bundle)?;
        }
        Ok(Self { stage, next: 0 })
    }

    /// Releases the one that is not live; ends when it is promoted, and the other is gone.
    fn load(&mut self) -> Result<()> {
        let label = LABELS[self.next % LABELS.len()];
        self.next += 1;
        promote(self.stage, &format!("{MODEL}@{label}"))
    }
}

/// Writes an ONNX model `y = x * w` in which `w` is a square of this side, of float: `side * side * 4` bytes. The fields are
/// those of `onnx.proto3` (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3>).
fn write_model(path: &Path, side: usize) -> Result<()> {
    let side_number = side as u64;
    let data = side_number * side_number * 4;
    let node = [bytes(1, b"x"), bytes(1, b"w"), bytes(2, b"y"), bytes(4, b"MatMul")].concat();
    // dims, data_type FLOAT, name, and the head of raw_data, whose content follows.
    let tensor =
        [number(1, side_number), number(1, side_number), number(2, 1), bytes(8, b"w"), head(9, data)]
            .concat();
    let before = [bytes(1, &node), bytes(2, b"large"), head(5, tensor.len() as u64 + data), tensor].concat();
    let after = [bytes(11, &value("x", side_number)), bytes(12, &value("y", side_number))].concat();
    let graph = before.len() as u64 + data + after.len() as u64;
    let operators = number(2, 17);
    let mut file =
        BufWriter::new(File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?);
    // ir_version 8, one operator set, and the graph.
    file.write_all(&[number(1, 8), bytes(8, &operators), head(7, graph), before].concat())?;
    let row: Vec<u8> = (0..side).flat_map(|at| (at as f32 / side as f32).to_le_bytes()).collect();
    for _ in 0..side {
        file.write_all(&row)?;
    }
    file.write_all(&after)?;
    file.flush().map_err(Into::into)
}

/// A `ValueInfoProto`: a row of floats.
fn value(name: &str, width: u64) -> Vec<u8> {
    let shape = [1, width].map(|length| bytes(1, &number(1, length))).concat();
    let tensor = [number(1, 1), bytes(2, &shape)].concat();
    [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    [head(field, content.len() as u64), content.to_vec()].concat()
}

fn head(field: u64, length: u64) -> Vec<u8> {
    [varint(field << 3 | 2), varint(length)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut all = Vec::new();
    while value >= 0x80 {
        all.push(value as u8 | 0x80);
        value >>= 7;
    }
    all.push(value as u8);
    all
}
