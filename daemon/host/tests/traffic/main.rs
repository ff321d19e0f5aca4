//! Steering and watching against the real kernel. Every test has a network namespace, a bpffs, a cgroup and
//! worker processes of its own, so it needs root and meets nothing of the host.

#![allow(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod probes;
mod scene;
mod steering;
mod worker;
