//! The store's own file system where the host has no Btrfs: a fallocated image, made once, mounted through a loop
//! device that frees itself. Never a sparse file: when the host's disk fills up, Btrfs on one loses data.

use crate::{HostError, sys};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::mount::{MountFlags, mount};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Smallest image, bytes: below it Btrfs has no room for its own copies.
pub const IMAGE_MIN: u64 = 256 << 20;
/// Greatest image made without being asked for a size, bytes.
pub const IMAGE_DEFAULT_MAX: u64 = 8 << 30;
/// Other processes may take a free loop device first, this many times.
const LOOP_ATTEMPTS: u32 = 32;
const MKFS_PLACES: [&str; 3] = ["/usr/sbin/mkfs.btrfs", "/sbin/mkfs.btrfs", "/usr/bin/mkfs.btrfs"];
const BTRFS_PLACES: [&str; 3] = ["/usr/bin/btrfs", "/usr/sbin/btrfs", "/sbin/btrfs"];
/// What `btrfs rescue super-recover` exits with when it has written a superblock again.
const SUPERBLOCK_RESTORED: i32 = 2;
const LOOP_CONTROL: &str = "/dev/loop-control";
/// What the kernel writes behind the name of a file that has none any more.
pub const DELETED: &str = " (deleted)";

/// Makes the image. It gets its name when it is whole: what a killed run left is made anew.
///
/// # Errors
/// [`HostError::Unsupported`] without room or without `mkfs.btrfs`, or the kernel's own.
pub fn create(image: &Path, bytes: Option<u64>) -> Result<(), HostError> {
    let directory = image.parent().unwrap_or(Path::new("/"));
    let size = image_size(directory, bytes)?;
    let unfinished = image.with_extension("img.new");
    remove_if_there(&unfinished)?;
    let made = allocate(&unfinished, size)
        .and_then(|file| format(&unfinished).map(|()| file))
        .and_then(|file| file.sync_all().map_err(HostError::os("fsync", unfinished.display())))
        .and_then(|()| fs::rename(&unfinished, image).map_err(HostError::os("rename", image.display())))
        .and_then(|()| sync_directory(directory));
    if made.is_err() {
        remove_if_there(&unfinished)?;
    }
    made
}

/// How an image was found when it was mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// As it was left.
    Whole,
    /// With a torn superblock, which was restored from a copy.
    Torn,
}

/// Mounts the image: on the loop device that has it already, or on a new one. Where a power cut has torn the superblock's
/// 4 KiB, because the disk writes less than that as one, no kernel mounts it: it is restored from one of its copies, which
/// the same commit has written or the one before.
///
/// # Errors
/// [`HostError::Unsupported`] without loop devices or Btrfs, or the kernel's own.
pub fn mount_image(image: &Path, point: &Path) -> Result<Found, HostError> {
    // The descriptor keeps the device bound until the mount does.
    let (device, _open) = match attached(image) {
        Some(attached) => attached,
        None => attach(image)?,
    };
    let Err(refused) = mount_device(&device, point) else { return Ok(Found::Whole) };
    let is_invalid = matches!(&refused, HostError::Os { call: "mount", source, .. }
        if source.kind() == ErrorKind::InvalidInput);
    if !is_invalid || !restore_superblock(&device) {
        return Err(refused);
    }
    mount_device(&device, point).map(|()| Found::Torn)
}

/// Whether a superblock of this device was written again from a copy, by the program of btrfs-progs (btrfs-rescue(8)). It
/// writes nothing where all are whole, or no copy is.
fn restore_superblock(device: &Path) -> bool {
    let program = BTRFS_PLACES.into_iter().find(|place| Path::new(place).exists());
    let done = program.map(|program| {
        let mut command = Command::new(program);
        command.args(["rescue", "super-recover", "-y"]).arg(device).env_clear().stdin(Stdio::null()).output()
    });
    done.is_some_and(|done| done.is_ok_and(|done| done.status.code() == Some(SUPERBLOCK_RESTORED)))
}

