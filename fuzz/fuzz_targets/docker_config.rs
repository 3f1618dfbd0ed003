#![no_main]
//! See `bodies/docker_config.rs`.

#[path = "../bodies/docker_config.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
