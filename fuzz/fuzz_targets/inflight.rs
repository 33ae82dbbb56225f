//! libFuzzer around `fuzz_targets::inflight`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_targets::inflight::run(bytes));
