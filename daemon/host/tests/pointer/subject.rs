//! What is swapped and read: a model's pointer, or that of a set of two models; and the place where.

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use std::fs::{self, File};
use std::io::Read;
use turnout_host::linux_pointer::{LinuxPointer, Method, PointerConfig};
use turnout_host::mounts::{Mount, mount_table};
use turnout_host::pointer::{Pointer, Shown};
use turnout_host::store::StoredName;
use turnout_manifest::{SetName, Sha256};

/// The models of the set, the first of which is the one with a pointer of its own in most tests.
pub const MODELS: [&str; 2] = ["fraud", "cards"];

/// A version whose every byte is this one.
pub fn version(model: &str, byte: u8) -> StoredName {
    StoredName { model: model.parse().unwrap(), digest: Sha256([byte; 32]) }
}

pub fn name(byte: u8) -> StoredName {
    version(MODELS[0], byte)
}

pub fn set() -> SetName {
    "payments".parse().unwrap()
}

pub fn both(byte: u8) -> Vec<Shown> {
    MODELS.map(|model| Shown::Version(version(model, byte))).to_vec()
}

pub fn open_pointer(method: Method) -> LinuxPointer {
    mount(c"test", c"/run", c"tmpfs", MountFlags::empty(), None).unwrap();
    // As on a host with systemd.
    mount_change("/run", MountPropagationFlags::SHARED).unwrap();
    for name in [1, 2].into_iter().flat_map(|byte| MODELS.map(|model| version(model, byte))) {
        let files = format!("/run/versions/{name}/files");
        fs::create_dir_all(&files).unwrap();
        for file in ["a", "b"] {
            fs::write(format!("{files}/{file}"), [name.digest.0[0]; 16]).unwrap();
        }
    }
    LinuxPointer::open(&config(method)).unwrap()
}

pub fn config(method: Method) -> PointerConfig {
    PointerConfig { dir: "/run/models".into(), versions: "/run/versions".into(), method: Some(method) }
}

/// Mounts of the pointers and of what a swap may leave, in this thread's namespace; others mount on this machine too.
pub fn own_mounts() -> usize {
    let own = |mount: &Mount| {
        let point = mount.point.to_string_lossy();
        point.starts_with("/run/models") || point.starts_with("/run/sets")
    };
    mount_table().unwrap().iter().filter(|mount| own(mount)).count()
}

/// What is swapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Model,
    Set,
}

impl Subject {
    pub fn show(self, pointer: &LinuxPointer, byte: u8) {
        match self {
            Self::Model => pointer.point(&name(byte)).unwrap(),
            Self::Set => pointer.point_set(&set(), &both(byte)).unwrap(),
        }
    }

    /// What is shown, by its byte; `None` for nothing.
    pub fn shown(self, pointer: &LinuxPointer) -> Option<u8> {
        let shown = match self {
            Self::Model => pointer.pointed(&name(1).model).unwrap().into_iter().collect(),
            Self::Set => pointer.pointed_set(&set()).unwrap(),
        };
        let wanted = if self == Self::Model { 1 } else { MODELS.len() };
        let byte = shown.first()?.digest.0[0];
        (shown.len() == wanted && shown.iter().all(|name| name.digest.0[0] == byte)).then_some(byte)
    }

    /// One read as a careful reader does it: the folder once, then all files through it. `Err` says what went wrong.
    pub fn read_once(self) -> Result<u8, String> {
        let (point, files) = match self {
            Self::Model => ("/run/models/fraud/current", &["files/a", "files/b"][..]),
            Self::Set => (
                "/run/sets/payments/current",
                &["fraud/files/a", "cards/files/b", "cards/files/a", "fraud/files/b"][..],
            ),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let folder =
            openat(CWD, point, flags, Mode::empty()).map_err(|error| format!("gap at the point: {error}"))?;
        let mut seen = Vec::new();
        for file in files {
            let file = openat(&folder, *file, OFlags::RDONLY, Mode::empty())
                .map_err(|error| format!("gap: {error}"))?;
            File::from(file).read_to_end(&mut seen).map_err(|error| format!("read: {error}"))?;
        }
        let whole = seen.len() == 16 * files.len() && seen.iter().all(|byte| *byte == seen[0]);
        if whole { Ok(seen[0]) } else { Err(format!("mix: {seen:?}")) }
    }
}
