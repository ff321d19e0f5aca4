//! Who decides which version a request meets: the registry of strategies, each with the keys it takes. The first two
//! are the kernel's; the last is the worker's own; the others need the request's head and are the router's.

use crate::document::{Group, Place, Reader, printable};
use crate::expression::Expression;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Greatest length of a header's name, bytes.
pub const HEADER_NAME_MAX: usize = 64;
/// Greatest length of a header's value that is compared with, bytes.
pub const HEADER_VALUE_MAX: usize = 256;

/// Who decides which version a request meets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Strategy {
    /// Each new connection, by a keyed hash of its addresses and ports.
    Weight,
    /// Each client address, by a keyed hash: one client, one version.
    SourceHash,
    /// Requests with this header and value meet the new version from the first step on; the step's share is that of
    /// all other requests.
    Header {
        /// The header.
        header: HeaderName,
        /// Its value, compared byte by byte.
        value: HeaderText,
    },
    /// Each user, by a keyed hash of what a header says: one user, one version, and a greater share only adds users.
    /// A request without the header stays with the old version until the last step.
    UserHash {
        /// The header.
        header: HeaderName,
    },
    /// Requests for which the expression is true meet the new version from the first step on; the step's share is
    /// that of all other requests.
    Expression {
        /// What is asked of a request.
        expression: Expression,
    },
    /// Nobody: the worker that serves the old version loads the new one beside it and changes over between two
    /// requests, all at once. No connection closes.
    InPlace,
}

/// A kind of strategy, as plans name it.
struct Kind {
    word: &'static str,
    keys: &'static [&'static str],
    read: fn(&mut Reader, &Group<'_>) -> Option<Strategy>,
}

const KINDS: [Kind; 6] = [
    Kind { word: "weight", keys: &[], read: |_, _| Some(Strategy::Weight) },
    Kind { word: "source-hash", keys: &[], read: |_, _| Some(Strategy::SourceHash) },
    Kind { word: "header", keys: &["header", "value"], read: read_header },
    Kind { word: "user-hash", keys: &["header"], read: read_user_hash },
    Kind { word: "expression", keys: &["expression"], read: read_expression },
    Kind { word: "in-place", keys: &[], read: |_, _| Some(Strategy::InPlace) },
];
const KEYS: &[&str] = &["kind", "header", "value", "expression"];

impl Strategy {
    /// The word by which plans choose it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Weight => KINDS[0].word,
            Self::SourceHash => KINDS[1].word,
            Self::Header { .. } => KINDS[2].word,
            Self::UserHash { .. } => KINDS[3].word,
            Self::Expression { .. } => KINDS[4].word,
            Self::InPlace => KINDS[5].word,
        }
    }

    /// Whether it reads requests, which the kernel does not: the router decides then.
    pub fn needs_router(&self) -> bool {
        !matches!(self, Self::Weight | Self::SourceHash | Self::InPlace)
    }

    /// Whether it picks some requests whatever the share: then the first step may be 0 %.
    pub fn picks_beyond_the_share(&self) -> bool {
        matches!(self, Self::Header { .. } | Self::Expression { .. })
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight | Self::SourceHash | Self::InPlace => write!(out, "{}", self.kind()),
            Self::Header { header, value } => write!(out, "{} `{header}: {value}`", self.kind()),
            Self::UserHash { header } => write!(out, "{} of `{header}`", self.kind()),
            Self::Expression { expression } => write!(out, "{} `{expression}`", self.kind()),
        }
    }
}

/// Reads the `strategy` group of a plan.
pub(crate) fn read(reader: &mut Reader, place: &Place<'_>) -> Option<Strategy> {
    let group = reader.group(place, KEYS)?;
    let word = group.require(reader, "kind")?;
    let words = KINDS.each_ref().map(|kind| (kind.word, kind));
    let kind = reader.choice(&word, &words)?;
    for key in KEYS.iter().skip(1).filter(|key| !kind.keys.contains(key)) {
        if let Some(stray) = group.get(key) {
            let what = format!("`{key}` means nothing to strategy `{}`", kind.word);
            reader.refuse(&stray, what, "remove it, or choose the strategy that it belongs to");
        }
    }
    (kind.read)(reader, &group)
}

fn read_header(reader: &mut Reader, group: &Group<'_>) -> Option<Strategy> {
    let header = read_name(reader, group);
    let value = group.require(reader, "value");
    let remedy = "write up to 256 visible ASCII characters, such as `always`";
    let value = value.and_then(|place| reader.parsed(&place, remedy));
    Some(Strategy::Header { header: header?, value: value? })
}

