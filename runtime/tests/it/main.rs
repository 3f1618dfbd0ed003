//! Sandboxes as a supervisor has them, and attacks from inside. Needs root, and busybox as the image.

mod changes;
mod limits;
mod probes;
mod sandbox;
mod world;
