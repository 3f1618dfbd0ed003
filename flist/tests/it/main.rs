//! The crate from outside: files written, read back, attacked, mounted.

mod hostile;
mod kernel;
mod overlay;
mod roundtrip;
mod scale;
mod support;
mod whole;