fn read_user_hash(reader: &mut Reader, group: &Group<'_>) -> Option<Strategy> {
    read_name(reader, group).map(|header| Strategy::UserHash { header })
}

fn read_expression(reader: &mut Reader, group: &Group<'_>) -> Option<Strategy> {
    let place = group.require(reader, "expression")?;
    let remedy = "write such as `headers[\"x-region\"] == \"eu\" && path.endsWith(\"/infer\")`";
    reader.parsed(&place, remedy).map(|expression| Strategy::Expression { expression })
}

fn read_name(reader: &mut Reader, group: &Group<'_>) -> Option<HeaderName> {
    let place = group.require(reader, "header")?;
    reader.parsed(&place, "write the name of a header that clients send, such as `x-user-id`")
}

/// Why a text cannot stand in a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No name of a header.
    #[error("`{0}` is not the name of a header")]
    Name(String),
    /// A header that belongs to the connection, not to the request.
    #[error("header `{0}` belongs to the connection, not to the request")]
    HopByHop(String),
    /// No value of a header.
    #[error("`{0}` is not the value of a header")]
    Value(String),
}

/// Headers that say something of one connection only, or frame its messages: a router takes them away or rewrites them.
pub const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
];

/// The name of a request's header, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeaderName(String);

impl HeaderName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HeaderName {
    type Err = HeaderError;
    /// Reads a token of RFC 9110; case does not count.
    fn from_str(text: &str) -> Result<Self, HeaderError> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.is_empty() || text.len() > HEADER_NAME_MAX || !text.bytes().all(token) {
            return Err(HeaderError::Name(printable(text)));
        }
        let name = text.to_ascii_lowercase();
        if HOP_BY_HOP.contains(&name.as_str()) {
            return Err(HeaderError::HopByHop(name));
        }
        Ok(Self(name))
    }
}

impl TryFrom<String> for HeaderName {
    type Error = HeaderError;
    fn try_from(text: String) -> Result<Self, HeaderError> {
        text.parse()
    }
}

impl From<HeaderName> for String {
    fn from(name: HeaderName) -> Self {
        name.0
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A header's value as a plan can give it: visible ASCII and inner blanks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeaderText(String);

impl HeaderText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HeaderText {
    type Err = HeaderError;
    fn from_str(text: &str) -> Result<Self, HeaderError> {
        let visible = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if text.is_empty() || text.len() > HEADER_VALUE_MAX || !visible || text.trim() != text {
            return Err(HeaderError::Value(printable(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for HeaderText {
    type Error = HeaderError;
    fn try_from(text: String) -> Result<Self, HeaderError> {
        text.parse()
    }
}

impl From<HeaderText> for String {
    fn from(text: HeaderText) -> Self {
        text.0
    }
}

impl fmt::Display for HeaderText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::{from_canonical, to_canonical};

    #[test]
    fn journals_keep_their_form_and_the_new_kinds_have_theirs() {
        let user: HeaderName = "X-User-Id".parse().unwrap();
        for (strategy, json) in [
            (Strategy::Weight, r#""weight""#),
            (Strategy::SourceHash, r#""source-hash""#),
            (Strategy::InPlace, r#""in-place""#),
            (
                Strategy::Header { header: user.clone(), value: "always".parse().unwrap() },
                r#"{"header":{"header":"x-user-id","value":"always"}}"#,
            ),
            (Strategy::UserHash { header: user }, r#"{"user-hash":{"header":"x-user-id"}}"#),
            (
                Strategy::Expression { expression: r#"method == "POST""#.parse().unwrap() },
                r#"{"expression":{"expression":"method == \"POST\""}}"#,
            ),
        ] {
            assert_eq!(String::from_utf8(to_canonical(&strategy).unwrap()).unwrap(), json);
            assert_eq!(from_canonical::<Strategy>(json.as_bytes()).unwrap(), strategy);
            let kind = KINDS.iter().find(|kind| kind.word == strategy.kind());
            assert_eq!(kind.unwrap().keys.is_empty(), !strategy.needs_router());
        }
        for strange in [
            r#"{"user-hash":{"header":"x","a":1}}"#,
            r#"{"user-hash":{"header":"x y"}}"#,
            r#"{"header":{"header":"host-x","value":""}}"#,
            r#"{"expression":{"expression":"1"}}"#,
        ] {
            assert!(from_canonical::<Strategy>(strange.as_bytes()).is_err(), "{strange}");
        }
    }

    #[test]
    fn headers_that_a_router_rewrites_cannot_be_asked_for() {
        for name in ["connection", "Transfer-Encoding", "content-length"] {
            assert!(matches!(name.parse::<HeaderName>(), Err(HeaderError::HopByHop(_))), "{name}");
        }
    }
}
