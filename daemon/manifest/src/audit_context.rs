//! The audit context of a request that changes something: who asked, how that is known, and since when. It is made once,
//! where the request comes in, and stands unchanged in everything that follows from it: records, workers, answers.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::{Builder, Uuid};

/// The header that names the context in answers of the control API and of workers.
pub const AUDIT_CONTEXT_HEADER: &str = "turnout-audit-context";

/// A text that is no id of an audit context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the id of an audit context: expected a UUID of version 7 in lower case")]
pub struct ContextIdError(String);

/// The id of an audit context: a UUID of version 7 (RFC 9562, section 5.7), so ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AuditContextId(Uuid);

impl AuditContextId {
    /// The id of a context that begins at this time, milliseconds since the epoch.
    pub fn new(at_ms: u64, random: [u8; 10]) -> Self {
        Self(Builder::from_unix_timestamp_millis(at_ms, &random).into_uuid())
    }
}

impl fmt::Display for AuditContextId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(out)
    }
}

impl FromStr for AuditContextId {
    type Err = ContextIdError;

    fn from_str(text: &str) -> Result<Self, ContextIdError> {
        let refused =
            || ContextIdError(text.chars().take(40).collect::<String>().escape_default().to_string());
        let id = Self(Uuid::try_parse(text).map_err(|_| refused())?);
        // One id has one text: it is searched for.
        if id.0.get_version_num() == 7 && id.to_string() == text { Ok(id) } else { Err(refused()) }
    }
}

impl TryFrom<String> for AuditContextId {
    type Error = ContextIdError;

    fn try_from(text: String) -> Result<Self, ContextIdError> {
        text.parse()
    }
}

impl From<AuditContextId> for String {
    fn from(id: AuditContextId) -> Self {
        id.to_string()
    }
}

/// Who asked, and how that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "authentication", rename_all = "kebab-case")]
pub enum Operator {
    /// The process at the other end of the control socket, as the kernel names it (`SO_PEERCRED`, unix(7)).
    #[serde(rename = "so-peercred")]
    Peer {
        /// Effective user id.
        uid: u32,
        /// Effective group id.
        gid: u32,
        /// Process id, 0 when the kernel does not tell.
        pid: i32,
        /// The user that the session was opened for, whatever `sudo` or `su` made of it since
        /// (`/proc/PID/loginuid`, pam_loginuid(8)). Absent outside of a login and where the kernel does not keep it.
        login_uid: Option<u32>,
    },
    /// Nobody asked: the daemon itself, by a timer or a rule of its configuration.
    Internal,
}

impl fmt::Display for Operator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer { uid, gid, pid, login_uid } => {
                write!(out, "uid {uid}, gid {gid}, pid {pid}")?;
                match login_uid {
                    Some(login) => write!(out, ", logged in as uid {login} (SO_PEERCRED)"),
                    None => write!(out, ", no login (SO_PEERCRED)"),
                }
            }
            Self::Internal => out.write_str("turnoutd itself"),
        }
    }
}

/// An audit context. Nothing changes it once it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditContext {
    id: AuditContextId,
    operator: Operator,
    began_ms: u64,
}

impl AuditContext {
    /// The context of what this operator asks for now, milliseconds since the epoch.
    pub fn begin(operator: Operator, now_ms: u64, random: [u8; 10]) -> Self {
        Self { id: AuditContextId::new(now_ms, random), operator, began_ms: now_ms }
    }

    /// Its id.
    pub fn id(&self) -> AuditContextId {
        self.id
    }

    /// Who asked.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// When the request came in, milliseconds since the epoch.
    pub fn began_ms(&self) -> u64 {
        self.began_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_of_version_7_that_sorts_by_time() {
        let [early, late] = [1, 2].map(|at_ms| AuditContextId::new(1_790_000_000_000 + at_ms, [0xff; 10]));
        assert!(early < late && early.to_string() < late.to_string());
        let text = early.to_string();
        assert_eq!((text.len(), &text[14..15]), (36, "7"), "{text}");
        assert_eq!(text.parse(), Ok(early));
        assert_eq!(serde_json::from_value::<AuditContextId>(serde_json::json!(text)).unwrap(), early);
    }

    #[test]
    fn nothing_else_is_an_id() {
        let id = AuditContextId::new(1, [7; 10]).to_string();
        for text in [
            "",
            "0",
            &id.to_uppercase().replace('0', "A"),
            &id.replace('-', ""),
            &format!("{{{id}}}"),
            &format!("urn:uuid:{id}"),
            &format!("{id} "),
            "f47ac10b-58cc-4372-a567-0e02b2c3d479",
            "00000000-0000-0000-0000-000000000000",
        ] {
            assert!(text.parse::<AuditContextId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_context_is_read_back_as_it_was_written() {
        let peer = Operator::Peer { uid: 0, gid: 0, pid: 42, login_uid: Some(1000) };
        let nobody = Operator::Peer { uid: 7, gid: 8, pid: 9, login_uid: None };
        for operator in [peer, nobody, Operator::Internal] {
            let context = AuditContext::begin(operator, 1_790_000_000_000, [1; 10]);
            let bytes = crate::canonical::to_canonical(&context).unwrap();
            assert_eq!(serde_json::from_slice::<AuditContext>(&bytes).unwrap(), context);
        }
    }
}
