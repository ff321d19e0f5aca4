//! The metrics as they are used: a real Prometheus scrapes the exporter, which runs without rights, while a release is
//! under way; each query of the dashboard has an answer, each alert rule is one, and no counter falls when the daemon
//! is killed.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use turnout_scenarios::prometheus::{Prometheus, export, packaged, promtool, scrape};
use turnout_scenarios::scenario::{LIMIT, RELEASE_LIMIT, Scene, play, until};

/// Half the connections, until somebody says otherwise.
const HALF: &str = "\
strategy: {kind: weight}
steps: [{percent: 50}, {percent: 100}]
window: 1s
windows: {look_back: 64, consecutive: 64}
objectives: {error_rate: 0.05}
minimum_requests: 5
patience: 2h
";
/// Families that a host without cgroup controllers does not have.
const BY_CONTROLLER: [&str; 8] = [
    "turnout_cell_memory_bytes",
    "turnout_cell_memory_limit_bytes",
    "turnout_cell_oom_kills_total",
    "turnout_cell_processes",
    "turnout_cell_processes_limit",
    "turnout_cell_cpus",
    "turnout_cell_cpus_limit",
    "turnout_cell_cpu_throttled_periods_total",
];
/// Not told in this scene: no export of the journal runs.
const BY_EXPORT: &str = "turnout_export_next_record";

#[test]
fn a_real_prometheus_answers_every_query_of_the_dashboard() {
    play("metrics", |scene| {
        scene.open_with(&["better"])?;
        let traffic = scene.traffic()?;
        let _exporter = export(&exporter(), &scene.instance.socket())?;
        let prometheus = Prometheus::start(scene.instance.folder())?;
        scene.release("better", HALF)?;
        scene.at_step("observe at 50 %")?;
        let both = "sum by (version) (turnout_requests_total{model=\"digits\"}) > 100";
        until("both versions were scraped", RELEASE_LIMIT, || {
            Ok((prometheus.query(both)?.len() == 2).then_some(()))
        })?;
        shares_are_told(&prometheus)?;
        // What a panel of rates needs: two scrapes.
        let rates = "rate(turnout_requests_total[10s]) > 0";
        until("rates are known", LIMIT, || Ok((prometheus.query(rates)?.len() == 2).then_some(())))?;
        let text = scrape("/metrics")?.1;
        for query in queries()? {
            let told = |name: &&str| text.contains(&format!("# TYPE {name} "));
            let absent = BY_CONTROLLER.iter().chain([&BY_EXPORT]);
            if absent.filter(|name| !told(name)).any(|name| query.contains(name)) {
                continue;
            }
            let answer = prometheus.query(&query)?;
            ensure!(!answer.is_empty(), "no data for `{query}`");
            ensure!(!query.contains("turnout_degraded") || answer.len() == 1, "not one number: {answer:?}");
        }
        counters_agree_with_what_was_sent(scene, traffic)
    });
}

#[test]
fn counters_go_on_when_the_daemon_is_killed_and_its_absence_is_told() {
    play("metrics-kill", |scene| {
        scene.open_with(&[])?;
        let traffic = scene.traffic()?;
        let _exporter = export(&exporter(), &scene.instance.socket())?;
        let requests = "turnout_requests_total{model=\"digits\",version=\"1.0.0\"}";
        until("requests are counted", LIMIT, || {
            Ok(counters()?.get(requests).filter(|count| **count > 100.0).copied())
        })?;
        let before = counters()?;
        scene.instance.kill()?;
        until("its absence is told", LIMIT, || {
            Ok(scrape("/metrics")?.1.contains("\nturnout_up 0\n").then_some(()))
        })?;
        scene.instance.start()?;
        let after =
            until("it is back", LIMIT, || Ok(Some(counters()?).filter(|c| c.contains_key(requests))))?;
        for (series, count) in &before {
            // The worker says its own counts when they change.
            let own = series.starts_with("turnout_assertion") || series.starts_with("turnout_contract");
            let now = after.get(series);
            ensure!(own && now.is_none() || now >= Some(count), "{series} was {count}, is {now:?}");
        }
        ensure!(after["turnout_starts_total"] == 2.0, "{after:?}");
        scene.finish_whole(traffic).map(drop)
    });
}

