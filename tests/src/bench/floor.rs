//! The yardstick: the least that answers the same requests, a bare hyper loop around ONNX Runtime with serde_json.
//! No contract, no assertions, no limits, no lineage, no drain; one input, every output, JSON only.

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::error::Error;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::runtime::{Builder, LocalOptions};

#[derive(Deserialize)]
struct Infer {
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    shape: Vec<i64>,
    data: Vec<f32>,
}

#[derive(Serialize)]
struct Inferred<'a> {
    model_name: &'a str,
    outputs: (Output<'a, i64>, Output<'a, f32>),
}

#[derive(Serialize)]
struct Output<'a, T> {
    name: &'a str,
    datatype: &'a str,
    shape: &'a [i64],
    data: &'a [T],
}

/// What the floor serves, and with how much.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The ONNX Runtime library
    pub onnxruntime: PathBuf,
    /// The model's file
    pub model: PathBuf,
    /// Serving threads, each with a session of its own
    pub threads: usize,
    /// Accept from the listening socket on standard input instead of an own one
    #[arg(long)]
    pub inherit: bool,
}

/// Serves for ever; the first line on standard output is the address.
///
/// # Errors
/// What could not be loaded or bound.
pub fn serve(arguments: &Arguments) -> Result<()> {
    // As the launcher's: schedulers group tasks by session, and a server in its client's would have it easier.
    rustix::process::setsid().context("cannot begin a session")?;
    let environment = ort::init_from(&arguments.onnxruntime)?.with_telemetry(false).build()?;
    let listener = if arguments.inherit {
        TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?)
    } else {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
    };
    listener.set_nonblocking(true)?;
    let mut serving = Vec::new();
    for _ in 0..arguments.threads {
        let (session, listener) = (open(&environment, &arguments.model)?, listener.try_clone()?);
        serving.push(std::thread::spawn(move || accept(session, listener)));
    }
    println!("{}", listener.local_addr()?);
    for thread in serving {
        thread.join().map_err(|_| anyhow!("a serving thread panicked"))??;
    }
    Ok(())
}

fn open(environment: &Environment, model: &Path) -> ort::Result<Session> {
    Session::builder(environment)?
        .with_intra_threads(1)?
        .with_intra_op_spinning(false)?
        .commit_from_file(model)
}

fn accept(session: Session, listener: TcpListener) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let session = Rc::new(RefCell::new(session));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let session = Rc::clone(&session);
            tokio::task::spawn_local(async move {
                let service = service_fn(|request| answer(request, &session));
                // The client's going away ends a connection like this one.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

async fn answer(
    request: Request<Incoming>,
    session: &RefCell<Session>,
) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
    let body = request.into_body().collect().await?.to_bytes();
    let infer: Infer = serde_json::from_slice(&body)?;
    let input = infer.inputs.first().ok_or("no input")?;
    let mut session = session.borrow_mut();
    let outputs =
        session.run(ort::inputs![TensorRef::from_array_view((&input.shape[..], &input.data[..]))?])?;
    let (label_shape, label) = outputs[0].try_extract_tensor::<i64>()?;
    let (shape, probabilities) = outputs[1].try_extract_tensor::<f32>()?;
    let inferred = Inferred {
        model_name: "floor",
        outputs: (
            Output { name: "label", datatype: "INT64", shape: label_shape, data: label },
            Output { name: "probabilities", datatype: "FP32", shape, data: probabilities },
        ),
    };
    let mut response = Response::new(Full::new(serde_json::to_vec(&inferred)?.into()));
    response.headers_mut().insert("content-type", "application/json".parse()?);
    Ok(response)
}
