//! Whose cells there are: ranges of users that do not meet, and how many cells each tenant may have. Their cgroups are
//! left to `cgroup.rs`.

use std::collections::BTreeMap;
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
    /// The range meets another's, or the users of services.
    #[error("users of another tenant, or of the system")]
    Users,
    /// It has cells whose users are of another range.
    #[error("its cells have users of another range")]
    Moved,
    /// There are as many as there can be cells.
    #[error("{SLOTS} tenants, and no more")]
    TooMany,
}

impl Tenants {
    /// No tenant.
    pub fn new(uid_base: u32) -> Self {
        Self { uid_base, tenants: BTreeMap::new() }
    }

    /// Whether this tenant can be set, with how many cells each range has. Gives the name of one that had its users: then
    /// that one's cgroup has to go.
    ///
    /// # Errors
    /// [`TenantError`].
    pub fn check(
        &self,
        tenant: &Tenant,
        cells_of: impl Fn(u32) -> usize,
    ) -> Result<Option<TenantName>, TenantError> {
        let namesake = self.tenants.values().find(|other| other.name == tenant.name);
        let moved = namesake.filter(|other| other.uid_base != tenant.uid_base);
        let renamed = self.tenants.get(&tenant.uid_base).filter(|other| other.name != tenant.name);
        if moved.is_some_and(|other| cells_of(other.uid_base) > 0)
            || renamed.is_some_and(|other| cells_of(other.uid_base) > 0)
        {
            return Err(TenantError::Moved);
        }
        let known = self.tenants.contains_key(&tenant.uid_base) || moved.is_some();
        if !known && self.tenants.len() >= SLOTS as usize {
            return Err(TenantError::TooMany);
        }
        let others = self.tenants.values().filter(|other| other.name != tenant.name);
        let others = others.map(|other| other.uid_base).filter(|base| *base != tenant.uid_base);
        let legal = (UID_MIN..=u32::MAX - 2 * SLOTS).contains(&tenant.uid_base);
        if !legal || others.chain([self.uid_base]).any(|base| base.abs_diff(tenant.uid_base) < SLOTS) {
            return Err(TenantError::Users);
        }
        Ok(renamed.map(|other| other.name))
    }

    /// Keeps one that was checked.
    pub fn set(&mut self, tenant: &Tenant) {
        self.tenants.retain(|_, other| other.name != tenant.name);
        self.tenants.insert(tenant.uid_base, *tenant);
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

    /// Forgets all of them; their names.
    pub fn clear(&mut self) -> Vec<TenantName> {
        std::mem::take(&mut self.tenants).into_values().map(|tenant| tenant.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn tenant(name: &str, uid_base: u32) -> Tenant {
        let name = TenantName::new(name).unwrap();
        Tenant { uid_base, memory_bytes: 0, pids_max: 0, cpu_thousandths: 0, cells_max: 2, name }
    }

    fn with(known: &[Tenant]) -> Tenants {
        let mut tenants = Tenants::new(61_000);
        known.iter().for_each(|tenant| tenants.set(tenant));
        tenants
    }

    #[test]
    fn a_range_that_meets_another_is_refused() {
        let tenants = with(&[tenant("a", 62_000)]);
        for (name, base) in
            [("b", 62_063), ("b", 61_937), ("b", 61_063), ("b", 60_937), ("b", 999), ("b", u32::MAX)]
        {
            assert_eq!(tenants.check(&tenant(name, base), |_| 0), Err(TenantError::Users), "{base}");
        }
        for base in [62_064, 61_936, 61_064, 60_936, 1000] {
            assert_eq!(tenants.check(&tenant("b", base), |_| 0), Ok(None), "{base}");
        }
    }

    #[test]
    fn a_tenant_moves_or_is_renamed_only_while_it_has_no_cell() {
        let tenants = with(&[tenant("a", 62_000)]);
        assert_eq!(tenants.check(&tenant("a", 63_000), |_| 1), Err(TenantError::Moved));
        assert_eq!(tenants.check(&tenant("a", 63_000), |_| 0), Ok(None));
        assert_eq!(tenants.check(&tenant("b", 62_000), |_| 1), Err(TenantError::Moved));
        assert_eq!(tenants.check(&tenant("b", 62_000), |_| 0), Ok(TenantName::new("a")));
        assert_eq!(tenants.check(&tenant("a", 62_000), |_| 1), Ok(None), "the same again");
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
                if tenants.check(&wish, |other| usize::from(occupied.contains(&other))).is_ok() {
                    tenants.set(&wish);
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
