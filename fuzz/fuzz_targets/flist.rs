#![no_main]
//! See `bodies/flist.rs`.

#[path = "../bodies/flist.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
