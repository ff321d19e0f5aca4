//! What a core of its own is worth: the same worker beside a neighbour that never sleeps, in a cell that shares the CPUs
//! and in one that has its core, in turn. The client is the same each time, on a CPU that is not the worker's, and goes
//! before the neighbour there: its own waiting for a CPU is not what is asked about.

use super::Effort;
use super::apart::{PROFILE, Place, Worker};
use super::client::{self, Ask, Manner};
use super::figures::Line;
use super::machine::Values;
use crate::cores::last_core;
use crate::models;
use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use serde_json::json;
use std::process::{Child, Command, Stdio};
use turnout_host::cells::{Class, Profile};
use turnout_manifest::Generation;

const PART: &str = "a core of its own beside a noisy neighbour (one spinning process for each CPU)";
/// Generations of these workers: no other part uses them.
const SHARING: Generation = Generation(200);
const OWNING: Generation = Generation(201);
/// chrt(1)'s words for going before every ordinary process, whatever group of the scheduler it is in, and for being one
/// again. A nice value would only count within the client's own session (sched(7), the autogroup feature).
const FIRST_OF_ALL: [&str; 4] = ["--fifo", "--reset-on-fork", "--pid", "1"];
const ORDINARY: [&str; 3] = ["--other", "--pid", "0"];
/// Open at one time: enough that a request may wait behind another, as in use.
const CONNECTIONS: usize = 4;

/// Who runs where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrangement {
    /// No neighbour, no core of its own.
    Alone,
    /// The neighbour and the worker share every CPU.
    Shared,
    /// The worker has its core, and the neighbour is kept off it, as burstable cells are.
    Own,
    /// The worker has its core, and a process of the host, which nobody keeps off, runs there too.
    Intruded,
}

const ARRANGEMENTS: [Arrangement; 4] =
    [Arrangement::Alone, Arrangement::Shared, Arrangement::Own, Arrangement::Intruded];

/// Measures all arrangements in turn. To be called within a place apart.
///
/// # Errors
/// On a machine of one core, and when a request failed.
pub fn measure(place: &Place<'_>, effort: &Effort) -> Result<Vec<Line>> {
    let (own, rest) = last_core()?.context("a machine of one core has none to give away")?;
    let (own, rest) = (mask(&own), mask(&rest));
    let bench = Bench {
        sharing: place.serve_in(SHARING, PROFILE)?,
        owning: place.serve_in(OWNING, Profile { class: Class::Guaranteed, cpus: own, ..PROFILE })?,
        requests: client::requests("digits", &models::bodies("digits")?, Manner::KeepAlive),
        all: own | rest,
        rest,
    };
    let measured = first_of_all_on(bench.rest, || bench.rounds(effort));
    place.end(SHARING)?;
    place.end(OWNING)?;
    measured.map(|tails| lines(&tails))
}

/// Does the client's part on these CPUs, before every ordinary process: its own waiting for a CPU is nobody's latency.
/// What it starts meanwhile is ordinary. Afterwards this thread is as it was.
///
/// # Errors
/// Without CAP_SYS_NICE, and those of the work.
pub fn first_of_all_on<T>(cpus: u64, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = sched_getaffinity(None)?;
    sched_setaffinity(None, &set(cpus))?;
    schedule(&FIRST_OF_ALL)?;
    let done = work();
    schedule(&ORDINARY)?;
    sched_setaffinity(None, &before)?;
    done
}

/// Has chrt(1), of util-linux, change how this thread is scheduled.
fn schedule(how: &[&str]) -> Result<()> {
    let thread = gettid().as_raw_nonzero().to_string();
    let done = Command::new("chrt").args(how).arg(thread).stdin(Stdio::null()).output();
    let done = done.context("the client's priority is set by `chrt`")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "the client needs priority (CAP_SYS_NICE): {}", said.trim());
    Ok(())
}

