//! Names and numbers that cross every boundary, each built only by a checked constructor.
//! What they mean is said here; how they are stored or shown is left to others.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest accepted model name, in bytes.
pub const MODEL_NAME_MAX: usize = 64;
/// Longest accepted name of a set of models, in bytes.
pub const SET_NAME_MAX: usize = 64;
/// Longest accepted version label, in bytes.
pub const VERSION_MAX: usize = 64;
/// Longest accepted name of a host or group of hosts, in bytes.
pub const HOST_NAME_MAX: usize = 253;
/// Longest accepted name of a group of devices, and of a tenant, in bytes.
pub const GROUP_NAME_MAX: usize = 32;
/// Longest accepted name of a channel, in bytes.
pub const CHANNEL_MAX: usize = 32;

/// Why a name or number was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The name is empty, too long, or holds a character outside its alphabet.
    #[error("{kind} `{value}` must be 1 to {max} of {alphabet}, and begin with a letter or digit")]
    Name {
        /// What was being named: `model name`, `version`.
        kind: &'static str,
        /// The offending text, cut to a printable length.
        value: String,
        /// The greatest length in bytes.
        max: usize,
        /// The allowed characters, in words.
        alphabet: &'static str,
    },
    /// A `model@version` reference without exactly one `@`.
    #[error("`{0}` is not of the form `model@version`")]
    Reference(String),
    /// A percentage outside 0 to 100, or finer than a thousandth.
    #[error("percent `{0}` must lie between 0 and 100 with at most three decimals")]
    Percent(String),
    /// A release id that was not made by [`ReleaseId::new`].
    #[error("`{0}` is not a release id: expected `r-` and 1 to 10 digits")]
    Release(String),
}

/// The rule that one kind of name keeps to.
struct NameRule {
    kind: &'static str,
    max: usize,
    /// Allowed beside ASCII letters and digits, but not first.
    extra: &'static str,
    alphabet: &'static str,
}

impl NameRule {
    fn check(&self, value: &str) -> Result<String, IdError> {
        let Self { kind, max, extra, alphabet } = *self;
        let legal = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
        let begins = value.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if begins && value.len() <= max && value.chars().all(legal) {
            return Ok(value.to_owned());
        }
        let value = value.chars().take(80).collect::<String>().escape_default().to_string();
        Err(IdError::Name { kind, value, max, alphabet })
    }
}

const MODEL_NAME: NameRule =
    NameRule { kind: "model name", max: MODEL_NAME_MAX, extra: "-_", alphabet: "a-z A-Z 0-9 - _" };
const SET_NAME: NameRule =
    NameRule { kind: "set name", max: SET_NAME_MAX, extra: "-_", alphabet: "a-z A-Z 0-9 - _" };
const VERSION: NameRule =
    NameRule { kind: "version", max: VERSION_MAX, extra: ".+-_", alphabet: "a-z A-Z 0-9 . + - _" };
const CHANNEL: NameRule =
    NameRule { kind: "channel", max: CHANNEL_MAX, extra: "-_", alphabet: "a-z A-Z 0-9 - _" };
const DEVICE_GROUP: NameRule =
    NameRule { kind: "group of devices", max: GROUP_NAME_MAX, extra: "-_", alphabet: "a-z A-Z 0-9 - _" };
const TENANT_NAME: NameRule =
    NameRule { kind: "tenant", max: GROUP_NAME_MAX, extra: "-_", alphabet: "a-z A-Z 0-9 - _" };
const HOST_NAME: NameRule =
    NameRule { kind: "host name", max: HOST_NAME_MAX, extra: "-_.", alphabet: "a-z A-Z 0-9 - _ ." };

macro_rules! text_id {
    ($name:ident) => {
        impl $name {
            /// The text, as it was checked.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.pad(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

/// The name of a model: 1 to 64 of `a-z A-Z 0-9 - _`, used in paths, URLs and globs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(String);
text_id!(ModelName);

impl FromStr for ModelName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        MODEL_NAME.check(text).map(Self)
    }
}

/// The name of a set of models that are released together: 1 to 64 of `a-z A-Z 0-9 - _`, used in paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SetName(String);
text_id!(SetName);

impl FromStr for SetName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        SET_NAME.check(text).map(Self)
    }
}

/// The label of a version: 1 to 64 of `a-z A-Z 0-9 . + - _`. Labels are names, not ordered numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);
text_id!(Version);

impl FromStr for Version {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        VERSION.check(text).map(Self)
    }
}

/// What a version is meant for, such as `prod` or `staging`: 1 to 32 of `a-z A-Z 0-9 - _`. A version that does not say is
/// meant for `prod`, the strictest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Channel(String);
text_id!(Channel);

impl Channel {
    /// True for `prod`, which a manifest does not write down.
    pub fn is_prod(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Channel {
    fn default() -> Self {
        Self("prod".to_owned())
    }
}

impl FromStr for Channel {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        CHANNEL.check(text).map(Self)
    }
}

/// What a host calls some of its device nodes, such as `gpu0`: 1 to 32 of `a-z A-Z 0-9 - _`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceGroup(String);
text_id!(DeviceGroup);

impl FromStr for DeviceGroup {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        DEVICE_GROUP.check(text).map(Self)
    }
}

