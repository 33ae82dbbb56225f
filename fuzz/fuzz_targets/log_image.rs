//! libFuzzer around `fuzz_targets::log_image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_targets::log_image::run(bytes));
