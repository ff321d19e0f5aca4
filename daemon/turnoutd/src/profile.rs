//! From what a version asks for and what this host can enforce to the profile of its cell, and both in words.

use crate::chain;
use crate::config::{Config, Tenant};
use std::path::Path;
use turnout_engine::cpus::{Topology, shown};
use turnout_host::cells::{Class, Enforcement, Profile, Shortfall};
use turnout_host::devices::{DEVICES_MAX, DevicePath};
use turnout_host::{Host, HostError, topology};
use turnout_manifest::ModelName;
use turnout_manifest::manifest::Runtime;
use turnout_manifest::profile::{Class as Asked, CpuLimit, Requirement};

/// Most processes and threads in a cell: the worker's own and those of its runtime.
const PIDS_MAX: u32 = 256;
/// Where the kernel says what its CPUs are like.
const SYSTEM: &str = "/sys/devices/system";

/// The profile of a new cell for a version of this model.
///
/// # Errors
/// Why there can be none on this host now, for people.
pub fn of(
    (model, runtime): (&ModelName, &Runtime),
    config: &Config,
    host: &dyn Host,
) -> Result<Profile, String> {
    if !runtime.require.is_empty() {
        demanded(&runtime.require, host.enforcement().map_err(|error| chain(&error))?)?;
    }
    let (class, cpus) = match runtime.class {
        Asked::Burstable => (Class::Burstable, shared(config)?),
        Asked::Guaranteed => {
            let holders = host.exclusive_cpus().map_err(|error| chain(&error))?;
            let placed = machine()?.place(runtime.threads, config.exclusive_cpus, &holders);
            (Class::Guaranteed, placed.map_err(|error| error.to_string())?)
        }
    };
    let cpu_thousandths = match runtime.class {
        Asked::Burstable => cpu_limit(runtime, config).map_or(0, CpuLimit::thousandths),
        Asked::Guaranteed => 0,
    };
    let tenant = config.tenants.of(model).map_or(0, |tenant| tenant.uid_base);
    let memory_bytes = runtime.memory_bytes;
    Ok(Profile { class, memory_bytes, pids_max: PIDS_MAX, cpus, cpu_thousandths, tenant })
}

/// The lower one of what the version asks for and what this host lets any have.
fn cpu_limit(runtime: &Runtime, config: &Config) -> Option<CpuLimit> {
    runtime.cpu_limit.into_iter().chain(config.live.get().worker_cpu_limit).min()
}

/// The device nodes that a version asks for.
///
/// # Errors
/// Which name or node this host does not have, and what to do, for people.
pub fn devices(runtime: &Runtime, config: &Config, host: &dyn Host) -> Result<Vec<DevicePath>, String> {
    let settings = config.live.get();
    let known = &settings.devices;
    let mut nodes: Vec<DevicePath> = Vec::new();
    for group in &runtime.devices {
        let Some(paths) = known.get(group) else {
            let names: Vec<_> = known.keys().map(|name| format!("`{name}`")).collect();
            let names = if names.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has {}", names.join(", "))
            };
            return Err(format!(
                "the version asks for the devices `{group}`, which this host does not know ({names}): name them in \
                 `[devices]` of its configuration, or release on a host that has them"
            ));
        };
        for path in paths {
            host.find_device(path).map_err(|error| match error {
                HostError::Missing { .. } => format!(
                    "the version asks for the devices `{group}`, and `{}` is not there: load its driver, or correct \
                     `[devices]` in the configuration",
                    path.as_str()
                ),
                other => chain(&other),
            })?;
            if !nodes.contains(path) {
                nodes.push(*path);
            }
        }
    }
    if nodes.len() > DEVICES_MAX {
        return Err(format!(
            "the version's devices are {} nodes, and a cell can have {DEVICES_MAX}: ask for fewer groups",
            nodes.len()
        ));
    }
    Ok(nodes)
}

/// Whether this host can hold a cell to all that is demanded.
///
/// # Errors
/// What it cannot, and why, for people.
pub fn demanded(require: &[Requirement], enforcement: Enforcement) -> Result<(), String> {
    let lacking = require.iter().filter_map(|requirement| {
        let why = lack(*requirement, enforcement)?;
        Some(format!("`{requirement}` ({why})"))
    });
    let lacking: Vec<String> = lacking.collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(format!("the version requires what this host cannot enforce: {}", lacking.join(", ")))
}

