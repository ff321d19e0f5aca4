//! The file system a worker sees: an almost empty tmpfs with its program, the shared objects it needs, the ONNX Runtime
//! library, its model and its own entry in `/proc`, all read-only. What exists is found once, at the start.

use crate::device::Device;
use crate::protection::{Protection, Protections};
use crate::sys;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The worker's program inside its cell.
const WORKER: &str = "/worker";
/// The router's program inside its cell.
pub const ROUTER: &std::ffi::CStr = c"/router";
const ONNXRUNTIME: &str = "/lib/libonnxruntime.so";
/// Where a worker finds its model.
pub const MODEL: &str = "/model";
/// Room for directories and empty mount points only.
const TMPFS_SIZE: &str = "64k";
/// Files and directories that a root has room for, and how many more for each device: the node and folders above it.
const INODES: usize = 64;
const INODES_OF_DEVICE: usize = 4;
const TMPFS_MODE: [(&str, &str); 1] = [("mode", "0755")];
/// The source of the worker's own entry in `/proc`.
const PROC: [(&str, &str); 2] = [("hidepid", "2"), ("subset", "pid")];

/// What the worker and the ONNX Runtime library are linked against (`readelf -d`). The last four are part of libc since
/// glibc 2.34, where they are needed by older objects only.
const SHARED_OBJECTS: [&str; 7] = [
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
];
/// The object without which nothing runs; the others are missed by name by the loader of what needs them.
const ESSENTIAL: &str = "libc.so.6";

#[cfg(target_arch = "x86_64")]
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
#[cfg(target_arch = "aarch64")]
const LOADER: &str = "/lib/ld-linux-aarch64.so.1";

/// A failed step, and on what.
#[derive(Debug, thiserror::Error)]
#[error("{call} `{object}`")]
pub struct RootError {
    /// What was called.
    pub call: &'static str,
    /// On what.
    pub object: String,
    /// The OS error.
    #[source]
    pub source: io::Error,
}

/// What is shown to every worker, checked to exist.
#[derive(Debug)]
pub struct Layout {
    binds: Vec<Bind>,
    cell_root: PathBuf,
}

#[derive(Debug)]
struct Bind {
    source: PathBuf,
    target: PathBuf,
    directory: bool,
    attributes: MountAttrFlags,
}

/// What one cell has beyond the others.
#[derive(Default)]
pub struct Contents<'a> {
    /// The model's files, a detached mount; none for a router.
    pub model: Option<BorrowedFd<'a>>,
    /// The devices that it is given.
    pub devices: &'a [Device],
}

/// Attributes of every mount in a cell.
const LOCKED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY.union(MountAttrFlags::MOUNT_ATTR_NOSUID);
const CODE: MountAttrFlags = LOCKED.union(MountAttrFlags::MOUNT_ATTR_NODEV);
const DEVICE: MountAttrFlags = LOCKED.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
/// Of files that are read and nothing else.
pub const DATA: MountAttrFlags = CODE.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

impl Layout {
    /// Looks for everything. `cell_root` is a directory that each cell covers with its root, in its own mount namespace.
    ///
    /// # Errors
    /// [`RootError`] names what is missing.
    pub fn find(worker: &Path, onnxruntime: &Path, cell_root: &Path) -> Result<Self, RootError> {
        let mut binds = vec![
            Bind::find(worker, WORKER, CODE)?,
            Bind::find(onnxruntime, ONNXRUNTIME, CODE)?,
            Bind::find(Path::new(LOADER), LOADER, CODE)?,
            Bind::find(Path::new("/dev/null"), "/dev/null", DEVICE)?,
            Bind::find(Path::new(CPUS), CPUS, DATA)?,
            Bind::find(Path::new(CPU_MODEL), CPU_MODEL, DATA)?,
        ];
        binds.extend(shared_objects()?);
        Ok(Self { binds, cell_root: cell_root.to_owned() })
    }

    /// Looks for what a router needs: its program and what that is linked against.
    ///
    /// # Errors
    /// [`RootError`] names what is missing.
    pub fn find_for_router(router: &Path, cell_root: &Path) -> Result<Self, RootError> {
        let router_target = ROUTER.to_str().expect("the constant is ASCII");
        let mut binds = vec![
            Bind::find(router, router_target, CODE)?,
            Bind::find(Path::new(LOADER), LOADER, CODE)?,
            Bind::find(Path::new("/dev/null"), "/dev/null", DEVICE)?,
        ];
        binds.extend(shared_objects()?);
        Ok(Self { binds, cell_root: cell_root.to_owned() })
    }

