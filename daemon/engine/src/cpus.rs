//! Which CPUs a guaranteed cell gets: whole cores, so that no other cell runs on a sibling, and all of one NUMA node
//! where one has enough. What the machine looks like and what is taken come in as data.

use std::collections::BTreeSet;
use turnout_manifest::Generation;

/// CPUs that a mask can name.
const CPUS: u32 = 64;

/// One core: the CPUs that share it, one bit each, and its NUMA node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Core {
    /// Its CPUs.
    pub cpus: u64,
    /// Its node.
    pub node: u32,
}

/// The cores of a machine, by their lowest CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    cores: Vec<Core>,
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpusError {
    /// A list of CPUs that the kernel does not write.
    #[error("`{0}` is no list of CPUs")]
    List(String),
    /// No CPU is set aside.
    #[error(
        "`class: guaranteed` needs CPUs of its own, and none is set aside: name some in `exclusive_cpus` of the configuration"
    )]
    NoPool,
    /// Too few cores are free.
    #[error(
        "{asked} cores of its own are asked for and {free} of {cores} are free{}: name more CPUs in `exclusive_cpus`, \
         ask for fewer `threads`, or retire a version",
        held(.holders)
    )]
    Taken {
        /// How many.
        asked: u32,
        /// Free cores.
        free: usize,
        /// Whole cores that are set aside.
        cores: usize,
        /// Who holds which CPUs.
        holders: Vec<(Generation, u64)>,
    },
}

fn held(holders: &[(Generation, u64)]) -> String {
    let each = holders.iter().map(|(generation, cpus)| format!("{generation} has CPU {}", shown(*cpus)));
    let each: Vec<_> = each.collect();
    if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
}

impl Topology {
    /// From the kernel's own lists: each CPU's `thread_siblings_list`, and each node's `cpulist`. A CPU in no list of a
    /// node is of node 0, as on a machine without NUMA.
    ///
    /// # Errors
    /// [`CpusError::List`].
    pub fn read(siblings: &[String], nodes: &[(u32, String)]) -> Result<Self, CpusError> {
        let nodes = nodes
            .iter()
            .map(|(node, list)| Ok((*node, mask(list)?)))
            .collect::<Result<Vec<_>, CpusError>>()?;
        let mut sets = BTreeSet::new();
        for list in siblings {
            // A core beyond the first 64 CPUs cannot be given away.
            sets.insert(mask(list)?);
        }
        let node_of = |cpus: u64| nodes.iter().find(|(_, all)| all & cpus != 0).map_or(0, |(node, _)| *node);
        let mut cores: Vec<Core> = sets
            .into_iter()
            .filter(|cpus| *cpus != 0)
            .map(|cpus| Core { cpus, node: node_of(cpus) })
            .collect();
        cores.sort_by_key(|core| core.cpus.trailing_zeros());
        Ok(Self { cores })
    }

    /// Every CPU.
    pub fn all(&self) -> u64 {
        self.cores.iter().fold(0, |all, core| all | core.cpus)
    }

    /// Chooses so many whole cores of a pool, none of them taken; their CPUs, one bit each.
    ///
    /// # Errors
    /// [`CpusError::NoPool`], [`CpusError::Taken`].
    pub fn place(&self, asked: u32, pool: u64, holders: &[(Generation, u64)]) -> Result<u64, CpusError> {
        if pool == 0 {
            return Err(CpusError::NoPool);
        }
        let taken = holders.iter().fold(0, |taken, (_, cpus)| taken | cpus);
        // A core of which a part is not set aside has a sibling on which anybody runs.
        let whole: Vec<Core> = self.cores.iter().copied().filter(|core| core.cpus & !pool == 0).collect();
        let free: Vec<Core> = whole.iter().copied().filter(|core| core.cpus & taken == 0).collect();
        let count = asked as usize;
        if free.len() < count {
            let (free, cores) = (free.len(), whole.len());
            return Err(CpusError::Taken { asked, free, cores, holders: holders.to_vec() });
        }
        let of = |node: u32| free.iter().filter(move |core| core.node == node);
        let nodes: BTreeSet<u32> = free.iter().map(|core| core.node).collect();
        // The fullest node that still fits: larger holes stay for who asks for more.
        let best =
            nodes.into_iter().filter(|node| of(*node).count() >= count).min_by_key(|node| of(*node).count());
        let chosen: Vec<Core> = match best {
            Some(node) => of(node).take(count).copied().collect(),
            None => free.iter().take(count).copied().collect(),
        };
        Ok(chosen.iter().fold(0, |all, core| all | core.cpus))
    }
}

/// A list as the kernel writes it, `0-3,8`; CPUs beyond the first 64 are left out.
fn mask(list: &str) -> Result<u64, CpusError> {
    let bad = || CpusError::List(list.trim().chars().take(64).collect());
    let mut mask = 0;
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().map_err(|_| bad());
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(bad());
        }
        (first..=last.min(CPUS - 1)).for_each(|cpu| mask |= 1 << cpu);
    }
    Ok(mask)
}

