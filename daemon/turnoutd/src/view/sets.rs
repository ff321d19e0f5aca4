//! Sets as they are sent: what each shows, which releases it has under way, and what a release is promoted with.

use super::{Daemon, View};
use std::collections::BTreeMap;
use turnout_engine::Release;
use turnout_manifest::{ModelName, SetName};
use turnout_protocol::set::{MemberRelease, ReleaseSet, SetStatus, ShownModel};

impl View {
    /// Every set that is shown or under way.
    pub(super) fn sets(&self, daemon: &Daemon) -> Vec<SetStatus> {
        let under_way = || self.world.models.keys().filter_map(|model| self.world.current(model));
        let mut sets: BTreeMap<&SetName, &[ModelName]> = BTreeMap::new();
        for set in under_way().filter_map(|release| release.planned.set.as_ref()) {
            sets.insert(&set.name, &[]);
        }
        sets.extend(self.world.sets.iter().map(|(name, models)| (name, models.as_slice())));
        let status = |(name, models): (&SetName, &[ModelName])| SetStatus {
            set: name.clone(),
            folder: daemon
                .config
                .runtime
                .join("sets")
                .join(name.as_str())
                .join("current")
                .display()
                .to_string(),
            models: models.iter().map(|model| self.shown(model)).collect(),
            releases: under_way()
                .filter(|release| release.planned.set.as_ref().is_some_and(|set| set.name == *name))
                .map(|release| release.planned.release)
                .collect(),
        };
        sets.into_iter().map(status).collect()
    }

    fn shown(&self, model: &ModelName) -> ShownModel {
        let live = self.world.models.get(model).and_then(|model| model.live.as_ref());
        ShownModel { model: model.clone(), version: live.map(|live| live.version.clone()) }
    }
}

/// What a release is promoted together with.
pub(super) fn release_set(release: &Release) -> Option<ReleaseSet> {
    let set = release.planned.set.as_ref()?;
    let members = set.members.iter();
    let releases =
        members.map(|member| MemberRelease { model: member.model.clone(), release_id: member.release });
    Some(ReleaseSet { set: set.name.clone(), releases: releases.collect() })
}