/// Makes an image and the file system in it larger: file, loop device, Btrfs, in this order, so that a run that was
/// broken off is finished by the next one.
///
/// # Errors
/// [`HostError::Unsupported`] for a smaller size or want of room, or the kernel's own.
pub fn grow((image, mounted): (&Path, &Path), bytes: u64) -> Result<(), HostError> {
    let file = open_device(image).map_err(HostError::os("open", image.display()))?;
    let present = file.metadata().map_err(HostError::os("stat", image.display()))?.len();
    if bytes < present {
        return Err(HostError::Unsupported {
            what: format!("the store's image has {present} bytes and cannot be made smaller"),
            remedy: "give a greater size",
        });
    }
    reserve(&file, image, (present, bytes))?;
    let (device, open) = attached(image)
        .ok_or_else(|| HostError::Missing { kind: "loop device", name: image.display().to_string() })?;
    sys::loop_set_capacity(open.as_fd())
        .map_err(HostError::os("ioctl LOOP_SET_CAPACITY", device.display()))?;
    let folder = File::open(mounted).map_err(HostError::os("open", mounted.display()))?;
    sys::btrfs_resize_max(folder.as_fd()).map_err(HostError::os("ioctl BTRFS_IOC_RESIZE", mounted.display()))
}

/// Reserves the new end of the image. Without room for it nothing is changed.
fn reserve(file: &File, image: &Path, (from, to): (u64, u64)) -> Result<(), HostError> {
    let above = image.parent().unwrap_or(Path::new("/"));
    let room = statvfs(above).map_err(HostError::os("statvfs", above.display()))?;
    let free = room.f_bavail * room.f_frsize;
    if to - from > free {
        return Err(HostError::Unsupported {
            what: format!("{} more bytes are needed, `{}` has {free} bytes free", to - from, above.display()),
            remedy: "free some space, or give a smaller size",
        });
    }
    if to > from {
        fallocate(file, FallocateFlags::empty(), from, to - from)
            .map_err(HostError::os("fallocate", image.display()))?;
    }
    file.sync_all().map_err(HostError::os("fsync", image.display()))
}

/// The file behind a loop device, as the kernel names it: with ` (deleted)` at its end when it has no name any more.
pub fn backing_file(device: &Path) -> Option<String> {
    let name = device.file_name()?.to_str()?;
    let text = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(text.trim_end_matches('\n').to_owned())
}

/// Formats a file or device with Btrfs, by the program of btrfs-progs.
///
/// # Errors
/// [`HostError::Unsupported`] where it is not installed or fails.
pub fn format(file: &Path) -> Result<(), HostError> {
    let program = mkfs_program()?;
    let output = Command::new(program)
        .args(["--quiet", "--nodiscard", "--label", "turnout-store"])
        .arg(file)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(HostError::os("exec", program))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(HostError::Os {
        call: "mkfs.btrfs",
        object: file.display().to_string(),
        source: io::Error::other(words),
    })
}

/// Where `mkfs.btrfs` is.
///
/// # Errors
/// [`HostError::Unsupported`] where it is not installed.
pub fn mkfs_program() -> Result<&'static str, HostError> {
    let found = MKFS_PLACES.into_iter().find(|place| Path::new(place).exists());
    found.ok_or_else(|| HostError::Unsupported {
        what: "`mkfs.btrfs` is not installed".to_owned(),
        remedy: "install the package `btrfs-progs`, or put the state directory on Btrfs",
    })
}

/// A free loop device bound to this file, with the descriptor that keeps it bound until it is mounted.
///
/// # Errors
/// [`HostError::Unsupported`] without loop devices, or the kernel's own.
pub fn attach(image: &Path) -> Result<(PathBuf, File), HostError> {
    let control = open_device(Path::new(LOOP_CONTROL)).map_err(no_loop_devices)?;
    let file = open_device(image).map_err(HostError::os("open", image.display()))?;
    let mut last = io::Error::from(ErrorKind::ResourceBusy);
    for _ in 0..LOOP_ATTEMPTS {
        let number = sys::loop_get_free(control.as_fd()).map_err(no_loop_devices)?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        let open = open_device(&device).map_err(no_loop_devices)?;
        match sys::loop_configure(open.as_fd(), file.as_fd()) {
            Ok(()) => return Ok((device, open)),
            Err(error) if error.kind() == ErrorKind::ResourceBusy => last = error,
            Err(error) => return Err(HostError::os("ioctl LOOP_CONFIGURE", device.display())(error)),
        }
    }
    Err(HostError::os("ioctl LOOP_CONFIGURE", image.display())(last))
}

