//! Other files where a running worker has its model. A mount can only be attached from within its namespace, so a child
//! goes there. The worker reads its model when it is told to, which is after this, so nobody looks while it changes.

use crate::protection::Protections;
use crate::root::{DATA, MODEL};
use crate::sys::{self, Forked};
use crate::wait::wait;
use rustix::event::PollFlags;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, openat, statx};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long the child may take: a handful of calls that do not wait.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a killed child may take to end.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// The call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{call} at the model")]
pub struct SwapError {
    call: &'static str,
    #[source]
    errno: Errno,
}

/// The calls of the child, in the order in which it reports them.
const CALLS: [&str; 8] =
    ["open /proc", "setns", "read mountinfo", "statx", "umount", "move_mount", "mount_setattr", "swap"];

/// Shows `model`, a detached mount, where the worker of this mount namespace has its model. What it has open stays open.
///
/// # Errors
/// [`SwapError`].
pub fn swap_model(
    protections: &Protections,
    namespace: BorrowedFd<'_>,
    model: BorrowedFd<'_>,
) -> Result<(), SwapError> {
    // The daemon made it so already; a cell does not rest on it.
    sys::add_mount_attributes(model, protections.kept(DATA).bits().into())
        .map_err(failed("mount_setattr"))?;
    let (report, told) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe"))?;
    let pidfd = match sys::fork().map_err(failed("clone3"))? {
        Forked::Child => {
            let outcome = within(namespace, model);
            let _ = rustix::io::write(&told, &encoded(outcome));
            sys::exit_now(0)
        }
        Forked::Parent { pidfd, .. } => pidfd,
    };
    drop(told);
    let outcome = outcome(&report);
    if outcome.is_err() {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    let _ = wait(&pidfd, PollFlags::IN, END_DEADLINE);
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    outcome
}

/// In the child, which alone changes its namespace and ends after this.
fn within(namespace: BorrowedFd<'_>, model: BorrowedFd<'_>) -> Result<(), SwapError> {
    // The cell's own shows no process but the worker.
    let processes =
        open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open /proc"))?;
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount)).map_err(failed("setns"))?;
    let point = Point { path: MODEL, processes };
    // A child that was killed between two calls left a mount too many: the new one, beneath.
    for _ in 1..point.mounts()? {
        point.take_off()?;
    }
    if point.shows(model)? {
        return Ok(());
    }
    point.swap_beneath(model).or_else(|_| point.swap_apart(model))?;
    if point.shows(model)? { Ok(()) } else { Err(failed("swap")(Errno::BUSY)) }
}

/// Where a worker has its model.
struct Point<'a> {
    path: &'a str,
    /// A `/proc` in which this process can see itself.
    processes: OwnedFd,
}

impl Point<'_> {
    /// The new mount goes beneath the old one, which then goes.
    fn swap_beneath(&self, model: BorrowedFd<'_>) -> Result<(), SwapError> {
        self.attach(model, MoveMountFlags::MOVE_MOUNT_BENEATH)?;
        self.take_off()
    }

    /// For kernels before 6.5, which have no beneath: with nobody to look, a moment without a model does no harm.
    fn swap_apart(&self, model: BorrowedFd<'_>) -> Result<(), SwapError> {
        for _ in 0..self.mounts()? {
            self.take_off()?;
        }
        self.attach(model, MoveMountFlags::empty())
    }

    fn attach(&self, model: BorrowedFd<'_>, how: MoveMountFlags) -> Result<(), SwapError> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | how;
        move_mount(model, "", CWD, self.path, flags).map_err(failed("move_mount"))
    }

    /// Detached, because the worker may have files of it mapped.
    fn take_off(&self) -> Result<(), SwapError> {
        unmount(self.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(failed("umount"))
    }

    /// How many mounts lie there (proc_pid_mountinfo(5)).
    fn mounts(&self) -> Result<usize, SwapError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let table = openat(&self.processes, "thread-self/mountinfo", flags, Mode::empty())
            .map_err(failed("read mountinfo"))?;
        let mut text = String::new();
        File::from(table).read_to_string(&mut text).map_err(|_| failed("read mountinfo")(Errno::IO))?;
        Ok(text.lines().filter(|line| line.split(' ').nth(4) == Some(self.path)).count())
    }

    /// Whether these files are there: the same folder of the same file system.
    fn shows(&self, model: BorrowedFd<'_>) -> Result<bool, SwapError> {
        let wanted = statx(model, "", AtFlags::EMPTY_PATH, StatxFlags::INO).map_err(failed("statx"))?;
        let shown =
            statx(CWD, self.path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO).map_err(failed("statx"))?;
        let folder = |found: &rustix::fs::Statx| (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
        Ok(folder(&wanted) == folder(&shown))
    }
}