/// CPUs beyond the first 64 are nobody's here.
pub fn mask(cpus: &[u32]) -> u64 {
    cpus.iter().filter(|cpu| **cpu < 64).fold(0, |mask, cpu| mask | 1 << cpu)
}

struct Bench {
    sharing: Worker,
    owning: Worker,
    requests: Vec<Vec<u8>>,
    all: u64,
    rest: u64,
}

/// p99 and p99.9 of each round, microseconds, in the order of [`ARRANGEMENTS`].
type Tails = Vec<Vec<(f64, f64)>>;

impl Bench {
    fn rounds(&self, effort: &Effort) -> Result<Tails> {
        let mut tails = vec![Vec::new(); ARRANGEMENTS.len()];
        for round in 0..effort.rounds {
            for offset in 0..ARRANGEMENTS.len() {
                let at = (round + offset) % ARRANGEMENTS.len();
                tails[at].push(self.round(ARRANGEMENTS[at], effort)?);
            }
        }
        Ok(tails)
    }

    fn round(&self, arrangement: Arrangement, effort: &Effort) -> Result<(f64, f64)> {
        let (worker, neighbour) = match arrangement {
            Arrangement::Alone => (&self.sharing, None),
            Arrangement::Shared => (&self.sharing, Some(self.all)),
            Arrangement::Own => (&self.owning, Some(self.rest)),
            Arrangement::Intruded => (&self.owning, Some(self.all)),
        };
        let _noise = neighbour.map(|cpus| Neighbour::on(cpus, self.all.count_ones())).transpose()?;
        let asked = Ask {
            address: worker.address,
            requests: &self.requests,
            connections: CONNECTIONS,
            manner: Manner::KeepAlive,
            duration: effort.round,
        };
        let (seen, (), ()) = client::ask(&asked, || Ok(()))?;
        let microseconds = |share| seen.quantile(share).as_secs_f64() * 1e6;
        Ok((microseconds(0.99), microseconds(0.999)))
    }
}

/// Processes that take all of a CPU's time that they get, until dropped.
pub struct Neighbour(Vec<Child>);

impl Neighbour {
    /// As many, on these CPUs.
    ///
    /// # Errors
    /// When one cannot be started or moved.
    pub fn on(cpus: u64, count: u32) -> Result<Self> {
        let mut all = Self(Vec::new());
        for _ in 0..count {
            let mut shell = Command::new("sh");
            // It inherits the client's CPUs, and must not have them.
            shell.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            let child = shell.spawn().context("cannot start a neighbour")?;
            let pid = Pid::from_child(&child);
            all.0.push(child);
            sched_setaffinity(Some(pid), &set(cpus))?;
        }
        Ok(all)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn lines(tails: &Tails) -> Vec<Line> {
    let [p99, p999] = [0, 1].map(|which| -> Vec<f64> {
        let pick = |tail: &(f64, f64)| if which == 0 { tail.0 } else { tail.1 };
        tails.iter().map(|rounds| rounds.iter().map(pick).collect::<Values>().median()).collect()
    });
    let mut lines = Vec::new();
    for (what, medians) in [("p99", p99), ("p99.9", p999)] {
        let [alone, shared, own, intruded] = medians[..] else { continue };
        let text = format!(
            "{own:.0} us on its own core, {shared:.0} us sharing ({:.2} x), {intruded:.0} us with a process of the \
             host on its core, {alone:.0} us without a neighbour",
            own / shared.max(1e-9)
        );
        let figures = json!({
            "own_us": own, "shared_us": shared, "intruded_us": intruded, "alone_us": alone,
            "own_to_shared": own / shared.max(1e-9),
        });
        lines.push(
            Line::told(PART, format!("{what}, median of {} rounds", tails[0].len())).found(text, figures),
        );
    }
    lines
}

fn set(cpus: u64) -> CpuSet {
    let mut set = CpuSet::new();
    (0..64).filter(|cpu| cpus & (1 << cpu) != 0).for_each(|cpu| set.set(cpu));
    set
}
