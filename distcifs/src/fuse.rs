//! Kernel request -> tree call -> reply.
