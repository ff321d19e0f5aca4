//! `turnoutd doctor` and `GET /v1/doctor`: the host's findings as they are sent and printed.

use crate::config::{Config, DeviceGroups};
use std::path::{Path, PathBuf};
use turnout_host::cells::SLOTS;
use turnout_host::devices::DevicePath;
use turnout_host::doctor::{Finding, Places, Standing, device_is_allowed, examine, unit_property};
use turnout_manifest::DeviceGroup;
use turnout_protocol::control::Requirement;

/// The daemon's unit in the packages.
const UNIT: &str = "turnoutd.service";

/// This host's own users.
const PASSWD: &str = "/etc/passwd";

/// Whether a unit lets a device be opened.
type Allows<'a> = &'a dyn Fn(&str, &DevicePath) -> bool;

/// Every requirement with what was found.
pub fn requirements(config: &Config) -> Vec<Requirement> {
    findings(config).into_iter().map(requirement).collect()
}

/// What this host cannot do or enforce, one line each, for the status and the journal.
pub fn degraded(config: &Config) -> Vec<String> {
    let optional = |finding: &Finding| finding.found.contains("(optional)");
    let short = |finding: &Finding| finding.standing != Standing::Ok && !optional(finding);
    findings(config).iter().filter(|f| short(f)).map(|f| format!("{}: {}", f.name, f.found)).collect()
}

/// The cgroup that the daemon's unit gives as `--launcher-service`, where this file is the configuration of that unit, or none
/// is given: whoever looks in the stopped daemon's place must look where it would.
pub fn launcher_service(file: Option<&Path>) -> Option<PathBuf> {
    service_in(&unit_property(UNIT, "ExecStart")?, file)
}

fn service_in(command: &str, file: Option<&Path>) -> Option<PathBuf> {
    let given = |key: &str| argument(command, key).map(Path::new);
    let is_the_units = file.is_none() || file == given("--config");
    given("--launcher-service").filter(|_| is_the_units).map(Path::to_owned)
}

/// What follows a key in a command.
fn argument<'a>(command: &'a str, key: &str) -> Option<&'a str> {
    let mut words = command.split_whitespace().skip_while(|word| *word != key);
    words.nth(1)
}

fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = found(config);
    let unit = config.launcher_unit.as_deref().map(|unit| (unit, &device_is_allowed as Allows<'_>));
    findings.extend(devices(&config.live.get().devices, unit));
    findings.push(users(&uid_bases(config), &std::fs::read_to_string(PASSWD).unwrap_or_default()));
    findings
}

/// The first uids of cells, each with the key that says it. Where a unit runs the launcher, its command has the last word.
fn uid_bases(config: &Config) -> Vec<(String, u32)> {
    let command = config.launcher_unit.as_deref().and_then(|unit| unit_property(unit, "ExecStart"));
    let of_unit = command.and_then(|command| argument(&command, "--uid-base")?.parse().ok());
    let own = ("worker_uid_base".to_owned(), of_unit.unwrap_or(config.worker_uid_base));
    let tenants = config.tenants.iter();
    let theirs = tenants.map(|tenant| (format!("tenants.{}.uid_base", tenant.name), tenant.uid_base));
    std::iter::once(own).chain(theirs).collect()
}

/// Whether the users of the cells are nobody's. A worker that had a user of this host could signal and trace what is that
/// user's, and the other way round.
fn users(bases: &[(String, u32)], passwd: &str) -> Finding {
    let known = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse::<u32>().ok()?))
    });
    let key_of = |uid: u32| bases.iter().find(|(_, base)| (*base..base.saturating_add(SLOTS)).contains(&uid));
    let taken: Vec<String> = known
        .filter_map(|(name, uid)| Some(format!("`{name}` has uid {uid}, of `{}`", key_of(uid)?.0)))
        .collect();
    let ranges = bases.iter().map(|(_, base)| format!("{base} to {}", base.saturating_add(SLOTS - 1)));
    let (standing, found) = if taken.is_empty() {
        (Standing::Ok, format!("{} are no user's of this host", ranges.collect::<Vec<_>>().join(", ")))
    } else {
        (Standing::Degraded, taken.join(", "))
    };
    Finding {
        name: "users",
        standing,
        found,
        why: "a worker must not be a user of this host: each could read, end and trace what is the other's",
        remedy: format!(
            "set the key to the first of {SLOTS} uids that nobody has, 65536 or more; where a unit runs the launcher, \
             `worker_uid_base` stands in its command too (`--uid-base`)"
        ),
    }
}

