//! Shared pieces of the tests on real mounts.
