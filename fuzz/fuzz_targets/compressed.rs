#![no_main]
//! See `bodies/compressed.rs`.

#[path = "../bodies/compressed.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
