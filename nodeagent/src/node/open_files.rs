//! How many files this process may have open: as many as it is allowed to allow itself.
//!
//! Layers, flists and connections are files, and the usual 1024 are few; what the limit is for, programs that use
//! `select(2)`, is none of ours.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as it goes. Fewer are no reason not to start.
pub(super) fn allow_all() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, "allow this process more open files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_machine_allows() {
        let limit = getrlimit(Resource::Nofile);
        let fewer = Rlimit {
            current: limit.maximum.map(|most| most - 1),
            ..limit
        };
        setrlimit(Resource::Nofile, fewer).unwrap();
        allow_all();
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }
}
