//! `cargo xtask bench`: measures the programs beside this one, and prints each figure beside its floor.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use turnout_scenarios::bench::figures::Judged;
use turnout_scenarios::bench::{self, Effort, Part, Settings, figures, floor};

/// Speed and memory of Turnout on this machine, each figure beside its floor.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// A short run that shows that everything works; its figures mean little
    #[arg(long)]
    quick: bool,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// How to print the figures
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// The ONNX Runtime library
    #[arg(long, env = "TURNOUT_ONNXRUNTIME", value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Role {
    /// Serve as the floor: what the benchmarks start beside the worker
    #[command(hide = true)]
    Floor(floor::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.role {
        Some(Role::Floor(arguments)) => floor::serve(arguments),
        None => measure(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let own = std::env::current_exe()?;
    let programs = own.parent().context("this program lies in no folder")?.to_owned();
    let target = programs.parent().context("the programs lie in no target folder")?;
    let set_up = || target.join("onnxruntime/libonnxruntime.so");
    let onnxruntime = arguments.onnxruntime.clone().unwrap_or_else(set_up);
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    let parts = if arguments.only.is_empty() { Part::ALL.to_vec() } else { arguments.only.clone() };
    let lines = bench::run(&Settings { programs, onnxruntime }, &effort, &parts);
    match arguments.output {
        Output::Text => print!("{}", figures::text(&lines)),
        Output::Json => {
            println!("{}", json!({"schema": "turnout-bench/v1", "quick": arguments.quick, "lines": lines}))
        }
    }
    if lines.iter().any(|line| line.judged == Judged::Failed) {
        bail!("not everything could be measured");
    }
    Ok(())
}
