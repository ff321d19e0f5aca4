//! Raw system calls and ioctls that no safe library offers: every unsafe block of this crate, one wrapper each.
//! What they are used for is left to the callers.
#![allow(unsafe_code, reason = "the one file of this crate where it is allowed")]

use crate::scrub::ScrubCounts;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use turnout_ebpf_layout::{Connection, DeviceKey, Route, RouteKey};

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets attributes and the propagation type of every mount of a tree, for instance of a detached one before it is attached.
/// See <https://man7.org/linux/man-pages/man2/mount_setattr.2.html>.
///
/// # Errors
/// The kernel's own.
pub fn mount_setattr(
    tree: BorrowedFd<'_>,
    set: MountAttrFlags,
    propagation: MountPropagationFlags,
) -> io::Result<()> {
    let attributes = MountAttributes {
        set: u64::from(set.bits()),
        clear: 0,
        propagation: u64::from(propagation.bits()),
        user_namespace: 0,
    };
    // SAFETY: the path is a NUL-terminated literal, `attributes` lives through the call and its size is its own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor from `first` on (close_range(2)). For the first lines of `main`, before anything is opened.
pub fn close_from(first: u32) {
    // SAFETY: nothing in this process owns a descriptor yet, so none is closed behind its owner's back.
    unsafe { libc::close_range(first, u32::MAX, 0) };
}

/// What the kernel says of its clock without changing it: whether something keeps it right, and its greatest error in
/// microseconds. See <https://man7.org/linux/man-pages/man2/adjtimex.2.html>.
///
/// # Errors
/// The kernel's own.
pub fn clock_state() -> io::Result<(bool, u64)> {
    // SAFETY: every field of `timex` is a number, for which zero is a value; no mode bit asks for a change.
    let mut state: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: `state` lives through the call and is of the type that it fills.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let synchronized = result != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0;
    Ok((synchronized, u64::try_from(state.maxerror).unwrap_or(u64::MAX)))
}

const LOOP_CTL_GET_FREE: u32 = 0x4C82;
const LOOP_CONFIGURE: u32 = 0x4C0A;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    file: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// The number of a free loop device, made when there is none. Another process may take it before the caller does.
/// See <https://man7.org/linux/man-pages/man4/loop.4.html>.
///
/// # Errors
/// The kernel's own.
pub fn loop_get_free(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument and touches no memory of this process.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Binds a free loop device to a file, with direct I/O; it frees itself after its last user.
/// See <https://man7.org/linux/man-pages/man4/loop.4.html>.
///
/// # Errors
/// `EBUSY` when it is no longer free, or the kernel's own.
pub fn loop_configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: LoopConfig is made of integers alone, for which all zeroes is a value.
    let mut config: LoopConfig = unsafe { mem::zeroed() };
    config.file = file.as_raw_fd().unsigned_abs();
    config.info.flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `config` is, and keeps no pointer to it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct fsverity_enable_arg` of `linux/fsverity.h`.
#[repr(C)]
struct VerityEnable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved: u32,
    signature: u64,
    reserved_too: [u64; 11],
}

/// `struct fsverity_digest` of `linux/fsverity.h`, with room for SHA-256.
#[repr(C)]
struct VerityDigest {
    algorithm: u16,
    size: u16,
    digest: [u8; 32],
}

const FS_IOC_ENABLE_VERITY: u32 = 0x4080_6685;
const FS_IOC_MEASURE_VERITY: u32 = 0xC004_6686;
const VERITY_VERSION: u32 = 1;
const VERITY_SHA256: u16 = 1;

/// Has the kernel hold a file to its content, with SHA-256. See <https://docs.kernel.org/filesystems/fsverity.html>.
///
/// # Errors
/// `EOPNOTSUPP` or `ENOTTY` without fs-verity, `ETXTBSY` while the file is open for writing, or the kernel's own.
pub fn verity_enable(file: BorrowedFd<'_>, block_size: u32) -> io::Result<()> {
    // SAFETY: VerityEnable is made of integers alone, for which all zeroes is a value.
    let mut arguments: VerityEnable = unsafe { mem::zeroed() };
    arguments.version = VERITY_VERSION;
    arguments.hash_algorithm = u32::from(VERITY_SHA256);
    arguments.block_size = block_size;
    // SAFETY: FS_IOC_ENABLE_VERITY reads one `struct fsverity_enable_arg`, which `arguments` is, without salt and signature.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_ENABLE_VERITY as _, &raw const arguments) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel holds a file to. See <https://docs.kernel.org/filesystems/fsverity.html>.
///
/// # Errors
/// `ENODATA` for a file without, `EOPNOTSUPP` or `ENOTTY` where there is no fs-verity, `EOVERFLOW` for another hash.
pub fn verity_measure(file: BorrowedFd<'_>) -> io::Result<[u8; 32]> {
    let mut found = VerityDigest { algorithm: 0, size: 32, digest: [0; 32] };
    // SAFETY: FS_IOC_MEASURE_VERITY reads `size` and writes the header and at most `size` bytes of digest, all in `found`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_MEASURE_VERITY as _, &raw mut found) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let expected = found.algorithm == VERITY_SHA256 && found.size == 32;
    if expected { Ok(found.digest) } else { Err(io::Error::from_raw_os_error(libc::EOVERFLOW)) }
}

/// The kernel's Landlock ABI version.
/// See <https://man7.org/linux/man-pages/man2/landlock_create_ruleset.2.html>.
///
/// # Errors
/// `ENOSYS` or `EOPNOTSUPP` where there is none.
pub fn landlock_abi() -> io::Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with the version flag the kernel demands a null pointer and size 0, and reads nothing.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<libc::c_void>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

/// Whether seccomp filters can refuse a call with an error number.
/// See <https://man7.org/linux/man-pages/man2/seccomp.2.html>.
///
/// # Errors
/// `ENOSYS` or `EOPNOTSUPP` where they cannot.
pub fn seccomp_filter_available() -> io::Result<()> {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: SECCOMP_GET_ACTION_AVAIL reads one u32, which `action` is, and changes nothing.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0_u32, &raw const action) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// eBPF

/// A key or value of the layout as the eBPF library wants it.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Element<T>(pub T);

// SAFETY: `repr(C)`, words only, no padding: every bit pattern is a value.
unsafe impl aya::Pod for Element<RouteKey> {}
// SAFETY: as above; the size is asserted in the layout.
unsafe impl aya::Pod for Element<Route> {}
// SAFETY: as above; the size is asserted in the layout.
unsafe impl aya::Pod for Element<Connection> {}
// SAFETY: as above; the size is asserted in the layout.
unsafe impl aya::Pod for Element<DeviceKey> {}

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// Attach type of programs that judge the use of devices (`BPF_CGROUP_DEVICE`).
const CGROUP_DEVICE: u32 = 6;

/// One command of [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html).
///
/// # Safety
/// `arguments` are those of the command, and what they point to lives through the call.
unsafe fn bpf<Arguments>(command: libc::c_long, arguments: &mut Arguments) -> io::Result<libc::c_long> {
    let size = size_of::<Arguments>();
    // SAFETY: the arguments are live, exclusive and of the stated size; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(arguments), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The arguments of commands on a pin (`union bpf_attr`).
#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens what is pinned at a path ([bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), `BPF_OBJ_GET`); the
/// descriptor is close-on-exec. The library opens pinned links too, but does not give their descriptor.
pub fn pinned_object(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path that is named lives through the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut Pin { path: path.as_ptr() as u64, fd: 0, flags: 0 }) }?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches a program that judges the use of devices to a cgroup, and pins the link (`BPF_LINK_CREATE`, `BPF_OBJ_PIN`).
/// The library makes such a link too, but lets nobody pin it.
pub fn link_devices(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    // Program, cgroup, attach type, flags.
    let mut create = [program.as_raw_fd() as u32, cgroup.as_raw_fd() as u32, CGROUP_DEVICE, 0];
    // SAFETY: the command takes these four words, which point to nothing.
    let link = unsafe { bpf(BPF_LINK_CREATE, &mut create) }?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    let link = unsafe { OwnedFd::from_raw_fd(link as RawFd) };
    let mut named = Pin { path: path.as_ptr() as u64, fd: link.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the path that is named lives through the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut named) }.map(drop)
}

/// What a link attaches, and where (`struct bpf_link_info`, its first words).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// Id of the program.
    pub program: u32,
    /// Id of the cgroup, for a cgroup link; 0 once the cgroup is gone.
    pub cgroup: u64,
    /// Inode of the network namespace, for a link to one; 0 once it is gone.
    pub network_namespace: u32,
}

/// Asks the kernel about a link ([bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), `BPF_OBJ_GET_INFO_BY_FD`).
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        place: [u32; 4],
        rest: [u64; 16],
    }
    #[repr(C)]
    struct Query {
        fd: u32,
        size: u32,
        info: u64,
    }
    let mut info = Info::default();
    let mut query =
        Query { fd: link.as_raw_fd() as u32, size: size_of::<Info>() as u32, info: (&raw mut info) as u64 };
    // SAFETY: `query` names `info` and its size, which lives through the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut query) }?;
    let [first, second, ..] = info.place;
    let cgroup = u64::from(second) << 32 | u64::from(first);
    Ok(LinkInfo { program: info.program, cgroup, network_namespace: first })
}

/// Replaces the program of a link, atomically ([bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), `BPF_LINK_UPDATE`).
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // Link, program, flags, program that is expected.
    let mut update = [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0];
    // SAFETY: the command takes these four words, which point to nothing.
    unsafe { bpf(BPF_LINK_UPDATE, &mut update) }.map(drop)
}

/// Detaches a link at once ([bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), `BPF_LINK_DETACH`): without
/// its last pin and descriptor it would go too, but some time later.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is the one word that the command takes.
    unsafe { bpf(BPF_LINK_DETACH, &mut (link.as_raw_fd() as u32)) }.map(drop)
}

/// The arguments of the batch commands (`union bpf_attr`, `batch`).
#[repr(C)]
struct Batch {
    behind: u64,
    last: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Reads elements `first` to below `first + count` of a per-CPU array of `u64`, each as one value per CPU
/// ([bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), `BPF_MAP_LOOKUP_BATCH`). `cpus` are the possible ones.
pub fn per_cpu_read(map: BorrowedFd<'_>, first: u32, count: u32, cpus: usize) -> io::Result<Vec<u64>> {
    let mut values = vec![0; count as usize * cpus];
    let mut keys = vec![0; count as usize];
    batch(BPF_MAP_LOOKUP_BATCH, map, first, (&mut keys, &mut values))?;
    Ok(values)
}

/// Zeroes what [`per_cpu_read`] reads (`BPF_MAP_UPDATE_BATCH`).
pub fn per_cpu_zero(map: BorrowedFd<'_>, first: u32, count: u32, cpus: usize) -> io::Result<()> {
    let mut values = vec![0; count as usize * cpus];
    let mut keys: Vec<u32> = (first..first + count).collect();
    batch(BPF_MAP_UPDATE_BATCH, map, first, (&mut keys, &mut values))
}

fn batch(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    first: u32,
    (keys, values): (&mut [u32], &mut [u64]),
) -> io::Result<()> {
    let behind = first.wrapping_sub(1);
    let mut last = 0_u32;
    let mut batch = Batch {
        behind: if first == 0 { 0 } else { (&raw const behind) as u64 },
        last: (&raw mut last) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len() as u32,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: all that `batch` names lives through the call; `values` has `cpus` words, the kernel's element size, a key.
    unsafe { bpf(command, &mut batch) }?;
    if batch.count as usize != keys.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Connections that wait to be accepted at a listener ([tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html),
/// `TCP_INFO`).
pub fn accept_queue(listener: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the structure is words only: zeroes are a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    let value = (&raw mut info).cast();
    // SAFETY: `value` has room for `length` bytes and lives through the call.
    let result = unsafe {
        libc::getsockopt(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, value, &raw mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info.tcpi_unacked) }
}

const LOOP_SET_CAPACITY: u32 = 0x4C07;

/// Lets a loop device take on the present size of its file.
/// See <https://man7.org/linux/man-pages/man4/loop.4.html>.
///
/// # Errors
/// The kernel's own.
pub fn loop_set_capacity(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: LOOP_SET_CAPACITY takes no argument and touches no memory of this process.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_CAPACITY as _) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const BTRFS_IOC_RESIZE: u32 = 0x5000_9403;
const BTRFS_IOC_SCRUB: u32 = 0xC400_941B;
const BTRFS_IOC_FS_INFO: u32 = 0x8400_941F;

/// Lets a Btrfs take all of its device (`linux/btrfs.h`, `BTRFS_IOC_RESIZE` with `max`).
///
/// # Errors
/// The kernel's own.
pub fn btrfs_resize_max(folder: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Arguments {
        fd: i64,
        name: [u8; 4088],
    }
    let mut arguments = Arguments { fd: 0, name: [0; 4088] };
    arguments.name[..3].copy_from_slice(b"max");
    // SAFETY: the call reads one `struct btrfs_ioctl_vol_args`, NUL-terminated, which lives through it.
    let result = unsafe { libc::ioctl(folder.as_raw_fd(), BTRFS_IOC_RESIZE as _, &raw const arguments) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The greatest device id of a Btrfs (`linux/btrfs.h`, `BTRFS_IOC_FS_INFO`).
///
/// # Errors
/// The kernel's own.
pub fn btrfs_last_device(folder: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = [0_u64; 128];
    // SAFETY: the call writes one `struct btrfs_ioctl_fs_info_args` of 1024 bytes, which `info` has.
    let result = unsafe { libc::ioctl(folder.as_raw_fd(), BTRFS_IOC_FS_INFO as _, info.as_mut_ptr()) };
    if result == 0 { Ok(info[0]) } else { Err(io::Error::last_os_error()) }
}

/// Scrubs one device of a Btrfs and waits for the end (`linux/btrfs.h`, `BTRFS_IOC_SCRUB`).
///
/// # Errors
/// `ENODEV` without such a device, `EINPROGRESS` while another scrub runs, or the kernel's own.
pub fn btrfs_scrub(folder: BorrowedFd<'_>, device: u64) -> io::Result<ScrubCounts> {
    #[repr(C)]
    struct Arguments {
        device: u64,
        start: u64,
        end: u64,
        flags: u64,
        progress: ScrubCounts,
        unused: [u64; (1024 - 32 - size_of::<ScrubCounts>()) / 8],
    }
    let mut arguments = Arguments {
        device,
        start: 0,
        end: u64::MAX,
        flags: 0,
        progress: ScrubCounts::default(),
        unused: [0; (1024 - 32 - size_of::<ScrubCounts>()) / 8],
    };
    // SAFETY: the call reads and writes one `struct btrfs_ioctl_scrub_args` of 1024 bytes, which lives through it.
    let result = unsafe { libc::ioctl(folder.as_raw_fd(), BTRFS_IOC_SCRUB as _, &raw mut arguments) };
    if result == 0 { Ok(arguments.progress) } else { Err(io::Error::last_os_error()) }
}

const BTRFS_IOC_SCRUB_CANCEL: u32 = 0x941C;

/// Breaks off the scrub of a Btrfs (`linux/btrfs.h`, `BTRFS_IOC_SCRUB_CANCEL`).
///
/// # Errors
/// `ENOTCONN` when none runs, or the kernel's own.
pub fn btrfs_scrub_cancel(folder: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes no argument and touches no memory of this process.
    let result = unsafe { libc::ioctl(folder.as_raw_fd(), BTRFS_IOC_SCRUB_CANCEL as _) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
