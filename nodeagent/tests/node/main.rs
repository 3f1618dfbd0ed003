//! The node's daemons as processes, on a real kernel. Needs root, FUSE, EROFS
//! from files (Linux 6.12); without them every test here says so and fails,
//! because a silent pass would hide what this crate is about.

mod alive;
#[path = "../../examples/testnode/content.rs"]
#[allow(dead_code)]
mod content;
mod image;
mod kill;
mod outage;
mod support;