    /// Turns this process's root into the cell's, with what it is given. The caller is alone in a new mount namespace and a new pid namespace.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn enter(&self, contents: &Contents<'_>, protections: &Protections) -> Result<(), RootError> {
        // Nothing that happens here may reach the host, and no later mount of the host may reach the cell.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(failed("private", "/"))?;
        if !protections.has(Protection::Root) {
            return Ok(());
        }
        // Sources are taken before the new root covers one of them.
        let sources = self.binds.iter().map(Bind::detach).collect::<Result<Vec<_>, _>>()?;
        let inodes = (INODES + INODES_OF_DEVICE * contents.devices.len()).to_string();
        let size = [("size", TMPFS_SIZE), ("nr_inodes", inodes.as_str())];
        let size = if protections.has(Protection::TmpfsSize) { &size[..] } else { &[] };
        let options = [size, &TMPFS_MODE].concat();
        let root = file_system(c"tmpfs", &options, DATA.difference(MountAttrFlags::MOUNT_ATTR_RDONLY))?;
        attach(root.as_fd(), &self.cell_root)?;
        rustix::process::chdir(&self.cell_root).map_err(failed("chdir", self.cell_root.display()))?;
        place_own_proc()?;
        for (bind, source) in self.binds.iter().zip(&sources) {
            place(source.as_fd(), &bind.target, bind.directory)?;
        }
        for device in contents.devices {
            let mount = device.mount.as_fd();
            sys::add_mount_attributes(mount, DEVICE.bits().into())
                .map_err(failed("mount_setattr", device.path.as_str()))?;
            place(mount, Path::new(device.path.as_str()), false)?;
        }
        if let Some(model) = contents.model {
            place(model, Path::new(MODEL), true)?;
            // The daemon made it so already; a cell does not rest on it.
            let locked = protections.kept(DATA);
            sys::add_mount_attributes(model, locked.bits().into()).map_err(failed("mount_setattr", MODEL))?;
        }
        rustix::process::pivot_root(".", ".").map_err(failed("pivot_root", "."))?;
        unmount(".", UnmountFlags::DETACH).map_err(failed("umount", "the old root"))?;
        rustix::process::chdir("/").map_err(failed("chdir", "/"))?;
        let locked = protections.kept(LOCKED);
        sys::add_mount_attributes(root.as_fd(), locked.bits().into()).map_err(failed("mount_setattr", "/"))
    }

    /// Where the worker's program lies in the root that was entered.
    pub fn program(&self, protections: &Protections) -> CString {
        let path = if protections.has(Protection::Root) { Path::new(WORKER) } else { &self.binds[0].source };
        CString::new(path.as_os_str().as_bytes()).expect("it came as an argument, which holds no zero byte")
    }
}

/// The runtime's CPU detection reads which CPUs exist, and of which model they are.
const CPUS: &str = "/sys/devices/system/cpu";
const CPU_MODEL: &str = "/proc/cpuinfo";

impl Bind {
    fn find(source: &Path, target: impl AsRef<Path>, attributes: MountAttrFlags) -> Result<Self, RootError> {
        // The path is looked up again at each start: an upgrade of the host may move what it leads to.
        let directory = source.metadata().map_err(failed("find", source.display()))?.is_dir();
        Ok(Self { source: source.to_owned(), target: target.as_ref().to_owned(), directory, attributes })
    }

    fn detach(&self) -> Result<OwnedFd, RootError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, &self.source, flags).map_err(failed("open_tree", self.source.display()))?;
        sys::add_mount_attributes(tree.as_fd(), self.attributes.bits().into())
            .map_err(failed("mount_setattr", self.target.display()))?;
        Ok(tree)
    }
}

fn shared_objects() -> Result<Vec<Bind>, RootError> {
    let mut binds = Vec::new();
    for object in SHARED_OBJECTS {
        match library_directories().map(|directory| directory.join(object)).find(|path| path.exists()) {
            Some(path) => binds.push(Bind::find(&path, &path, CODE)?),
            None if object == ESSENTIAL => return Err(failed("find", object)(Errno::NOENT)),
            None => {}
        }
    }
    Ok(binds)
}

/// Where the loader looks without being told, on Debian's multiarch layout and on the plain one.
fn library_directories() -> impl Iterator<Item = PathBuf> {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    [
        format!("/lib/{multiarch}"),
        format!("/usr/lib/{multiarch}"),
        "/lib64".into(),
        "/usr/lib64".into(),
        "/lib".into(),
    ]
    .into_iter()
    .map(PathBuf::from)
}

fn file_system(
    kind: &std::ffi::CStr,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, RootError> {
    let name = kind.to_string_lossy();
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen", &name))?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value).map_err(failed("fsconfig", key))?;
    }
    fsconfig_create(context.as_fd()).map_err(failed("fsconfig", &name))?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("fsmount", &name))
}

/// A `/proc` with the worker's own entry and room for single files of the host's, which a proc file system reduced to
/// processes does not have. It is attached for a moment because older kernels clone no part of a detached mount.
fn place_own_proc() -> Result<(), RootError> {
    place(file_system(c"proc", &PROC, DATA)?.as_fd(), Path::new("/proc"), true)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let own = open_tree(CWD, "proc/1", flags).map_err(failed("open_tree", "/proc/1"))?;
    unmount("proc", UnmountFlags::DETACH).map_err(failed("umount", "/proc"))?;
    place(own.as_fd(), Path::new("/proc/1"), true)?;
    symlinkat("1", CWD, "proc/self").map_err(failed("symlink", "/proc/self"))
}

/// Attaches a detached mount below the current directory, at a path that is absolute in the cell.
fn place(mount: BorrowedFd<'_>, target: &Path, directory: bool) -> Result<(), RootError> {
    let relative = target.strip_prefix("/").expect("targets are absolute");
    let mut made = PathBuf::new();
    let parents = if directory { Some(relative) } else { relative.parent() };
    for name in parents.into_iter().flat_map(Path::components) {
        made.push(name);
        match mkdirat(CWD, &made, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("mkdir", target.display())(errno)),
        }
    }
    if !directory {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(CWD, relative, flags, Mode::from_raw_mode(0o444))
            .map_err(failed("create", target.display()))?;
    }
    attach(mount, relative)
}

fn attach(mount: BorrowedFd<'_>, target: &Path) -> Result<(), RootError> {
    move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("move_mount", target.display()))
}

fn failed<Source: Into<io::Error>>(
    call: &'static str,
    object: impl ToString,
) -> impl FnOnce(Source) -> RootError {
    let object = object.to_string();
    move |source| RootError { call, object, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let error = Layout::find(Path::new("/nowhere/worker"), Path::new("/dev/null"), Path::new("/run"))
            .unwrap_err();
        assert_eq!(error.to_string(), "find `/nowhere/worker`");
    }
}
