//! The text is held against what its readers rely on: each series once, bounds that add up, numbers from where they
//! are said to be.

use super::*;
use crate::condition::Condition;
use crate::config::Config;
use std::collections::{BTreeMap, BTreeSet};
use turnout_engine::record::{End, Kind as ReleaseKind, Planned, Target};
use turnout_engine::{Record, Stamp, Step, Verdict, Window, World};
use turnout_host::archive::StoreState;
use turnout_host::histogram;
use turnout_host::meters::Usage;
use turnout_host::traffic::Sample;
use turnout_manifest::{Percent, Plan, ReleaseId, Sha256};
use turnout_protocol::router::Stats;
use turnout_protocol::worker::Counts;

fn target(generation: u32) -> Target {
    Target {
        version: "1.0.0".parse().unwrap(),
        digest: Sha256::of(b"digits"),
        signed_by: vec!["ci".to_owned()],
        generation: Generation(generation),
        measured: None,
        audit_context: None,
    }
}

fn planned(id: u32, kind: ReleaseKind, from: Option<u32>) -> Record {
    Record::Planned(Box::new(Planned {
        release: ReleaseId::new(id),
        model: "digits".parse().unwrap(),
        kind,
        from: from.map(target),
        to: target(id),
        plan: Plan::all_at_once(),
        steps: vec![Step::Shift(Percent::ALL)],
        commit: 1,
        port: 8700,
        salt: "00".to_owned(),
        by: "root".to_owned(),
        set: None,
    }))
}

/// `digits@1.0.0` was released, has died, and is being brought up again.
fn restarting() -> World {
    let release = ReleaseId::new(1);
    let window = Window {
        at_ms: 0,
        length_ms: 200,
        asked: Percent::ALL,
        candidate: turnout_engine::Figures::default(),
        stable: None,
    };
    let mut world = World::default();
    for record in [
        Record::DaemonStarted { version: "0".to_owned() },
        planned(1, ReleaseKind::Release, None),
        Record::Observed { release, window: Box::new(window), verdict: Verdict::Met },
        Record::Promoted { release },
        Record::Ended { release, state: End::Promoted, causes: Vec::new() },
        Record::WorkerDied {
            model: "digits".parse().unwrap(),
            generation: Generation(1),
            why: "killed".to_owned(),
        },
        planned(2, ReleaseKind::Restart, Some(1)),
    ] {
        world.apply(&record, Stamp { seq: 0, at_ms: 1000 });
    }
    world
}

fn totals(requests: u64, times_ns: &[u64]) -> Arc<Totals> {
    let mut latencies = vec![0; histogram::BUCKETS as usize];
    times_ns.iter().for_each(|time| latencies[histogram::bucket(*time) as usize] += 1);
    let sample = Sample {
        requests,
        success: 4,
        client_errors: 3,
        server_errors: 2,
        not_http: 1,
        aborted: 5,
        client_gone: 6,
        opened: 8,
        closed: 7,
        latencies,
    };
    let counts = Counts { assertion_failures: 1, ..Counts::default() };
    let usage = Usage { cpu_us: Some(1_500_000), ..Usage::default() };
    Arc::new(Totals::after(None, sample, Some(counts), usage))
}

fn view() -> View {
    View {
        world: restarting(),
        journal_size: 7,
        journal_bytes: 4096,
        journal_synced_ms: 1500,
        router: Some(Stats { to_candidate: 9, refused: 4, ..Stats::default() }),
        totals: BTreeMap::from([
            (Generation(1), totals(1000, &[])),
            (Generation(2), totals(20, &[100_000, 100_000, 5_000_000_000])),
        ]),
        ..View::default()
    }
}

fn rendered(view: &View) -> String {
    let lines = ["btf: `/sys/kernel/btf/vmlinux`: no such file: \"x\"", "store: two", "store: of one"];
    let condition = Condition::default();
    condition.examined(lines.map(str::to_owned).to_vec());
    condition.saw_store(StoreState {
        kind: "btrfs".to_owned(),
        path: "/store".into(),
        image: None,
        total_bytes: 8000,
        free_bytes: 3000,
        reserve_bytes: 10,
        read_only: false,
    });
    text(
        view,
        &Daemon {
            started_ms: 250,
            condition,
            torn: Some("store: the superblock of its image was torn"),
            readers: Vec::new(),
            config: Arc::new(Config::parse("").unwrap()),
        },
        Some("trust: trust root 3 has expired".to_owned()),
    )
}

/// Series and value of each sample.
fn samples(text: &str) -> Vec<(&str, &str)> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' ')).collect()
}

#[test]
fn names_are_unique_and_keep_the_rules_of_their_kind() {
    let names: BTreeSet<_> = all().map(|metric| metric.name).collect();
    assert_eq!(names.len(), all().count());
    for metric in all().filter(|metric| !metric.name.starts_with("nv_")) {
        assert!(metric.name.starts_with("turnout_"), "{}", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
        assert!(metric.help.ends_with('.'), "{}", metric.name);
    }
}

#[test]
fn the_documentation_names_every_family_as_it_is() {
    let documented = include_str!("../../../../docs/monitoring.md");
    for metric in all() {
        let row = documented.lines().find(|line| line.starts_with(&format!("| `{}` |", metric.name)));
        let row = row.unwrap_or_else(|| panic!("`{}` is not in docs/monitoring.md", metric.name));
        assert!(row.contains(&format!("| {} |", metric.kind)) && row.contains(metric.help), "{row}");
    }
}

/// The names of families in a text.
fn families(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("turnout_") || word.starts_with("nv_")).collect()
}

