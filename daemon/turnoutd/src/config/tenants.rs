//! `[tenants.NAME]` and `devices`: who shares this host with others and what each may take of it, and what this host
//! calls its device nodes.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use turnout_host::cells::{self, SLOTS};
use turnout_host::devices::{DEVICES_MAX, DevicePath};
use turnout_manifest::profile::{CpuLimit, NoCpuLimit};
use turnout_manifest::section::{MEMORY_MAX, MEMORY_MIN};
use turnout_manifest::trust::ModelGlob;
use turnout_manifest::{DeviceGroup, ModelName, TenantName};

/// Most tenants: a cell is always somebody's, and there are so many cells.
const TENANTS_MAX: usize = SLOTS as usize;
/// Most patterns of one tenant.
const MODELS_MAX: usize = 64;
/// Most groups of devices.
const GROUPS_MAX: usize = 256;
/// Uids that systemd gives out on its own: to services with `DynamicUser=`, and to nobody; and the one that is none.
const SYSTEMD_UIDS: RangeInclusive<u32> = 61_184..=65_535;

/// A tenant: models whose cells have users and a cgroup of their own, and limits together. Models of no tenant are the
/// instance's own, without any of this.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTenant {
    /// Its models; `*` stands for any run of characters, and no name may be two tenants'. Needed, such as `["NAME-*"]`.
    models: Vec<String>,
    /// First uid of its cells; 64 are used, and they must be nobody else's: 65536 to 99999 are free on most systems. Needed,
    /// such as `70000`.
    uid_base: u32,
    /// Greatest memory of all its cells together, bytes. Default no limit, such as `8589934592`.
    memory_bytes: Option<u64>,
    /// Most CPU time of all its cells together, CPUs. Default no limit, such as `2.5`.
    cpu_limit: Option<RawCpus>,
    /// Most processes and threads of all its cells together. Default no limit, such as `1024`.
    processes: Option<u32>,
    /// Most cells at one time; a release needs one more than what is live. Default no limit, such as `4`.
    cells: Option<u32>,
    /// Most bytes of its versions in the store, by the sizes in their manifests. Default no limit, such as
    /// `17179869184`.
    store_bytes: Option<u64>,
}

/// A number of CPUs, as people write one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawCpus {
    Whole(u32),
    Decimal(f64),
    Text(String),
}

impl RawCpus {
    pub(super) fn check(&self, key: &str, problems: &mut Vec<String>) -> Option<CpuLimit> {
        let text = match self {
            Self::Whole(number) => number.to_string(),
            Self::Decimal(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        };
        text.parse().map_err(|error: NoCpuLimit| problems.push(format!("{key}: {error}"))).ok()
    }
}

/// One tenant, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// Its models.
    pub models: Vec<ModelGlob>,
    /// First uid of its cells.
    pub uid_base: u32,
    /// Greatest memory of all its cells, bytes.
    pub memory_bytes: Option<u64>,
    /// Most CPU time of all its cells.
    pub cpu_limit: Option<CpuLimit>,
    /// Most processes and threads of all its cells.
    pub processes: Option<u32>,
    /// Most cells.
    pub cells: Option<u32>,
    /// Most bytes of its versions in the store.
    pub store_bytes: Option<u64>,
}

impl Tenant {
    /// True if the model is this tenant's.
    pub fn owns(&self, model: &ModelName) -> bool {
        self.models.iter().any(|glob| glob.matches(model))
    }

    /// As the launcher knows it.
    pub fn to_cells(&self) -> cells::Tenant {
        cells::Tenant {
            uid_base: self.uid_base,
            memory_bytes: self.memory_bytes.unwrap_or(0),
            pids_max: self.processes.unwrap_or(0),
            cpu_thousandths: self.cpu_limit.map_or(0, CpuLimit::thousandths),
            cells_max: self.cells.unwrap_or(0),
            name: cells::TenantName::new(self.name.as_str())
                .expect("both names have one alphabet and length"),
        }
    }
}

