//! Who may ask what: a table. The caller is who the kernel says is at the other end of the socket (SO_PEERCRED,
//! unix(7)); being able to connect at all is the socket's group, and the configuration names who of it may only read.

use turnout_manifest::{AuditContext, Operator};

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// See state, journal and reports.
    Read,
    /// Import versions, start and steer releases, take snapshots, scrub.
    Operate,
    /// Mount, hold, export and delete what is kept; make the store larger.
    Evidence,
    /// Change whose signatures count.
    Trust,
}

/// What a caller is to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Root.
    Root,
    /// A member of the socket's group.
    Member,
    /// One of the users that the configuration calls readers: programs that serve what they read to others.
    Reader,
}

/// Who asks, and under which audit context: one for each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Effective uid.
    pub uid: u32,
    /// Process id, 0 when the kernel does not tell.
    pub pid: i32,
    /// What it is to the daemon.
    pub standing: Standing,
    /// What follows from the request is recorded under it.
    pub context: AuditContext,
}

/// Who is at the other end of a connection, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Effective uid.
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
    /// Process id, 0 when the kernel does not tell.
    pub pid: i32,
    /// The user of its login session.
    pub login_uid: Option<u32>,
}

impl Peer {
    /// Who asks now. Root stays root, whoever the configuration calls a reader.
    pub fn asking(caller: Caller, readers: &[u32]) -> Self {
        let Caller { uid, gid, pid, login_uid } = caller;
        let standing = match uid {
            0 => Standing::Root,
            uid if readers.contains(&uid) => Standing::Reader,
            _ => Standing::Member,
        };
        let context = begin_context(Operator::Peer { uid, gid, pid, login_uid });
        Self { uid, pid, standing, context }
    }

    /// May this peer do this? Members of the socket's group read and operate; trust and evidence are root's.
    pub fn may(self, need: Need) -> bool {
        match (self.standing, need) {
            (_, Need::Read) | (Standing::Root | Standing::Member, Need::Operate) => true,
            (Standing::Root, Need::Trust | Need::Evidence) => true,
            (Standing::Reader, Need::Operate) => false,
            (Standing::Member | Standing::Reader, Need::Trust | Need::Evidence) => false,
        }
    }
}

/// The context of what the daemon does by itself: a timer, a rule of its configuration.
pub fn internal_context() -> AuditContext {
    begin_context(Operator::Internal)
}

fn begin_context(operator: Operator) -> AuditContext {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&crate::salt().to_le_bytes());
    random[8..].copy_from_slice(&crate::salt().to_le_bytes()[..2]);
    AuditContext::begin(operator, crate::now_ms(), random)
}

impl std::fmt::Display for Peer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.uid {
            0 => write!(out, "root (pid {})", self.pid),
            uid => write!(out, "uid {uid} (pid {})", self.pid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_reads_members_operate_and_trust_and_evidence_are_for_root_alone() {
        let readers = [0, 1001];
        let [root, member, reader] = [0, 1000, 1001]
            .map(|uid| Peer::asking(Caller { uid, gid: uid, pid: 1, login_uid: None }, &readers));
        for (need, allowed) in [
            (Need::Read, [true, true, true]),
            (Need::Operate, [true, true, false]),
            (Need::Evidence, [true, false, false]),
            (Need::Trust, [true, false, false]),
        ] {
            assert_eq!([root, member, reader].map(|peer| peer.may(need)), allowed, "{need:?}");
        }
    }

    #[test]
    fn each_request_has_a_context_of_its_own_that_says_who_asked() {
        let caller = Caller { uid: 0, gid: 4, pid: 5, login_uid: Some(1000) };
        let contexts: Vec<_> = (0..100).map(|_| Peer::asking(caller, &[]).context).collect();
        let ids: std::collections::BTreeSet<_> = contexts.iter().map(AuditContext::id).collect();
        assert_eq!(ids.len(), 100);
        let operator = Operator::Peer { uid: 0, gid: 4, pid: 5, login_uid: Some(1000) };
        assert!(contexts.iter().all(|context| context.operator() == operator));
    }
}