/// Mounts a device, without devices and set-uid programs, and without access times.
///
/// # Errors
/// [`HostError::Unsupported`] without Btrfs, or the kernel's own.
pub fn mount_device(device: &Path, point: &Path) -> Result<(), HostError> {
    let flags = MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID;
    // Discarding would give the reserved space back to the host, where others can take it.
    match mount(device, point, c"btrfs", flags, c"nodiscard") {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::NODEV) => Err(HostError::Unsupported {
            what: "this kernel has no Btrfs".to_owned(),
            remedy: "load the kernel module `btrfs`, or install a kernel that has it",
        }),
        Err(error) => Err(HostError::os("mount", point.display())(error)),
    }
}

/// Makes renames in a directory durable.
///
/// # Errors
/// The file system's own.
pub fn sync_directory(directory: &Path) -> Result<(), HostError> {
    let synced = File::open(directory).and_then(|open| open.sync_all());
    synced.map_err(HostError::os("fsync", directory.display()))
}

fn image_size(directory: &Path, bytes: Option<u64>) -> Result<u64, HostError> {
    let room = statvfs(directory).map_err(HostError::os("statvfs", directory.display()))?;
    let free = room.f_bavail * room.f_frsize;
    let size = bytes.unwrap_or((free / 4).min(IMAGE_DEFAULT_MAX));
    if size < IMAGE_MIN || size > free {
        let place = directory.display();
        return Err(HostError::Unsupported {
            what: format!("no store image of {size} bytes can be made, `{place}` has {free} bytes free"),
            remedy: "the image needs 256 MiB or more, a quarter of the free space unless a size is configured: \
                     free some space, or configure a size that fits",
        });
    }
    Ok(size)
}

fn allocate(path: &Path, size: u64) -> Result<File, HostError> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(HostError::os("create", path.display()))?;
    match fallocate(&file, FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::OPNOTSUPP) => Err(HostError::Unsupported {
            what: format!("the file system of `{}` cannot reserve space for an image", path.display()),
            remedy: "put the state directory on Btrfs, ext4 or XFS",
        }),
        Err(error) => Err(HostError::os("fallocate", path.display())(error)),
    }
}

fn remove_if_there(path: &Path) -> Result<(), HostError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(HostError::os("unlink", path.display())(error))
        }
        _ => Ok(()),
    }
}

/// A mount that outlived its mount point, under a pointer for instance, still has the image on its device. From
/// Linux 6.7 on, Btrfs would mount it a second time from a second device, and both would write to it.
fn attached(image: &Path) -> Option<(PathBuf, File)> {
    for device in loop_devices() {
        let is_bound = || backing_file(&device).is_some_and(|file| Path::new(&file) == image);
        if !is_bound() {
            continue;
        }
        // Looked at again once it is open, because only then it cannot free itself.
        if let Ok(open) = open_device(&device)
            && is_bound()
        {
            return Some((device, open));
        }
    }
    None
}

/// The loop devices that have this image, or one that had its name.
pub fn devices_of(image: &Path) -> Vec<PathBuf> {
    let has_it = |device: &PathBuf| {
        backing_file(device).is_some_and(|file| Path::new(file.trim_end_matches(DELETED)) == image)
    };
    loop_devices().filter(has_it).collect()
}

fn loop_devices() -> impl Iterator<Item = PathBuf> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let devices = devices.filter(|name| name.as_encoded_bytes().starts_with(b"loop"));
    devices.map(|name| Path::new("/dev").join(name))
}

fn open_device(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn no_loop_devices(error: io::Error) -> HostError {
    HostError::Unsupported {
        what: format!("no loop device to be had ({error})"),
        remedy: "load the kernel module `loop`, give the service `/dev/loop-control` and `/dev/loop*`, \
                 or put the state directory on Btrfs",
    }
}
