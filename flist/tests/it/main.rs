//! The crate from outside: files written, read back, attacked, mounted.

mod kernel;
mod support;
