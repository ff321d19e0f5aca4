//! The daemon's configuration: a TOML file, every key optional, unknown keys refused. Raw text in, a checked
//! [`Config`] or all problems at once out. The doc comments of `Raw` are the manual.

use crate::audit_http::AuditHttp;
use crate::settings::{Live, Settings};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use turnout_manifest::ModelName;
use turnout_protocol::worker::FORMATS;

mod journal;
mod keep;
mod tenants;
mod trust;

pub use journal::{CursorFile, JournalKeep};
pub use keep::Keep;
pub use tenants::{DeviceGroups, Room, Tenant, Tenants};
pub use trust::TrustPlace;

/// Largest configuration file, bytes.
const FILE_MAX: u64 = 1024 * 1024;
/// The user that serves metrics, where packages have made it.
pub const USUAL_READER: &str = "turnout-export";
/// Most addresses that models are served on: as many as a route in the kernel holds.
const LISTEN_MAX: usize = 4;

/// Most domains of operators that are allowed by name.
const DOMAINS_MAX: usize = 64;
/// Longest domain of operators, bytes.
const DOMAIN_MAX: usize = 128;

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    /// Journal, trust store and store image. Leave it as it is where a package is installed: its units and scripts have
    /// this folder in them, and a purge would not find the data elsewhere. Default `/var/lib/turnout`.
    state: Option<PathBuf>,
    /// Sockets, pointers and eBPF pins; may be lost at a reboot. Leave it as it is where a package is installed, for the
    /// same reason. Default `/run/turnout`.
    runtime: Option<PathBuf>,
    /// The control socket; one that the service manager hands over comes first. Default `control.sock` in `runtime`,
    /// such as `/run/turnout/control.sock`.
    socket: Option<PathBuf>,
    /// Group that may use the control socket; where the service manager opens it, the socket unit says so.
    /// Default `turnout`, where it exists.
    group: Option<String>,
    /// Users of that group that may only read, by name or uid: a name that only a directory knows, such as LDAP, does not
    /// count. `turnout-export`, who serves metrics, is always one. Default none, such as `["prometheus"]`.
    readers: Option<Vec<String>>,
    /// Size of the store's image where `state` is not on Btrfs. Default a quarter of the free
    /// space, at most 8 GiB; such as `4294967296`.
    store_image_bytes: Option<u64>,
    /// The cgroup2 directory below which all cells lie. Where a service runs the launcher,
    /// it is that service's. Default `turnout` in the mounted cgroup2 tree, such as `/sys/fs/cgroup/turnout`.
    cgroup: Option<PathBuf>,
    /// Addresses on which models are served, one or a list of up to four; `::` is every address of the host.
    /// Default `127.0.0.1`.
    listen: Option<OneOrMore<IpAddr>>,
    /// Ports given to models in turn. Default `8700-8799`.
    ports: Option<String>,
    /// First uid of the cells; 64 are used. Where a service runs the launcher, its unit says so too. Default `61000`.
    worker_uid_base: Option<u32>,
    /// The worker's binary. Where a service runs the launcher, its unit says which. Default beside `turnoutd`, or else in `../lib/turnout` from there, such as
    /// `/usr/lib/turnout/turnout-worker`.
    worker: Option<PathBuf>,
    /// The launcher's binary; not used where a service runs it. Default beside `turnoutd`, or else
    /// in `../lib/turnout` from there, such as `/usr/lib/turnout/turnout-launcher`.
    launcher: Option<PathBuf>,
    /// The ONNX Runtime library. Where a service runs the launcher, its unit says which. Default beside `turnoutd`, or else in `../lib/turnout` from there, such as
    /// `/usr/lib/turnout/libonnxruntime.so`.
    onnxruntime: Option<PathBuf>,
    /// CPUs that burstable workers may run on, 0 to 63. Default all that are not in `exclusive_cpus`; such as `[2, 3]`.
    worker_cpus: Option<Vec<u32>>,
    /// CPUs set aside for versions with `class: guaranteed`, 0 to 63; name every CPU of a core, and cores for two
    /// versions of a model: during a release both run. Default none; such as `[4, 5, 6, 7]`.
    exclusive_cpus: Option<Vec<u32>>,
    /// Most CPU time of a burstable version, CPUs, whatever it asks for; its own `cpu_limit` may be lower. Default no
    /// limit, such as `1.5`.
    worker_cpu_limit: Option<tenants::RawCpus>,
    /// What versions may ask for in `runtime.devices`: groups of device nodes by name, of a MIG instance its
    /// `nvidia-caps` nodes too. A launcher that is a service needs `DeviceAllow=` for them. Default none, such as
    /// `{ gpu0 = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"] }`.
    devices: BTreeMap<String, Vec<String>>,
    /// Seconds a worker may take to load and warm up. Default `120`.
    ready_seconds: Option<u64>,
    /// Seconds a retired worker may take to answer what it has. Default `30`.
    drain_seconds: Option<u64>,
    /// How much the daemon logs: `error`, `warn`, `info`, `debug` or `trace`. Default `info`.
    log: Option<String>,
    /// Care of the store.
    store: keep::RawStore,
    /// How long snapshots and versions are kept. Default for ever.
    retention: keep::RawRetention,
    /// How long the journal's records stay. Default for ever.
    journal: journal::RawJournal,
    /// What an auditor can reach.
    audit: keep::RawAudit,
    /// What this host is called in signed orders, and which channels it serves.
    trust: trust::RawTrust,
    /// Domains of ONNX operators that models may use besides the standard ones, such as
    /// `["com.microsoft"]`. Default none.
    allowed_domains: Vec<String>,
    /// Formats that run code when they are loaded, and may lie in a version's folder all the same, such as
    /// `["pickle"]`. Default none.
    allowed_formats: Vec<String>,
    /// Who shares this host.
    tenants: BTreeMap<String, tenants::RawTenant>,
    /// Settings of single models.
    models: BTreeMap<String, RawModel>,
}

