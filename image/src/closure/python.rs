//! What a Python interpreter imports before any program, and what it never
//! opens because it is frozen into it.
//!
//! Watched with strace on `CPython` 3.11: the interpreter's libraries, then
//! `encodings` (the other start-up modules are frozen since 3.11, before that
//! they are files too), `.pth` files of each site directory, `sitecustomize`.

use super::listing::Minor;

/// Since when most of the start-up modules are frozen.
const FROZEN_SINCE: Minor = 11;
/// Frozen modules that exist as files too; from `Python/frozen.c`.
const FROZEN: [&str; 17] = [
    "_collections_abc",
    "_sitebuiltins",
    "abc",
    "codecs",
    "genericpath",
    "importlib._bootstrap",
    "importlib._bootstrap_external",
    "importlib.machinery",
    "importlib.util",
    "io",
    "ntpath",
    "os",
    "posixpath",
    "runpy",
    "site",
    "stat",
    "zipimport",
];

/// Modules every start imports; found as files or, being frozen, not at all.
const STARTUP_OLD: [&str; 16] = [
    "encodings",
    "codecs",
    "encodings.aliases",
    "encodings.utf_8",
    "encodings.latin_1",
    "io",
    "abc",
    "site",
    "os",
    "stat",
    "_collections_abc",
    "posixpath",
    "genericpath",
    "_sitebuiltins",
    "_bootlocale",
    "sitecustomize",
];
const STARTUP_NEW: [&str; 4] = [
    "encodings",
    "encodings.aliases",
    "encodings.utf_8",
    "sitecustomize",
];

/// Modules imported before the program.
pub(super) fn startup(minor: Minor) -> &'static [&'static str] {
    if minor < FROZEN_SINCE {
        &STARTUP_OLD
    } else {
        &STARTUP_NEW
    }
}

/// Whether importing `name` opens no file.
pub(super) fn is_frozen(minor: Minor, name: &str) -> bool {
    minor >= FROZEN_SINCE && FROZEN.contains(&name)
}
