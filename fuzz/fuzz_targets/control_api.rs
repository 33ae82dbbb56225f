//! libFuzzer around `fuzz_targets::control_api`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_targets::control_api::run(bytes));
