#![no_main]
//! See `bodies/reference.rs`.

#[path = "../bodies/reference.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
