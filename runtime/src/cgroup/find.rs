//! Which cgroup hierarchies there are, and where ours are in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::tree::{Files, Need, needs};
use super::{Cgroup, CgroupError, ResourceLimits, io_error};

/// Where sandboxes' cgroups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// One directory per controller; several controllers may share one.
    Version1(BTreeMap<String, PathBuf>),
    /// One directory, and what its children may use.
    Version2 {
        /// The parent of sandboxes' cgroups.
        parent: PathBuf,
        /// Controllers.
        controllers: Vec<String>,
    },
}

/// The cgroup of processes that made room for those of sandboxes.
const DAEMONS: &str = "lamina-daemons";
/// Controllers that are used where they are.
const CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "cpuacct", "io"];

impl Cgroups {
    /// Finds them: version 2 where it has the controllers, else version 1, else none.
    ///
    /// # Errors
    /// When the kernel's tables cannot be read.
    pub fn find() -> Result<Self, CgroupError> {
        let read = |path: &str| {
            std::fs::read_to_string(path).map_err(io_error("reading", Path::new(path)))
        };
        let places = places(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        if let Some(own) = places.unified
            && let Some((parent, controllers)) = delegating(&own.mount, &own.own)
        {
            return Ok(Self::Version2 {
                parent,
                controllers,
            });
        }
        Ok(Self::Version1(places.controllers))
    }

    /// The same for a daemon that is alone in its container: where nothing but its own processes keeps its cgroup from
    /// having children with controllers (version 2), they go into a child of it first.
    ///
    /// # Errors
    /// When the kernel's tables cannot be read.
    pub fn find_in_container() -> Result<Self, CgroupError> {
        let found = Self::find()?;
        if found.has("memory") || found.has("pids") {
            return Ok(found);
        }
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let places = places(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        match places.unified {
            // The top of what we see, where it is not the machine's: that one has children whatever is in it.
            Some(own) if own.own == own.mount => {
                move_into_child(&own.own)?;
                Self::find()
            }
            _ => Ok(found),
        }
    }

    /// Makes one with these limits. What is left of an earlier one of the name is removed first.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn create(&self, name: &str, limits: &ResourceLimits) -> Result<Cgroup, CgroupError> {
        self.check(limits)?;
        let cgroup = self.known(name);
        cgroup.take_down()?;
        for dir in cgroup.files.dirs() {
            std::fs::create_dir(dir).map_err(io_error("making", dir))?;
        }
        cgroup.files.limit(limits)?;
        Ok(cgroup)
    }

    /// Whether this machine can keep these limits.
    ///
    /// # Errors
    /// [`CgroupError::Missing`] for the first that it cannot keep.
    pub fn check(&self, limits: &ResourceLimits) -> Result<(), CgroupError> {
        let missing = |need: &Need| !self.has(need.controller);
        match needs(limits).into_iter().find(missing) {
            Some(Need { controller, what }) => Err(CgroupError::Missing { controller, what }),
            None => Ok(()),
        }
    }

    /// Removes what a killed supervisor left of that name.
    ///
    /// # Errors
    /// When processes in it do not die.
    pub fn sweep(&self, name: &str) -> Result<(), CgroupError> {
        self.known(name).remove()
    }

    fn known(&self, name: &str) -> Cgroup {
        let files = match self {
            Self::Version1(controllers) => {
                let below =
                    |(controller, dir): (&String, &PathBuf)| (controller.clone(), dir.join(name));
                Files::Version1(controllers.iter().map(below).collect())
            }
            Self::Version2 { parent, .. } => Files::Version2(parent.join(name)),
        };
        Cgroup {
            files,
            is_removed: false,
        }
    }

    /// Whether sandboxes can be limited by this controller.
    pub fn has(&self, controller: &str) -> bool {
        match self {
            Self::Version1(controllers) => controllers.contains_key(controller),
            Self::Version2 { controllers, .. } => controllers.iter().any(|has| has == controller),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Unified {
    mount: PathBuf,
    own: PathBuf,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    unified: Option<Unified>,
    controllers: BTreeMap<String, PathBuf>,
}

/// Own directories by `/proc/self/mountinfo` and `/proc/self/cgroup` (`cgroups(7)`).
fn places(mountinfo: &str, cgroup: &str) -> Places {
    let mut places = Places::default();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let fields: Vec<&str> = left.split(' ').collect();
        let (Some(root), Some(mount)) = (fields.get(3), fields.get(4)) else {
            continue;
        };
        let mut right = right.split(' ');
        let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
        match kind {
            Some("cgroup2") => {
                if let Some(own) = own_directory(cgroup, "", root, mount) {
                    let mount = PathBuf::from(mount);
                    places.unified.get_or_insert(Unified { mount, own });
                }
            }
            Some("cgroup") => {
                for controller in options.split(',').filter(|name| CONTROLLERS.contains(name)) {
                    if let Some(own) = own_directory(cgroup, controller, root, mount) {
                        places
                            .controllers
                            .entry(controller.to_owned())
                            .or_insert(own);
                    }
                }
            }
            _ => {}
        }
    }
    places
}

/// Where our cgroup of a hierarchy is below its mount, which may show a part of the hierarchy only.
fn own_directory(cgroup: &str, controller: &str, root: &str, mount: &str) -> Option<PathBuf> {
    let own = cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_it = controllers.split(',').any(|name| name == controller);
        is_it.then_some(path)
    })?;
    let below = Path::new(own).strip_prefix(root).ok()?;
    Some(Path::new(mount).join(below))
}

/// The nearest directory from ours upwards whose children may have controllers: ours, if it has no processes but
/// is the top; else one above, since a cgroup with processes has no children with controllers.
fn delegating(mount: &Path, own: &Path) -> Option<(PathBuf, Vec<String>)> {
    let candidates = own.ancestors().take_while(|dir| dir.starts_with(mount));
    for dir in candidates {
        let words = |name: &str| -> Vec<String> {
            let text = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        };
        let available = words("cgroup.controllers");
        let is_available = |name: &&str| available.iter().any(|has| has == name);
        let enable =
            |name: &str| std::fs::write(dir.join("cgroup.subtree_control"), format!("+{name}"));
        // Refused where processes are; then the next one above may do it. The others are not tried then: some would be
        // enabled even so, and children of such a cgroup take threads alone.
        if is_available(&"memory") && enable("memory").is_err() {
            continue;
        }
        for controller in CONTROLLERS.into_iter().filter(is_available) {
            let _ = enable(controller);
        }
        let enabled = words("cgroup.subtree_control");
        if enabled
            .iter()
            .any(|name| name == "memory" || name == "pids")
        {
            return Some((dir.to_owned(), enabled));
        }
    }
    None
}

/// Moves every process of a cgroup into a child of it.
fn move_into_child(own: &Path) -> Result<(), CgroupError> {
    let child = own.join(DAEMONS);
    match std::fs::create_dir(&child) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(io_error("making", &child)(error));
        }
        _ => {}
    }
    let path = own.join("cgroup.procs");
    let processes = std::fs::read_to_string(&path).map_err(io_error("reading", &path))?;
    let into = child.join("cgroup.procs");
    for pid in processes.lines() {
        match std::fs::write(&into, pid) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            other => other.map_err(io_error("adding a process to", &into))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::IoLimit;
    use super::*;

    #[test]
    fn own_directories_are_found_below_mounts_that_show_a_part() {
        let mountinfo = "\
            30 20 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
            31 30 0:27 /pod/c1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let cgroup = "4:memory:/pod/c1/x\n3:cpu,cpuacct:/a\n1:name=systemd:/\n0::/b\n";
        let found = places(mountinfo, cgroup);
        let dirs: Vec<(&str, &str)> = found
            .controllers
            .iter()
            .map(|(name, dir)| (name.as_str(), dir.to_str().unwrap()))
            .collect();
        assert_eq!(
            dirs,
            [
                ("cpu", "/sys/fs/cgroup/cpu,cpuacct/a"),
                ("cpuacct", "/sys/fs/cgroup/cpu,cpuacct/a"),
                ("memory", "/sys/fs/cgroup/memory/x"),
            ]
        );
        let unified = found.unified.unwrap();
        assert_eq!(unified.own, Path::new("/sys/fs/cgroup/unified/b"));
    }

    #[test]
    fn a_limit_without_its_controller_is_refused_by_name() {
        let none = Cgroups::Version1(BTreeMap::new());
        let pids = ResourceLimits {
            pids: Some(10),
            ..ResourceLimits::default()
        };
        let io = ResourceLimits {
            io: Some(IoLimit {
                device: (7, 0),
                read_bps: None,
                write_bps: Some(1),
            }),
            ..ResourceLimits::default()
        };
        for (limits, controller) in [(pids, "`pids`"), (io, "`io`")] {
            let refused = none.create("x", &limits).unwrap_err().to_string();
            assert!(refused.contains(controller), "{refused}");
        }
    }
}
