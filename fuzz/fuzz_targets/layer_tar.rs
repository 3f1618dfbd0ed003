#![no_main]
//! See `bodies/layer_tar.rs`.

#[path = "../bodies/layer_tar.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
