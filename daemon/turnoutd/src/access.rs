//! Who may ask what: a table. The caller is who the kernel says is at the other end of the socket (SO_PEERCRED,
//! unix(7)); being able to connect at all is the socket's group.

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// See state, journal and reports.
    Read,
    /// Import versions, start and steer releases.
    Operate,
    /// Change whose signatures count.
    Trust,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Effective uid.
    pub uid: u32,
    /// Process id, 0 when the kernel does not tell.
    pub pid: i32,
}

impl Peer {
    /// May this peer do this? Members of the socket's group read and operate; trust is root's.
    pub fn may(self, need: Need) -> bool {
        match need {
            Need::Read | Need::Operate => true,
            Need::Trust => self.uid == 0,
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
    fn trust_is_for_root_alone() {
        let (root, other) = (Peer { uid: 0, pid: 1 }, Peer { uid: 1000, pid: 2 });
        for (need, root_may, other_may) in
            [(Need::Read, true, true), (Need::Operate, true, true), (Need::Trust, true, false)]
        {
            assert_eq!((root.may(need), other.may(need)), (root_may, other_may), "{need:?}");
        }
    }
}