/// Of a file that cannot be used: where its instance lies all the same.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPlaces {
    state: Option<PathBuf>,
    runtime: Option<PathBuf>,
    cgroup: Option<PathBuf>,
}

/// A single value or a list.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

/// Settings of one model, by its name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawModel {
    /// Its public port. Default the next free one of `ports`, such as `8700`. Another one than it has moves a live model as
    /// soon as no release of it is under way: the old port refuses from then on.
    port: Option<u16>,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub file: Option<PathBuf>,
    /// Journal, trust store and store image.
    pub state: PathBuf,
    /// Sockets, pointers and pins.
    pub runtime: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Group of the control socket; `None` leaves it to root alone.
    pub group: Option<String>,
    /// Users that may only read.
    pub readers: Vec<String>,
    /// Size of the store's image.
    pub store_image_bytes: Option<u64>,
    /// The cgroup2 directory of this instance, if configured.
    pub cgroup: Option<PathBuf>,
    /// Addresses on which models are served, 1 to 4.
    pub listen: Vec<IpAddr>,
    /// First uid of the cells.
    pub worker_uid_base: u32,
    /// The worker's binary.
    pub worker: PathBuf,
    /// The launcher's binary.
    pub launcher: PathBuf,
    /// The ONNX Runtime library.
    pub onnxruntime: PathBuf,
    /// CPUs set aside for guaranteed workers, one bit each.
    pub exclusive_cpus: u64,
    /// Retention, and care of the store.
    pub keep: Keep,
    /// How long the journal's records stay.
    pub journal: JournalKeep,
    /// What this host is called in signed orders, and which channels it serves.
    pub trust: TrustPlace,
    /// The read-only view of snapshots over HTTP, where it is wanted.
    pub audit_http: Option<AuditHttp>,
    /// The text as it was written, for the evidence.
    pub text: String,
    /// Domains of ONNX operators besides the standard ones.
    pub allowed_domains: Vec<String>,
    /// Formats that run code when they are loaded, allowed all the same.
    pub allowed_formats: Vec<String>,
    /// Who shares this host.
    pub tenants: Tenants,
    /// The unit that runs the launcher, when the service manager does: the daemon then never starts one.
    pub launcher_unit: Option<String>,
    /// What a reload replaces.
    pub live: Arc<Live>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is none. A package does not bring a deleted one back by itself.
    #[error("configuration `{0}` is not there")]
    Missing(PathBuf),
    /// It could not be read.
    #[error("configuration `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The OS error.
        #[source]
        source: io::Error,
    },
    /// It is larger than a configuration can be.
    #[error("configuration `{0}` is larger than {FILE_MAX} bytes")]
    TooLarge(PathBuf),
    /// It is no TOML of this form; the text names line and key.
    #[error("configuration `{path}`: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and reason.
        message: String,
    },
    /// Values that cannot be, all of them.
    #[error("configuration: {}", .0.join("; "))]
    Values(Vec<String>),
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing(_) => {
                "an empty file will do: every key has a default. The package's own comes back by \
                 `apt-get install --reinstall -o Dpkg::Options::=--force-confmiss turnout`"
            }
            Self::Read { .. } => "name a file that can be read, or none: every key has a default",
            Self::TooLarge(_) | Self::Parse { .. } | Self::Values(_) => {
                "the comments in `/etc/turnout/turnout.toml` describe each key, and so does \
                 `/usr/share/doc/turnout/docs/guide.md`"
            }
        }
    }
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`ConfigError`], with every bad value at once.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ConfigError::Missing(path.to_owned()),
            _ => ConfigError::Read { path: path.to_owned(), source },
        };
        if std::fs::metadata(path).map_err(read)?.len() > FILE_MAX {
            return Err(ConfigError::TooLarge(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let parsed = Self::parse(&text).map_err(|error| match error {
            ConfigError::Parse { message, .. } => ConfigError::Parse { path: path.to_owned(), message },
            other => other,
        })?;
        Ok(Self { file: Some(path.to_owned()), ..parsed })
    }

    /// Reads the file, to find what lies in its places. One that cannot be used is told, and gives the places in it that
    /// can be understood; for the rest the defaults stand.
    pub fn read_places(path: &Path) -> (Self, Option<ConfigError>) {
        let error = match Self::read(path) {
            Ok(config) => return (config, None),
            Err(error) => error,
        };
        let text = match error {
            ConfigError::Parse { .. } | ConfigError::Values(_) => std::fs::read_to_string(path),
            ConfigError::Missing(_) | ConfigError::Read { .. } | ConfigError::TooLarge(_) => {
                Ok(String::new())
            }
        };
        let RawPlaces { state, runtime, cgroup } =
            toml::from_str(&text.unwrap_or_default()).unwrap_or_default();
        let places = Self::check(Raw { state, runtime, cgroup, ..Raw::default() }, "");
        (places.unwrap_or_default(), Some(error))
    }

    /// Checks the text of a configuration; the empty text gives the defaults.
    ///
    /// # Errors
    /// [`ConfigError`], with every bad value at once.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text)
            .map_err(|error| ConfigError::Parse { path: PathBuf::new(), message: error.to_string() })?;
        Self::check(raw, text)
    }

    fn check(raw: Raw, text: &str) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let ports = ports(raw.ports.as_deref().unwrap_or("8700-8799"), &mut problems);
        let model_ports = model_ports(&raw.models, &mut problems);
        let (worker_cpus, exclusive_cpus) = cpu_sets(raw.worker_cpus, raw.exclusive_cpus, &mut problems);
        let worker_uid_base = uid_base(raw.worker_uid_base, &mut problems);
        let tenants = Tenants::check(raw.tenants, worker_uid_base, &mut problems);
        let devices = tenants::device_groups(raw.devices, &mut problems);
        let worker_cpu_limit = raw.worker_cpu_limit.as_ref();
        let worker_cpu_limit =
            worker_cpu_limit.and_then(|cpus| cpus.check("worker_cpu_limit", &mut problems));
        let listen = listen(raw.listen, &mut problems);
        let log = level(raw.log.as_deref().unwrap_or("info"), &mut problems);
        check_content(&raw.allowed_domains, &raw.allowed_formats, &mut problems);
        let runtime = absolute("runtime", raw.runtime.unwrap_or("/run/turnout".into()), &mut problems);
        let state = absolute("state", raw.state.unwrap_or("/var/lib/turnout".into()), &mut problems);
        let keep = Keep::check(&raw.retention, &raw.store, &mut problems);
        let journal = JournalKeep::check(raw.journal, &mut problems);
        let audit_http = raw.audit.check(&mut problems);
        let trust = TrustPlace::check(raw.trust, &mut problems);
        if !problems.is_empty() {
            return Err(ConfigError::Values(problems));
        }
        Ok(Self {
            keep,
            journal,
            audit_http,
            trust,
            tenants,
            text: text.to_owned(),
            socket: raw.socket.unwrap_or_else(|| runtime.join("control.sock")),
            group: Some(raw.group.unwrap_or_else(|| "turnout".to_owned())),
            readers: raw.readers.unwrap_or_default(),
            store_image_bytes: raw.store_image_bytes,
            cgroup: raw.cgroup,
            listen,
            worker: raw.worker.unwrap_or_else(|| installed("turnout-worker")),
            launcher: raw.launcher.unwrap_or_else(|| installed("turnout-launcher")),
            onnxruntime: raw.onnxruntime.unwrap_or_else(|| installed("libonnxruntime.so")),
            live: Arc::new(Live::new(Settings {
                ports,
                model_ports,
                worker_cpus,
                worker_cpu_limit,
                devices,
                ready: Duration::from_secs(raw.ready_seconds.unwrap_or(120).clamp(1, 3600)),
                drain: Duration::from_secs(raw.drain_seconds.unwrap_or(30).clamp(1, 3600)),
                log,
            })),
            file: None,
            launcher_unit: None,
            allowed_domains: raw.allowed_domains,
            allowed_formats: raw.allowed_formats,
            state,
            runtime,
            worker_uid_base,
            exclusive_cpus,
        })
    }

    /// The launcher is a service of its own, which owns this cgroup; the last part of its path names the unit.
    #[must_use]
    pub fn with_launcher_service(self, cgroup: PathBuf) -> Self {
        let unit = cgroup.file_name().map(|name| name.to_string_lossy().into_owned());
        Self { launcher_unit: unit, cgroup: Some(cgroup), ..self }
    }

    /// The public addresses of a model with this port.
    pub fn addresses(&self, port: u16) -> Vec<SocketAddr> {
        self.listen.iter().map(|address| SocketAddr::new(*address, port)).collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::parse("").expect("the empty text is a configuration")
    }
}

