//! Whether a version can take over the worker of the live one: a cell is what it was made as, whatever runs in it.

use crate::access::Peer;
use crate::handlers::{Desk, Failure, problem};
use std::sync::Arc;
use turnout_engine::record::Target;
use turnout_host::store::StoredName;
use turnout_manifest::manifest::Runtime;
use turnout_manifest::plan::Strategy;
use turnout_manifest::profile::CpuLimit;
use turnout_manifest::{DeviceGroup, Plan, Sha256, VersionRef};
use turnout_protocol::error::ErrorCode;

impl Desk {
    /// Refuses a release in place that cannot be, before anything happens.
    ///
    /// # Errors
    /// 422 with every reason.
    pub async fn can_take_over(
        &self,
        peer: Peer,
        (plan, live): (&Plan, Option<&Target>),
        (version, digest): (&VersionRef, Sha256),
    ) -> Result<(), Failure> {
        if plan.strategy != Strategy::InPlace {
            return Ok(());
        }
        let (why, hint) = match live {
            None => {
                let why =
                    format!("no version of `{}` is live, so there is no worker to take over", version.model);
                (vec![why], "release the first version without a plan")
            }
            Some(live) => {
                let names =
                    [live.digest, digest].map(|digest| StoredName { model: version.model.clone(), digest });
                (self.misfits(names).await, "release it by another strategy: it then has a cell of its own")
            }
        };
        if why.is_empty() {
            return Ok(());
        }
        let mut refused = problem(ErrorCode::Refused, format!("`{version}` cannot be released in place"));
        refused.details = why;
        Err(self.refuse(peer, &format!("release {version}"), refused.hint(hint)).await)
    }

    async fn misfits(&self, [live, new]: [StoredName; 2]) -> Vec<String> {
        let intake = Arc::clone(&self.intake);
        let asked = tokio::task::spawn_blocking(move || {
            // What cannot be read here is for the release's own steps to say.
            let runtime = |name| intake.stored_manifest(name).ok().map(|manifest| manifest.runtime);
            Some(misfits(&runtime(&live)?, &runtime(&new)?))
        });
        asked.await.ok().flatten().unwrap_or_default()
    }
}

/// What the new version asks for and the live one's cell does not give.
fn misfits(live: &Runtime, new: &Runtime) -> Vec<String> {
    let mut why = Vec::new();
    if new.threads != live.threads {
        why.push(format!("`threads` is {}, the worker has {}", new.threads, live.threads));
    }
    if new.class != live.class {
        why.push(format!("`class` is {}, the cell is {}", new.class, live.class));
    }
    if new.memory_bytes > live.memory_bytes {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (asked, given) = (mib(new.memory_bytes), mib(live.memory_bytes));
        why.push(format!("`memory_bytes` is {asked} MiB, the cell has {given} MiB"));
    }
    if new.cpu_limit != live.cpu_limit {
        let shown = |limit: Option<CpuLimit>| limit.map_or("none".to_owned(), |limit| limit.to_string());
        let (asked, given) = (shown(new.cpu_limit), shown(live.cpu_limit));
        why.push(format!("`cpu_limit` is {asked}, the cell's is {given}"));
    }
    if new.devices != live.devices {
        let shown = |devices: &[DeviceGroup]| match devices {
            [] => "none".to_owned(),
            some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let (asked, given) = (shown(&new.devices), shown(&live.devices));
        why.push(format!("`devices` is {asked}, the cell has {given}"));
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnout_manifest::profile::Class;

    #[test]
    fn every_way_in_which_a_version_does_not_fit_is_told() {
        let live = Runtime {
            model_file: "a.onnx".into(),
            threads: 2,
            memory_bytes: 512 << 20,
            class: Class::Burstable,
            cpu_limit: None,
            devices: Vec::new(),
            require: Vec::new(),
        };
        let smaller = Runtime { model_file: "b.onnx".into(), memory_bytes: 1 << 20, ..live.clone() };
        assert_eq!(misfits(&live, &smaller), Vec::<String>::new());
        let other = Runtime { threads: 1, memory_bytes: 513 << 20, class: Class::Guaranteed, ..live.clone() };
        assert_eq!(
            misfits(&live, &other),
            [
                "`threads` is 1, the worker has 2",
                "`class` is guaranteed, the cell is burstable",
                "`memory_bytes` is 513 MiB, the cell has 512 MiB",
            ]
        );
        let devices = vec!["gpu0".parse().unwrap(), "gpu1".parse().unwrap()];
        let other = Runtime { cpu_limit: Some("1.5".parse().unwrap()), devices, ..live.clone() };
        assert_eq!(
            misfits(&live, &other),
            ["`cpu_limit` is 1.5, the cell's is none", "`devices` is gpu0, gpu1, the cell has none"]
        );
        assert_eq!(misfits(&other, &live).len(), 2, "nor does a version get devices that it did not ask for");
    }
}
