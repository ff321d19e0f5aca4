//! The pointers of the fake machine: what each shows.

use super::FakeHost;
use crate::HostError;
use crate::pointer::{Pointer, Shown};
use crate::store::StoredName;
use std::collections::BTreeMap;
use turnout_manifest::{ModelName, SetName};

impl FakeHost {
    /// What a model's pointer shows. As [`FakeHost::worker`], not a call of the daemon.
    pub fn current(&self, model: &ModelName) -> Option<StoredName> {
        self.inner().machine.pointers.get(model).cloned()
    }

    /// What a set's pointer shows. As [`FakeHost::worker`], not a call of the daemon.
    pub fn current_set(&self, set: &SetName) -> Vec<StoredName> {
        let shown = self.inner().machine.sets.get(set).cloned().unwrap_or_default();
        shown.into_values().collect()
    }
}

impl Pointer for FakeHost {
    fn point(&self, name: &StoredName) -> Result<(), HostError> {
        self.call(("point", name.to_string()), |machine| {
            machine.version(name)?;
            machine.pointers.insert(name.model.clone(), name.clone());
            for shown in machine.sets.values_mut().filter_map(|set| set.get_mut(&name.model)) {
                shown.clone_from(name);
            }
            Ok(())
        })
    }

    fn pointed(&self, model: &ModelName) -> Result<Option<StoredName>, HostError> {
        self.call(("pointed", model.to_string()), |machine| Ok(machine.pointers.get(model).cloned()))
    }

    fn unpoint(&self, model: &ModelName) -> Result<(), HostError> {
        self.call(("unpoint", model.to_string()), |machine| {
            machine.pointers.remove(model);
            machine.sets.values_mut().for_each(|set| drop(set.remove(model)));
            machine.sets.retain(|_, set| !set.is_empty());
            Ok(())
        })
    }

    fn point_set(&self, set: &SetName, shown: &[Shown]) -> Result<(), HostError> {
        self.call(("point_set", set.to_string()), |machine| {
            let mut versions = BTreeMap::new();
            for shown in shown {
                let name = match shown {
                    Shown::Version(name) => name.clone(),
                    Shown::AsPointed(model) => machine.pointers.get(model).cloned().ok_or_else(|| {
                        HostError::Missing { kind: "pointer of model", name: model.to_string() }
                    })?,
                };
                machine.version(&name)?;
                versions.insert(name.model.clone(), name);
            }
            machine.sets.insert(set.clone(), versions);
            Ok(())
        })
    }

    fn pointed_set(&self, set: &SetName) -> Result<Vec<StoredName>, HostError> {
        self.call(("pointed_set", set.to_string()), |machine| {
            Ok(machine.sets.get(set).cloned().unwrap_or_default().into_values().collect())
        })
    }

    fn unpoint_set(&self, set: &SetName) -> Result<(), HostError> {
        self.call(("unpoint_set", set.to_string()), |machine| {
            machine.sets.remove(set);
            Ok(())
        })
    }
}
