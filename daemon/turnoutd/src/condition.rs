//! How this host and its store were when they were last looked at: status and metrics read it, and never wait for a look.

use std::sync::{PoisonError, RwLock};
use turnout_host::archive::StoreState;

/// What was found, and may be otherwise at the next look.
#[derive(Debug, Default)]
pub struct Condition {
    degraded: RwLock<Option<Vec<String>>>,
    store: RwLock<Option<StoreState>>,
}

impl Condition {
    /// What this host cannot do or enforce; nothing before it is examined.
    pub fn degraded(&self) -> Vec<String> {
        self.degraded.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Takes what an examination has found. Whether that is news, as the first one is.
    pub fn examined(&self, found: Vec<String>) -> bool {
        let mut known = self.degraded.write().unwrap_or_else(PoisonError::into_inner);
        known.replace(found) != *known
    }

    /// The store, once it was looked at.
    pub fn store(&self) -> Option<StoreState> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes how the store is now.
    pub fn saw_store(&self, state: StoreState) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    /// What of the store somebody should look at.
    pub fn concerns(&self) -> Vec<String> {
        let Some(store) = self.store() else { return Vec::new() };
        let mut lines = Vec::new();
        if store.read_only {
            lines.push("store: it takes no writes; `dmesg` says why".to_owned());
        }
        if store.free_bytes <= store.reserve_bytes {
            let mebibytes = store.free_bytes >> 20;
            let remedy = "`turnoutctl audit prune`, or `turnoutctl store grow`";
            lines.push(format!("store: {mebibytes} MiB are free, and nothing can be imported; {remedy}"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(free_bytes: u64, read_only: bool) -> StoreState {
        StoreState {
            kind: "btrfs".to_owned(),
            path: "/store".into(),
            image: None,
            total_bytes: 100 << 20,
            free_bytes,
            reserve_bytes: 5 << 20,
            read_only,
        }
    }

    #[test]
    fn an_examination_is_news_when_it_is_the_first_or_finds_something_else() {
        let condition = Condition::default();
        assert!(condition.examined(Vec::new()));
        assert!(!condition.examined(Vec::new()));
        let clock = vec!["clock: not synchronized".to_owned()];
        assert!(condition.examined(clock.clone()));
        assert_eq!(condition.degraded(), clock);
        assert!(!condition.examined(clock));
        assert!(condition.examined(Vec::new()));
    }

    #[test]
    fn a_store_that_is_full_or_takes_no_writes_needs_somebody() {
        let condition = Condition::default();
        assert!(condition.concerns().is_empty());
        condition.saw_store(store(50 << 20, false));
        assert!(condition.concerns().is_empty());
        condition.saw_store(store(5 << 20, true));
        let concerns = condition.concerns();
        assert_eq!(concerns.len(), 2);
        assert!(concerns[0].starts_with("store: it takes no writes"), "{concerns:?}");
        assert!(concerns[1].starts_with("store: 5 MiB are free"), "{concerns:?}");
    }
}
