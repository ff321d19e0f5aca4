//! The eBPF programs and maps in the kernel: loads, pins, attaches, takes over. Everything lives by its pins, below
//! `<pin directory>/v<layout>/`, so steering and watching go on without the daemon; a restarted one takes over the
//! maps as they are and replaces a program only when its instructions differ. What the maps mean is left to others.

use crate::HostError;
use crate::counts::Counts;
use crate::sys::{self, Element, LinkInfo};
use aya::maps::{HashMap, Map, MapData, SkStorage, SockMap};
use aya::programs::links::FdLink;
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, Program, SkLookup, loaded_programs,
};
use aya::{Ebpf, EbpfLoader};
use rustix::fs::{Mode, statfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use turnout_ebpf_layout::{Connection, DeviceKey, LAYOUT_VERSION, Route, RouteKey, counter, histogram};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TURNOUT_EBPF_OBJECT"));

/// `BPF_FS_MAGIC`.
const BPFFS: u64 = 0xcafe_4a11;
/// The network namespace of the calling thread, which may differ from its process'.
const NETWORK_NAMESPACE: &str = "/proc/thread-self/ns/net";
const MAPS: [&str; 6] = ["ROUTES", "LISTENERS", "CONNECTIONS", "LATENCIES", "COUNTERS", "DEVICES"];

/// The programs, each with where it hangs.
const PROGRAMS: [(&str, Place); 5] = [
    ("steer", Place::NetworkNamespace),
    ("request_in", Place::Cgroup(CgroupSkbAttachType::Ingress)),
    ("answer_out", Place::Cgroup(CgroupSkbAttachType::Egress)),
    ("connect_out", Place::CgroupConnect),
    ("device_open", Place::CgroupDevices),
];

#[derive(Clone, Copy)]
enum Place {
    NetworkNamespace,
    Cgroup(CgroupSkbAttachType),
    CgroupConnect,
    CgroupDevices,
}

/// The maps, open. Dropping them changes nothing in the kernel.
pub(crate) struct Maps {
    pub(crate) routes: HashMap<MapData, Element<RouteKey>, Element<Route>>,
    pub(crate) listeners: SockMap<MapData>,
    pub(crate) connections: SkStorage<MapData, Element<Connection>>,
    pub(crate) latencies: Counts,
    pub(crate) counters: Counts,
    pub(crate) devices: HashMap<MapData, Element<DeviceKey>, u32>,
}

/// Puts the programs in place, or takes over what an earlier daemon left: afterwards each hangs where it should,
/// once, in this build's form, on maps that kept their content.
pub(crate) fn open(pin_directory: &Path, cgroup: &Path) -> Result<Maps, HostError> {
    open_object(OBJECT, pin_directory, cgroup)
}

/// Takes steering and watching away: the links, the maps, the mount of the pin directory when it is one. No error when
/// nothing is there. What fails keeps nothing else.
///
/// # Errors
/// The kernel's own, the first of them.
pub fn detach(pin_directory: &Path) -> Result<(), HostError> {
    let layout = layout_directory(pin_directory);
    if !layout.exists() {
        return unmount_pins(pin_directory);
    }
    let links = PROGRAMS.map(|(name, _)| detach_link(&layout.join("links").join(name)));
    let links: Result<(), HostError> = links.into_iter().collect();
    let removed = fs::remove_dir_all(&layout).map_err(HostError::os("remove", layout.display()));
    links.and(removed).and(unmount_pins(pin_directory))
}

fn detach_link(pin: &Path) -> Result<(), HostError> {
    match pinned(pin)? {
        Some(link) => sys::link_detach(link.as_fd()).map_err(HostError::os("bpf link detach", pin.display())),
        None => Ok(()),
    }
}

fn unmount_pins(pin_directory: &Path) -> Result<(), HostError> {
    let is_mount_root = match (fs::metadata(pin_directory), fs::metadata(pin_directory.join(".."))) {
        (Ok(own), Ok(above)) => own.dev() != above.dev(),
        _ => false,
    };
    if is_mount_root && is_bpffs(pin_directory)? {
        // Nothing is pinned in it any more: who looks into it at this moment does not keep it.
        unmount(pin_directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(HostError::os("umount", pin_directory.display()))?;
    }
    Ok(())
}

fn open_object(object: &[u8], pin_directory: &Path, cgroup: &Path) -> Result<Maps, HostError> {
    mount_bpffs(pin_directory)?;
    let layout = layout_directory(pin_directory);
    let (map_pins, link_pins) = (layout.join("maps"), layout.join("links"));
    for directory in [&map_pins, &link_pins] {
        make_directory(directory)?;
    }
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, map_pins.join(name));
    }
    let mut loaded = loader.load(object).map_err(refused("load the object"))?;
    for (name, place) in PROGRAMS {
        let program = loaded.program_mut(name).ok_or_else(|| absent(name))?;
        settle(program, &link_pins.join(name), &Target::open(place, cgroup)?)?;
    }
    Ok(Maps {
        routes: take(&mut loaded, "ROUTES")?,
        listeners: take(&mut loaded, "LISTENERS")?,
        connections: take(&mut loaded, "CONNECTIONS")?,
        latencies: counts(&loaded, "LATENCIES", histogram::BUCKETS)?,
        counters: counts(&loaded, "COUNTERS", counter::COUNT)?,
        devices: take(&mut loaded, "DEVICES")?,
    })
}

