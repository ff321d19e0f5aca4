//! Raw system calls and ioctls that no safe library offers: every unsafe block of this crate, one wrapper each.
//! What they are used for is left to the callers.
#![allow(unsafe_code, reason = "the one file of this crate where it is allowed")]

use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets attributes and the propagation type of a mount, for instance of a detached tree before it is attached.
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
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.file = file.as_raw_fd().unsigned_abs();
    config.info.flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `config` is, and keeps no pointer to it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
            std::ptr::null::<libc::c_void>(),
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
