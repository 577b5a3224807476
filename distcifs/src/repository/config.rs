//! Job configurations: reading and checking (doc/job.md).