fn lack(requirement: Requirement, enforcement: Enforcement) -> Option<String> {
    let controller = |shortfall: Shortfall, name: &str| {
        let lacks = enforcement.shortfall & shortfall as u32 != 0;
        lacks.then(|| format!("no cgroup v2 {name} controller is delegated"))
    };
    match requirement {
        // Neither launcher nor daemon runs without them.
        Requirement::Seccomp | Requirement::Cgroup | Requirement::Devices => None,
        Requirement::Landlock(_) if enforcement.landlock == 0 => {
            Some("the kernel has no Landlock".to_owned())
        }
        Requirement::Landlock(abi) => {
            (enforcement.landlock < abi).then(|| format!("the kernel has ABI {}", enforcement.landlock))
        }
        Requirement::Memory => controller(Shortfall::CgroupMemory, "memory"),
        Requirement::Pids => controller(Shortfall::CgroupPids, "pids"),
        Requirement::Cpuset => controller(Shortfall::CgroupCpuset, "cpuset"),
        Requirement::Cpu => controller(Shortfall::CgroupCpu, "cpu"),
    }
}

/// The CPUs of burstable cells, and of the router's: those that are configured, or all that are not set aside; 0 is all.
///
/// # Errors
/// When all are set aside, or the kernel does not say what there are, for people.
pub fn shared(config: &Config) -> Result<u64, String> {
    let chosen = config.live.get().worker_cpus;
    if chosen != 0 || config.exclusive_cpus == 0 {
        return Ok(chosen);
    }
    match machine()?.all() & !config.exclusive_cpus {
        0 => Err("`exclusive_cpus` leaves no CPU to burstable versions: set fewer aside".to_owned()),
        cpus => Ok(cpus),
    }
}

fn machine() -> Result<Topology, String> {
    let lists = topology::read(Path::new(SYSTEM)).map_err(|error| chain(&error))?;
    Topology::read(&lists.siblings, &lists.nodes).map_err(|error| error.to_string())
}

/// A profile in words: what was asked of the host, for a version and, where its model has one, a tenant.
pub fn asked(profile: Profile, runtime: &Runtime, tenant: Option<&Tenant>) -> String {
    let class = match profile.class {
        Class::Burstable => "burstable",
        Class::Guaranteed => "guaranteed",
    };
    let cpus =
        if profile.cpus == 0 { "every CPU".to_owned() } else { format!("CPU {}", shown(profile.cpus)) };
    let memory = profile.memory_bytes / (1024 * 1024);
    let mut text = format!("{class}, memory {memory} MiB, {} processes, {cpus}", profile.pids_max);
    if profile.cpu_thousandths != 0 {
        let shown = f64::from(profile.cpu_thousandths) / 1000.0;
        text += &format!(", at most {shown} CPUs of time");
        let more = runtime.cpu_limit.filter(|asked| asked.thousandths() > profile.cpu_thousandths);
        text += &more.map_or(String::new(), |asked| format!(" (it asks for {asked}: `worker_cpu_limit`)"));
    }
    if !runtime.devices.is_empty() {
        let groups: Vec<&str> = runtime.devices.iter().map(|group| group.as_str()).collect();
        text += &format!(", devices {}", groups.join(" and "));
    }
    text + &tenant.map_or(String::new(), |tenant| format!(", of tenant {}", tenant.name))
}

