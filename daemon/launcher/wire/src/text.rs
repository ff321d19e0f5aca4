//! Text of a fixed size inside a message: UTF-8, padded with zeros, each text with one encoding.

use crate::DETAIL_MAX;
use crate::codec::WireError;
use std::fmt;

/// Longest path of a device node, bytes.
const DEVICE_PATH_MAX: usize = 48;
/// Longest name of a tenant, bytes.
const TENANT_NAME_MAX: usize = 32;
const DEVICES: &str = "/dev/";

/// Text as it travels in [`crate::Reply::Failed`]: cut to [`DETAIL_MAX`] bytes at a character's border, NUL-padded.
pub fn detail(text: &str) -> [u8; DETAIL_MAX] {
    padded(text)
}

/// The text of a [`detail`], without its padding.
pub fn detail_text(bytes: &[u8; DETAIL_MAX]) -> &str {
    unpadded(bytes)
}

fn padded<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let mut end = 0;
    for (start, character) in text.char_indices().filter(|(_, character)| *character != '\0') {
        let encoded = &text.as_bytes()[start..start + character.len_utf8()];
        if end + encoded.len() > SIZE {
            break;
        }
        bytes[end..end + encoded.len()].copy_from_slice(encoded);
        end += encoded.len();
    }
    bytes
}

fn unpadded(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or("")
}

/// Where a device node lies, on the host as in a cell: below `/dev`, up to 48 of `a-z A-Z 0-9 . _ : -` and `/`, plain
/// components only. `/dev/null` is none of them: every cell has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DevicePath([u8; DEVICE_PATH_MAX]);

impl DevicePath {
    /// The path, `None` if it is not of this form.
    pub fn new(path: &str) -> Option<Self> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        let plain = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(legal);
        let sound = path.strip_prefix(DEVICES).is_some_and(|rest| rest.split('/').all(plain));
        (sound && path.len() <= DEVICE_PATH_MAX && path != "/dev/null").then(|| Self(padded(path)))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        unpadded(&self.0)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn read(bytes: [u8; DEVICE_PATH_MAX]) -> Result<Self, WireError> {
        Self::new(unpadded(&bytes)).filter(|path| path.0 == bytes).ok_or(WireError::Field("path"))
    }
}

impl fmt::Debug for DevicePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// The name of a tenant: 1 to 32 of `a-z A-Z 0-9 - _`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TenantName([u8; TENANT_NAME_MAX]);

impl TenantName {
    /// The name, `None` if it is not of this form.
    pub fn new(name: &str) -> Option<Self> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let sound = (1..=TENANT_NAME_MAX).contains(&name.len()) && name.bytes().all(legal);
        sound.then(|| Self(padded(name)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        unpadded(&self.0)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn read(bytes: [u8; TENANT_NAME_MAX]) -> Result<Self, WireError> {
        Self::new(unpadded(&bytes)).filter(|name| name.0 == bytes).ok_or(WireError::Field("name"))
    }
}

impl fmt::Debug for TenantName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_is_cut_between_characters() {
        let text = format!("{}é", "x".repeat(DETAIL_MAX - 1));
        assert_eq!(detail_text(&detail(&text)), "x".repeat(DETAIL_MAX - 1));
        assert_eq!(detail_text(&detail("/lib/libc.so.6")), "/lib/libc.so.6");
    }

    #[test]
    fn a_device_lies_below_dev_and_nowhere_else() {
        for path in [
            "/dev/nvidia0",
            "/dev/nvidia-caps/nvidia-cap21",
            "/dev/dri/renderD128",
            "/dev/dri/by-path/pci-0000:00:02.0",
        ] {
            assert_eq!(DevicePath::new(path).unwrap().as_str(), path);
        }
        let long = format!("/dev/{}", "x".repeat(DEVICE_PATH_MAX));
        for path in [
            "",
            "/dev",
            "/dev/",
            "/dev/null",
            "dev/x",
            "/dev/../etc/shadow",
            "/dev/./x",
            "/dev//x",
            "/dev/x/",
            "/dev/a b",
            "/dev/\0",
            "/etc/shadow",
            &long,
        ] {
            assert!(DevicePath::new(path).is_none(), "{path:?}");
        }
    }

    #[test]
    fn a_tenants_name_is_a_plain_word() {
        for name in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(TENANT_NAME_MAX + 1)] {
            assert!(TenantName::new(name).is_none(), "{name:?}");
        }
        assert_eq!(TenantName::new("risk-1_A").unwrap().as_str(), "risk-1_A");
    }
}