/// Who shares a host with others, by the models that are theirs: 1 to 32 of `a-z A-Z 0-9 - _`, also part of a cgroup's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(String);
text_id!(TenantName);

impl FromStr for TenantName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        TENANT_NAME.check(text).map(Self)
    }
}

/// What release orders call a host, or a group of hosts: 1 to 253 of `a-z A-Z 0-9 - _ .`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);
text_id!(HostName);

impl FromStr for HostName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        HOST_NAME.check(text).map(Self)
    }
}

/// A version of a model as people write it: `fraud@1.4.0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VersionRef {
    /// The model.
    pub model: ModelName,
    /// Its version.
    pub version: Version,
}

impl FromStr for VersionRef {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let reference = || IdError::Reference(text.chars().take(160).collect());
        let (model, version) = text.split_once('@').ok_or_else(reference)?;
        Ok(Self { model: model.parse()?, version: version.parse()? })
    }
}

impl fmt::Display for VersionRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&format!("{}@{}", self.model, self.version))
    }
}

impl TryFrom<String> for VersionRef {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<VersionRef> for String {
    fn from(reference: VersionRef) -> String {
        reference.to_string()
    }
}

/// One worker's life: a number that is never given twice by one journal. Each start of a version gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "g{}", self.0)
    }
}

/// The id of a release: `r-` and its ordinal in this journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseId(u32);

impl ReleaseId {
    /// The id with this ordinal, counted from 1.
    pub fn new(ordinal: u32) -> Self {
        Self(ordinal)
    }

    /// The ordinal in the journal, counted from 1.
    pub fn ordinal(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&format!("r-{}", self.0))
    }
}

impl FromStr for ReleaseId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits =
            text.strip_prefix("r-").filter(|d| d.len() <= 10 && d.bytes().all(|b| b.is_ascii_digit()));
        let refused = || IdError::Release(text.chars().take(40).collect());
        digits.and_then(|d| d.parse().ok()).map(Self).ok_or_else(refused)
    }
}

impl TryFrom<String> for ReleaseId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ReleaseId> for String {
    fn from(id: ReleaseId) -> String {
        id.to_string()
    }
}

/// A share of new connections in thousandths of a percent: 0 is none, 100 000 is all. On the wire a plain integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Percent(u32);

impl Percent {
    /// No connection at all.
    pub const NONE: Self = Self(0);
    /// Every connection.
    pub const ALL: Self = Self(100_000);

    /// From thousandths of a percent.
    ///
    /// # Errors
    /// [`IdError::Percent`] above 100 000.
    pub fn from_thousandths(thousandths: u32) -> Result<Self, IdError> {
        if thousandths > Self::ALL.0 {
            return Err(IdError::Percent(format!("{}", f64::from(thousandths) / 1000.0)));
        }
        Ok(Self(thousandths))
    }

    /// The share in thousandths of a percent, 0 to 100 000.
    pub fn thousandths(self) -> u32 {
        self.0
    }

    /// What is left for the other side.
    pub fn rest(self) -> Self {
        Self(Self::ALL.0 - self.0)
    }
}

impl FromStr for Percent {
    type Err = IdError;
    /// Reads `5`, `0.5` or `12.125`.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let refused = || IdError::Percent(text.chars().take(40).collect());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 3 || fraction.len() > 3 || !digits(whole) || !digits(fraction) {
            return Err(refused());
        }
        let whole: u32 = whole.parse().map_err(|_| refused())?;
        let fraction: u32 = format!("{fraction:0<3}").parse().map_err(|_| refused())?;
        Self::from_thousandths(whole * 1000 + fraction).map_err(|_| refused())
    }
}

impl TryFrom<u32> for Percent {
    type Error = IdError;
    fn try_from(thousandths: u32) -> Result<Self, IdError> {
        Self::from_thousandths(thousandths)
    }
}

impl From<Percent> for u32 {
    fn from(percent: Percent) -> u32 {
        percent.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 1000, self.0 % 1000);
        if fraction == 0 {
            return out.pad(&format!("{whole} %"));
        }
        out.pad(&format!("{whole}.{} %", format!("{fraction:03}").trim_end_matches('0')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_their_alphabet_are_refused() {
        for bad in ["", ".hidden", "a/b", "../x", "naïve", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?}");
            assert!(bad.parse::<SetName>().is_err(), "{bad:?}");
        }
        assert!("fraud-v2_eu".parse::<ModelName>().is_ok());
        assert!("1.4.0+build-7".parse::<Version>().is_ok());
        assert!("a@b@c".parse::<VersionRef>().is_err());
    }

    #[test]
    fn percent_reads_and_shows_three_decimals() {
        for (text, thousandths, shown) in [
            ("5", 5000, "5 %"),
            ("0.5", 500, "0.5 %"),
            ("100", 100_000, "100 %"),
            ("12.125", 12_125, "12.125 %"),
        ] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!((percent.thousandths(), percent.to_string().as_str()), (thousandths, shown));
        }
        for bad in ["", ".5", "100.001", "101", "-1", "1e2", "0.0001", "5 "] {
            assert!(bad.parse::<Percent>().is_err(), "{bad:?}");
        }
    }
}
