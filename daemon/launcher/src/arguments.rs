//! The launcher's command line.

use lexopt::{Arg, Parser, ValueExt};
use std::path::PathBuf;
use turnout_launcher_wire::SLOTS;

/// What is printed for `--help`.
pub const USAGE: &str = "\
Usage: turnout-launcher --socket PATH --cgroup DIR --worker PATH --onnxruntime PATH --uid-base N [--router PATH]
                        [--cell-root DIR]

Builds the cells of Turnout's workers and owns them. Started by its service, or by turnoutd where there is none.

  --socket PATH        Unix socket (SOCK_SEQPACKET) to serve; made 0600, an old one is replaced; not used where the
                       service manager hands one over
  --cgroup DIR         cgroup2 directory of this instance; made when missing
  --worker PATH        turnout-worker
  --onnxruntime PATH   libonnxruntime.so
  --router PATH        turnout-router; default: `turnout-router` beside turnout-worker
  --uid-base N         user and group of the cell in slot 0; the cells take N to N+63
  --cell-root DIR      any directory, covered by each cell's root in its own view; default: the socket's directory
";

/// The command line, checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    /// Where to listen.
    pub socket: PathBuf,
    /// The instance's cgroup.
    pub cgroup: PathBuf,
    /// The worker's program.
    pub worker: PathBuf,
    /// The ONNX Runtime library.
    pub onnxruntime: PathBuf,
    /// The router's program.
    pub router: PathBuf,
    /// User of slot 0.
    pub uid_base: u32,
    /// What each cell's root covers.
    pub cell_root: PathBuf,
}

/// A command line that is not one.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    /// It cannot be read.
    #[error("command line")]
    Parse(#[source] lexopt::Error),
    /// An option is missing.
    #[error("option `{0}` is missing")]
    Missing(&'static str),
    /// The users would include root or the ones of other services.
    #[error("`--uid-base` must lie between 1000 and {}", u32::MAX - 2 * SLOTS)]
    UidBase,
}

impl Arguments {
    /// Reads the command line, `None` when help was asked for.
    ///
    /// # Errors
    /// [`ArgumentError`].
    pub fn read(mut parser: Parser) -> Result<Option<Self>, ArgumentError> {
        let [mut socket, mut cgroup, mut worker, mut onnxruntime, mut router, mut cell_root] =
            [const { None::<PathBuf> }; 6];
        let mut uid_base = None;
        while let Some(argument) = parser.next().map_err(ArgumentError::Parse)? {
            let target = match argument {
                Arg::Long("socket") => &mut socket,
                Arg::Long("cgroup") => &mut cgroup,
                Arg::Long("worker") => &mut worker,
                Arg::Long("onnxruntime") => &mut onnxruntime,
                Arg::Long("router") => &mut router,
                Arg::Long("cell-root") => &mut cell_root,
                Arg::Long("uid-base") => {
                    let value =
                        parser.value().and_then(|value| value.parse()).map_err(ArgumentError::Parse)?;
                    uid_base = Some(value);
                    continue;
                }
                Arg::Short('h') | Arg::Long("help") => return Ok(None),
                other => return Err(ArgumentError::Parse(other.unexpected())),
            };
            *target = Some(parser.value().map_err(ArgumentError::Parse)?.into());
        }
        let socket = socket.ok_or(ArgumentError::Missing("--socket"))?;
        let parent = socket.parent().filter(|parent| !parent.as_os_str().is_empty());
        let cell_root = cell_root.or_else(|| parent.map(PathBuf::from)).unwrap_or_else(|| ".".into());
        let worker = worker.ok_or(ArgumentError::Missing("--worker"))?;
        Ok(Some(Self {
            cgroup: cgroup.ok_or(ArgumentError::Missing("--cgroup"))?,
            router: router.unwrap_or_else(|| worker.with_file_name("turnout-router")),
            worker,
            onnxruntime: onnxruntime.ok_or(ArgumentError::Missing("--onnxruntime"))?,
            uid_base: checked_base(uid_base.ok_or(ArgumentError::Missing("--uid-base"))?)?,
            cell_root,
            socket,
        }))
    }
}

fn checked_base(base: u32) -> Result<u32, ArgumentError> {
    if (1000..=u32::MAX - 2 * SLOTS).contains(&base) { Ok(base) } else { Err(ArgumentError::UidBase) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Arguments>, ArgumentError> {
        Arguments::read(Parser::from_args(line.split_whitespace()))
    }

    #[test]
    fn the_cell_root_and_the_router_have_defaults() {
        let line = "--socket /run/t/l.sock --cgroup /c --worker /b/w --onnxruntime /o --uid-base 61000";
        let arguments = read(line).unwrap().unwrap();
        assert_eq!(arguments.cell_root, PathBuf::from("/run/t"));
        assert_eq!(arguments.router, PathBuf::from("/b/turnout-router"));
        let named = read(&format!("{line} --router /r")).unwrap().unwrap();
        assert_eq!(named.router, PathBuf::from("/r"));
    }

    #[test]
    fn incomplete_and_dangerous_lines_are_refused() {
        for line in [
            "",
            "--socket",
            "--sockets /a",
            "--socket /a --cgroup /c --worker /w --onnxruntime /o",
            "--socket /a --cgroup /c --worker /w --onnxruntime /o --uid-base 0",
            "--socket /a --cgroup /c --worker /w --onnxruntime /o --uid-base 4294967295",
            "--socket /a --cgroup /c --worker /w --onnxruntime /o --uid-base many",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
