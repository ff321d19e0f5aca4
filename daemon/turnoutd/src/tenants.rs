//! What each tenant has of this host: room in the store for what comes in, room for one more cell, and the figures that
//! status and metrics show. Users, cgroups and their limits are held by the launcher.

use crate::config::{Room, Tenant};
use crate::handlers::{Desk, problem};
use crate::view::View;
use std::collections::BTreeSet;
use turnout_engine::World;
use turnout_manifest::{Generation, VerifiedManifest};
use turnout_protocol::control::TenantStatus;
use turnout_protocol::error::{ErrorCode, Problem};

/// Keeps room for a version that comes in, before a byte of it is stored. A model of no tenant needs none, nor does what
/// is stored already.
///
/// # Errors
/// 413 with the figures when the tenant has no room.
pub fn room_for(desk: &Desk, verified: &VerifiedManifest) -> Result<Option<Room>, Problem> {
    let manifest = verified.manifest();
    let tenants = &desk.daemon.config.tenants;
    let Some(tenant) = tenants.of(&manifest.model) else { return Ok(None) };
    let label = (manifest.model.clone(), manifest.version.clone());
    if desk.view().world.versions.contains_key(&label) {
        return Ok(None);
    }
    let bytes = manifest.files.iter().map(|file| file.size).sum();
    let stored = || stored_bytes(&desk.view().world, tenant);
    tenants.room(tenant, bytes, stored).map(Some).map_err(|under_way| {
        let (most, stored) = (tenant.store_bytes.unwrap_or(u64::MAX), stored());
        let under_way = if under_way == 0 { String::new() } else { format!(", {under_way} are being imported") };
        let free = most.saturating_sub(stored);
        problem(
            ErrorCode::Limit,
            format!(
                "`{}` has {bytes} bytes, and tenant `{}` has {free} of its {most} left ({stored} are stored{under_way})",
                manifest.reference(),
                tenant.name
            ),
        )
        .hint("`turnoutctl model remove` makes room; `[tenants]` in the configuration has the limit, `store_bytes`")
    })
}

/// Whether a release of this model, which takes one cell more, has room. The launcher has the last word.
///
/// # Errors
/// Who has the cells, and what to do, for people.
pub fn has_cell(view: &View, tenant: &Tenant) -> Result<(), String> {
    let taken = cells(view, tenant).len();
    match tenant.cells {
        Some(most) if taken >= most as usize => Err(format!(
            "tenant `{}` has {taken} of its {most} cells in use, and a release needs one more",
            tenant.name
        )),
        _ => Ok(()),
    }
}

/// Starts of workers that a tenant has: of what is live and of releases under way.
fn cells(view: &View, tenant: &Tenant) -> BTreeSet<Generation> {
    let world = &view.world;
    let mut cells = BTreeSet::new();
    for (name, model) in world.models.iter().filter(|(name, _)| tenant.owns(name)) {
        let planned = world.current(name).map(|release| &release.planned);
        let releasing = planned.into_iter().flat_map(|planned| planned.from.iter().chain([&planned.to]));
        cells.extend(model.live.iter().chain(releasing).map(|target| target.generation));
    }
    cells
}

fn stored_bytes(world: &World, tenant: &Tenant) -> u64 {
    let of_tenant = world.versions.iter().filter(|((model, _), _)| tenant.owns(model));
    of_tenant.map(|(_, stored)| stored.bytes).sum()
}

/// A tenant as it is shown.
pub fn status(view: &View, tenant: &Tenant) -> TenantStatus {
    let cells = cells(view, tenant);
    let usage = || cells.iter().filter_map(|cell| Some(&view.totals.get(cell)?.usage));
    let memory: Vec<u64> = usage().filter_map(|usage| usage.memory_bytes).collect();
    TenantStatus {
        tenant: tenant.name.clone(),
        models: tenant.models.iter().map(ToString::to_string).collect(),
        cells: u32::try_from(cells.len()).unwrap_or(u32::MAX),
        cells_limit: tenant.cells,
        store_bytes: stored_bytes(&view.world, tenant),
        store_limit_bytes: tenant.store_bytes,
        memory_bytes: (!memory.is_empty()).then(|| memory.iter().sum()),
        memory_limit_bytes: tenant.memory_bytes,
        processes_limit: tenant.processes,
        cpu_limit: tenant.cpu_limit.map(|limit| limit.to_string()),
        uid_base: tenant.uid_base,
    }
}
