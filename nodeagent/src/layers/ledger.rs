//! What the shelf holds and what there is room for: pure, time comes with every call.
//!
//! Always: what is held and what is reserved are within the bound together; a layer that is leased or being read is
//! never chosen to go; of the others, the one used longest ago goes first.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lamina_flist::Sha256Digest;

use super::lease::Leases;

/// Keeps a layer while somebody reads it.
#[derive(Debug)]
pub(super) struct Reading;

/// Why something does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// However much is evicted.
    #[error("{bytes} bytes can never fit: the layerstore's limit is {max} (see --layers-size)")]
    Never {
        /// Bytes wanted.
        bytes: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// As long as others use what is here.
    #[error(
        "{bytes} bytes do not fit now: {busy} of {max} bytes are leased, being read or being pulled; call again later"
    )]
    Now {
        /// Bytes wanted.
        bytes: u64,
        /// Bytes that cannot go.
        busy: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// Others fill the disk.
    #[error(
        "{bytes} bytes do not fit now: {free} bytes are free on the disk, and no more layers can go"
    )]
    Disk {
        /// Bytes wanted.
        bytes: u64,
        /// Bytes free.
        free: u64,
    },
}

/// A layer that is here.
#[derive(Debug)]
pub(super) struct Held {
    /// Of the layer's file.
    pub(super) file_bytes: u64,
    /// Of its record.
    pub(super) record_bytes: u64,
    /// It was checked since this process began.
    pub(super) checked: bool,
    /// When the use was last noted on disk.
    pub(super) noted: Duration,
    used: u64,
    reading: Weak<Reading>,
}

impl Held {
    fn bytes(&self) -> u64 {
        self.file_bytes + self.record_bytes
    }
}

/// The books.
#[derive(Debug)]
pub(super) struct Ledger {
    max: u64,
    used: u64,
    /// For what is being written; of it, what is not on the disk yet.
    reserved: u64,
    unwritten: u64,
    turn: u64,
    layers: HashMap<Sha256Digest, Held>,
    pub(super) leases: Leases,
}

impl Ledger {
    pub(super) fn new(max: u64) -> Self {
        Self {
            max,
            used: 0,
            reserved: 0,
            unwritten: 0,
            turn: 0,
            layers: HashMap::new(),
            leases: Leases::default(),
        }
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Every layer, with the bytes of its file.
    pub(super) fn layers(&self) -> impl Iterator<Item = (Sha256Digest, u64)> + '_ {
        self.layers.iter().map(|(id, held)| (*id, held.file_bytes))
    }

    pub(super) fn get(&self, layer: &Sha256Digest) -> Option<&Held> {
        self.layers.get(layer)
    }

    /// Notes that a layer is used, and keeps it for as long as what is returned lives.
    pub(super) fn hold(&mut self, layer: &Sha256Digest) -> Option<(&mut Held, Arc<Reading>)> {
        let held = self.layers.get_mut(layer)?;
        self.turn += 1;
        held.used = self.turn;
        let reading = held.reading.upgrade().unwrap_or_else(|| {
            let reading = Arc::new(Reading);
            held.reading = Arc::downgrade(&reading);
            reading
        });
        Some((held, reading))
    }

    /// Adds a layer that is on the disk whole; it replaces one of the same digest.
    pub(super) fn add(&mut self, layer: Sha256Digest, file_bytes: u64, record_bytes: u64) {
        self.turn += 1;
        let held = Held {
            file_bytes,
            record_bytes,
            checked: false,
            noted: Duration::ZERO,
            used: self.turn,
            reading: Weak::new(),
        };
        self.used += held.bytes();
        if let Some(before) = self.layers.insert(layer, held) {
            self.used -= before.bytes();
        }
    }

    /// Takes a layer out; its bytes, if it was there.
    pub(super) fn remove(&mut self, layer: &Sha256Digest) -> Option<u64> {
        let bytes = self.layers.remove(layer)?.bytes();
        self.used -= bytes;
        Some(bytes)
    }

    /// Reserves room; gives the layers that have to go for it, which are taken out. `disk_free`: bytes free on the
    /// disk now.
    pub(super) fn reserve(
        &mut self,
        bytes: u64,
        disk_free: u64,
        now: Duration,
    ) -> Result<Vec<Sha256Digest>, NoRoom> {
        let max = self.max;
        if bytes > max {
            return Err(NoRoom::Never { bytes, max });
        }
        let over = (self.used + self.reserved + bytes).saturating_sub(max);
        let short = (self.unwritten + bytes).saturating_sub(disk_free);
        let (victims, freed) = self.oldest(over.max(short), now);
        if freed < over {
            let busy = self.used + self.reserved - freed;
            return Err(NoRoom::Now { bytes, busy, max });
        }
        if freed < short {
            let free = disk_free;
            return Err(NoRoom::Disk { bytes, free });
        }
        for layer in &victims {
            self.remove(layer);
        }
        self.reserved += bytes;
        self.unwritten += bytes;
        Ok(victims)
    }

