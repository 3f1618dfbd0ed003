//! What starts of images read, learnt on one node and told to all: bounded memory, merged as nodes merge their own.
//!
//! Pure. Keyed by what was started: an image's manifest or a flist, and the command. Forgotten when there is no more
//! room, unused longest first: a lost profile costs time, never correctness.

use std::collections::{BTreeMap, HashMap};

use lamina_flist::{FlistDigest, Learnt, ProfileRange as Range, Sha256Digest};
use lamina_proto::lamina::v1::{
    FindUnknownResponse, GetProfileResponse, ProfileRange, PutProfileRequest, PutProfileResponse,
};

use crate::beat::BadField;

/// Bounds of a replica's profiles.
#[derive(Debug, Clone)]
pub struct ProfileLimits {
    /// Profiles.
    pub profiles_max: usize,
    /// Ranges of all of them, 16 bytes each.
    pub ranges_max: usize,
    /// Arguments of a command.
    pub entrypoint_args_max: usize,
    /// Bytes of all of them.
    pub entrypoint_bytes_max: usize,
    /// Starts that are asked about at once.
    pub asked_max: usize,
    /// Blobs of a flist whose reads were seen: one per layer.
    pub watched_max: usize,
}

impl Default for ProfileLimits {
    fn default() -> Self {
        Self {
            profiles_max: 16_384,
            ranges_max: 4 << 20,
            entrypoint_args_max: 256,
            entrypoint_bytes_max: 4 << 10,
            asked_max: 256,
            watched_max: 1024,
        }
    }
}

/// What was started.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    what: What,
    entrypoint: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum What {
    Manifest(Sha256Digest),
    Flist(FlistDigest),
}

