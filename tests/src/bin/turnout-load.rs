//! The load generator as a program, for scenarios on booted systems: asks one model until it is told to stop, and says what
//! became of every request.

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::json;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use turnout_scenarios::load::{Load, Pace};
use turnout_scenarios::models;
use turnout_scenarios::tally::Tally;

/// Asks a test model by keep-alive and by short connections, and ends with a line of JSON; succeeds when every request was
/// answered without an error.
#[derive(Parser)]
struct Arguments {
    /// Where the model is served
    #[arg(long, default_value = "127.0.0.1:8700")]
    address: SocketAddr,
    /// The model
    #[arg(long, default_value = "digits")]
    model: String,
    /// Keep-alive connections
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Requests per second on all of them together; 0 is as many as are answered
    #[arg(long, default_value_t = 20.0)]
    per_second: f64,
    /// Short connections per second, one request each
    #[arg(long, default_value_t = 10)]
    short_per_second: u32,
    /// Longest wait for one answer, seconds
    #[arg(long, default_value_t = 20)]
    deadline: u64,
    /// End after so many seconds; SIGTERM and SIGINT end it before
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let load = Load {
        address: arguments.address,
        path: format!("/v2/models/{}/infer", arguments.model),
        bodies: models::bodies(&arguments.model)?,
        connections: arguments.connections,
        pace: if arguments.per_second > 0.0 { Pace::PerSecond(arguments.per_second) } else { Pace::Closed },
        short_per_second: arguments.short_per_second,
        deadline: Duration::from_secs(arguments.deadline),
        most_requests: u64::MAX,
        longest: Duration::from_secs(arguments.seconds),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tally = runtime.block_on(play(load, Duration::from_secs(arguments.seconds)))?;
    println!("{}", summary(&tally));
    let errors: u64 = tally.versions.iter().map(|version| version.all.errors).sum();
    if tally.failed > 0 || errors > 0 {
        bail!("of {} requests {} failed and {errors} were answered with an error", tally.sent, tally.failed);
    }
    Ok(())
}

async fn play(load: Load, longest: Duration) -> Result<Tally> {
    let mut terminated = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("SIGINT cannot be awaited")?;
    let running = load.start();
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
        () = tokio::time::sleep(longest) => {}
    }
    Ok(running.finish().await)
}

fn summary(tally: &Tally) -> serde_json::Value {
    let versions = tally.versions.iter().map(|version| {
        let figures = json!({
            "answers": version.all.answers,
            "errors": version.all.errors,
            "connections": version.all.connections,
        });
        (version.version.clone(), figures)
    });
    let failures: Vec<_> = tally.failures.iter().take(10).map(|failed| format!("{failed:?}")).collect();
    json!({
        "schema": "turnout-load/v1",
        "sent": tally.sent,
        "failed": tally.failed,
        "retried": tally.retried,
        "reconnected": tally.reconnected,
        "versions": versions.collect::<serde_json::Map<_, _>>(),
        "failures": failures,
    })
}
