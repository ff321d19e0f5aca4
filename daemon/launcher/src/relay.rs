//! What a worker writes to standard output and error: into a pipe of its own, and from there, line by line and behind
//! the name of its cell, to the launcher's standard error. So no worker holds a descriptor of the host's log: it can
//! neither shut it, nor write over it, nor speak as another. What it says beyond its share is left out, and counted.

use crate::wait::wait;
use rustix::event::PollFlags;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Bytes read at once: what a pipe holds, unless its writer enlarged it (pipe(7)).
const CHUNK: usize = 64 << 10;
/// How long nothing is read after something was: a worker that never stops writing waits, and the launcher does not.
const PAUSE: Duration = Duration::from_millis(100);
/// Most reads when the worker has ended: as much as a pipe can be enlarged to (`/proc/sys/fs/pipe-max-size`).
const LAST_READS: usize = 16;
/// Longest line, bytes as they were written; what is longer goes on in the next.
const LINE: usize = 512;
/// Bytes that may be said at once, names and line ends included.
const BURST: u64 = 64 << 10;
/// Bytes that may be said in a second, in the long run: 21 MiB a day.
const PER_SECOND: u64 = 256;

/// The reading end of one worker's pipe.
pub struct Output {
    /// `None` once the worker has closed the other end.
    pipe: Option<OwnedFd>,
    relay: Relay,
    read_from: Instant,
}

impl Output {
    /// A pipe, and what is read from it under this name. The second is the worker's end: writing waits while it is full.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn new(name: String) -> Result<(Self, OwnedFd), Errno> {
        let (pipe, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        ioctl_fionbio(&pipe, true)?;
        let now = Instant::now();
        Ok((Self { pipe: Some(pipe), relay: Relay::new(name, now), read_from: now }, theirs))
    }

    /// What to wait for, once it may be read.
    pub fn due(&self, now: Instant) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| self.read_from <= now).map(AsFd::as_fd)
    }

    /// From when on it may be read, if only later.
    pub fn due_at(&self, now: Instant) -> Option<Instant> {
        self.pipe.as_ref().map(|_| self.read_from).filter(|from| *from > now)
    }

    /// Says what is there, if it may be read.
    pub fn pass_on(&mut self) {
        let now = Instant::now();
        if self.due(now).is_some() && self.read(now) {
            self.read_from = now + PAUSE;
        }
    }

    /// Says what is left, when the worker has ended.
    pub fn finish(mut self) {
        let now = Instant::now();
        let _ = (0..LAST_READS).take_while(|_| self.read(now)).count();
        self.relay.finish(now, &mut Log(io::stderr()));
    }

    /// Reads once; false when there was nothing.
    fn read(&mut self, now: Instant) -> bool {
        let mut bytes = vec![0; CHUNK];
        let Some(length) = self.pipe.as_ref().map(|pipe| rustix::io::read(pipe, &mut bytes)) else {
            return false;
        };
        match length {
            Ok(0) => self.pipe = None,
            Ok(length) => self.relay.take(&bytes[..length], now, &mut Log(io::stderr())),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.pipe = None,
        }
        length.is_ok_and(|length| length > 0)
    }
}

/// Lines out of bytes, with a share of the log.
struct Relay {
    name: String,
    line: Vec<u8>,
    allowance: u64,
    counted: Instant,
    left_out: u64,
}

impl Relay {
    fn new(name: String, now: Instant) -> Self {
        Self { name, line: Vec::new(), allowance: BURST, counted: now, left_out: 0 }
    }

    fn take(&mut self, bytes: &[u8], now: Instant, to: &mut impl Write) {
        let seconds = now.saturating_duration_since(self.counted).as_secs();
        self.allowance = seconds.saturating_mul(PER_SECOND).saturating_add(self.allowance).min(BURST);
        self.counted += Duration::from_secs(seconds);
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
            }
            if *byte == b'\n' || self.line.len() == LINE {
                self.end_line(to);
            }
        }
    }

    /// The last line, and how much was left out.
    fn finish(&mut self, now: Instant, to: &mut impl Write) {
        self.take(b"\n", now, to);
        if self.left_out > 0 {
            // A log that takes no more is no reason to end: the cells go on.
            let _ = to.write_all(self.note().as_bytes());
        }
    }

    /// An empty line says nothing.
    fn end_line(&mut self, to: &mut impl Write) {
        if self.line.is_empty() {
            return;
        }
        let mut text = if self.left_out > 0 { self.note() } else { String::new() };
        let _ = write!(text, "turnout-launcher: {}: ", self.name);
        for character in String::from_utf8_lossy(&self.line).chars() {
            match character {
                '\t' | '"' | '\'' | '\\' => text.push(character),
                other => text.extend(other.escape_debug()),
            }
        }
        text.push('\n');
        match self.allowance.checked_sub(text.len() as u64) {
            Some(left) if to.write_all(text.as_bytes()).is_ok() => {
                self.allowance = left;
                self.left_out = 0;
            }
            _ => self.left_out += self.line.len() as u64,
        }
        self.line.clear();
    }

    fn note(&self) -> String {
        format!("turnout-launcher: {}: {} bytes that it wrote were left out\n", self.name, self.left_out)
    }
}