impl What {
    fn parse(digest: &str) -> Result<Self, impl std::fmt::Display> {
        match digest.starts_with("sha256:") {
            true => digest.parse().map(Self::Manifest),
            false => digest.parse().map(Self::Flist),
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    learnt: Learnt,
    starts: u64,
    used: u64,
}

/// Every profile of a replica.
#[derive(Debug, Default)]
pub struct Profiles {
    limits: ProfileLimits,
    known: HashMap<Key, Known>,
    /// Uses in their order, to forget by.
    used: BTreeMap<u64, Key>,
    uses: u64,
    ranges: usize,
}

impl Profiles {
    /// None yet.
    pub fn new(limits: ProfileLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes in what a start read.
    ///
    /// # Errors
    /// Names the field that is not as it must be; nothing is taken in then.
    pub fn put(&mut self, request: PutProfileRequest) -> Result<PutProfileResponse, BadField> {
        let start = ranges(&request.ranges)?;
        let watched = self.watched(&request.watched_blobs)?;
        let key = self.key(&request.digest, request.entrypoint)?;
        let mut known = self.take(&key).unwrap_or_default();
        if !start.is_empty() {
            known.learnt = known.learnt.after(&start, watched.as_deref());
            known.starts += u64::from(watched.is_some());
        }
        let ranges = known.learnt.len() as u32;
        if ranges > 0 {
            self.keep(key, known);
        }
        Ok(PutProfileResponse { ranges })
    }

    /// What is known of a start.
    ///
    /// # Errors
    /// Names the field that is not as it must be.
    pub fn get(
        &mut self,
        digest: &str,
        entrypoint: Vec<String>,
    ) -> Result<GetProfileResponse, BadField> {
        let key = self.key(digest, entrypoint)?;
        let Some(known) = self.take(&key) else {
            return Ok(GetProfileResponse::default());
        };
        let told = GetProfileResponse {
            ranges: known.learnt.ranges().map(told).collect(),
            starts: known.starts,
        };
        self.keep(key, known);
        Ok(told)
    }

    /// Which of these starts, each of an image's own command, nothing is known of.
    ///
    /// # Errors
    /// Names the field that is not as it must be.
    pub fn unknown(&self, digests: &[String]) -> Result<FindUnknownResponse, BadField> {
        let field = "digests";
        if digests.len() > self.limits.asked_max {
            return Err(BadField::new(field, "there are too many of them"));
        }
        let mut unknown = Vec::new();
        for (index, digest) in digests.iter().enumerate() {
            let what = What::parse(digest);
            let what = what.map_err(|error| BadField::at(field, index, error))?;
            let key = Key {
                what,
                entrypoint: Vec::new(),
            };
            if !self.known.contains_key(&key) {
                unknown.push(index as u32);
            }
        }
        Ok(FindUnknownResponse { unknown })
    }

    /// Profiles, and ranges of all of them.
    pub fn totals(&self) -> (usize, usize) {
        (self.known.len(), self.ranges)
    }

    fn key(&self, digest: &str, entrypoint: Vec<String>) -> Result<Key, BadField> {
        let bad = |why: &str| BadField::new("entrypoint", why);
        if entrypoint.len() > self.limits.entrypoint_args_max {
            return Err(bad("it has too many arguments"));
        }
        let bytes: usize = entrypoint.iter().map(String::len).sum();
        if bytes > self.limits.entrypoint_bytes_max {
            return Err(bad("its arguments are too long"));
        }
        let what = What::parse(digest).map_err(|error| BadField::new("digest", error))?;
        Ok(Key { what, entrypoint })
    }

    fn watched(&self, blobs: &[u32]) -> Result<Option<Vec<u16>>, BadField> {
        let field = "watched_blobs";
        if blobs.len() > self.limits.watched_max {
            return Err(BadField::new(field, "there are too many of them"));
        }
        let parse = |(index, blob): (usize, &u32)| {
            u16::try_from(*blob).map_err(|_| BadField::at(field, index, NO_BLOB))
        };
        let watched: Result<Vec<u16>, BadField> = blobs.iter().enumerate().map(parse).collect();
        Ok(Some(watched?).filter(|watched| !watched.is_empty()))
    }

    fn take(&mut self, key: &Key) -> Option<Known> {
        let known = self.known.remove(key)?;
        self.used.remove(&known.used);
        self.ranges -= known.learnt.len();
        Some(known)
    }

    /// Keeps a profile as the one used last, and makes room for it.
    fn keep(&mut self, key: Key, mut known: Known) {
        self.uses += 1;
        known.used = self.uses;
        self.ranges += known.learnt.len();
        self.used.insert(self.uses, key.clone());
        self.known.insert(key, known);
        while self.known.len() > self.limits.profiles_max || self.ranges > self.limits.ranges_max {
            let Some((_, oldest)) = self.used.pop_first() else {
                return;
            };
            if let Some(known) = self.known.remove(&oldest) {
                self.ranges -= known.learnt.len();
            }
        }
    }
}

const NO_BLOB: &str = "no flist has so many blobs";

fn ranges(ranges: &[ProfileRange]) -> Result<Vec<Range>, BadField> {
    let field = "ranges";
    if ranges.len() > Learnt::RANGES_MAX {
        let why = format!("there are more than {}", Learnt::RANGES_MAX);
        return Err(BadField::new(field, why));
    }
    let entries = ranges
        .iter()
        .map(|range| u64::from(range.count))
        .sum::<u64>();
    if entries > Learnt::ENTRIES_MAX as u64 {
        let why = format!("they have more than {} entries", Learnt::ENTRIES_MAX);
        return Err(BadField::new(field, why));
    }
    let parse = |(index, range): (usize, &ProfileRange)| {
        let bad = |why: &str| BadField::at(field, index, why);
        if range.first_entry.checked_add(range.count).is_none() {
            return Err(bad("its end overflows"));
        }
        Ok(Range {
            blob: u16::try_from(range.blob).map_err(|_| bad(NO_BLOB))?,
            first_entry: range.first_entry,
            count: range.count,
        })
    };
    ranges.iter().enumerate().map(parse).collect()
}

fn told(range: Range) -> ProfileRange {
    ProfileRange {
        blob: range.blob.into(),
        first_entry: range.first_entry,
        count: range.count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flist(n: u8) -> String {
        FlistDigest::of(&[n]).to_string()
    }

    fn range(blob: u32, first_entry: u32, count: u32) -> ProfileRange {
        ProfileRange {
            blob,
            first_entry,
            count,
        }
    }

    fn put(digest: String, ranges: Vec<ProfileRange>) -> PutProfileRequest {
        PutProfileRequest {
            digest,
            entrypoint: vec!["python".into()],
            ranges,
            watched_blobs: vec![0],
            node_id: String::new(),
        }
    }

    fn get(profiles: &mut Profiles, digest: &str) -> GetProfileResponse {
        profiles.get(digest, vec!["python".into()]).unwrap()
    }

    #[test]
    fn starts_of_all_nodes_are_merged_as_a_node_merges_its_own() {
        let mut profiles = Profiles::new(ProfileLimits::default());
        profiles.put(put(flist(1), vec![range(0, 5, 3)])).unwrap();
        profiles.put(put(flist(1), vec![range(0, 9, 1)])).unwrap();
        let told = get(&mut profiles, &flist(1));
        assert_eq!(told.ranges, [range(0, 9, 1), range(0, 5, 3)]);
        assert_eq!(told.starts, 2);
        for _ in 0..3 {
            profiles.put(put(flist(1), vec![range(0, 9, 1)])).unwrap();
        }
        assert_eq!(get(&mut profiles, &flist(1)).ranges, [range(0, 9, 1)]);
        assert_eq!(
            profiles.get(&flist(1), vec![]).unwrap().starts,
            0,
            "another command"
        );
        let manifest = Sha256Digest::from_bytes([1; 32]).to_string();
        profiles
            .put(put(manifest.clone(), vec![range(1, 1, 1)]))
            .unwrap();
        assert_eq!(get(&mut profiles, &manifest).ranges, [range(1, 1, 1)]);
    }

    #[test]
    fn what_is_not_known_is_named_by_its_place() {
        let mut profiles = Profiles::new(ProfileLimits::default());
        for n in [1, 3] {
            let mut known = put(flist(n), vec![range(0, 5, 3)]);
            known.entrypoint.clear();
            profiles.put(known).unwrap();
        }
        profiles.put(put(flist(2), vec![range(0, 5, 3)])).unwrap();
        let asked: Vec<String> = (0..4).map(flist).collect();
        assert_eq!(profiles.unknown(&asked).unwrap().unknown, [0, 2]);
        let bad = profiles.unknown(&[flist(1), "sha256:1".into()]);
        assert_eq!(bad.unwrap_err().field(), "digests[1]");
        let many = profiles.unknown(&vec![flist(1); 257]);
        assert_eq!(many.unwrap_err().field(), "digests");
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut profiles = Profiles::new(ProfileLimits {
            profiles_max: 3,
            ranges_max: 7,
            ..ProfileLimits::default()
        });
        for n in 0..3 {
            profiles
                .put(put(flist(n), vec![range(0, 1, 1), range(0, 9, 1)]))
                .unwrap();
        }
        get(&mut profiles, &flist(0));
        profiles.put(put(flist(3), vec![range(0, 1, 1)])).unwrap();
        assert_eq!(profiles.totals(), (3, 5));
        assert_eq!(
            get(&mut profiles, &flist(1)).ranges.len(),
            0,
            "unused longest"
        );
        assert_eq!(get(&mut profiles, &flist(0)).ranges.len(), 2);
        let many: Vec<_> = (0..7).map(|n| range(0, n * 2, 1)).collect();
        profiles.put(put(flist(4), many)).unwrap();
        assert_eq!(profiles.totals(), (1, 7));
        assert_eq!(profiles.used.len(), 1);
    }

    #[test]
    fn what_is_absurd_is_refused_by_the_name_of_its_field() {
        type Spoil = fn(&mut PutProfileRequest);
        let mut profiles = Profiles::new(ProfileLimits::default());
        let table: [(&str, Spoil); 9] = [
            ("digest", |p| p.digest.clear()),
            ("digest", |p| p.digest = "sha256:12".into()),
            ("entrypoint", |p| p.entrypoint = vec![String::new(); 257]),
            ("entrypoint", |p| p.entrypoint = vec!["x".repeat(4097)]),
            ("ranges", |p| p.ranges = vec![range(0, 0, 1); 65_537]),
            ("ranges", |p| p.ranges = vec![range(0, 0, 1 << 18); 2]),
            ("ranges[0]", |p| p.ranges = vec![range(65_536, 0, 1)]),
            ("ranges[0]", |p| p.ranges = vec![range(0, u32::MAX, 1)]),
            ("watched_blobs", |p| p.watched_blobs = vec![0; 1025]),
        ];
        for (field, spoil) in table {
            let mut request = put(flist(1), vec![range(0, 1, 1)]);
            spoil(&mut request);
            let error = profiles.put(request).unwrap_err();
            assert_eq!(error.field(), field, "{error}");
        }
        assert_eq!(profiles.totals(), (0, 0));
    }
}
