#![no_main]
//! See `bodies/pack.rs`.

#[path = "../bodies/pack.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
