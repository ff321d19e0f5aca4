//! Whose cells there are: ranges of users that do not meet, and how many cells each tenant may have. Their cgroups are
//! left to `cgroup.rs`.

use std::collections::{BTreeMap, BTreeSet};
use turnout_launcher_wire::{SLOTS, Tenant, TenantName};

/// Lowest user of a cell: below are those of services.
const UID_MIN: u32 = 1000;

/// Every tenant, by its first user.
#[derive(Debug)]
pub struct Tenants {
    /// First user of the cells that are nobody's.
    uid_base: u32,
    tenants: BTreeMap<u32, Tenant>,
}

/// Why a tenant, or a cell of it, cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// Nobody has told of it.
    #[error("no such tenant")]
    NoTenant,
    /// It has as many cells as it may.
    #[error("the tenant's {0} cells are taken")]
    Cells(u32),
    /// The range meets another's that has cells or may get some, or the users of services.
    #[error("users of another tenant, or of the system")]
    Users,
    /// There are as many as there can be cells.
    #[error("{SLOTS} tenants, and no more")]
    TooMany,
}

impl Tenants {
    /// No tenant.
    pub fn new(uid_base: u32) -> Self {
        Self { uid_base, tenants: BTreeMap::new() }
    }

    /// Whether this tenant can be set, with the ranges in which there are cells. It may get another name or another range
    /// at any time: cells that there are stay whose they were, and a worker that replaces a dead one is not refused for it.
    ///
    /// # Errors
    /// [`TenantError`].
    pub fn check(&self, tenant: &Tenant, occupied: &BTreeSet<u32>) -> Result<(), TenantError> {
        let others = || self.tenants.values().filter(|other| stays(other, tenant, occupied));
        if others().count() >= SLOTS as usize {
            return Err(TenantError::TooMany);
        }
        let legal = (UID_MIN..=u32::MAX - 2 * SLOTS).contains(&tenant.uid_base);
        let mut ranges = others().map(|other| other.uid_base).chain([self.uid_base]);
        if !legal || ranges.any(|base| base.abs_diff(tenant.uid_base) < SLOTS) {
            return Err(TenantError::Users);
        }
        Ok(())
    }

    /// Keeps one that was checked.
    pub fn set(&mut self, tenant: &Tenant, occupied: &BTreeSet<u32>) {
        self.tenants.retain(|_, other| stays(other, tenant, occupied));
        self.tenants.insert(tenant.uid_base, *tenant);
    }

    /// True if a tenant of this name may get cells.
    pub fn has(&self, name: &str) -> bool {
        self.tenants.values().any(|tenant| tenant.name.as_str() == name)
    }

    /// Where a new cell of this tenant belongs, which has so many already; nowhere of its own for 0, which is nobody.
    ///
    /// # Errors
    /// [`TenantError`].
    pub fn place(&self, uid_base: u32, cells: usize) -> Result<Option<TenantName>, TenantError> {
        if uid_base == 0 {
            return Ok(None);
        }
        let tenant = self.tenants.get(&uid_base).ok_or(TenantError::NoTenant)?;
        if tenant.cells_max != 0 && cells >= tenant.cells_max as usize {
            return Err(TenantError::Cells(tenant.cells_max));
        }
        Ok(Some(tenant.name))
    }

    /// The user of a cell.
    pub fn uid(&self, tenant: u32, slot: u32) -> u32 {
        if tenant == 0 { self.uid_base + slot } else { tenant + slot }
    }
}

/// Whether a tenant stays beside a new one: the same one under its old range only as long as it has cells there.
fn stays(other: &Tenant, new: &Tenant, occupied: &BTreeSet<u32>) -> bool {
    other.uid_base != new.uid_base && (other.name != new.name || occupied.contains(&other.uid_base))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenant(name: &str, uid_base: u32) -> Tenant {
        let name = TenantName::new(name).unwrap();
        Tenant { uid_base, memory_bytes: 0, pids_max: 0, cpu_thousandths: 0, cells_max: 2, name }
    }

    fn with(known: &[Tenant]) -> Tenants {
        let mut tenants = Tenants::new(61_000);
        known.iter().for_each(|tenant| tenants.set(tenant, &BTreeSet::new()));
        tenants
    }

    #[test]
    fn a_range_that_meets_another_is_refused() {
        let (tenants, none) = (with(&[tenant("a", 62_000)]), BTreeSet::new());
        for base in [62_063, 61_937, 61_063, 60_937, 999, u32::MAX] {
            assert_eq!(tenants.check(&tenant("b", base), &none), Err(TenantError::Users), "{base}");
        }
        for base in [62_064, 61_936, 61_064, 60_936, 1000] {
            assert_eq!(tenants.check(&tenant("b", base), &none), Ok(()), "{base}");
        }
    }

    #[test]
    fn a_tenant_moves_or_is_renamed_at_any_time_and_shares_no_user_with_what_it_leaves() {
        let (mut tenants, occupied) = (with(&[tenant("a", 62_000)]), BTreeSet::from([62_000]));
        assert_eq!(tenants.check(&tenant("a", 62_010), &occupied), Err(TenantError::Users));
        assert_eq!(tenants.check(&tenant("a", 62_010), &BTreeSet::new()), Ok(()));
        assert_eq!(tenants.check(&tenant("a", 63_000), &occupied), Ok(()));
        tenants.set(&tenant("a", 63_000), &occupied);
        assert!(tenants.place(62_000, 1).is_ok() && tenants.place(63_000, 0).is_ok());
        assert_eq!(tenants.check(&tenant("b", 62_000), &occupied), Ok(()), "another name");
        tenants.set(&tenant("b", 62_000), &occupied);
        assert!(tenants.has("a") && tenants.has("b"));
        tenants.set(&tenant("b", 64_000), &BTreeSet::new());
        assert_eq!(tenants.place(62_000, 0), Err(TenantError::NoTenant), "it left nothing there");
    }

    #[test]
    fn a_cell_has_a_place_while_its_tenant_has_room() {
        let tenants = with(&[tenant("a", 62_000)]);
        assert_eq!(tenants.place(0, 99), Ok(None));
        assert_eq!(tenants.place(62_000, 1), Ok(TenantName::new("a")));
        assert_eq!(tenants.place(62_000, 2), Err(TenantError::Cells(2)));
        assert_eq!(tenants.place(63_000, 0), Err(TenantError::NoTenant));
    }

    proptest! {
        #[test]
        fn no_user_is_ever_shared(
            wishes in prop::collection::vec(("[a-d]", 60_000..64_000u32, any::<bool>()), 1..24)
        ) {
            let mut tenants = Tenants::new(61_000);
            let mut occupied = BTreeSet::new();
            for (name, base, begins_a_cell) in wishes {
                let wish = tenant(&name, base);
                if tenants.check(&wish, &occupied).is_ok() {
                    tenants.set(&wish, &occupied);
                    if begins_a_cell {
                        occupied.insert(base);
                    }
                }
            }
            let bases = tenants.tenants.keys().copied().chain(occupied).chain([0]).collect::<BTreeSet<_>>();
            let users = bases.iter().flat_map(|base| (0..SLOTS).map(|slot| tenants.uid(*base, slot)));
            let count = users.clone().count();
            prop_assert_eq!(users.collect::<BTreeSet<_>>().len(), count);
        }
    }
}
