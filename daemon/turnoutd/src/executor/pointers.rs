//! The steps that change what the host-visible pointers show: a model's own, or those of a whole set.

use super::{Executor, stored};
use crate::chain;
use turnout_engine::record::Target;
use turnout_engine::set::{Member, Set};
use turnout_engine::{Release, Step};
use turnout_host::HostError;
use turnout_host::pointer::Shown;
use turnout_host::store::StoredName;
use turnout_manifest::{ModelName, Sha256};

impl Executor {
    pub(super) fn pointers(&self, release: &Release, step: Step) -> Result<String, String> {
        let planned = &release.planned;
        match (step, &planned.set) {
            (Step::PointSet, Some(set)) => self.point_set(set, &set.shows, |member| Some(member.to)),
            (Step::PointSetHome, Some(set)) => self.point_set(set, &set.showed, |member| member.from),
            (Step::Point, _) => self.point(&planned.model, Some(&planned.to)),
            _ => self.point(&planned.model, planned.from.as_ref()),
        }
    }

    fn point(&self, model: &ModelName, target: Option<&Target>) -> Result<String, String> {
        match target {
            Some(target) => {
                self.host.point(&stored(model, target)).map_err(|error| chain(&error))?;
                Ok(format!("current is {}", target.version))
            }
            None => self.host.unpoint(model).map_err(|e| chain(&e)).map(|()| "current shows nothing".into()),
        }
    }

    /// Swaps the set first: who reads it sees all its models change in one step. A model that is in no release of the set
    /// is shown as its own pointer shows it, whatever became of it meanwhile.
    fn point_set(
        &self,
        set: &Set,
        models: &[ModelName],
        digest: impl Fn(&Member) -> Option<Sha256>,
    ) -> Result<String, String> {
        let version =
            |member: &Member| digest(member).map(|digest| StoredName { model: member.model.clone(), digest });
        let shown = models.iter().filter_map(|model| {
            match set.members.iter().find(|member| member.model == *model) {
                Some(member) => version(member).map(Shown::Version),
                None => Some(Shown::AsPointed(model.clone())),
            }
        });
        let shown: Vec<Shown> = shown.collect();
        let changes = || -> Result<(), HostError> {
            if shown.is_empty() {
                self.host.unpoint_set(&set.name)?;
            } else {
                self.host.point_set(&set.name, &shown)?;
            }
            set.members.iter().try_for_each(|member| match version(member) {
                Some(name) => self.host.point(&name),
                None => self.host.unpoint(&member.model),
            })
        };
        changes().map_err(|error| chain(&error))?;
        let models: Vec<&str> = shown.iter().map(|shown| shown.model().as_str()).collect();
        let models = if models.is_empty() { "nothing".to_owned() } else { models.join(", ") };
        Ok(format!("set `{}` shows {models}", set.name))
    }
}