/// A log that is not waited for: its reader may have stopped, and the launcher has one thread. A descriptor that is ready
/// takes a line at once: 4 KiB of a pipe (pipe(7)), three quarters of a socket's buffer.
struct Log<To>(To);

impl<To: Write + AsFd> Write for Log<To> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match wait(&self.0, PollFlags::OUT, Duration::ZERO)? {
            true => self.0.write(bytes),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn relayed(pieces: &[&[u8]]) -> String {
        let (now, mut out) = (Instant::now(), Vec::new());
        let mut relay = Relay::new("generation 7".to_owned(), now);
        pieces.iter().for_each(|piece| relay.take(piece, now, &mut out));
        relay.finish(now, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_said_whole_and_behind_the_name_of_their_cell() {
        assert_eq!(
            relayed(&[b"one\n\ntw", b"o\nunfinished"]),
            "turnout-launcher: generation 7: one\n\
             turnout-launcher: generation 7: two\n\
             turnout-launcher: generation 7: unfinished\n"
        );
        assert_eq!(relayed(&[]), "");
    }

    #[test]
    fn what_a_terminal_or_a_reader_of_the_log_would_obey_is_escaped() {
        let said = relayed(&["\x1b[2J\rturnout-launcher: \"a\tb\" \u{202e}".as_bytes(), b"\xff\0"]);
        assert_eq!(
            said,
            "turnout-launcher: generation 7: \\u{1b}[2J\\rturnout-launcher: \"a\tb\" \\u{202e}\u{fffd}\\0\n"
        );
    }

    #[test]
    fn a_line_without_end_is_cut_into_lines() {
        let said = relayed(&[&[b'x'; 2 * LINE + 1]]);
        let lengths: Vec<usize> = said.lines().map(|line| line.matches('x').count()).collect();
        // One is the name's.
        assert_eq!(lengths, [LINE, LINE, 1]);
    }

    #[test]
    fn beyond_its_share_nothing_is_said_and_later_how_much_that_was() {
        let (start, mut out) = (Instant::now(), Vec::new());
        let mut relay = Relay::new("generation 7".to_owned(), start);
        let line = [&[b'y'; 99][..], b"\n"].concat();
        (0..2000).for_each(|_| relay.take(&line, start, &mut out));
        let said = out.len() as u64;
        assert!((BURST - 200..=BURST).contains(&said), "{said}");
        let left_out = 99 * (2000 - out.iter().filter(|byte| **byte == b'\n').count());
        out.clear();
        relay.take(b"later\n", start + Duration::from_secs(2), &mut out);
        let later = String::from_utf8(out).unwrap();
        let expected = format!(
            "turnout-launcher: generation 7: {left_out} bytes that it wrote were left out\n\
             turnout-launcher: generation 7: later\n"
        );
        assert_eq!(later, expected);
    }

    #[test]
    fn a_log_that_is_not_read_holds_nobody_up_and_is_told_later_what_it_missed() {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut log = Log(std::fs::File::from(ours));
        let now = Instant::now();
        let mut relay = Relay::new("generation 7".to_owned(), now);
        // More than a pipe holds, and less than may be said.
        let line = [&[b'z'; 500][..], b"\n"].concat();
        let size = rustix::pipe::fcntl_setpipe_size(&theirs, 4096).unwrap();
        (0..2 * size / line.len()).for_each(|_| relay.take(&line, now, &mut log));
        let left_out = relay.left_out;
        assert!(left_out > 0 && left_out.is_multiple_of(500), "{left_out}");
        let mut said = vec![0; 2 * size];
        let length = rustix::io::read(&theirs, &mut said).unwrap();
        relay.take(b"later\n", now, &mut log);
        let after = rustix::io::read(&theirs, &mut said[length..]).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&said[length..length + after]),
            format!(
                "turnout-launcher: generation 7: {left_out} bytes that it wrote were left out\n\
                 turnout-launcher: generation 7: later\n"
            )
        );
    }

    #[test]
    fn a_log_that_takes_nothing_ends_nobody() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let now = Instant::now();
        let mut relay = Relay::new("generation 7".to_owned(), now);
        relay.take(b"one\n", now, &mut Full);
        relay.finish(now, &mut Full);
    }

    proptest! {
        #[test]
        fn whatever_is_written_each_line_has_the_name_and_all_of_it_stays_within_the_share(
            pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..3000), 0_u64..5), 0..60),
        ) {
            let (mut now, mut out) = (Instant::now(), Vec::new());
            let mut relay = Relay::new("generation 7".to_owned(), now);
            let mut most = BURST;
            for (piece, seconds) in &pieces {
                now += Duration::from_secs(*seconds);
                most += seconds * PER_SECOND;
                relay.take(piece, now, &mut out);
                prop_assert!(relay.line.len() < LINE);
            }
            prop_assert!(out.len() as u64 <= most);
            let said = String::from_utf8(out).unwrap();
            prop_assert!(said.is_empty() || said.ends_with('\n'));
            for line in said.lines() {
                prop_assert!(line.starts_with("turnout-launcher: generation 7: "));
                prop_assert!(line.chars().all(|c| c == '\t' || !c.is_control()));
            }
        }
    }
}
