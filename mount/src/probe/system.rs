//! User namespaces and fanotify.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::Finding;
use crate::sys::probe as sys;

pub(super) fn user_namespaces() -> Finding {
    Finding::of(
        "a child with its own user and mount namespace that opens overlayfs",
        sys::fsopen_in_user_namespace(c"overlay"),
        "commands can run as root of their own user namespace",
        "commands run without a user namespace of their own",
        Some(
            "raise /proc/sys/user/max_user_namespaces; on Debian set \
             kernel.unprivileged_userns_clone=1; in a container allow unshare in seccomp",
        ),
    )
}

pub(super) fn fanotify_pre_content(scratch: &Path) -> io::Result<Finding> {
    let path = scratch.join("watched");
    let file = std::fs::File::create(&path)?;
    let mark = || sys::fanotify_mark_pre_access(sys::fanotify_pre_content()?.as_fd(), file.as_fd());
    Ok(Finding::of(
        "a pre-access mark on a file beside the cache",
        mark(),
        "blobs could be filled without FUSE; not used yet",
        "blobs are filled through FUSE; nothing is lost",
        None,
    ))
}
