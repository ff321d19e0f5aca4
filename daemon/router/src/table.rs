//! The routes in force. A request reads its port's route once, when it begins: a change holds for every later one.

use crate::choose::{Choice, Chooser};
use hyper::http::request::Parts;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use turnout_protocol::router::{Arm, PORTS_MAX, PortRoute, Split};

/// Why routes are not taken; those before stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// More ports than [`PORTS_MAX`].
    #[error("more than {PORTS_MAX} ports")]
    Ports,
    /// The key is not 16 hexadecimal digits.
    #[error("key `{0}` is not 16 hexadecimal digits")]
    Salt(String),
    /// A worker is reached over loopback or not at all.
    #[error("address `{0}` is not on loopback")]
    Address(std::net::SocketAddr),
}

/// All routes.
#[derive(Debug, Default)]
pub struct Table {
    routes: RwLock<HashMap<u16, Arc<Route>>>,
}

/// One port's.
#[derive(Debug)]
pub struct Route {
    split: Checked,
    requests: AtomicU64,
}

#[derive(Debug)]
enum Checked {
    Between { chooser: Chooser, candidate: Arm, stable: Arm },
    Home(Arm),
}

/// Where one request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way<'a> {
    /// The version.
    pub arm: &'a Arm,
    /// What stands in when that takes no connection.
    pub spare: Option<&'a Arm>,
}

impl Table {
    /// Takes routes over, all or none.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn take(&self, routes: &[PortRoute]) -> Result<(), TableError> {
        let checked: Result<Vec<_>, _> =
            routes.iter().map(|route| Ok((route.port, checked(&route.split)?))).collect();
        let checked = checked?;
        let mut table = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let new = checked.iter().filter(|(port, _)| !table.contains_key(port)).count();
        if table.len() + new > PORTS_MAX {
            return Err(TableError::Ports);
        }
        for (port, split) in checked {
            table.insert(port, Arc::new(Route { split, requests: AtomicU64::new(0) }));
        }
        Ok(())
    }

    /// The route of a port.
    pub fn route(&self, port: u16) -> Option<Arc<Route>> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).get(&port).cloned()
    }
}

impl Route {
    /// Where a request goes.
    pub fn way(&self, head: &Parts) -> Way<'_> {
        match &self.split {
            Checked::Home(arm) => Way { arm, spare: None },
            Checked::Between { chooser, candidate, stable } => {
                let ordinal = self.requests.fetch_add(1, Ordering::Relaxed);
                match chooser.choose(head, ordinal) {
                    Choice::Candidate => Way { arm: candidate, spare: Some(stable) },
                    Choice::Stable => Way { arm: stable, spare: None },
                }
            }
        }
    }

    /// Whether connections close with their next answer.
    pub fn is_over(&self) -> bool {
        matches!(self.split, Checked::Home(_))
    }
}

fn checked(split: &Split) -> Result<Checked, TableError> {
    match split {
        Split::Home { to } => reachable(to).map(Checked::Home),
        Split::Between { strategy, salt, share, candidate, stable } => {
            let digits = salt.len() == 16 && salt.bytes().all(|byte| byte.is_ascii_hexdigit());
            let key = u64::from_str_radix(salt, 16).ok().filter(|_| digits);
            let key = key.ok_or_else(|| TableError::Salt(salt.chars().take(40).collect()))?;
            Ok(Checked::Between {
                chooser: Chooser::new(strategy.clone(), key, *share),
                candidate: reachable(candidate)?,
                stable: reachable(stable)?,
            })
        }
    }
}

fn reachable(arm: &Arm) -> Result<Arm, TableError> {
    if arm.address.ip().is_loopback() { Ok(arm.clone()) } else { Err(TableError::Address(arm.address)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnout_manifest::Generation;

    fn home(port: u16, address: &str) -> PortRoute {
        let to = Arm {
            generation: Generation(1),
            version: "1".parse().unwrap(),
            address: address.parse().unwrap(),
        };
        PortRoute { port, model: "fraud".parse().unwrap(), split: Split::Home { to } }
    }

    #[test]
    fn routes_are_taken_all_or_none_and_others_stay() {
        let table = Table::default();
        table.take(&[home(1, "127.0.0.1:9")]).unwrap();
        let refused = table.take(&[home(2, "127.0.0.1:9"), home(3, "10.0.0.1:9")]);
        assert_eq!(refused, Err(TableError::Address("10.0.0.1:9".parse().unwrap())));
        assert!(table.route(1).is_some() && table.route(2).is_none() && table.route(3).is_none());
        let many: Vec<_> = (2..=1025).map(|port| home(port, "127.0.0.1:9")).collect();
        assert_eq!(table.take(&many), Err(TableError::Ports));
        assert_eq!(table.take(&many[..1023]), Ok(()));
    }
}