/// A file beside this program, as cargo builds it, or else in the package's own folder.
fn installed(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/turnoutd"));
    let folder = program.parent().unwrap_or(Path::new("/usr/bin"));
    let beside = folder.join(name);
    if beside.exists() { beside } else { folder.join("../lib/turnout").join(name) }
}

fn absolute(key: &str, path: PathBuf, problems: &mut Vec<String>) -> PathBuf {
    if !path.is_absolute() {
        problems.push(format!("{key} `{}` must be an absolute path", path.display()));
    }
    path
}

fn listen(given: Option<OneOrMore<IpAddr>>, problems: &mut Vec<String>) -> Vec<IpAddr> {
    let listen = match given {
        None => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        Some(OneOrMore::One(address)) => vec![address],
        Some(OneOrMore::More(addresses)) => addresses,
    };
    if listen.iter().any(|address| address.is_ipv4() && address.is_unspecified()) {
        problems.push("listen `0.0.0.0`: write `::` for every address of the host, IPv4 and IPv6".to_owned());
    }
    if listen.is_empty() || listen.len() > LISTEN_MAX {
        problems.push(format!("listen: {} addresses; give 1 to {LISTEN_MAX}", listen.len()));
    }
    listen
}

fn ports(text: &str, problems: &mut Vec<String>) -> (u16, u16) {
    let parsed =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match parsed {
        Some((first, last)) if 0 < first && first <= last => (first, last),
        _ => {
            problems.push(format!("ports `{text}` must be of the form `8700-8799`"));
            (0, 0)
        }
    }
}

