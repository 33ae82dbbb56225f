//! libFuzzer around `fuzz_targets::request_path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_targets::request_path::run(bytes));
