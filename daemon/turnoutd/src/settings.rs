//! The part of the configuration that a reload puts in force at once. Everything else waits for a restart, and the
//! reload says so; a file that is refused changes nothing.

use crate::config::{Config, ConfigError, DeviceGroups};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use turnout_manifest::ModelName;
use turnout_manifest::profile::CpuLimit;

/// The unit that opens the control socket, as the packages have it.
const SOCKET_UNIT: &str = "turnoutd.socket";

/// What can change while the daemon runs; each counts from the next time it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// First and last port for models: for models that have none yet.
    pub ports: (u16, u16),
    /// Ports fixed for single models: as soon as no release of theirs is under way.
    pub model_ports: BTreeMap<ModelName, u16>,
    /// CPUs workers may run on, one bit each, 0 is all: for workers started from now on.
    pub worker_cpus: u64,
    /// Most CPU time of a burstable cell: for workers started from now on.
    pub worker_cpu_limit: Option<CpuLimit>,
    /// What versions may ask for in `runtime.devices`: from their next start.
    pub devices: DeviceGroups,
    /// How long a worker may take to load and warm up.
    pub ready: Duration,
    /// How long a retired worker may take to answer what it has.
    pub drain: Duration,
    /// How much the daemon logs.
    pub log: tracing::Level,
}

/// The settings in force.
#[derive(Debug)]
pub struct Live(RwLock<Arc<Settings>>);

/// What a reload did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose new values are in force.
    pub changed: Vec<&'static str>,
    /// Keys whose new values wait for a restart.
    pub waiting: Vec<&'static str>,
    /// Keys whose new values no restart puts in force, each with what to do instead.
    pub elsewhere: Vec<(&'static str, String)>,
}

impl Live {
    /// These are in force.
    pub fn new(settings: Settings) -> Self {
        Self(RwLock::new(Arc::new(settings)))
    }

    /// What is in force now.
    pub fn get(&self) -> Arc<Settings> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, settings: Arc<Settings>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }
}

/// Reads the configuration's file again, and puts in force what can be.
///
/// # Errors
/// [`ConfigError`]: what was in force stays.
pub fn reload(config: &Config) -> Result<Reloaded, ConfigError> {
    let file = config.file.as_deref();
    let read = file.map_or_else(|| Config::parse(""), Config::read)?;
    let (old, new) = (config.live.get(), read.live.get());
    let changed = differing(&old, &new);
    let mut reloaded = Reloaded { changed, ..Reloaded::default() };
    for (key, otherwise) in fixed(config, &read) {
        match otherwise.instead(config.launcher_unit.as_deref().unwrap_or_default()) {
            None => reloaded.waiting.push(key),
            Some(instead) => reloaded.elsewhere.push((key, instead)),
        }
    }
    config.live.set(new);
    Ok(reloaded)
}

fn differing(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let Settings { ports, model_ports, worker_cpus, worker_cpu_limit, devices, ready, drain, log } = old;
    keys([
        ("ports", *ports != new.ports),
        ("models", *model_ports != new.model_ports),
        ("worker_cpus", *worker_cpus != new.worker_cpus),
        ("worker_cpu_limit", *worker_cpu_limit != new.worker_cpu_limit),
        ("devices", *devices != new.devices),
        ("ready_seconds", *ready != new.ready),
        ("drain_seconds", *drain != new.drain),
        ("log", *log != new.log),
    ])
}

/// What puts a key in force that a reload does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Otherwise {
    Restart,
    /// The store is there: only a new one would have this size.
    Store,
    /// The launcher's command, which its unit has.
    Launcher,
    /// The unit that opens the control socket.
    Socket,
}

impl Otherwise {
    /// What to do instead of a restart, where that does not help.
    fn instead(self, unit: &str) -> Option<String> {
        match self {
            Self::Restart => None,
            Self::Store => {
                Some("the store is there already: `turnoutctl store grow` enlarges its image".to_owned())
            }
            Self::Launcher => Some(format!(
                "the command of `{unit}` says it: `systemctl edit {unit}`, then restart that unit, which ends the \
                 workers, and this daemon"
            )),
            Self::Socket => Some(format!(
                "`{SOCKET_UNIT}` opens the socket: `systemctl edit {SOCKET_UNIT}`, then restart that unit and this daemon"
            )),
        }
    }
}

/// Every key whose value is another one, and that a reload does not put in force.
fn fixed(old: &Config, new: &Config) -> Vec<(&'static str, Otherwise)> {
    use Otherwise::{Launcher, Restart, Socket, Store};
    let a_service = old.launcher_unit.is_some();
    let (launcher, socket) = if a_service { (Launcher, Socket) } else { (Restart, Restart) };
    // Where the launcher is a service, its unit says which cgroup it is, and not the file.
    let cgroup = !a_service && old.cgroup != new.cgroup;
    let compared = [
        ("state", old.state != new.state, Restart),
        ("runtime", old.runtime != new.runtime, Restart),
        ("socket", old.socket != new.socket, socket),
        ("group", old.group != new.group, socket),
        ("store_image_bytes", old.store_image_bytes != new.store_image_bytes, Store),
        ("cgroup", cgroup, Restart),
        ("readers", old.readers != new.readers, Restart),
        ("listen", old.listen != new.listen, Restart),
        ("exclusive_cpus", old.exclusive_cpus != new.exclusive_cpus, Restart),
        ("allowed_domains", old.allowed_domains != new.allowed_domains, Restart),
        ("allowed_formats", old.allowed_formats != new.allowed_formats, Restart),
        ("store, retention", old.keep != new.keep, Restart),
        ("journal", old.journal != new.journal, Restart),
        ("audit.http", old.audit_http != new.audit_http, Restart),
        ("trust", old.trust != new.trust, Restart),
        ("tenants", old.tenants != new.tenants, Restart),
        ("worker_uid_base", old.worker_uid_base != new.worker_uid_base, launcher),
        ("worker", old.worker != new.worker, launcher),
        ("launcher", old.launcher != new.launcher, launcher),
        ("onnxruntime", old.onnxruntime != new.onnxruntime, launcher),
    ];
    compared.into_iter().filter(|(_, differs, _)| *differs).map(|(key, _, by)| (key, by)).collect()
}