/// A report of the child: which call failed, 0 for none, and the error's number.
fn encoded(outcome: Result<(), SwapError>) -> [u8; 5] {
    let Err(SwapError { call, errno }) = outcome else { return [0; 5] };
    let place = CALLS.iter().position(|known| *known == call).map_or(CALLS.len(), |place| place + 1);
    let mut report = [0; 5];
    report[0] = u8::try_from(place).unwrap_or(u8::MAX);
    report[1..].copy_from_slice(&errno.raw_os_error().to_le_bytes());
    report
}

fn outcome(report: &OwnedFd) -> Result<(), SwapError> {
    let mut bytes = [0; 5];
    match wait(report, PollFlags::IN, DEADLINE) {
        Ok(true) => {}
        Ok(false) => return Err(failed("swap")(Errno::TIMEDOUT)),
        Err(errno) => return Err(failed("poll")(errno)),
    }
    // A child that ended without a report was killed.
    if rustix::io::read(report, &mut bytes) != Ok(bytes.len()) {
        return Err(failed("swap")(Errno::INTR));
    }
    match bytes {
        [0, ..] => Ok(()),
        [place, errno @ ..] => {
            let call = CALLS.get(usize::from(place) - 1).copied().unwrap_or("swap");
            Err(failed(call)(Errno::from_raw_os_error(i32::from_le_bytes(errno))))
        }
    }
}

fn failed(call: &'static str) -> impl FnOnce(Errno) -> SwapError {
    move |errno| SwapError { call, errno }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_change, open_tree};
    use rustix::thread::UnshareFlags;
    use std::fs;

    type Swap = fn(&Point<'_>, BorrowedFd<'_>) -> Result<(), SwapError>;

    /// In a namespace of its own: three versions in turn, and never a mount more than one.
    fn swaps(swap: Swap) {
        let body = move || {
            sys::unshare(UnshareFlags::NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            mount(c"test", c"/run", c"tmpfs", MountFlags::empty(), None).unwrap();
            fs::create_dir("/run/model").unwrap();
            let processes = open("/proc", OFlags::PATH, Mode::empty()).unwrap();
            let point = Point { path: "/run/model", processes };
            for version in ["1", "2", "3"] {
                fs::create_dir(format!("/run/{version}")).unwrap();
                fs::write(format!("/run/{version}/model.onnx"), version).unwrap();
            }
            let tree = |version: &str| {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                open_tree(CWD, format!("/run/{version}"), flags).unwrap()
            };
            point.attach(tree("3").as_fd(), MoveMountFlags::empty()).unwrap();
            for version in ["1", "2", "3", "1"] {
                let tree = tree(version);
                assert!(!point.shows(tree.as_fd()).unwrap());
                let open = File::open("/run/model/model.onnx").unwrap();
                let before = fs::read_to_string("/run/model/model.onnx").unwrap();
                swap(&point, tree.as_fd()).unwrap();
                assert!(point.shows(tree.as_fd()).unwrap());
                assert_eq!(fs::read_to_string("/run/model/model.onnx").unwrap(), version);
                assert_eq!(std::io::read_to_string(open).unwrap(), before, "what was open stays");
                assert_eq!(point.mounts(), Ok(1));
            }
        };
        std::thread::spawn(body).join().unwrap();
    }

    #[test]
    fn a_mount_is_swapped_beneath_where_the_kernel_can() {
        let has_beneath = rustix::system::uname()
            .release()
            .to_string_lossy()
            .split('.')
            .take(2)
            .map(str::parse)
            .collect::<Result<Vec<u32>, _>>()
            .is_ok_and(|version| version >= vec![6, 5]);
        if has_beneath {
            swaps(|point, model| point.swap_beneath(model));
        }
    }

    #[test]
    fn a_mount_is_swapped_where_the_kernel_has_no_beneath() {
        swaps(|point, model| point.swap_apart(model));
    }

    #[test]
    fn what_the_child_reports_arrives() {
        for call in CALLS {
            let error = failed(call)(Errno::PERM);
            let (report, told) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            rustix::io::write(&told, &encoded(Err(error))).unwrap();
            assert_eq!(outcome(&report), Err(error));
        }
        let (report, told) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&told, &encoded(Ok(()))).unwrap();
        assert_eq!(outcome(&report), Ok(()));
        let (report, told) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        drop(told);
        assert!(outcome(&report).is_err());
    }
}