/// Every tenant.
#[derive(Debug, Clone, Default)]
pub struct Tenants {
    all: Vec<Tenant>,
    /// Bytes of imports under way: two that begin together must not both find the same room.
    importing: Arc<Mutex<BTreeMap<TenantName, u64>>>,
}

impl PartialEq for Tenants {
    /// What is configured, whatever is under way.
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

/// Room in a tenant's quota, kept as long as the value lives.
#[derive(Debug)]
pub struct Room {
    tenant: TenantName,
    bytes: u64,
    importing: Arc<Mutex<BTreeMap<TenantName, u64>>>,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut importing = self.importing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = importing.get_mut(&self.tenant) {
            *bytes = bytes.saturating_sub(self.bytes);
        }
    }
}

impl Tenants {
    /// The tenant that a model is of.
    pub fn of(&self, model: &ModelName) -> Option<&Tenant> {
        self.all.iter().find(|tenant| tenant.owns(model))
    }

    /// Every tenant, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Tenant> {
        self.all.iter()
    }

    /// Keeps room for an import beside those under way; `stored` tells what the tenant has in the store, asked while no
    /// import can end: what has just been stored is counted in one place or the other.
    ///
    /// # Errors
    /// How many bytes are under way, where there is no room.
    pub fn room(&self, tenant: &Tenant, bytes: u64, stored: impl FnOnce() -> u64) -> Result<Room, u64> {
        let mut importing = self.importing.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = importing.entry(tenant.name.clone()).or_default();
        let wanted = stored().saturating_add(*under_way).saturating_add(bytes);
        if tenant.store_bytes.is_some_and(|most| wanted > most) {
            return Err(*under_way);
        }
        *under_way = under_way.saturating_add(bytes);
        Ok(Room { tenant: tenant.name.clone(), bytes, importing: Arc::clone(&self.importing) })
    }

    pub(super) fn check(raw: BTreeMap<String, RawTenant>, uid_base: u32, problems: &mut Vec<String>) -> Self {
        if raw.len() > TENANTS_MAX {
            problems.push(format!("tenants: {} of them; at most {TENANTS_MAX} are allowed", raw.len()));
        }
        let mut all: Vec<Tenant> = Vec::new();
        for (name, raw) in raw {
            let Some(tenant) = check_tenant(&name, raw, problems) else { continue };
            for (range, whose) in std::iter::once((uid_base, "worker_uid_base".to_owned()))
                .chain(all.iter().map(|other| (other.uid_base, format!("tenants.{}.uid_base", other.name))))
            {
                if range.abs_diff(tenant.uid_base) < SLOTS {
                    problems.push(format!(
                        "tenants.{name}.uid_base {} is within {SLOTS} of {whose} {range}: no two may share a user",
                        tenant.uid_base
                    ));
                }
            }
            let shared = all.iter().find_map(|other| {
                let mut both =
                    other.models.iter().flat_map(|glob| tenant.models.iter().map(move |own| (glob, own)));
                both.find(|(glob, own)| glob.overlaps(own)).map(|(glob, own)| (other, glob, own))
            });
            if let Some((other, glob, own)) = shared {
                problems.push(format!(
                    "tenants.{name}.models `{own}` and tenants.{}.models `{glob}` can be one model: make them differ",
                    other.name
                ));
            }
            all.push(tenant);
        }
        Self { all, importing: Arc::default() }
    }
}

/// Why cells cannot have the uids from here on: some are those of services that systemd starts.
pub(super) fn meets_system_users(key: &str, base: u32) -> Option<String> {
    let (first, last) = SYSTEMD_UIDS.into_inner();
    let meets = base <= last && base.saturating_add(SLOTS - 1) >= first;
    meets.then(|| {
        format!(
            "{key} {base}: its {SLOTS} uids meet {first} to {last}, which systemd gives to services; take 65536 or more"
        )
    })
}