#[test]
fn promtool_finds_nothing_to_say_of_our_own_names() {
    play("metrics-lint", |scene| {
        scene.open_with(&[])?;
        let _exporter = export(&exporter(), &scene.instance.socket())?;
        until("the worker was looked at", LIMIT, || {
            Ok(scrape("/metrics")?.1.contains("turnout_requests_total{").then_some(()))
        })?;
        let (status, text) = scrape("/metrics")?;
        ensure!(status == 200, "{status}");
        let checked = promtool(&["check", "metrics"], &text)?;
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        // The names of Triton are older than the rules.
        let ours: Vec<_> = said.lines().filter(|line| !line.starts_with("nv_inference_")).collect();
        ensure!(ours.is_empty() && said.contains("nv_inference_count"), "{said}");
        ensure!(scrape("/")?.0 == 404, "another path is no metric");
        Ok(())
    });
}

#[test]
fn alert_rules_are_rules_and_fire_on_what_they_are_for() {
    for (verb, file) in [("check", "turnout.rules.yml"), ("test", "turnout.tests.yml")] {
        let file = packaged("prometheus").join(file);
        let done = promtool(&[verb, "rules", &file.display().to_string()], "").unwrap();
        let said = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&said));
    }
    let documented = include_str!("../../docs/monitoring.md");
    let rules = std::fs::read_to_string(packaged("prometheus/turnout.rules.yml")).unwrap();
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 5 && alerts.iter().all(|alert| documented.contains(&format!("| `{alert}` |"))));
}

fn shares_are_told(prometheus: &Prometheus) -> Result<()> {
    let asked = prometheus.query("turnout_weight_asked_ratio{model=\"digits\"}")?;
    ensure!(asked.iter().all(|(_, share)| *share == 0.5) && asked.len() == 2, "{asked:?}");
    let seen = prometheus.query("sum(turnout_weight_seen_ratio{model=\"digits\"})")?;
    ensure!(seen.len() == 1 && (seen[0].1 - 1.0).abs() < 0.001, "{seen:?}");
    let state = prometheus.query("turnout_release_state{state=\"running\"} == 1")?;
    ensure!(state.len() == 1, "{state:?}");
    Ok(())
}

/// Every request that the load had answered was counted, and no other: the load's own count is the second opinion. The time
/// of one is unknown at times: a client that is woken on another CPU may send it past its own acknowledgement of the
/// handshake. One in a thousand, and two, is far more than that makes.
fn counters_agree_with_what_was_sent(scene: &Scene, traffic: turnout_scenarios::load::Running) -> Result<()> {
    let tally = scene.finish_whole(traffic)?;
    let sum = |told: &BTreeMap<String, f64>, prefix: &str| -> f64 {
        told.iter().filter(|(series, _)| series.starts_with(prefix)).map(|(_, count)| count).sum()
    };
    until("the last look has seen every answer", LIMIT, || {
        let told = counters()?;
        let (sent, timed) = (tally.sent as f64, sum(&told, "turnout_request_duration_seconds_count"));
        let all =
            ["turnout_requests_total", "nv_inference_count"].iter().all(|name| sum(&told, name) == sent);
        let most = sent - (sent / 1000.0).floor() - 2.0 <= timed && timed <= sent;
        Ok((all && most).then_some(()))
    })
    .with_context(|| format!("{} requests were sent: {:?}", tally.sent, counters()))
}

/// Every counter and histogram that is told now.
fn counters() -> Result<BTreeMap<String, f64>> {
    let (_, text) = scrape("/metrics")?;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let named = samples.filter_map(|line| line.rsplit_once(' '));
    let counts = named.filter(|(series, _)| {
        let name = series.split('{').next().unwrap_or_default();
        ["_total", "_bucket", "_sum"].iter().any(|end| name.ends_with(end))
            || name.starts_with("nv_")
            || name.ends_with("_seconds_count")
    });
    counts.map(|(series, value)| Ok((series.to_owned(), value.parse()?))).collect()
}

/// Every query of the dashboard, its variables put in.
fn queries() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(packaged("grafana/turnout.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let put_in = |query: &str| {
        query.replace("$__rate_interval", "10s").replace("$instance", ".*").replace("$model", ".*")
    };
    let queries: Vec<String> = targets.filter_map(|target| target["expr"].as_str()).map(put_in).collect();
    ensure!(queries.len() > 20 && queries.iter().all(|query| !query.contains('$')), "{queries:?}");
    Ok(queries)
}

/// The exporter's program, beside this one.
fn exporter() -> PathBuf {
    let own = std::env::current_exe().expect("this process has a program");
    own.ancestors().nth(2).expect("it lies in target/<profile>/deps").join("turnout-export")
}