/// What holds a cell, in words, and what does not.
pub fn enforced(enforcement: Enforcement) -> String {
    let lacks = |shortfall: Shortfall| enforcement.shortfall & shortfall as u32 != 0;
    let mut held = vec!["seccomp".to_owned(), "cgroup".to_owned()];
    if enforcement.landlock > 0 {
        held.push(format!("Landlock ABI {}", enforcement.landlock));
    }
    let mut not = Vec::new();
    for (shortfall, by_controller, otherwise) in [
        (Shortfall::CgroupMemory, "memory", "the worker's address space is limited instead"),
        (Shortfall::CgroupPids, "pids", "the processes of the worker's user are limited instead"),
        (Shortfall::CgroupCpuset, "cpuset", "CPU affinity alone, held by seccomp"),
        (Shortfall::CgroupCpu, "cpu", "cells share a CPU evenly, and none has a limit on CPU time"),
    ] {
        if lacks(shortfall) {
            not.push(format!("no cgroup {by_controller} controller: {otherwise}"));
        } else {
            held.push(format!("cgroup {by_controller}"));
        }
    }
    held.push("devices".to_owned());
    if lacks(Shortfall::Landlock) {
        not.push("Landlock absent or older than ABI 4: network namespace and seccomp alone".to_owned());
    }
    let not = if not.is_empty() { String::new() } else { format!("; not enforced: {}", not.join(", ")) };
    format!("enforced: {}{not}", held.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Enforcement = Enforcement { landlock: 7, shortfall: 0 };
    /// A host with v1 controllers.
    const BARE: Enforcement = Enforcement { landlock: 2, shortfall: 1 | 2 | 4 | 8 | 16 };

    #[test]
    fn each_demand_is_met_or_refused_with_its_reason() {
        for (demand, why) in [
            ("memory", "no cgroup v2 memory controller is delegated"),
            ("pids", "no cgroup v2 pids controller is delegated"),
            ("cpuset", "no cgroup v2 cpuset controller is delegated"),
            ("cpu", "no cgroup v2 cpu controller is delegated"),
            ("landlock>=4", "the kernel has ABI 2"),
        ] {
            let require = [demand.parse().unwrap()];
            assert_eq!(demanded(&require, FULL), Ok(()), "{demand}");
            let refused = demanded(&require, BARE).unwrap_err();
            assert!(refused.ends_with(&format!("`{demand}` ({why})")), "{refused}");
        }
        let always =
            [Requirement::Seccomp, Requirement::Cgroup, Requirement::Devices, Requirement::Landlock(2)];
        assert_eq!(demanded(&always, BARE), Ok(()));
        let none = Enforcement { landlock: 0, ..BARE };
        assert!(demanded(&[Requirement::Landlock(1)], none).unwrap_err().contains("no Landlock"));
    }

    #[test]
    fn what_holds_a_cell_and_what_does_not_is_told() {
        assert_eq!(
            enforced(FULL),
            "enforced: seccomp, cgroup, Landlock ABI 7, cgroup memory, cgroup pids, cgroup cpuset, cgroup cpu, \
             devices"
        );
        assert_eq!(enforced(BARE).matches(" controller: ").count(), 4);
        assert!(
            enforced(BARE).contains("Landlock ABI 2, devices; not enforced: no cgroup memory controller")
        );
    }

    fn runtime() -> Runtime {
        Runtime {
            model_file: "m.onnx".into(),
            threads: 1,
            memory_bytes: 512 << 20,
            class: Asked::Burstable,
            cpu_limit: Some("2".parse().unwrap()),
            devices: vec!["gpu0".parse().unwrap()],
            require: Vec::new(),
        }
    }

    #[test]
    fn the_lower_limit_on_cpu_time_counts_and_what_was_asked_is_told() {
        let host = turnout_host::fake::FakeHost::default();
        let model = "fraud".parse().unwrap();
        for (config, thousandths, told) in [
            ("", 2000, "at most 2 CPUs of time, devices gpu0"),
            ("worker_cpu_limit = 4", 2000, "at most 2 CPUs of time, devices gpu0"),
            (
                "worker_cpu_limit = 1.5",
                1500,
                "at most 1.5 CPUs of time (it asks for 2: `worker_cpu_limit`), devices gpu0",
            ),
        ] {
            let config = Config::parse(config).unwrap();
            let profile = of((&model, &runtime()), &config, &host).unwrap();
            assert_eq!(profile.cpu_thousandths, thousandths);
            let asked = asked(profile, &runtime(), None);
            assert!(asked.ends_with(told), "{asked}");
        }
        let none = Runtime { cpu_limit: None, ..runtime() };
        let profile = of((&model, &none), &Config::parse("worker_cpu_limit = 1").unwrap(), &host).unwrap();
        assert_eq!(profile.cpu_thousandths, 1000, "who asks for nothing is limited too");
    }

    #[test]
    fn devices_are_looked_for_by_the_hosts_names() {
        let host = turnout_host::fake::FakeHost::default();
        let unknown = devices(&runtime(), &Config::parse("").unwrap(), &host).unwrap_err();
        assert!(unknown.contains("`gpu0`, which this host does not know (it has none)"), "{unknown}");
        let config = Config::parse("[devices]\ngpu0 = [\"/dev/nvidia0\", \"/dev/nvidiactl\"]\n").unwrap();
        let path = |text| DevicePath::new(text).unwrap();
        host.add_device(&path("/dev/nvidia0"));
        let absent = devices(&runtime(), &config, &host).unwrap_err();
        assert!(absent.contains("`/dev/nvidiactl` is not there: load its driver"), "{absent}");
        host.add_device(&path("/dev/nvidiactl"));
        assert_eq!(
            devices(&runtime(), &config, &host).unwrap(),
            [path("/dev/nvidia0"), path("/dev/nvidiactl")]
        );
    }
}
