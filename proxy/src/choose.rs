//! Which afslet a run is given to: of those where it fits now, warm ones first, the freer of two.
//!
//! Power of two choices (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001): proxies that know
//! nothing of each other do not all run to the same freest one. Pure: chance is handed in.

use std::fmt;

use lamina_discovery::Random;

use crate::ledger::Share;

/// An afslet as far as the choice goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// What it has in all; `None` before it ever told.
    pub(crate) limit: Option<Share>,
    /// What is free of it, as far as is known.
    pub(crate) free: Share,
    /// It answers, and is not draining.
    pub(crate) is_open: bool,
    /// It is the wanted node, or any will do.
    pub(crate) is_wanted: bool,
    /// The image is mounted there.
    pub(crate) is_warm: bool,
    /// It refused this run just now.
    pub(crate) is_tried: bool,
}

/// Why none can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// It can fit on none, now or later.
    Never(Shortage),
    /// It may later.
    NotNow(Shortage),
}

/// What there is instead of what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) wanted: Share,
    /// Afslets that are known, and of the wanted node if one is.
    pub(crate) known: usize,
    /// Of them: those that take runs.
    pub(crate) open: usize,
    /// Most that one of the open ones has free, processors and memory each for itself.
    pub(crate) free_max: Share,
    /// Most that a known one has in all.
    pub(crate) limit_max: Share,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wanted, free, limit) = (self.wanted, self.free_max, self.limit_max);
        write!(
            f,
            "asked for {} processors and {} MiB of memory; of {} afslets {} take runs, with at most {} processors and \
             {} MiB free, and at most {} processors and {} MiB in all",
            wanted.cpu,
            wanted.memory,
            self.known,
            self.open,
            free.cpu,
            free.memory,
            limit.cpu,
            limit.memory
        )
    }
}

/// Chooses one, by its place in the list.
pub(crate) fn choose(
    all: &[Candidate],
    wanted: Share,
    random: &mut Random,
) -> Result<usize, NoPlace> {
    let shortage = shortage(all, wanted);
    let limits = || {
        all.iter()
            .filter(|one| one.is_wanted)
            .filter_map(|one| one.limit)
    };
    if limits().next().is_some() && !limits().any(|limit| limit.holds(wanted)) {
        return Err(NoPlace::Never(shortage));
    }
    let fits =
        |one: &Candidate| one.is_open && one.is_wanted && !one.is_tried && one.free.holds(wanted);
    let fitting: Vec<usize> = (0..all.len()).filter(|&at| fits(&all[at])).collect();
    let warm: Vec<usize> = fitting
        .iter()
        .copied()
        .filter(|&at| all[at].is_warm)
        .collect();
    let preferred = if warm.is_empty() { &fitting } else { &warm };
    freer_of_two(all, preferred, random).ok_or(NoPlace::NotNow(shortage))
}

fn shortage(all: &[Candidate], wanted: Share) -> Shortage {
    let known: Vec<&Candidate> = all.iter().filter(|one| one.is_wanted).collect();
    let open: Vec<&&Candidate> = known.iter().filter(|one| one.is_open).collect();
    let most = |a: Share, b: Share| Share {
        cpu: a.cpu.max(b.cpu),
        memory: a.memory.max(b.memory),
    };
    Shortage {
        wanted,
        known: known.len(),
        open: open.len(),
        free_max: open.iter().map(|one| one.free).fold(Share::default(), most),
        limit_max: known
            .iter()
            .filter_map(|one| one.limit)
            .fold(Share::default(), most),
    }
}

fn freer_of_two(all: &[Candidate], of: &[usize], random: &mut Random) -> Option<usize> {
    let (first, second) = match of {
        [] => return None,
        [only] => return Some(*only),
        of => {
            let first = random.below(of.len());
            // Another one, each as likely.
            let step = 1 + random.below(of.len() - 1);
            (of[first], of[(first + step) % of.len()])
        }
    };
    Some(match freedom(&all[second]) > freedom(&all[first]) {
        true => second,
        false => first,
    })
}