/// A level by its name; the numbers that tracing takes too are not for people.
fn level(text: &str, problems: &mut Vec<String>) -> tracing::Level {
    let words = ["error", "warn", "info", "debug", "trace"];
    match text.parse() {
        Ok(level) if words.contains(&text) => level,
        _ => {
            problems.push(format!("log `{text}` must be one of {}", words.join(", ")));
            tracing::Level::INFO
        }
    }
}

fn model_ports(models: &BTreeMap<String, RawModel>, problems: &mut Vec<String>) -> BTreeMap<ModelName, u16> {
    let mut ports: BTreeMap<ModelName, u16> = BTreeMap::new();
    for (name, model) in models {
        let Some(port) = model.port else { continue };
        match name.parse::<ModelName>() {
            Err(error) => problems.push(format!("models: {error}")),
            Ok(_) if port == 0 => problems.push(format!("models.{name}: port must not be 0")),
            Ok(_) if ports.values().any(|taken| *taken == port) => {
                problems.push(format!("models.{name}: port {port} is given to two models"));
            }
            Ok(name) => drop(ports.insert(name, port)),
        }
    }
    ports
}

fn check_content(domains: &[String], formats: &[String], problems: &mut Vec<String>) {
    let printable =
        |domain: &&String| !domain.is_empty() && domain.bytes().all(|byte| byte.is_ascii_graphic());
    let good = domains.iter().filter(printable).filter(|domain| domain.len() <= DOMAIN_MAX).count();
    if good < domains.len() || domains.len() > DOMAINS_MAX {
        problems.push(format!(
            "allowed_domains: give up to {DOMAINS_MAX} domains of 1 to {DOMAIN_MAX} printable characters"
        ));
    }
    for format in formats.iter().filter(|format| !FORMATS.contains(&format.as_str())) {
        problems.push(format!("allowed_formats `{format}`: known are {}", FORMATS.join(", ")));
    }
}

