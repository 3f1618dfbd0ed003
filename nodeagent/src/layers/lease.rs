//! Who wants layers kept, and until when: pure, time comes with every call.
//!
//! A lease ends with its time, when it is given back, or with the process: who renews it then is told, and takes
//! another one.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use lamina_flist::Sha256Digest;

/// Leases at once.
const LEASES_MAX: usize = 10_000;

/// There are too many.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

#[derive(Debug)]
struct Lease {
    layers: HashSet<Sha256Digest>,
    ends: Duration,
}

/// Every lease.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: HashMap<String, Lease>,
}

impl Leases {
    /// A lease of these layers until `ends`.
    pub(super) fn acquire(
        &mut self,
        id: String,
        layers: HashSet<Sha256Digest>,
        ends: Duration,
        now: Duration,
    ) -> Result<(), TooMany> {
        self.end(now);
        if self.by_id.len() >= LEASES_MAX {
            return Err(TooMany);
        }
        self.by_id.insert(id, Lease { layers, ends });
        Ok(())
    }

    /// Lets a lease last until `ends`; its layers, if it has not ended.
    pub(super) fn renew(
        &mut self,
        id: &str,
        ends: Duration,
        now: Duration,
    ) -> Option<Vec<Sha256Digest>> {
        self.end(now);
        let lease = self.by_id.get_mut(id)?;
        lease.ends = ends;
        let mut layers: Vec<_> = lease.layers.iter().copied().collect();
        layers.sort_unstable();
        Some(layers)
    }

    /// Ends a lease; whether there was one.
    pub(super) fn release(&mut self, id: &str, now: Duration) -> bool {
        self.end(now);
        self.by_id.remove(id).is_some()
    }

    /// Every layer that is leased.
    pub(super) fn layers(&mut self, now: Duration) -> HashSet<Sha256Digest> {
        self.end(now);
        let leases = self.by_id.values();
        leases
            .flat_map(|lease| lease.layers.iter().copied())
            .collect()
    }

    fn end(&mut self, now: Duration) {
        self.by_id.retain(|_, lease| lease.ends > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(n: u8) -> Sha256Digest {
        Sha256Digest::from_bytes([n; 32])
    }

    #[test]
    fn a_lease_lasts_until_its_time_or_its_return() {
        let at = Duration::from_secs;
        let mut leases = Leases::default();
        let both = HashSet::from([layer(1), layer(2)]);
        leases
            .acquire("a".into(), both.clone(), at(10), at(0))
            .unwrap();
        let two = HashSet::from([layer(2)]);
        leases
            .acquire("b".into(), two.clone(), at(5), at(0))
            .unwrap();
        assert_eq!(leases.layers(at(4)), both);
        assert_eq!(leases.renew("b", at(30), at(4)), Some(vec![layer(2)]));
        assert_eq!(leases.layers(at(10)), two, "the first has ended");
        assert_eq!(leases.renew("a", at(30), at(10)), None);
        assert!(leases.release("b", at(11)));
        assert!(!leases.release("b", at(11)));
        assert!(leases.layers(at(11)).is_empty());
    }

    #[test]
    fn there_is_a_bound() {
        let mut leases = Leases::default();
        let (now, ends) = (Duration::ZERO, Duration::from_secs(1));
        for n in 0..LEASES_MAX {
            leases
                .acquire(n.to_string(), HashSet::new(), ends, now)
                .unwrap();
        }
        let more = leases.acquire("x".into(), HashSet::new(), ends, now);
        assert_eq!(more, Err(TooMany));
        let later = leases.acquire("x".into(), HashSet::new(), ends * 2, ends);
        assert_eq!(later, Ok(()));
    }
}
