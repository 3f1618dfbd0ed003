//! What is to be run, as it is typed: a file of this machine, or a name for others to find.
//!
//! Always: what can only be meant as a file is never looked for in a registry.

use crate::exit;
use std::path::Path;

/// Whether only a file can be meant: a path, or the ending that flists have. An image of such a name has a tag behind it.
pub(super) fn is_path(typed: &str) -> bool {
    let begins = ["/", "./", "../", "~"];
    matches!(typed, "." | "..")
        || Path::new(typed).extension() == Some("fl".as_ref())
        || begins.iter().any(|begin| typed.starts_with(begin))
}

/// There is no such file.
pub(super) fn missing(typed: &str) -> exit::Usage {
    exit::Usage(match Path::new(typed).is_dir() {
        true => format!("{typed} is a directory, and no flist: `lamina pack` makes one of it"),
        false => format!("there is no file {typed}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_flists_are_told_from_images() {
        for path in ["/x", "./x", "../x", "x.fl", "dir/x.fl", "~/x", ".", "~me/x"] {
            assert!(is_path(path), "{path}");
        }
        for image in [
            "debian",
            "registry.example/x.fl:1",
            "a/b",
            "oci:./x",
            "x.flac",
        ] {
            assert!(!is_path(image), "{image}");
        }
    }
}