fn layout_directory(pin_directory: &Path) -> PathBuf {
    pin_directory.join(format!("v{LAYOUT_VERSION}"))
}

/// Makes the directory one on a bpffs, mounting one there when it is not.
fn mount_bpffs(directory: &Path) -> Result<(), HostError> {
    make_directory(directory)?;
    if is_bpffs(directory)? {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", directory, "bpf", flags, Some(c"mode=0700"))
        .map_err(HostError::os("mount bpf", directory.display()))
}

fn is_bpffs(directory: &Path) -> Result<bool, HostError> {
    let found = statfs(directory).map_err(HostError::os("statfs", directory.display()))?;
    Ok(found.f_type as u64 == BPFFS)
}

fn make_directory(directory: &Path) -> Result<(), HostError> {
    let mode = (Mode::RUSR | Mode::WUSR | Mode::XUSR).bits();
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(directory);
    made.map_err(HostError::os("mkdir", directory.display()))
}

/// Where a program is to hang, open.
struct Target {
    place: Place,
    file: File,
    inode: u64,
}

impl Target {
    fn open(place: Place, cgroup: &Path) -> Result<Self, HostError> {
        let path = match place {
            Place::NetworkNamespace => Path::new(NETWORK_NAMESPACE),
            Place::Cgroup(_) | Place::CgroupConnect | Place::CgroupDevices => cgroup,
        };
        let file = File::open(path).map_err(HostError::os("open", path.display()))?;
        let inode = file.metadata().map_err(HostError::os("stat", path.display()))?.ino();
        Ok(Self { place, file, inode })
    }

    /// Whether the link hangs here. It does not when the cgroup or namespace of its time is gone.
    fn holds(&self, link: LinkInfo) -> bool {
        match self.place {
            Place::NetworkNamespace => u64::from(link.network_namespace) == self.inode,
            Place::Cgroup(_) | Place::CgroupConnect | Place::CgroupDevices => link.cgroup == self.inode,
        }
    }
}

/// Sees to it that this program, and no other form of it, hangs at the target by a pinned link.
fn settle(program: &mut Program, pin: &Path, target: &Target) -> Result<(), HostError> {
    let name = pin.display().to_string();
    load(program).map_err(refused(&format!("load for `{name}`")))?;
    let Some(link) = pinned(pin)? else { return attach(program, pin, target) };
    let info = sys::link_info(link.as_fd()).map_err(HostError::os("bpf link info", &name))?;
    if !target.holds(info) {
        return attach(program, pin, target);
    }
    let own = program.info().map_err(refused("program info"))?;
    let attached = loaded_programs().filter_map(Result::ok).find(|other| other.id() == info.program);
    if attached.is_some_and(|attached| attached.tag() == own.tag()) {
        return Ok(());
    }
    let fd = program.fd().map_err(refused("program descriptor"))?;
    sys::link_update(link.as_fd(), fd.as_fd()).map_err(HostError::os("bpf link update", &name))
}

fn load(program: &mut Program) -> Result<(), aya::programs::ProgramError> {
    match program {
        Program::SkLookup(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupDevice(program) => program.load(),
        _ => unreachable!("the object has programs of four kinds"),
    }
}

fn pinned(pin: &Path) -> Result<Option<OwnedFd>, HostError> {
    match sys::pinned_object(pin) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HostError::os("bpf obj get", pin.display())(error)),
    }
}

/// Attaches anew and gives the link its pin; a link that had it before goes with it.
fn attach(program: &mut Program, pin: &Path, target: &Target) -> Result<(), HostError> {
    // A bpffs knows no names with a dot.
    let mut fresh = pin.as_os_str().to_owned();
    fresh.push("-next");
    let fresh = PathBuf::from(fresh);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(HostError::os("remove", fresh.display())(error));
        }
        _ => {}
    }
    attach_pinned(program, &fresh, target)?;
    fs::rename(&fresh, pin).map_err(HostError::os("rename", fresh.display()))
}

