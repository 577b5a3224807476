//! distcifs_fuzz::tasks for libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| distcifs_fuzz::tasks(bytes));
