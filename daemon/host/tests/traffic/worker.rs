//! The worker process of these tests: a small HTTP server that behaves, or misbehaves, as the path says.

use rustix::thread::{CpuSet, sched_setaffinity};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Name of the variable that gives the worker its name, which is the body of its answers.
pub const NAME: &str = "TURNOUT_TEST_WORKER";
/// Name of the variable that gives the worker the address of its listener.
pub const ADDRESS: &str = "TURNOUT_TEST_WORKER_ADDRESS";
/// What it prints once it listens.
pub const READY: &str = "worker listens";
/// The name of a worker that never accepts.
pub const ASLEEP: &str = "asleep";
/// The name of a worker that plays the router.
pub const ROUTER: &str = "router";
const THREADS: usize = 16;

#[test]
#[ignore = "runs as the worker process of the other tests"]
fn process() {
    let name = std::env::var(NAME).expect("started by the other tests");
    // The router is a client too.
    if name != ROUTER {
        any_cpu();
    }
    let listener = TcpListener::bind(std::env::var(ADDRESS).unwrap()).unwrap();
    assert_eq!(listener.as_raw_fd(), 3, "the listener of a worker is its descriptor 3");
    println!("\n{READY}");
    if name == ASLEEP {
        loop {
            thread::park();
        }
    }
    let (listener, name) = (Arc::new(listener), Arc::new(name));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (listener, name) = (listener.clone(), name.clone());
            thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    // A client that resets its connection is its own business.
                    let _ = serve(stream, &name);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Leaves the one CPU that a test has for its clients.
fn any_cpu() {
    let mut every = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| every.set(cpu));
    sched_setaffinity(None, &every).unwrap();
}

fn serve(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some(head) = read_head(&mut stream)? {
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        let (verb, value) = path.trim_start_matches('/').split_once('/').unwrap_or((&path[1..], ""));
        let number: u64 = value.parse().unwrap_or(0);
        let wait = || thread::sleep(Duration::from_millis(number));
        match verb {
            "early-status" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?,
            "continue" => stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            _ => {}
        }
        read_body(&mut stream, &head)?;
        match verb {
            "early-status" => {}
            "status" => answer(&mut stream, number, name)?,
            "slow" => {
                wait();
                answer(&mut stream, 200, name)?;
            }
            "late" => {
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", name.len())?;
                wait();
                stream.write_all(name.as_bytes())?;
            }
            "continue" => {
                wait();
                answer(&mut stream, 200, name)?;
            }
            "both" => {
                let line = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(line.as_bytes())?;
            }
            "large" => {
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {number}\r\n\r\n")?;
                stream.write_all(&vec![b'x'; number as usize])?;
            }
            "garbage" => stream.write_all(b"this is no answer at all\n")?,
            "fetch" => answer(&mut stream, 200, &fetched(([127, 0, 0, 1], number as u16).into()))?,
            "reach" => answer(&mut stream, 200, &fetched(([10, 9, 8, 7], 80).into()))?,
            "abort" => return Ok(()),
            "exit" => std::process::exit(1),
            _ => answer(&mut stream, 200, name)?,
        }
    }
    Ok(())
}

/// What a request to this address gives, as a router would make it: the body of the answer, or the error's number.
fn fetched(address: std::net::SocketAddr) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
        let head = read_head(&mut stream)?.unwrap_or_default();
        read_body(&mut stream, &head).map(|body| String::from_utf8_lossy(&body).into_owned())
    };
    ask().unwrap_or_else(|error| error.raw_os_error().unwrap_or(0).to_string())
}

fn answer(stream: &mut TcpStream, status: u64, body: &str) -> std::io::Result<()> {
    let answer = format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes())
}

/// The head of a message, `None` at a clean end.
pub fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    let mut buffered = [0; 512];
    while !head.ends_with(b"\r\n\r\n") {
        let seen = stream.peek(&mut buffered)?;
        if seen == 0 {
            return Ok(None);
        }
        for _ in 0..seen {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                break;
            }
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// The body that the head announces.
pub fn read_body(stream: &mut TcpStream, head: &str) -> std::io::Result<Vec<u8>> {
    let announced = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; announced.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body)?;
    Ok(body)
}