fn check_tenant(name: &str, raw: RawTenant, problems: &mut Vec<String>) -> Option<Tenant> {
    let before = problems.len();
    let cpu_limit = raw.cpu_limit.as_ref();
    let cpu_limit = cpu_limit.and_then(|cpus| cpus.check(&format!("tenants.{name}.cpu_limit"), problems));
    let RawTenant { models, uid_base, memory_bytes, processes, cells, store_bytes, .. } = raw;
    problems.extend(meets_system_users(&format!("tenants.{name}.uid_base"), uid_base));
    let mut wrong = |what: String| problems.push(format!("tenants.{name}{what}"));
    let parsed = name.parse::<TenantName>().map_err(|error| wrong(format!(": {error}"))).ok();
    if models.is_empty() || models.len() > MODELS_MAX {
        wrong(format!(".models: {} patterns; give 1 to {MODELS_MAX}", models.len()));
    }
    let globs = models.iter().map(|text| text.parse::<ModelGlob>().map_err(|error| error.to_string()));
    let globs = globs.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(format!(".models: {error}"))).ok();
    if !(1000..=u32::MAX - 1000).contains(&uid_base) {
        wrong(format!(".uid_base {uid_base} must be 1000 or more: cells must not share a system uid"));
    }
    if memory_bytes.is_some_and(|bytes| !(MEMORY_MIN..=MEMORY_MAX).contains(&bytes)) {
        wrong(".memory_bytes must lie between 16 MiB and 1 TiB".to_owned());
    }
    for (key, is_zero) in [
        ("processes", processes == Some(0)),
        ("cells", cells == Some(0)),
        ("store_bytes", store_bytes == Some(0)),
    ] {
        if is_zero {
            wrong(format!(".{key} must not be 0: leave it away for no limit"));
        }
    }
    if problems.len() > before {
        return None;
    }
    Some(Tenant {
        name: parsed?,
        models: globs?,
        uid_base,
        memory_bytes,
        cpu_limit,
        processes,
        cells,
        store_bytes,
    })
}

/// Nodes by the group's name.
pub type DeviceGroups = BTreeMap<DeviceGroup, Vec<DevicePath>>;