    /// Of what is reserved, `bytes` are being written.
    pub(super) fn written(&mut self, bytes: u64) {
        self.unwritten -= bytes;
    }

    /// Gives a reservation back, of which `unwritten` never came.
    pub(super) fn unreserve(&mut self, bytes: u64, unwritten: u64) {
        self.reserved -= bytes;
        self.unwritten -= unwritten;
    }

    /// Layers to go until at least `bytes` are free, or as many as may go; and their bytes.
    pub(super) fn oldest(&mut self, bytes: u64, now: Duration) -> (Vec<Sha256Digest>, u64) {
        if bytes == 0 {
            return (Vec::new(), 0);
        }
        let leased = self.leases.layers(now);
        let may_go = |(layer, held): &(&Sha256Digest, &Held)| {
            held.reading.strong_count() == 0 && !leased.contains(*layer)
        };
        let mut idle: Vec<_> = self.layers.iter().filter(may_go).collect();
        idle.sort_unstable_by_key(|(_, held)| held.used);
        let (mut victims, mut freed) = (Vec::new(), 0);
        for (layer, held) in idle {
            if freed >= bytes {
                break;
            }
            victims.push(*layer);
            freed += held.bytes();
        }
        (victims, freed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NOW: Duration = Duration::ZERO;
    const DISK: u64 = u64::MAX / 4;

    fn layer(n: u8) -> Sha256Digest {
        Sha256Digest::from_bytes([n; 32])
    }

    /// Three layers of 30 bytes each, of 100.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(100);
        for n in 1..=3 {
            ledger.add(layer(n), 29, 1);
        }
        ledger
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut ledger = ledger();
        ledger.hold(&layer(1)).unwrap();
        assert_eq!(ledger.reserve(10, DISK, NOW), Ok(vec![]));
        assert_eq!(ledger.reserve(10, DISK, NOW), Ok(vec![layer(2)]));
        assert_eq!(ledger.reserve(40, DISK, NOW), Ok(vec![layer(3)]));
        assert_eq!(ledger.used(), 30);
        ledger.unreserve(60, 60);
        assert_eq!(ledger.reserve(70, DISK, NOW), Ok(vec![]));
    }

    #[test]
    fn what_is_leased_or_read_stays_and_the_refusal_says_which() {
        let mut ledger = ledger();
        let (_, reading) = ledger.hold(&layer(1)).unwrap();
        let ends = Duration::from_secs(1);
        let leased = HashSet::from([layer(2)]);
        ledger
            .leases
            .acquire("a".into(), leased, ends, NOW)
            .unwrap();
        let never = ledger.reserve(101, DISK, NOW);
        assert_eq!(
            never,
            Err(NoRoom::Never {
                bytes: 101,
                max: 100
            })
        );
        let now = ledger.reserve(50, DISK, NOW);
        let (bytes, busy, max) = (50, 60, 100);
        assert_eq!(now, Err(NoRoom::Now { bytes, busy, max }));
        assert_eq!(ledger.used(), 90, "nothing goes for what does not fit");
        assert_eq!(ledger.reserve(40, DISK, NOW), Ok(vec![layer(3)]));
        drop(reading);
        let after = ledger.reserve(60, DISK, ends);
        assert_eq!(after, Ok(vec![layer(2), layer(1)]), "the lease has ended");
    }

    #[test]
    fn others_on_the_disk_count() {
        let mut ledger = ledger();
        assert_eq!(ledger.reserve(10, 5, NOW), Ok(vec![layer(1)]));
        ledger.written(10);
        // What is written is no longer free; what is not, is still wanted.
        assert_eq!(ledger.reserve(10, 10, NOW), Ok(vec![]));
        assert_eq!(ledger.reserve(10, 20, NOW), Ok(vec![]));
        let full = ledger.reserve(60, 0, NOW);
        assert_eq!(full, Err(NoRoom::Disk { bytes: 60, free: 0 }));
        assert_eq!(ledger.used(), 60);
    }

    #[test]
    fn a_layer_that_comes_again_counts_once() {
        let mut ledger = ledger();
        ledger.add(layer(1), 49, 1);
        assert_eq!(ledger.used(), 110);
        assert_eq!(ledger.remove(&layer(1)), Some(50));
        assert_eq!(ledger.remove(&layer(1)), None);
        assert_eq!(ledger.used(), 60);
    }
}