/// Whether the nodes that `[devices]` names are there and the launcher's unit lets cells open them, where it names any.
fn devices(groups: &DeviceGroups, unit: Option<(&str, Allows<'_>)>) -> Option<Finding> {
    let nodes = || groups.iter().flat_map(|(group, nodes)| nodes.iter().map(move |node| (group, node)));
    let named = |(group, node): (&DeviceGroup, &DevicePath)| format!("`{}` of `{group}`", node.as_str());
    let is_there = |node: &DevicePath| turnout_host::devices::find(node).is_ok();
    let missing: Vec<String> = nodes().filter(|(_, node)| !is_there(node)).map(named).collect();
    let shut: Vec<_> = nodes()
        .filter(|(_, node)| is_there(node) && unit.is_some_and(|(unit, allows)| !allows(unit, node)))
        .collect();
    let names = || groups.keys().map(|group| group.as_str()).collect::<Vec<_>>().join(", ");
    let (standing, found, remedy) = match unit {
        _ if !missing.is_empty() => {
            let remedy = "load the driver, or correct `[devices]` in the configuration".to_owned();
            (Standing::Degraded, format!("not there: {}", missing.join(", ")), remedy)
        }
        Some((unit, _)) if !shut.is_empty() => {
            let lines: Vec<_> =
                shut.iter().map(|(_, node)| format!("`DeviceAllow={} rw`", node.as_str())).collect();
            let remedy = format!(
                "`systemctl edit {unit}` with {} below `[Service]`; then restart it, which ends the workers",
                lines.join(", ")
            );
            let shut: Vec<String> = shut.into_iter().map(named).collect();
            (Standing::Degraded, format!("not allowed by `{unit}`: {}", shut.join(", ")), remedy)
        }
        _ => (Standing::Ok, names(), String::new()),
    };
    (!groups.is_empty()).then_some(Finding {
        name: "devices",
        standing,
        found,
        why: "versions that ask for them are refused",
        remedy,
    })
}

fn found(config: &Config) -> Vec<Finding> {
    examine(&Places {
        state: &config.state,
        runtime: &config.runtime,
        store: config.keep.store,
        image_bytes: config.store_image_bytes,
        lowest_port: lowest_port(config),
        group: config.group.as_deref(),
        cgroup: config.cgroup.as_deref(),
        worker: &config.worker,
        launcher: &config.launcher,
        onnxruntime: &config.onnxruntime,
        launcher_unit: config.launcher_unit.as_deref(),
    })
}

/// Of the ports of models and of the view of snapshots.
fn lowest_port(config: &Config) -> u16 {
    let live = config.live.get();
    let view = config.audit_http.as_ref().map(|view| view.listen.port());
    live.model_ports.values().copied().chain(view).fold(live.ports.0, u16::min)
}

fn requirement(finding: Finding) -> Requirement {
    let state = match finding.standing {
        Standing::Ok => "ok",
        Standing::Degraded => "degraded",
        Standing::Missing => "missing",
        Standing::Untried => "untried",
    };
    Requirement {
        name: finding.name.to_owned(),
        state: state.to_owned(),
        found: finding.found,
        why: finding.why.to_owned(),
        remedy: (finding.standing != Standing::Ok).then_some(finding.remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_device_that_is_not_there_is_named_and_none_is_no_matter() {
        let found = |text: &str| devices(&Config::parse(text).unwrap().live.get().devices, None);
        assert!(found("").is_none());
        let all = found("devices = { gpu0 = [\"/dev/zero\"] }").unwrap();
        assert_eq!((all.standing, all.found.as_str()), (Standing::Ok, "gpu0"));
        let less = found("devices = { gpu0 = [\"/dev/zero\", \"/dev/no-such-gpu\"] }").unwrap();
        assert_eq!(
            (less.standing, less.found.as_str()),
            (Standing::Degraded, "not there: `/dev/no-such-gpu` of `gpu0`")
        );
    }
    #[test]
    fn a_device_that_the_launchers_unit_keeps_shut_is_named_with_the_line_that_opens_it() {
        let config = Config::parse("devices = { gpu0 = [\"/dev/zero\", \"/dev/full\"] }").unwrap();
        let groups = &config.live.get().devices;
        let found = devices(groups, Some(("l.service", &|_, node| node.as_str() == "/dev/full"))).unwrap();
        assert_eq!(
            (found.standing, found.found.as_str()),
            (Standing::Degraded, "not allowed by `l.service`: `/dev/zero` of `gpu0`")
        );
        assert!(found.remedy.contains("`systemctl edit l.service` with `DeviceAllow=/dev/zero rw`"));
        assert_eq!(devices(groups, Some(("l.service", &|_, _| true))).unwrap().standing, Standing::Ok);
    }

    #[test]
    fn who_looks_for_the_stopped_daemon_looks_where_its_unit_does() {
        let unit = include_str!("../../../systemd/turnoutd.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let shown = format!("{{ path=/usr/bin/turnoutd ; argv[]={line} ; ignore_errors=no ; pid=0 }}");
        let cgroup = Some(PathBuf::from("/sys/fs/cgroup/turnout.slice/turnout-launcher.service"));
        assert_eq!(service_in(&shown, None), cgroup);
        assert_eq!(service_in(&shown, Some(Path::new("/etc/turnout/turnout.toml"))), cgroup);
        // Another instance has a launcher of its own.
        assert_eq!(service_in(&shown, Some(Path::new("/srv/turnout.toml"))), None);
        assert_eq!(service_in("{ argv[]=/usr/bin/turnoutd --config /c ; }", None), None);
    }

    #[test]
    fn a_user_of_this_host_that_a_cell_would_be_is_named_with_the_key() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:61063:100::/:/bin/sh\nbob:x:61064:100::/:/bin/sh\nbad line\ncid:x:70000:1::/:\n";
        let bases = |text: &str| uid_bases(&Config::parse(text).unwrap());
        let taken = users(&bases(""), passwd);
        assert_eq!(
            (taken.standing, taken.found.as_str()),
            (Standing::Degraded, "`ann` has uid 61063, of `worker_uid_base`")
        );
        let tenants = "worker_uid_base = 80000\n[tenants.risk]\nmodels = [\"a\"]\nuid_base = 69990\n";
        let found = users(&bases(tenants), passwd).found;
        assert_eq!(found, "`cid` has uid 70000, of `tenants.risk.uid_base`");
        let free = users(&bases("worker_uid_base = 80000\n"), passwd);
        assert_eq!(
            (free.standing, free.found.as_str()),
            (Standing::Ok, "80000 to 80063 are no user's of this host")
        );
    }

    #[test]
    fn the_lowest_port_is_a_models_or_the_views() {
        let lowest = |text: &str| lowest_port(&Config::parse(text).unwrap());
        assert_eq!(lowest(""), 8700);
        assert_eq!(lowest("ports = \"443-450\"\n[models.fraud]\nport = 444\n"), 443);
        assert_eq!(lowest("[models.fraud]\nport = 80\n"), 80);
        assert_eq!(lowest("[audit.http]\nlisten = \"127.0.0.1:81\"\n"), 81);
    }
}
