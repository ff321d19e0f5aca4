//! Who may ask what: a table. The caller is who the kernel says is at the other end of the socket (SO_PEERCRED,
//! unix(7)); being able to connect at all is the socket's group, and the configuration names who of it may only read.

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

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Effective uid.
    pub uid: u32,
    /// Process id, 0 when the kernel does not tell.
    pub pid: i32,
    /// What it is to the daemon.
    pub standing: Standing,
}

impl Peer {
    /// Who is at the other end. Root stays root, whoever the configuration calls a reader.
    pub fn new(uid: u32, pid: i32, readers: &[u32]) -> Self {
        let standing = match uid {
            0 => Standing::Root,
            uid if readers.contains(&uid) => Standing::Reader,
            _ => Standing::Member,
        };
        Self { uid, pid, standing }
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
        let [root, member, reader] = [0, 1000, 1001].map(|uid| Peer::new(uid, 1, &readers));
        for (need, allowed) in [
            (Need::Read, [true, true, true]),
            (Need::Operate, [true, true, false]),
            (Need::Evidence, [true, false, false]),
            (Need::Trust, [true, false, false]),
        ] {
            assert_eq!([root, member, reader].map(|peer| peer.may(need)), allowed, "{need:?}");
        }
    }
}
