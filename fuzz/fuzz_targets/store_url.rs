#![no_main]
//! See `bodies/store_url.rs`.

#[path = "../bodies/store_url.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
