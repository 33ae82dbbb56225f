//! libFuzzer around `fuzz_targets::vhost_user_stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_targets::vhost_user_stream::run(bytes));
