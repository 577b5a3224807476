//! distcifs_fuzz::delivery for libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| distcifs_fuzz::delivery(bytes));
