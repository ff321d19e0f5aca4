//! Sets: models whose releases are promoted together or not at all, and whose versions the host shows in one folder that
//! is swapped in one step. A set is known by its name; which models it shows is what its last promotion said.

use crate::record::End;
use crate::step::Step;
use crate::world::{Progress, Release, World};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use turnout_manifest::{ModelName, ReleaseId, SetName, Sha256};

/// Fewest models that a set names.
pub const MEMBERS_MIN: usize = 2;
/// Most models that a set names.
pub const MEMBERS_MAX: usize = 16;
/// Most sets on one host: each has mounts of its own.
pub const SETS_MAX: usize = 32;

/// What a release is promoted together with; the same in each of the set's releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Its name.
    pub name: SetName,
    /// The releases, in the order of their models. The first one swaps the pointers.
    pub members: Vec<Member>,
    /// The models that the set's pointer shows once it is promoted: those of the releases, and those that stay as they are.
    pub shows: Vec<ModelName>,
    /// The models that it showed before; none for a set that is new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub showed: Vec<ModelName>,
}

/// One release of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its model.
    pub model: ModelName,
    /// Its id.
    pub release: ReleaseId,
    /// Digest of the new version's manifest.
    pub to: Sha256,
    /// Digest of the old one's, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Sha256>,
}

impl World {
    /// The other releases of a release's set. `None` for one that was never begun, because its record was lost with the
    /// power, or that is long over.
    pub fn others<'a>(
        &'a self,
        release: &'a Release,
    ) -> impl Iterator<Item = (&'a Member, Option<&'a Release>)> {
        let members = || release.planned.set.iter().flat_map(|set| &set.members);
        let others = members().filter(|member| member.release != release.planned.release);
        others.map(move |member| {
            let known = self.releases.get(&member.release).map(Arc::as_ref);
            // Its id may have been given to another release since.
            let of_set = |other: &&Release| {
                other.planned.set.as_ref().is_some_and(|set| set.members.iter().eq(members()))
            };
            (member, known.filter(of_set))
        })
    }

    /// Models whose releases have not got to where the releases of this one's set wait for each other.
    pub fn waits_for(&self, release: &Release) -> Vec<ModelName> {
        let away = self.others(release).filter(|(_, other)| !other.is_some_and(has_arrived));
        away.map(|(member, _)| member.model.clone()).collect()
    }

    /// The release of a set by this name that is under way, or stuck.
    pub fn releasing(&self, set: &SetName) -> Option<&Release> {
        let current = self.models.keys().filter_map(|model| self.current(model));
        let mut of_set =
            current.filter(|release| release.planned.set.as_ref().is_some_and(|own| own.name == *set));
        of_set.next()
    }

    /// A release of the set that this model was last released in, while it still has to be undone: it may yet change what
    /// the model's pointer shows.
    pub fn being_undone(&self, model: &ModelName) -> Option<(&SetName, ReleaseId)> {
        let last = self.releases.get(&self.models.get(model)?.last?)?;
        let set = last.planned.set.as_ref()?;
        let undoes = |(member, other): &(&Member, Option<&Release>)| {
            other.is_some_and(|other| {
                matches!(other.progress, Progress::Forward | Progress::Backward | Progress::Ended(End::Stuck))
                    && self.models.get(&member.model).and_then(|model| model.current) == Some(member.release)
            })
        };
        self.others(last).find(undoes).map(|(member, _)| (&set.name, member.release))
    }
}

/// It waits for the others of its set, or goes on already because all were there.
fn has_arrived(release: &Release) -> bool {
    let wait = release.planned.steps.iter().position(|step| *step == Step::AwaitSet);
    let there = |wait| release.cursor > wait || (release.cursor == wait && release.open);
    release.progress == Progress::Forward && release.interrupted.is_none() && wait.is_some_and(there)
}
