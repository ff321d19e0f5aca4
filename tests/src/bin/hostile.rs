//! A worker that is no worker: it takes all of its cell's share of the machine that it can get, until its link is closed. What
//! `cargo xtask bench --only attack` puts beside a version that serves.

use std::fs::File;
use std::hint::black_box;
use std::thread;

/// Descriptor of the link (`turnout_protocol::worker::LINK_FD`).
const LINK: i32 = 4;
/// Far more threads than a cell may have.
const THREADS: usize = 512;
const STACK: usize = 64 << 10;
/// What one thread of four walks through: more than any cache holds.
const WALKED: usize = 64 << 20;
const PAGE: usize = 4096;

fn main() {
    // Fails from the thread on that the cell's limit stops; those that are there go on.
    for number in 0..THREADS {
        let work = [compute, walk, map, ask_the_kernel][number % 4];
        if thread::Builder::new().stack_size(STACK).spawn(work).is_err() {
            break;
        }
    }
    let mut word = [0; 64];
    while matches!(nix::sys::socket::recv(LINK, &mut word, nix::sys::socket::MsgFlags::empty()), Ok(1..)) {}
}

/// Time of a CPU.
fn compute() {
    let mut number = 0_u64;
    loop {
        number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

/// The memory's bandwidth and the caches.
fn walk() {
    let mut bytes = vec![0_u8; WALKED];
    loop {
        bytes.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
        black_box(&bytes);
    }
}

/// Pages, and with them the kernel's work for each.
fn map() {
    loop {
        let mut bytes = vec![0_u8; WALKED / 4];
        bytes.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
        black_box(&bytes);
    }
}

/// Calls that are answered, and calls that are refused.
fn ask_the_kernel() {
    loop {
        drop(black_box(File::open("/proc/self/status")));
        drop(black_box(File::open("/etc/passwd")));
    }
}
