//! libFuzzer around `fuzz_targets::store_image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_targets::store_image::run(bytes));
