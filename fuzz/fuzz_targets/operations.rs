//! libFuzzer around `fuzz_targets::operations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_targets::operations::run(bytes));