fn attach_pinned(program: &mut Program, pin: &Path, target: &Target) -> Result<(), HostError> {
    let what = format!("attach `{}`", pin.display());
    let link: FdLink = match target.place {
        Place::NetworkNamespace => {
            let program: &mut SkLookup = program.try_into().map_err(refused(&what))?;
            let id = program.attach(&target.file).map_err(refused(&what))?;
            program.take_link(id).map_err(refused(&what))?.into()
        }
        Place::Cgroup(kind) => {
            let program: &mut CgroupSkb = program.try_into().map_err(refused(&what))?;
            let id = program
                // No mode: the kernel's links always share a cgroup with others, and it refuses the flag that says so.
                .attach(&target.file, kind, CgroupAttachMode::default())
                .map_err(refused(&what))?;
            program.take_link(id).map_err(refused(&what))?.try_into().map_err(refused(&what))?
        }
        Place::CgroupConnect => {
            let program: &mut CgroupSockAddr = program.try_into().map_err(refused(&what))?;
            let id = program.attach(&target.file, CgroupAttachMode::default()).map_err(refused(&what))?;
            program.take_link(id).map_err(refused(&what))?.try_into().map_err(refused(&what))?
        }
        Place::CgroupDevices => {
            let fd = program.fd().map_err(refused("program descriptor"))?;
            return sys::link_devices(fd.as_fd(), target.file.as_fd(), pin)
                .map_err(HostError::os("bpf link create", pin.display()));
        }
    };
    link.pin(pin).map(drop).map_err(refused(&format!("pin `{}`", pin.display())))
}

fn take<Kind>(loaded: &mut Ebpf, name: &str) -> Result<Kind, HostError>
where
    Kind: TryFrom<Map>,
    Kind::Error: Error,
{
    let map = loaded.take_map(name).ok_or_else(|| absent(name))?;
    Kind::try_from(map).map_err(refused(&format!("map `{name}`")))
}

fn counts(loaded: &Ebpf, name: &str, per_slot: u32) -> Result<Counts, HostError> {
    Counts::of(loaded.map(name).ok_or_else(|| absent(name))?, per_slot)
}

fn absent(name: &str) -> HostError {
    HostError::Ebpf { what: format!("object without `{name}`"), message: "build it again".to_owned() }
}

/// For `map_err`: the library's errors, with the whole chain in words because some keep the kernel's answer there.
pub(crate) fn refused<Failure: Error>(what: &str) -> impl FnOnce(Failure) -> HostError {
    let what = what.to_owned();
    move |failure| {
        let mut message = failure.to_string();
        let mut cause = failure.source();
        while let Some(inner) = cause {
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        HostError::Ebpf { what, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use rustix::mount::{MountPropagationFlags, mount_change};

    /// A pin directory in mount and network namespaces of its own, and a cgroup, which the test removes.
    struct Place {
        directory: tempfile::TempDir,
        cgroup: PathBuf,
    }

    impl Place {
        fn new(name: &str) -> Self {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("this test needs root");
            mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            let tree = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
            let tree = tree.expect("this test needs cgroup2").split(' ').nth(1).unwrap();
            let cgroup = Path::new(tree).join(format!("turnout-test-programs-{name}"));
            // What a killed run has left.
            let _ = fs::remove_dir(&cgroup);
            fs::create_dir(&cgroup).unwrap();
            Self { directory: tempfile::tempdir().unwrap(), cgroup }
        }

        fn open(&self, object: &[u8]) {
            open_object(object, &self.pins(), &self.cgroup).unwrap_or_else(|error| panic!("{error}"));
        }

        fn pins(&self) -> PathBuf {
            self.directory.path().join("bpf")
        }

        fn link(&self, name: &str) -> OwnedFd {
            sys::pinned_object(&layout_directory(&self.pins()).join("links").join(name)).unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.cgroup);
        }
    }

    /// This build's object with another constant in the hash of `steer`.
    fn another_build() -> Vec<u8> {
        let mut object = OBJECT.to_vec();
        let constant = 0x7f4a_7c15_u32.to_le_bytes();
        let places: Vec<usize> =
            (0..object.len() - 4).filter(|at| object[*at..].starts_with(&constant)).collect();
        assert!(!places.is_empty(), "the hash has another constant now");
        places.into_iter().for_each(|at| object[at] ^= 2);
        object
    }

    #[test]
    fn only_a_program_of_another_build_is_replaced_and_its_link_stays() {
        let place = Place::new("build");
        place.open(OBJECT);
        let links = PROGRAMS.map(|(name, _)| place.link(name));
        let attached = || links.each_ref().map(|link| sys::link_info(link.as_fd()).unwrap().program);
        let first = attached();
        place.open(OBJECT);
        assert_eq!(attached(), first);
        place.open(&another_build());
        let second = attached();
        assert_ne!(second[0], first[0]);
        assert_eq!(second[1..], first[1..]);
        place.open(OBJECT);
        assert_ne!(attached()[0], second[0]);
    }

    #[test]
    fn programs_follow_to_another_network_and_a_cgroup_made_anew() {
        let place = Place::new("move");
        place.open(OBJECT);
        fs::remove_dir(&place.cgroup).unwrap();
        fs::create_dir(&place.cgroup).unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        place.open(OBJECT);
        for (name, kind) in PROGRAMS {
            let link = sys::link_info(place.link(name).as_fd()).unwrap();
            assert!(Target::open(kind, &place.cgroup).unwrap().holds(link), "{name}: {link:?}");
        }
    }
}
