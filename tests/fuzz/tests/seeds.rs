//! Every target with what it starts from, with noise, and with its seeds changed at random, the same way at each run. The
//! search with coverage is `cargo xtask fuzz`; this is what of it fits into every test run.

#![expect(clippy::unwrap_used, reason = "the steps of a test fail by panicking")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use turnout_fuzz::{PeakAlloc, TARGETS, Target};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Changed seeds for each target; `TURNOUT_FUZZ_CHANGES` says otherwise.
const CHANGES: u64 = 500;

/// Memory is counted for the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers at each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }
}

/// One seed with a few changes: bytes flipped, set to what lengths and signs turn on, cut out, doubled, or taken from
/// another seed.
fn changed(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seeds[numbers.below(seeds.len())].clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let end = (at + 1 + numbers.below(16)).min(bytes.len());
        match numbers.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << numbers.below(8),
            1 if !bytes.is_empty() => {
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'['][numbers.below(8)]
            }
            2 if !bytes.is_empty() => drop(bytes.drain(at..end)),
            3 if !bytes.is_empty() => {
                let twice = bytes[at..end].to_vec();
                bytes.splice(at..at, twice);
            }
            4 => bytes.truncate(at),
            _ => {
                let other = &seeds[numbers.below(seeds.len())];
                let from = numbers.below(other.len());
                let to = (from + 1 + numbers.below(32)).min(other.len());
                bytes.splice(at..at, other[from.min(to)..to].to_vec());
            }
        }
    }
    bytes
}

/// Runs the target; what breaks it is written to a file that the message names.
fn hold(target: &Target, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| target.run_within(&ALLOCATOR, bytes))).unwrap_or_else(|_| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.finding", target.name));
        fs::write(&file, bytes).unwrap();
        panic!(
            "{}: broken by `{}`; repeat: cargo xtask fuzz --only {0} --input {1}; \
             once mended, keep it in tests/fuzz/findings/{0}/",
            target.name,
            file.display()
        );
    })
}

#[test]
fn every_parser_takes_a_seed_and_refuses_noise() {
    let _alone = alone();
    for target in &TARGETS {
        let seeds = target.seeds();
        assert!(seeds.iter().any(|seed| hold(target, seed)), "{}: no seed is accepted", target.name);
        for noise in [&b""[..], &[0; 64], &[0xff; 4096], b"{\"a\":1}]"] {
            assert!(!hold(target, noise), "{}: {noise:?} is accepted", target.name);
        }
    }
}

#[test]
fn no_changed_seed_breaks_a_parser_or_takes_its_memory() {
    let _alone = alone();
    let changes = std::env::var("TURNOUT_FUZZ_CHANGES").map_or(CHANGES, |text| text.parse().unwrap());
    for target in &TARGETS {
        let seeds = target.seeds();
        let mut numbers = Numbers(1);
        for _ in 0..changes {
            hold(target, &changed(&seeds, &mut numbers));
        }
    }
}

/// As large as the largest that is taken in from outside, each built to blow up in memory.
#[test]
fn no_parser_takes_more_than_its_memory_for_the_largest_documents() {
    const LARGEST: usize = 8 << 20;
    let _alone = alone();
    let filled = |item: &str| format!("[{}0]", item.repeat((LARGEST - 2) / item.len())).into_bytes();
    // As many values as a document may have, in the shape that takes the most for each.
    let chain = format!("{}0{},", "{\"\":".repeat(29), "}".repeat(29));
    let full = format!("[{}0]", chain.repeat(79_000 / 30)).into_bytes();
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(LARGEST - 8)).into_bytes();
    let documents = [filled("[],"), filled("{\"\":0},"), filled("\"\","), filled(&chain), full, text];
    // That one reads what it has written once more, beside the first.
    for target in TARGETS.iter().filter(|target| target.name != "canonical_json") {
        for document in &documents {
            hold(target, document);
        }
    }
}

#[test]
fn memory_beyond_the_limit_is_noticed() {
    let _alone = alone();
    fn hungry(bytes: &[u8]) -> bool {
        let taken = vec![1_u8; bytes.len() << 20];
        taken.iter().all(|byte| *byte == 1)
    }
    let target = turnout_fuzz::find("plan").unwrap();
    let hungry = Target { run: hungry, ..*target };
    assert!(hungry.run_within(&ALLOCATOR, &[0; 8]));
    let refused = catch_unwind(AssertUnwindSafe(|| hungry.run_within(&ALLOCATOR, &[0; 80])));
    let message = refused.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("bytes of memory"), "{message}");
}
