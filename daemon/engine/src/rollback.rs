//! From the steps that were touched to the list that undoes them: traffic home first, in one move; then the rest in
//! reverse. The step that failed counts as touched, because it may have half happened.

use crate::step::{Moment, Step};
use turnout_manifest::Generation;

/// Lists the undo of these steps. `restart` is a new generation of the old version, when its worker has died: it is
/// brought up first, because traffic never goes to a worker that is not ready.
pub fn undo(touched: &[Step], restart: Option<Generation>) -> Vec<Step> {
    let mut list = Vec::new();
    if let Some(new) = restart {
        list.extend([Step::CreateCell(new), Step::StartWorker(new), Step::AwaitReady(new), Step::Admit(new)]);
    }
    if restart.is_some() || touched.iter().any(|step| matches!(step, Step::Shift(_))) {
        list.push(Step::Home);
    }
    // In place, it is the worker that moves traffic.
    let switched = touched.iter().filter(|step| matches!(step, Step::SwitchModel(_)));
    list.extend(switched.flat_map(|step| step.undo()));
    for step in touched.iter().rev() {
        for undo in step.undo() {
            if !list.contains(&undo) {
                list.push(undo);
            }
        }
    }
    if touched.contains(&Step::Snapshot(Moment::Before)) {
        list.push(Step::Snapshot(Moment::After));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnout_manifest::Percent;

    #[test]
    fn traffic_goes_home_first_and_once() {
        let new = Generation(7);
        let five = Percent::from_thousandths(5000).unwrap();
        let touched = [
            Step::Snapshot(Moment::Before),
            Step::CreateCell(new),
            Step::StartWorker(new),
            Step::AwaitReady(new),
            Step::Admit(new),
            Step::Shift(five),
            Step::Observe(five),
            Step::Shift(Percent::ALL),
        ];
        let expected = [
            Step::Home,
            Step::Dismiss(new),
            Step::Drain(new),
            Step::KillWorker(new),
            Step::DestroyCell(new),
            Step::Snapshot(Moment::After),
        ];
        assert_eq!(undo(&touched, None), expected);
    }

    #[test]
    fn nothing_touched_has_nothing_to_undo() {
        assert!(undo(&[], None).is_empty());
    }
}