/// The scarcer of processors and memory, as a part of what there is, in thousandths.
fn freedom(one: &Candidate) -> u128 {
    let limit = one.limit.unwrap_or_default();
    let part = |free: u64, limit: u64| match limit {
        0 => 0,
        limit => u128::from(free) * 1000 / u128::from(limit),
    };
    part(one.free.cpu, limit.cpu).min(part(one.free.memory, limit.memory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(cpu: u64, memory: u64) -> Share {
        Share { cpu, memory }
    }

    fn candidate(free: Share) -> Candidate {
        Candidate {
            limit: Some(share(8, 8000)),
            free,
            is_open: true,
            is_wanted: true,
            is_warm: false,
            is_tried: false,
        }
    }

    fn chosen(all: &[Candidate], wanted: Share) -> Vec<usize> {
        let mut random = Random::from_seed(3);
        let mut counts = vec![0; all.len()];
        for _ in 0..1000 {
            match choose(all, wanted, &mut random) {
                Ok(at) => counts[at] += 1,
                other => panic!("{other:?}"),
            }
        }
        counts
    }

    #[test]
    fn of_those_where_it_fits_the_freer_of_two_is_asked() {
        let all = [
            candidate(share(1, 8000)),
            candidate(share(8, 100)),
            candidate(share(8, 8000)),
            candidate(share(4, 8000)),
            candidate(share(3, 8000)),
        ];
        let counts = chosen(&all, share(2, 1000));
        assert_eq!(&counts[..2], [0, 0]);
        assert!(counts[2] > counts[3] && counts[3] > 0, "{counts:?}");
        assert_eq!(
            counts[4], 0,
            "the least free of three never wins: {counts:?}"
        );
    }

    #[test]
    fn a_warm_one_is_preferred_while_it_fits() {
        let mut all = [candidate(share(8, 8000)), candidate(share(2, 2000))];
        all[1].is_warm = true;
        assert_eq!(chosen(&all, share(2, 1000)), [0, 1000]);
        assert_eq!(chosen(&all, share(3, 1000)), [1000, 0]);
    }

    #[test]
    fn closed_other_and_tried_ones_are_not_asked() {
        let mut all = vec![candidate(share(8, 8000)); 4];
        all[0].is_open = false;
        all[1].is_wanted = false;
        all[2].is_tried = true;
        assert_eq!(chosen(&all, share(1, 1)), [0, 0, 0, 1000]);
        all[3].is_tried = true;
        let choice = choose(&all, share(1, 1), &mut Random::from_seed(1));
        let Err(NoPlace::NotNow(shortage)) = choice else {
            panic!("{choice:?}");
        };
        assert_eq!((shortage.known, shortage.open), (3, 2));
    }

    #[test]
    fn what_fits_on_no_known_one_never_fits() {
        let mut all = vec![candidate(share(0, 0)); 2];
        all[1].limit = None;
        let random = &mut Random::from_seed(1);
        for (wanted, never) in [
            (share(9, 1), true),
            (share(1, 8001), true),
            (share(8, 8000), false),
        ] {
            let choice = choose(&all, wanted, random);
            assert_eq!(
                matches!(choice, Err(NoPlace::Never(_))),
                never,
                "{choice:?}"
            );
        }
        // The only one that is large enough may be closed now.
        all[0].is_open = false;
        assert!(matches!(
            choose(&all, share(8, 1), random),
            Err(NoPlace::NotNow(_))
        ));
        // Nobody has told anything.
        all[0].limit = None;
        assert!(matches!(
            choose(&all, share(99, 1), random),
            Err(NoPlace::NotNow(_))
        ));
        assert!(matches!(
            choose(&[], share(1, 1), random),
            Err(NoPlace::NotNow(_))
        ));
    }
}
