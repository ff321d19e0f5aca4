//! Where the daemon itself runs: not on a CPU that is set aside for one version. Its files are hashed, its journal is written
//! and its answers are made elsewhere, so that a release beside a guaranteed version is not felt there.

use crate::config::Config;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps the calling thread, and all that it starts from now on, off the CPUs that are set aside. Called before there is a
/// second thread. Where nothing would be left, or the kernel refuses, the daemon stays where it is and says so.
pub fn keep_off(config: &Config) {
    if config.exclusive_cpus == 0 {
        return;
    }
    let kept = sched_getaffinity(None).and_then(|mut cpus| {
        let is_some = without(&mut cpus, config.exclusive_cpus);
        if is_some { sched_setaffinity(None, &cpus) } else { Ok(()) }.map(|()| is_some)
    });
    match kept {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!("the daemon may run on no CPU that is not in `exclusive_cpus`: it shares them");
        }
        Err(error) => tracing::warn!(%error, "the daemon cannot keep off `exclusive_cpus`: it shares them"),
    }
}

/// Takes these of the first 64 CPUs out of the set; whether any is left.
fn without(cpus: &mut CpuSet, exclusive: u64) -> bool {
    (0..64).filter(|cpu| exclusive & (1 << cpu) != 0).for_each(|cpu| cpus.unset(cpu));
    cpus.count() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_leaves_what_is_set_aside_and_keeps_the_rest() {
        let mut cpus = CpuSet::new();
        [0, 1, 2, 70].into_iter().for_each(|cpu| cpus.set(cpu));
        assert!(without(&mut cpus, 0b110));
        assert!(cpus.is_set(0) && cpus.is_set(70) && cpus.count() == 2);
        let mut cpus = CpuSet::new();
        cpus.set(3);
        assert!(!without(&mut cpus, u64::MAX));
    }
}
