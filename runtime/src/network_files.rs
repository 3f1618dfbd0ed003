//! Files that say where the names of a network are: what a sandbox on this machine's network must know of it.

use std::fs::File;
use std::io::Read;

use crate::spec::ShownFile;

/// Where they are, here and inside.
pub const NETWORK_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// Larger ones are cut.
const NETWORK_FILE_MAX: u64 = 64 << 10;

/// This machine's; what is not there is not shown.
pub fn of_host() -> Vec<ShownFile> {
    let read = |path: &str| {
        let mut content = Vec::new();
        let file = File::open(path).ok()?;
        file.take(NETWORK_FILE_MAX).read_to_end(&mut content).ok()?;
        let path = path.to_owned();
        Some(ShownFile { path, content })
    };
    NETWORK_FILES.into_iter().filter_map(read).collect()
}
