//! Whether versions can be stored and pointed to: a real file system is made and mounted, a real pointer swapped.

use super::{Outcome, Places, chain, degraded, missing, nearest, ok};
use crate::HostError;
use crate::image::{IMAGE_DEFAULT_MAX, IMAGE_MIN, attach, format, mount_device};
use crate::linux_pointer::Method;
use crate::mounts::{in_private_namespace, is_btrfs, mount_table};
use crate::volume::{btrfs as named, delete_subvolume};
use btrfsutil::subvolume::Subvolume;
use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size of the image that is formatted to see whether it can be, bytes. It is sparse and has no name.
const PROBE_BYTES: u64 = 128 << 20;

pub fn btrfs(places: &Places<'_>) -> Outcome {
    let folder = nearest(places.state);
    let tried = if is_btrfs(folder).unwrap_or(false) {
        make_subvolume(folder).map(|()| "native, subvolumes can be made")
    } else {
        mount_new_image(folder).map(|()| "an image can be formatted and mounted through a loop device")
    };
    tried.map_or_else(|error| missing(chain(&error)), ok)
}

pub fn space(places: &Places<'_>) -> Outcome {
    if places.state.join("store.img").exists() {
        return ok("the image is there");
    }
    let folder = nearest(places.state);
    if is_btrfs(folder).unwrap_or(false) {
        return ok("the host's own Btrfs is used, without an image");
    }
    match rustix::fs::statvfs(folder) {
        Err(error) => missing(format!("`{}`: {error}", folder.display())),
        Ok(room) => {
            let free = room.f_bavail * room.f_frsize;
            let found = format!("{} MiB free at `{}`", free >> 20, folder.display());
            match free / 4 {
                ..IMAGE_MIN => missing(found),
                IMAGE_MIN..IMAGE_DEFAULT_MAX => degraded(format!("{found}, a quarter becomes the image")),
                _ => ok(found),
            }
        }
    }
}

pub fn swap(_: &Places<'_>) -> Outcome {
    if Method::Beneath.works() {
        return ok("mounts beneath the live one, without a gap");
    }
    if Method::Tuck.works() {
        return ok("by propagation, without a gap; the kernel cannot mount beneath");
    }
    if Method::Stack.works() {
        return degraded("only by stacking: old mounts stay until the daemon starts again");
    }
    missing("no way to swap a mount works")
}

/// Whether others see what the daemon mounts: its mounts must be the host's, and shared with namespaces that follow.
pub fn propagation(places: &Places<'_>) -> Outcome {
    let namespace = |process: &str| {
        let link = format!("/proc/{process}/ns/mnt");
        fs::read_link(&link).map_err(HostError::os("readlink", link))
    };
    let found = namespace("thread-self").and_then(|own| Ok((own, namespace("1")?, mount_table()?)));
    let (own, host, table) = match found {
        Ok(found) => found,
        Err(error) => return degraded(chain(&error)),
    };
    if own != host {
        return degraded("this process has mounts of its own: no other program sees what it mounts");
    }
    let models = places.runtime.join("models");
    let folder = nearest(&models);
    let below = table.iter().filter(|mount| folder.starts_with(&mount.point));
    match below.max_by_key(|mount| mount.point.components().count()) {
        Some(mount) if mount.peer_group.is_some() => {
            ok(format!("`{}` is mounted in the host's namespace, shared", mount.point.display()))
        }
        Some(mount) => degraded(format!(
            "`{}` is not shared: a container that is started before the daemon does not see what it mounts",
            mount.point.display()
        )),
        None => degraded(format!("no mount is found for `{}`", folder.display())),
    }
}

fn make_subvolume(folder: &Path) -> Result<(), HostError> {
    let path = folder.join(format!(".turnout-probe-{}", std::process::id()));
    named("subvolume create", &path, Subvolume::create(path.as_path(), None))?;
    delete_subvolume(&path)
}

fn mount_new_image(folder: &Path) -> Result<(), HostError> {
    let failed = |call| HostError::os(call, folder.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(folder)
        .map_err(failed("open"))?;
    file.set_len(PROBE_BYTES).map_err(failed("ftruncate"))?;
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
    format(&path)?;
    in_private_namespace(|| {
        let (device, _open) = attach(&path)?;
        let point = Path::new("/run");
        mount_device(&device, point)?;
        fs::write(point.join("probe"), "probe").map_err(HostError::os("write", device.display()))
    })
}