/// A mask for people: `2-3, 8`.
pub fn shown(mask: u64) -> String {
    let mut parts = Vec::new();
    let mut cpu = 0;
    while cpu < CPUS {
        let run = (mask >> cpu).trailing_ones();
        match run {
            0 => cpu += 1,
            1 => parts.push(cpu.to_string()),
            _ => parts.push(format!("{cpu}-{}", cpu + run - 1)),
        }
        cpu += run;
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two nodes, four cores each, two CPUs a core: CPU `n` and `n + 8`.
    fn two_nodes() -> Topology {
        let siblings: Vec<String> = (0..16).map(|cpu| format!("{},{}\n", cpu % 8, cpu % 8 + 8)).collect();
        Topology::read(&siblings, &[(0, "0-3,8-11\n".into()), (1, "4-7,12-15\n".into())]).unwrap()
    }

    #[test]
    fn the_kernels_lists_are_read() {
        let topology = two_nodes();
        assert_eq!(topology.cores.len(), 8);
        assert_eq!(topology.cores[5], Core { cpus: 1 << 5 | 1 << 13, node: 1 });
        assert_eq!(topology.all(), 0xffff);
        for (list, cpus) in [("0-1\n", 3), ("", 0), ("0,2-3", 0b1101), ("62-70", 3 << 62), ("64-70", 0)] {
            assert_eq!(mask(list), Ok(cpus), "{list}");
        }
        for list in ["a", "1-", "-", "3-1", "1 2", "99999999999"] {
            assert!(mask(list).is_err(), "{list}");
        }
    }

    #[test]
    fn a_core_is_given_whole_and_a_node_is_not_left_without_need() {
        let topology = two_nodes();
        let core = |number: u32| 1u64 << number | 1 << (number + 8);
        assert_eq!(topology.place(1, 0xffff, &[]), Ok(core(0)));
        // Node 0 has three cores left and node 1 four: four go to node 1, one goes where the hole is smaller.
        let taken = [(Generation(3), core(1))];
        assert_eq!(topology.place(4, 0xffff, &taken), Ok(core(4) | core(5) | core(6) | core(7)));
        assert_eq!(topology.place(1, 0xffff, &taken), Ok(core(0)));
        // No node has six.
        assert_eq!(topology.place(6, 0xffff, &[]).unwrap().count_ones(), 12);
        // CPU 10 is not set aside: core 2 is not whole.
        assert_eq!(topology.place(1, core(3) | 1 << 2, &[]), Ok(core(3)));
    }

    #[test]
    fn a_refusal_says_what_is_free_who_holds_the_rest_and_what_to_do() {
        let taken = [(Generation(3), 0b11 << 8 | 0b11)];
        let error = two_nodes().place(2, 0b111 | 0b111 << 8, &taken).unwrap_err().to_string();
        assert_eq!(
            error,
            "2 cores of its own are asked for and 1 of 3 are free (g3 has CPU 0-1, 8-9): name more CPUs in \
             `exclusive_cpus`, ask for fewer `threads`, or retire a version"
        );
        assert_eq!(two_nodes().place(1, 0, &[]), Err(CpusError::NoPool));
    }

    prop_compose! {
        /// Cores of one to four CPUs each, on up to four nodes, numbered without gaps.
        fn machines()(cores in prop::collection::vec((1..=4u32, 0..4u32), 1..16)) -> Topology {
            let mut next = 0;
            let cores = cores.into_iter().map(|(width, node)| {
                let cpus = ((1u64 << width) - 1) << next;
                next += width;
                Core { cpus, node }
            });
            Topology { cores: cores.collect() }
        }
    }

    proptest! {
        #[test]
        fn what_is_placed_is_whole_in_the_pool_and_nobody_elses(
            topology in machines(), pool in any::<u64>(), wishes in prop::collection::vec(1..4u32, 1..8)
        ) {
            let mut holders = Vec::new();
            for (generation, asked) in (1..).map(Generation).zip(wishes) {
                let placed = topology.place(asked, pool, &holders);
                let taken = holders.iter().fold(0, |taken, (_, cpus)| taken | cpus);
                let is_free = |core: &&Core| core.cpus & !pool == 0 && core.cpus & taken == 0;
                let free = topology.cores.iter().filter(is_free).count();
                prop_assert_eq!(placed.is_ok(), pool != 0 && free >= asked as usize);
                let Ok(cpus) = placed else { continue };
                prop_assert_eq!(cpus & !pool, 0);
                prop_assert_eq!(cpus & taken, 0);
                let touched: Vec<_> = topology.cores.iter().filter(|core| core.cpus & cpus != 0).collect();
                prop_assert_eq!(touched.len(), asked as usize);
                prop_assert!(touched.iter().all(|core| core.cpus & !cpus == 0), "half a core");
                let nodes: BTreeSet<_> = touched.iter().map(|core| core.node).collect();
                let fits = |node| topology.cores.iter().filter(is_free).filter(|core| core.node == node).count() >= asked as usize;
                prop_assert!(nodes.len() == 1 || !(0..4).any(fits), "spread without need");
                holders.push((generation, cpus));
            }
        }

        #[test]
        fn what_is_shown_reads_back(mask_given in any::<u64>()) {
            prop_assert_eq!(mask(&shown(mask_given).replace(' ', "")), Ok(mask_given));
        }

        #[test]
        fn no_list_ends_the_daemon(list in "[0-9,\\- a]{0,20}") {
            let _ = mask(&list);
        }
    }
}
