//! Which images are mounted, under which names they are known, and when they were used. No I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::mounted::Mounted;

/// Most names that are remembered; as many are told to who asks for what is warm.
const NAMES_MAX: usize = 1024;

#[derive(Debug)]
struct Name {
    /// As it is told.
    key: String,
    digest: String,
    resolved: Instant,
    used: u64,
}

#[derive(Debug)]
struct Entry {
    mounted: Arc<Mounted>,
    used: u64,
}

/// The books.
#[derive(Debug)]
pub(super) struct Books {
    idle_max: usize,
    names: HashMap<String, Name>,
    /// By digest.
    mounts: HashMap<String, Entry>,
    /// Counts uses: what was used later has more.
    clock: u64,
}

impl Books {
    pub(super) fn new(idle_max: usize) -> Self {
        Self {
            idle_max,
            names: HashMap::new(),
            mounts: HashMap::new(),
            clock: 0,
        }
    }

    /// What a name stands for, if that was found out not longer than `ttl` ago and is mounted. A digest stands for
    /// itself.
    pub(super) fn find(&mut self, name: &str, now: Instant, ttl: Duration) -> Option<Arc<Mounted>> {
        let known = self.names.get_mut(name)?;
        let is_pinned = known.key.contains("sha256:") || known.key.starts_with("flist|");
        let is_fresh = now.saturating_duration_since(known.resolved) <= ttl;
        let entry = self.mounts.get(&known.digest)?;
        if !is_pinned && !is_fresh {
            return None;
        }
        self.clock += 1;
        known.used = self.clock;
        Some(Arc::clone(&entry.mounted))
    }

    pub(super) fn of_digest(&self, digest: &str) -> Option<Arc<Mounted>> {
        let entry = self.mounts.get(digest)?;
        Some(Arc::clone(&entry.mounted))
    }

    pub(super) fn add(&mut self, mounted: &Arc<Mounted>) {
        self.clock += 1;
        let entry = Entry {
            mounted: Arc::clone(mounted),
            used: self.clock,
        };
        self.mounts.insert(mounted.digest().to_owned(), entry);
    }

    /// A name was found to stand for it.
    pub(super) fn name(&mut self, name: &str, key: &str, mounted: &Mounted, now: Instant) {
        self.clock += 1;
        let known = Name {
            key: key.to_owned(),
            digest: mounted.digest().to_owned(),
            resolved: now,
            used: self.clock,
        };
        self.names.insert(name.to_owned(), known);
        if self.names.len() > NAMES_MAX {
            let oldest = self.names.iter().min_by_key(|(_, name)| name.used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.names.remove(&oldest);
            }
        }
    }

    /// It is used now; `false` if it is not mounted any more.
    pub(super) fn touch(&mut self, mounted: &Arc<Mounted>) -> bool {
        self.clock += 1;
        match self.mounts.get_mut(mounted.digest()) {
            Some(entry) if Arc::ptr_eq(&entry.mounted, mounted) => {
                entry.used = self.clock;
                true
            }
            _ => false,
        }
    }

    /// It is not there any more.
    pub(super) fn forget(&mut self, mounted: &Arc<Mounted>) {
        let is_it = |entry: &Entry| Arc::ptr_eq(&entry.mounted, mounted);
        if self.mounts.get(mounted.digest()).is_some_and(is_it) {
            self.mounts.remove(mounted.digest());
        }
    }

    /// Takes out the idle ones that are too many, least recently used first.
    pub(super) fn evict(&mut self) -> Vec<Arc<Mounted>> {
        let mut idle: Vec<(u64, String)> = self
            .mounts
            .iter()
            .filter(|(_, entry)| entry.mounted.is_idle())
            .map(|(digest, entry)| (entry.used, digest.clone()))
            .collect();
        if idle.len() <= self.idle_max {
            return Vec::new();
        }
        idle.sort_unstable();
        let too_many = idle.len() - self.idle_max;
        let digests: Vec<String> = idle.into_iter().take(too_many).map(|(_, d)| d).collect();
        self.take(&digests)
    }

    /// Takes out those of these digests that are idle.
    pub(super) fn take_idle(&mut self, digests: &[String]) -> Vec<Arc<Mounted>> {
        let is_idle = |digest: &&String| {
            let entry = self.mounts.get(*digest);
            entry.is_some_and(|entry| entry.mounted.is_idle())
        };
        let idle: Vec<String> = digests.iter().filter(is_idle).cloned().collect();
        self.take(&idle)
    }

