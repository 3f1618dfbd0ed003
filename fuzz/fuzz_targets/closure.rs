#![no_main]
//! See `bodies/closure.rs`.

#[path = "../bodies/closure.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