fn uid_base(given: Option<u32>, problems: &mut Vec<String>) -> u32 {
    let base = given.unwrap_or(61_000);
    if !(1000..=u32::MAX - 1000).contains(&base) {
        problems
            .push(format!("worker_uid_base {base} must be 1000 or more: cells must not share a system uid"));
    }
    problems.extend(tenants::meets_system_users("worker_uid_base", base));
    base
}

/// CPUs of burstable and of guaranteed versions: none is both.
fn cpu_sets(shared: Option<Vec<u32>>, own: Option<Vec<u32>>, problems: &mut Vec<String>) -> (u64, u64) {
    let (shared, own) = (cpus("worker_cpus", shared, problems), cpus("exclusive_cpus", own, problems));
    if shared & own != 0 {
        let both = turnout_engine::cpus::shown(shared & own);
        problems.push(format!("CPU {both} is in worker_cpus and in exclusive_cpus: take it out of one"));
    }
    (shared, own)
}

fn cpus(key: &str, list: Option<Vec<u32>>, problems: &mut Vec<String>) -> u64 {
    let mut mask = 0;
    for cpu in list.unwrap_or_default() {
        if cpu < 64 {
            mask |= 1 << cpu;
        } else {
            problems.push(format!("{key}: CPU {cpu} is beyond the first 64"));
        }
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.socket, Path::new("/run/turnout/control.sock"));
        assert_eq!(config.live.get().ports, (8700, 8799));
    }

    #[test]
    fn the_file_of_the_packages_gives_the_defaults_and_every_key_in_it_is_one() {
        let shipped = include_str!("../../../packaging/turnout.toml");
        let (mut found, defaults) = (Config::parse(shipped).unwrap(), Config::parse("").unwrap());
        // What was written, word for word, goes into the evidence.
        found.text.clear();
        assert_eq!(format!("{found:?}"), format!("{defaults:?}"));
        let uncommented = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest.replace("NAME", "fraud"),
            _ => line.to_owned(),
        };
        let all: Vec<_> = shipped.lines().map(uncommented).collect();
        let parsed = Config::parse(&all.join("\n")).unwrap();
        assert_eq!(parsed.live.get().model_ports.len(), 1);
        assert_eq!((parsed.state, parsed.listen), (defaults.state, defaults.listen));
    }

    #[test]
    fn a_file_that_cannot_be_used_still_says_where_its_instance_lies() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("turnout.toml");
        let usual = ("/var/lib/turnout", "/run/turnout");
        for (text, expected) in [
            ("state = \"/srv/a\"\nportss = \"1-2\"\n", ("/srv/a", "/run/turnout")),
            ("runtime = \"/run/b\"\nports = \"x\"\n", ("/var/lib/turnout", "/run/b")),
            ("state = \"here\"\nruntime = \"/run/b\"\n", usual),
            ("state = \"/srv/a\"\nno toml", usual),
        ] {
            std::fs::write(&file, text).unwrap();
            let (places, refused) = Config::read_places(&file);
            assert!(refused.is_some(), "{text}");
            assert_eq!((places.state, places.runtime), (expected.0.into(), expected.1.into()), "{text}");
        }
        std::fs::remove_file(&file).unwrap();
        let (places, refused) = Config::read_places(&file);
        let refused = refused.unwrap();
        assert!(refused.to_string().contains("is not there"), "{refused}");
        assert!(refused.hint().contains("--force-confmiss"), "{}", refused.hint());
        assert_eq!(places.state, Path::new(usual.0));
        std::fs::write(&file, "state = \"/srv/a\"\n").unwrap();
        assert!(matches!(Config::read_places(&file), (config, None) if config.state == Path::new("/srv/a")));
    }

    #[test]
    fn every_bad_value_is_named_at_once() {
        let text = "ports = \"x\"\nworker_uid_base = 3\nstate = \"here\"\nworker_cpus = [64]\nlog = \"warm\"\nallowed_domains = [\"\"]\nallowed_formats = [\"zip\"]\n[models.\"a/b\"]\nport = 1\n";
        let Err(ConfigError::Values(problems)) = Config::parse(text) else { panic!("accepted") };
        assert_eq!(problems.len(), 8, "{problems:?}");
    }

    #[test]
    fn a_cpu_is_shared_or_set_aside_and_not_both() {
        let Err(ConfigError::Values(problems)) =
            Config::parse("worker_cpus = [0, 2]\nexclusive_cpus = [2, 3]\n")
        else {
            panic!("accepted")
        };
        assert_eq!(problems, ["CPU 2 is in worker_cpus and in exclusive_cpus: take it out of one"]);
    }

    #[test]
    fn a_misspelt_key_is_refused_with_its_line() {
        let Err(ConfigError::Parse { message, .. }) = Config::parse("state = \"/x\"\nportss = \"1-2\"\n")
        else {
            panic!("accepted")
        };
        assert!(message.contains("portss") && message.contains("line 2"), "{message}");
    }
}