    fn take(&mut self, digests: &[String]) -> Vec<Arc<Mounted>> {
        self.names.retain(|_, name| !digests.contains(&name.digest));
        let taken = digests
            .iter()
            .filter_map(|digest| self.mounts.remove(digest));
        taken.map(|entry| entry.mounted).collect()
    }

    pub(super) fn take_all(&mut self) -> Vec<Arc<Mounted>> {
        self.names.clear();
        self.mounts
            .drain()
            .map(|(_, entry)| entry.mounted)
            .collect()
    }

    pub(super) fn count(&self) -> usize {
        self.mounts.len()
    }

    /// Keys of what is mounted, last used first, each once.
    pub(super) fn keys(&self) -> Vec<String> {
        let mounted = self.names.values();
        let mut mounted: Vec<&Name> = mounted
            .filter(|name| self.mounts.contains_key(&name.digest))
            .collect();
        mounted.sort_unstable_by_key(|name| std::cmp::Reverse(name.used));
        let mut seen = std::collections::HashSet::new();
        let keys = mounted.into_iter().map(|name| name.key.clone());
        keys.filter(|key| seen.insert(key.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::mounted::Lease;
    use super::*;
    use lamina_proto::lamina::v1::FlistInfo;

    fn mounted(digest: &str) -> Arc<Mounted> {
        let info = FlistInfo {
            digest: digest.into(),
            ..FlistInfo::default()
        };
        Arc::new(Mounted::new(format!("v-{digest}"), digest.into(), info))
    }

    fn books(idle_max: usize, digests: &[&str]) -> Books {
        let mut books = Books::new(idle_max);
        for digest in digests {
            let mounted = mounted(digest);
            books.add(&mounted);
            let key = format!("{digest}|latest");
            books.name(&key, &key, &mounted, Instant::now());
        }
        books
    }

    #[test]
    fn the_least_recently_used_idle_one_goes() {
        let mut books = books(2, &["a", "b", "c", "d"]);
        let used = Lease::new(books.of_digest("a").unwrap(), || {});
        let second = books.of_digest("b").unwrap();
        assert!(books.touch(&second));
        let gone = books.evict();
        let gone: Vec<&str> = gone.iter().map(|mounted| mounted.digest()).collect();
        assert_eq!(gone, ["c"]);
        assert!(!books.touch(&mounted("c")));
        assert_eq!(books.count(), 3);
        drop(used);
        let gone = books.evict();
        assert_eq!(gone[0].digest(), "a");
        assert!(books.evict().is_empty());
        assert!(!books.keys().contains(&"a|latest".to_owned()));
    }

    #[test]
    fn of_what_is_unwanted_the_idle_goes() {
        let mut books = books(9, &["a", "b", "c"]);
        let used = Lease::new(books.of_digest("a").unwrap(), || {});
        let unwanted = ["a", "b", "x"].map(str::to_owned);
        let gone = books.take_idle(&unwanted);
        assert_eq!((gone.len(), gone[0].digest()), (1, "b"));
        assert_eq!(books.keys(), ["c|latest", "a|latest"]);
        drop(used);
        assert_eq!(books.take_idle(&unwanted)[0].digest(), "a");
    }

    #[test]
    fn tags_are_believed_for_a_while_and_digests_for_ever() {
        let mut books = books(9, &["a"]);
        let pinned = books.of_digest("a").unwrap();
        let then = Instant::now();
        books.name("p", "app|sha256:ab|linux|amd64|", &pinned, then);
        let later = then + Duration::from_secs(3600);
        let ttl = Duration::from_secs(300);
        assert!(books.find("a|latest", then, ttl).is_some());
        assert!(books.find("a|latest", later, ttl).is_none());
        assert!(books.find("a|latest", later, Duration::MAX).is_some());
        assert!(books.find("p", later, ttl).is_some());
        books.forget(&pinned);
        assert!(books.find("p", later, ttl).is_none());
    }

    #[test]
    fn keys_come_last_used_first_and_are_bounded() {
        let mut books = books(9, &["a", "b"]);
        assert_eq!(books.keys(), ["b|latest", "a|latest"]);
        books.find("a|latest", Instant::now(), Duration::MAX);
        assert_eq!(books.keys(), ["a|latest", "b|latest"]);
        let mounted = books.of_digest("a").unwrap();
        for number in 0..2000 {
            let key = format!("k{number}");
            books.name(&key, &key, &mounted, Instant::now());
        }
        assert_eq!(books.keys().len(), NAMES_MAX);
    }
}