#[test]
fn dashboard_and_alerts_ask_for_families_that_are_told() {
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../../../packaging/grafana/turnout.json")).unwrap();
    let targets =
        dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array());
    let queries: Vec<&str> = targets.flatten().map(|target| target["expr"].as_str().unwrap()).collect();
    let told: BTreeSet<_> = all().map(|metric| metric.name).collect();
    let by_the_exporter = ["turnout_up", "turnout_export_next_record"];
    let is_told = |name: &str| {
        let whole = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        told.contains(name)
            || by_the_exporter.contains(&name)
            || whole.is_some_and(|name| told.contains(name))
    };
    let rules = include_str!("../../../../packaging/prometheus/turnout.rules.yml");
    for (text, least) in [(queries.join(" ").as_str(), 35), (rules, 10)] {
        let names = families(text);
        assert!(names.len() >= least, "{names:?}");
        assert!(names.iter().all(|name| is_told(name)), "{names:?}");
    }
}

#[test]
fn no_series_is_told_twice_also_while_a_version_has_two_starts() {
    let text = rendered(&view());
    let told = samples(&text);
    let series: BTreeSet<_> = told.iter().map(|(series, _)| series).collect();
    assert_eq!(series.len(), told.len(), "{text}");
    let labels = "{model=\"digits\",version=\"1.0.0\"}";
    assert!(text.contains(&format!("\nturnout_requests_total{labels} 20\n")), "the newer start: {text}");
}

#[test]
fn numbers_are_those_of_the_view() {
    let text = rendered(&view());
    let version = "model=\"digits\",version=\"1.0.0\"";
    for line in [
        "turnout_starts_total 1",
        "turnout_start_time_seconds 0.25",
        "turnout_journal_records_total 7",
        "turnout_journal_size_bytes 4096",
        "turnout_journal_last_sync_timestamp_seconds 1.5",
        "turnout_degraded{requirement=\"btf\"} 1",
        "turnout_degraded{requirement=\"store\"} 1",
        "turnout_degraded{requirement=\"trust\"} 1",
        "turnout_router_requests_total{role=\"candidate\"} 9",
        "turnout_router_refused_total 4",
        "turnout_model_live{model=\"digits\"} 0",
        "turnout_releases_total{model=\"digits\",outcome=\"promoted\"} 1",
        "turnout_verdicts_total{model=\"digits\",verdict=\"met\"} 1",
        "turnout_worker_deaths_total{model=\"digits\"} 1",
        "turnout_worker_restarts_total{model=\"digits\"} 1",
        "turnout_worker_restarts_failed_total{model=\"digits\"} 0",
        "turnout_release_state{model=\"digits\",state=\"running\"} 1",
        "turnout_release_state{model=\"digits\",state=\"promoted\"} 0",
        "turnout_release_ordinal{model=\"digits\"} 2",
        &format!("turnout_responses_total{{{version},class=\"4xx\"}} 3"),
        &format!("turnout_requests_aborted_total{{{version}}} 5"),
        &format!("turnout_assertion_failures_total{{{version}}} 1"),
        &format!("turnout_cell_cpu_seconds_total{{{version}}} 1.5"),
        &format!("turnout_request_duration_seconds_bucket{{{version},le=\"0.000131071\"}} 2"),
        &format!("turnout_request_duration_seconds_bucket{{{version},le=\"+Inf\"}} 3"),
        &format!("turnout_request_duration_seconds_count{{{version}}} 3"),
        &format!("nv_inference_request_success{{{version}}} 4"),
        &format!("nv_inference_request_failure{{{version},reason=\"BACKEND\"}} 8"),
        &format!("nv_inference_request_failure{{{version},reason=\"OTHER\"}} 3"),
    ] {
        assert!(text.lines().any(|told| told == line), "{line} is not in {text}");
    }
}

#[test]
fn a_family_without_samples_is_not_told() {
    let text = rendered(&view());
    assert!(!text.contains("turnout_cell_memory_bytes"), "no controller, no figure: {text}");
    assert!(!text.contains("turnout_read_only{"), "{text}");
    let heads = text.lines().filter(|line| line.starts_with("# TYPE")).count();
    assert!(heads < all().count());
}

#[test]
fn a_model_that_never_had_a_live_version_is_not_said_to_lack_one() {
    let mut world = World::default();
    for record in [
        planned(1, ReleaseKind::Release, None),
        Record::Ended { release: ReleaseId::new(1), state: End::RolledBack, causes: Vec::new() },
    ] {
        world.apply(&record, Stamp { seq: 0, at_ms: 1000 });
    }
    let text = rendered(&View { world, ..View::default() });
    assert!(text.contains("turnout_releases_total{model=\"digits\",outcome=\"rolled_back\"} 1"), "{text}");
    assert!(!text.contains("turnout_model_live"), "{text}");
}

#[test]
fn series_do_not_grow_with_releases() {
    let mut view = view();
    let before = samples(&rendered(&view)).len();
    for id in 3..200 {
        let release = ReleaseId::new(id);
        for record in [
            planned(id, ReleaseKind::Return, Some(id - 1)),
            Record::Promoted { release },
            Record::Ended { release, state: End::Promoted, causes: Vec::new() },
        ] {
            view.world.apply(&record, Stamp { seq: u64::from(id), at_ms: 1000 });
        }
        view.totals = BTreeMap::from([(Generation(id), totals(1, &[]))]);
    }
    assert_eq!(samples(&rendered(&view)).len(), before);
}
