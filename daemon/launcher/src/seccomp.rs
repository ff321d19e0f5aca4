//! The profile as programs for the kernel, compiled once at the launcher's start.

use crate::profile::{ALLOWED, ALLOWED_HERE, Allowed, Rule};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// The compiled profile.
#[derive(Debug)]
pub struct Filters {
    /// In the order in which they are put on.
    programs: [BpfProgram; 2],
}

impl Filters {
    /// Compiles the profile, with calls that are allowed beyond it.
    ///
    /// # Errors
    /// A rule that the kernel's language cannot hold.
    pub fn compile(more: &[Allowed]) -> Result<Self, BackendError> {
        // clone3 cannot be filtered by its flags, which lie in memory: libc must believe that the kernel lacks it. One
        // filter has one error number, hence a filter of its own.
        let no_clone3 = BTreeMap::from([(libc::SYS_clone3, vec![])]);
        let missing = SeccompAction::Errno(libc::ENOSYS as u32);
        let no_clone3 = SeccompFilter::new(no_clone3, SeccompAction::Allow, missing, architecture()?)?;
        let mut rules: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for allowed in ALLOWED.iter().chain(ALLOWED_HERE).chain(more) {
            // What a longer list says of the same call is allowed beside it.
            rules.entry(allowed.call).or_default().extend(conditions(allowed)?);
        }
        let denied = SeccompAction::Errno(libc::EPERM as u32);
        let list = SeccompFilter::new(rules, denied, SeccompAction::Allow, architecture()?)?;
        Ok(Self { programs: [no_clone3.try_into()?, list.try_into()?] })
    }

    /// Puts the filters on the calling thread, for ever and for all it starts.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn apply(&self) -> Result<(), seccompiler::Error> {
        self.programs.iter().try_for_each(|program| seccompiler::apply_filter(program))
    }
}

/// No rule means always; several rules are alternatives.
fn conditions(allowed: &Allowed) -> Result<Vec<SeccompRule>, BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    let rule = |argument, length, operator, value| {
        SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
    };
    match allowed.rule {
        Rule::Always => Ok(vec![]),
        Rule::Without(argument, bits) => Ok(vec![rule(argument, Qword, SeccompCmpOp::MaskedEq(bits), 0)?]),
        // The kernel reads the low half of these arguments.
        Rule::OneOf(argument, values) => {
            values.iter().map(|value| rule(argument, Dword, SeccompCmpOp::Eq, *value)).collect()
        }
        Rule::Masked(argument, mask, values) => {
            values.iter().map(|value| rule(argument, Dword, SeccompCmpOp::MaskedEq(mask), *value)).collect()
        }
        Rule::Each(arguments) => {
            let conditions = arguments.iter().map(|(argument, mask, value)| {
                SeccompCondition::new(*argument, Dword, SeccompCmpOp::MaskedEq(*mask), *value)
            });
            Ok(vec![SeccompRule::new(conditions.collect::<Result<_, _>>()?)?])
        }
    }
}

fn architecture() -> Result<TargetArch, BackendError> {
    std::env::consts::ARCH.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::DEVICE_CALLS;

    #[test]
    fn the_profile_compiles() {
        for more in [&[][..], DEVICE_CALLS] {
            assert!(Filters::compile(more).unwrap().programs.iter().all(|program| !program.is_empty()));
        }
    }
}
