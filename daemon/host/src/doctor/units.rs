//! What systemd knows of a unit, as `systemctl show` tells it.

use crate::devices::DevicePath;
use rustix::fs::{FileType, major, stat};
use std::path::Path;
use std::process::{Command, Stdio};

pub(super) const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// Drivers by the major numbers of their devices (proc_devices(5)).
const DRIVERS: &str = "/proc/devices";

/// A property of a unit, each of its values on a line; `None` where systemd does not run this host, does not know the unit,
/// or has nothing set.
pub fn property(unit: &str, name: &str) -> Option<String> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let mut command = Command::new(SYSTEMCTL);
    let output = command.args(["show", "-P", name, unit]).env_clear().stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

/// Whether a unit lets its processes open a device that is there. What systemd does not say is allowed.
pub fn device_is_allowed(unit: &str, device: &DevicePath) -> bool {
    let said = (property(unit, "DevicePolicy"), property(unit, "DeviceAllow"));
    let drivers = std::fs::read_to_string(DRIVERS).unwrap_or_default();
    is_allowed(device, (said.0.as_deref(), said.1.as_deref()), &drivers)
}

/// What `DevicePolicy=` and the lines of `DeviceAllow=` make of a device (systemd.resource-control(5)).
fn is_allowed(device: &DevicePath, (policy, allowed): (Option<&str>, Option<&str>), drivers: &str) -> bool {
    let allowed = allowed.unwrap_or_default();
    if allowed.is_empty() && policy.is_none_or(|policy| policy == "auto") {
        return true;
    }
    let mut names = allowed.lines().filter_map(|line| line.split_whitespace().next());
    names.any(|name| name == device.as_str() || is_of_class(device, name, drivers))
}

/// Whether a device is of a class as `DeviceAllow=` writes it (systemd.resource-control(5)): `char-NAME` or `block-NAME`,
/// after the driver's name, which may end in `*`.
fn is_of_class(device: &DevicePath, class: &str, drivers: &str) -> bool {
    let Ok(found) = stat(device.as_str()) else { return false };
    let (heading, pattern) = match FileType::from_raw_mode(found.st_mode) {
        FileType::CharacterDevice => ("Character devices:", class.strip_prefix("char-")),
        _ => ("Block devices:", class.strip_prefix("block-")),
    };
    let Some(pattern) = pattern else { return false };
    let section = drivers.lines().skip_while(|line| *line != heading).skip(1);
    let named =
        section.take_while(|line| !line.ends_with(':')).filter_map(|line| line.trim().split_once(' '));
    let number = major(found.st_rdev).to_string();
    let mut names = named.filter(|(known, _)| *known == number).map(|(_, name)| name.trim());
    names.any(|name| match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => name == pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_of_devices_is_one_drivers() {
        let drivers = "Character devices:\n  1 mem\n195 nvidia\n\nBlock devices:\n  1 ramdisk\n";
        let zero = DevicePath::new("/dev/zero").unwrap();
        for (class, is_in) in [
            ("char-mem", true),
            ("char-m*", true),
            ("char-*", true),
            ("char-nvidia*", false),
            ("block-ramdisk", false),
            ("block-*", false),
            ("/dev/zero", false),
        ] {
            assert_eq!(is_of_class(&zero, class, drivers), is_in, "{class}");
        }
    }

    #[test]
    fn a_device_is_shut_where_the_unit_names_others_or_closes_all() {
        let zero = DevicePath::new("/dev/zero").unwrap();
        let allowed = |policy, devices| is_allowed(&zero, (policy, devices), "");
        assert!(allowed(None, None) && allowed(Some("auto"), None));
        assert!(!allowed(Some("closed"), None) && !allowed(Some("auto"), Some("/dev/full rw")));
        assert!(allowed(Some("closed"), Some("/dev/full rw\n/dev/zero rw")));
    }
}