fn keys<const COUNT: usize>(compared: [(&'static str, bool); COUNT]) -> Vec<&'static str> {
    compared.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

/// The same, told in the log.
pub fn reload_and_tell(config: &Config) {
    let file = config.file.as_deref().unwrap_or(Path::new("(none)")).display().to_string();
    match reload(config) {
        Ok(Reloaded { changed, waiting, elsewhere }) => {
            crate::telemetry::set_level(config.live.get().log);
            tracing::info!(%file, changed = changed.join(", "), "configuration read again");
            if !waiting.is_empty() {
                tracing::warn!("these keys take effect at a restart: {}", waiting.join(", "));
            }
            for (key, instead) in elsewhere {
                tracing::warn!("`{key}` does not take effect at a restart: {instead}");
            }
        }
        Err(error) => tracing::error!("configuration not changed: {}", crate::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("turnout.toml");
        std::fs::write(&file, text).unwrap();
        let config = Config::read(&file).unwrap();
        (folder, config)
    }

    fn rewrite(config: &Config, text: &str) -> Result<Reloaded, ConfigError> {
        std::fs::write(config.file.as_ref().unwrap(), text).unwrap();
        reload(config)
    }

    #[test]
    fn what_can_change_is_in_force_and_the_rest_is_named() {
        let (_folder, config) = config("drain_seconds = 5\n");
        let text = "drain_seconds = 7\nlog = \"debug\"\nports = \"9000-9001\"\nlisten = \"::1\"\n[models.fraud]\nport = 9000\n";
        let done = rewrite(&config, text).unwrap();
        assert_eq!(done.changed, ["ports", "models", "drain_seconds", "log"]);
        assert_eq!(done.waiting, ["listen"]);
        assert_eq!(config.live.get().drain, Duration::from_secs(7));
        assert_eq!(config.live.get().ports, (9000, 9001));
    }

    #[test]
    fn a_bad_file_changes_nothing() {
        let (_folder, config) = config("drain_seconds = 5\n");
        assert!(rewrite(&config, "drain_seconds = 7\nports = \"x\"\n").is_err());
        assert!(rewrite(&config, "drain_second = 7\n").is_err());
        assert_eq!(config.live.get().drain, Duration::from_secs(5));
    }

    #[test]
    fn the_cgroup_of_a_launchers_service_is_not_the_files_matter() {
        let (_folder, config) = config("");
        let config =
            config.with_launcher_service("/sys/fs/cgroup/turnout.slice/turnout-launcher.service".into());
        assert_eq!(config.launcher_unit.as_deref(), Some("turnout-launcher.service"));
        assert_eq!(rewrite(&config, "").unwrap(), Reloaded::default());
    }
    #[test]
    fn no_restart_is_promised_for_what_a_unit_or_the_store_has() {
        let text = "store_image_bytes = 1\nworker = \"/w\"\nonnxruntime = \"/o\"\nworker_uid_base = 70000\nsocket = \"/s\"\ngroup = \"g\"\n";
        let (_folder, by_hand) = config("");
        let done = rewrite(&by_hand, text).unwrap();
        assert_eq!(done.waiting, ["socket", "group", "worker_uid_base", "worker", "onnxruntime"]);
        let [(key, instead)] = done.elsewhere.as_slice() else { panic!("{:?}", done.elsewhere) };
        assert!(*key == "store_image_bytes" && instead.contains("`turnoutctl store grow`"), "{instead}");
        let (_folder, packaged) = config("");
        let packaged = packaged.with_launcher_service("/sys/fs/cgroup/turnout.slice/l.service".into());
        let done = rewrite(&packaged, text).unwrap();
        assert!(done.waiting.is_empty(), "{:?}", done.waiting);
        for (key, does) in [
            ("socket", "`systemctl edit turnoutd.socket`"),
            ("group", "`systemctl edit turnoutd.socket`"),
            ("store_image_bytes", "`turnoutctl store grow`"),
            ("worker_uid_base", "`systemctl edit l.service`"),
            ("worker", "`systemctl edit l.service`"),
            ("onnxruntime", "`systemctl edit l.service`"),
        ] {
            let told = done.elsewhere.iter().find(|(found, _)| *found == key);
            assert!(told.is_some_and(|(_, instead)| instead.contains(does)), "{key}: {told:?}");
        }
    }
}
