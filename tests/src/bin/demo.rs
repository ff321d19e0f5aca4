//! `cargo xtask demo`: plays the demo with the programs beside this one.

use anyhow::{Context, Result};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use turnout_scenarios::demo::{self, End, Settings, Verdict};

/// A walk through Turnout with live traffic: what goes live, what takes over, what is thrown out, and the proof.
#[derive(Parser)]
struct Arguments {
    /// Leave the daemon running, and end with one line of JSON on how to reach it
    #[arg(long)]
    keep: bool,
    /// Only end the daemon that an earlier `--keep` left, and clear up after it
    #[arg(long, conflicts_with = "keep")]
    stop: bool,
    /// The ONNX Runtime library
    #[arg(long, env = "TURNOUT_ONNXRUNTIME", value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

fn main() -> ExitCode {
    match play(&Arguments::parse()) {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &Arguments) -> Result<Verdict> {
    if arguments.stop {
        demo::stop()?;
        println!("demo: ended and cleared");
        return Ok(Verdict::Good);
    }
    let own = std::env::current_exe()?;
    let programs = own.parent().context("this program lies in no folder")?.to_owned();
    let target = programs.parent().context("the programs lie in no target folder")?;
    demo::run(&Settings {
        onnxruntime: arguments
            .onnxruntime
            .clone()
            .unwrap_or_else(|| target.join("onnxruntime/libonnxruntime.so")),
        reports: target.join("demo"),
        end: if arguments.keep { End::Keep } else { End::Clear },
        programs,
    })
}
