//! Whether versions can be stored and pointed to: a real file system is made and mounted, a real pointer swapped.

use super::{Outcome, Places, chain, degraded, missing, nearest, ok, untried};
use crate::HostError;
use crate::image::{IMAGE_DEFAULT_MAX, IMAGE_MIN, attach, format, mount_device};
use crate::linux_pointer::Method;
use crate::mounts::{in_private_namespace, is_btrfs, mount_table, mount_table_of, top_at};
use crate::verity;
use crate::volume::{StoreKind, btrfs as named, delete_subvolume};
use btrfsutil::subvolume::Subvolume;
use rustix::fs::statvfs;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The store's place in the state directory.
const STORE: &str = "store";
/// The store's image in the state directory.
const IMAGE: &str = "store.img";
/// Below it the journal, with its reserve of 16 MiB, has no room to grow, bytes.
const JOURNAL_ROOM: u64 = 64 << 20;
/// Size of the image that is formatted to see whether it can be, bytes. It is sparse and has no name.
const PROBE_BYTES: u64 = 128 << 20;

pub fn btrfs(places: &Places<'_>) -> Outcome {
    if places.store == StoreKind::Folder {
        return degraded(
            "not used: the store is a plain folder (`store.kind`). No audit snapshots are made; versions are protected \
             by their permissions alone, and compared with their signatures at each release",
        )
        .with_remedy("none is needed; where Btrfs can be had, leave `store.kind` out and choose another `state`");
    }
    let folder = nearest(places.state);
    let tried = if let Some(mounted) = mounted_store(places) {
        make_subvolume(&mounted).map(|()| "mounted at the store's place, subvolumes can be made")
    } else if !has_image(places) && is_btrfs(folder).unwrap_or(false) {
        make_subvolume(folder).map(|()| "native, subvolumes can be made")
    } else {
        mount_new_image(folder).map(|()| "an image can be formatted and mounted through a loop device")
    };
    tried.map_or_else(|error| missing(chain(&error)), ok)
}

/// Room for the store, and for the journal, which lies in the state directory whatever the store is.
pub fn space(places: &Places<'_>) -> Outcome {
    let folder = nearest(places.state);
    let image = places.state.join(IMAGE);
    if image.metadata().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        return untried("not tried: only root can");
    }
    let free = match statvfs(folder) {
        Err(error) => return missing(format!("`{}`: {error}", folder.display())),
        Ok(room) => room.f_bavail * room.f_frsize,
    };
    let found = format!("{} MiB free at `{}`", free >> 20, folder.display());
    let store = if places.store == StoreKind::Folder {
        "the store is a folder there"
    } else if mounted_store(places).is_some() {
        "the store has a Btrfs of its own"
    } else if has_image(places) {
        "the image is there"
    } else if is_btrfs(folder).unwrap_or(false) {
        "the host's own Btrfs is used, without an image"
    } else {
        return space_for_image(free, found, places.image_bytes);
    };
    if free < JOURNAL_ROOM {
        return degraded(format!("{found}, where the journal grows; {store}")).with_remedy(
            "free space below the state directory: without any, nothing can be done that is recorded",
        );
    }
    ok(format!("{found}; {store}"))
}

/// An image that is to be made must leave room for the journal.
fn space_for_image(free: u64, found: String, configured: Option<u64>) -> Outcome {
    let Some(bytes) = configured else {
        return match free / 4 {
            ..IMAGE_MIN => missing(found),
            IMAGE_MIN..IMAGE_DEFAULT_MAX => degraded(format!("{found}, a quarter becomes the image")),
            _ => ok(found),
        };
    };
    let found = format!("{found}, `store_image_bytes` asks for {} MiB", bytes >> 20);
    if bytes < IMAGE_MIN {
        return missing(found).with_remedy(format!("set `store_image_bytes` to {IMAGE_MIN} or more"));
    }
    if bytes > free {
        return missing(found);
    }
    if free - bytes < JOURNAL_ROOM {
        return degraded(format!("{found}, which leaves no room for the journal"));
    }
    ok(found)
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
    let (table, host) = match mount_table().and_then(|own| Ok((own, mount_table_of(1)?))) {
        Ok(found) => found,
        Err(error) => return degraded(chain(&error)),
    };
    // A mount is in one namespace only, and its id is its own.
    if !table.iter().any(|mount| host.iter().any(|other| other.id == mount.id)) {
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

pub fn verity(places: &Places<'_>) -> Outcome {
    let folder = nearest(places.state);
    let store = places.state.join(STORE);
    // The store itself, if it is open; else what it would be.
    let place = match places.store {
        StoreKind::Folder => Some(folder),
        StoreKind::Btrfs => {
            [store.as_path(), folder].into_iter().find(|place| is_btrfs(place).unwrap_or(false))
        }
    };
    let tried = place.map_or_else(|| on_new_image(folder, verity::try_in), verity::try_in);
    match tried {
        Ok(()) => ok("fs-verity: the kernel checks each read of a stored model"),
        Err(error) => degraded(format!(
            "no fs-verity (optional), models are compared before each start: {}",
            chain(&error)
        )),
    }
}

/// The Btrfs that the administrator has mounted at the store's place.
fn mounted_store(places: &Places<'_>) -> Option<PathBuf> {
    if has_image(places) {
        return None;
    }
    let store = places.state.join(STORE).canonicalize().ok()?;
    let top = top_at(&store).ok()??;
    (top.kind == "btrfs").then_some(store)
}

fn has_image(places: &Places<'_>) -> bool {
    places.state.join(IMAGE).exists()
}

fn make_subvolume(folder: &Path) -> Result<(), HostError> {
    let path = folder.join(format!(".turnout-probe-{}", std::process::id()));
    named("subvolume create", &path, Subvolume::create(path.as_path(), None))?;
    delete_subvolume(&path)
}

fn mount_new_image(folder: &Path) -> Result<(), HostError> {
    on_new_image(folder, |point| {
        fs::write(point.join("probe"), "probe").map_err(HostError::os("write", point.display()))
    })
}

/// Does something in the root of a new file system like the one that the store would get.
fn on_new_image(
    folder: &Path,
    act: impl FnOnce(&Path) -> Result<(), HostError> + Send,
) -> Result<(), HostError> {
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
        act(point)
    })
}