pub(super) fn device_groups(raw: BTreeMap<String, Vec<String>>, problems: &mut Vec<String>) -> DeviceGroups {
    let mut groups = DeviceGroups::new();
    if raw.len() > GROUPS_MAX {
        problems.push(format!("devices: {} groups; at most {GROUPS_MAX} are allowed", raw.len()));
    }
    for (name, nodes) in raw {
        let group =
            name.parse::<DeviceGroup>().map_err(|error| problems.push(format!("devices: {error}"))).ok();
        if nodes.is_empty() || nodes.len() > DEVICES_MAX {
            problems.push(format!("devices.{name}: {} nodes; give 1 to {DEVICES_MAX}", nodes.len()));
        }
        let mut paths = Vec::new();
        for node in &nodes {
            match DevicePath::new(node) {
                Some(path) if !paths.contains(&path) => paths.push(path),
                Some(_) => problems.push(format!("devices.{name}: `{node}` is listed twice")),
                None => problems.push(format!(
                    "devices.{name}: `{}` must be a node below `/dev/`, 48 characters at most, and not `/dev/null`",
                    node.chars().take(80).collect::<String>().escape_default()
                )),
            }
        }
        groups.extend(group.map(|group| (group, paths)));
    }
    groups
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError};

    fn problems(text: &str) -> Vec<String> {
        match Config::parse(text) {
            Err(ConfigError::Values(problems)) => problems,
            other => panic!("{other:?}"),
        }
    }

    const RISK: &str = "[tenants.risk]\nmodels = [\"fraud-*\", \"score\"]\nuid_base = 70000\n";

    #[test]
    fn a_model_is_of_one_tenant_or_of_none() {
        let config = Config::parse(&format!("{RISK}cells = 2\ncpu_limit = 2.5\n")).unwrap();
        let of =
            |model: &str| config.tenants.of(&model.parse().unwrap()).map(|tenant| tenant.name.to_string());
        assert_eq!(
            (of("fraud-eu"), of("score"), of("scores")),
            (Some("risk".into()), Some("risk".into()), None)
        );
        let tenant = config.tenants.iter().next().unwrap().to_cells();
        assert_eq!(
            (tenant.uid_base, tenant.cells_max, tenant.cpu_thousandths, tenant.memory_bytes),
            (70_000, 2, 2500, 0)
        );
    }

    #[test]
    fn tenants_share_neither_a_user_nor_a_model() {
        for (other, why) in [
            ("[tenants.ads]\nmodels = [\"ads\"]\nuid_base = 70063\n", "no two may share a user"),
            ("[tenants.ads]\nmodels = [\"ads\"]\nuid_base = 61001\n", "worker_uid_base"),
            ("[tenants.ads]\nmodels = [\"*-eu\"]\nuid_base = 71000\n", "`fraud-*`"),
            ("[tenants.ads]\nmodels = [\"s*e\"]\nuid_base = 71000\n", "can be one model"),
        ] {
            let found = problems(&format!("{other}{RISK}"));
            assert!(found.len() == 1 && found[0].contains(why), "{found:?}");
        }
        let apart = "[tenants.ads]\nmodels = [\"ads-*\", \"scores\"]\nuid_base = 70064\n";
        assert_eq!(Config::parse(&format!("{apart}{RISK}")).unwrap().tenants.iter().count(), 2);
    }

    #[test]
    fn cells_share_no_user_with_a_service_of_systemd() {
        for (base, is_refused) in
            [(61_120, false), (61_121, true), (62_000, true), (65_535, true), (65_536, false)]
        {
            for text in [
                format!("[tenants.risk]\nmodels = [\"a\"]\nuid_base = {base}\n"),
                format!("worker_uid_base = {base}\n"),
            ] {
                let refused = match Config::parse(&text) {
                    Ok(_) => Vec::new(),
                    Err(ConfigError::Values(problems)) => problems,
                    Err(other) => panic!("{other:?}"),
                };
                assert_eq!(refused.len(), usize::from(is_refused), "{text}: {refused:?}");
                assert!(refused.iter().all(|problem| problem.contains("which systemd gives")), "{refused:?}");
            }
        }
    }

    #[test]
    fn every_bad_value_of_a_tenant_is_named() {
        let text = "[tenants.\"a b\"]\nmodels = []\nuid_base = 3\nmemory_bytes = 1\ncpu_limit = 0\nprocesses = 0\ncells = 0\nstore_bytes = 0\n";
        assert_eq!(problems(text).len(), 8, "{:?}", problems(text));
    }

    #[test]
    fn a_group_of_devices_has_nodes_below_dev_each_once() {
        let good = Config::parse("[devices]\ngpu0 = [\"/dev/nvidia0\", \"/dev/nvidia-caps/nvidia-cap21\"]\n")
            .unwrap();
        assert_eq!(good.live.get().devices.values().map(Vec::len).sum::<usize>(), 2);
        for (line, why) in [
            ("gpu0 = []", "0 nodes"),
            ("gpu0 = [\"/etc/passwd\"]", "below `/dev/`"),
            ("gpu0 = [\"/dev/null\"]", "not `/dev/null`"),
            ("gpu0 = [\"/dev/../x\"]", "below `/dev/`"),
            ("gpu0 = [\"/dev/x\", \"/dev/x\"]", "listed twice"),
            ("\"gpu 0\" = [\"/dev/x\"]", "group of devices"),
        ] {
            let found = problems(&format!("[devices]\n{line}\n"));
            assert!(found.len() == 1 && found[0].contains(why), "{line}: {found:?}");
        }
    }

    #[test]
    fn two_imports_do_not_find_the_same_room() {
        let config = Config::parse(&format!("{RISK}store_bytes = 100\n")).unwrap();
        let tenant = config.tenants.iter().next().unwrap();
        let first = config.tenants.room(tenant, 60, || 30).unwrap();
        assert_eq!(config.tenants.room(tenant, 11, || 30).unwrap_err(), 60);
        let second = config.tenants.room(tenant, 10, || 30).unwrap();
        drop(first);
        assert!(config.tenants.room(tenant, 60, || 30).is_ok());
        drop(second);
        assert!(config.tenants.room(tenant, 71, || 30).is_err(), "what is stored counts");
    }
}
