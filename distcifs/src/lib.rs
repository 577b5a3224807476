//! distcifs mounts a continuous integration as a filesystem.
//!
//! The modules stand in layer order; a request goes down this list once and its answer comes up
//! once (doc/architecture.md).

#[macro_use]
mod say;

pub mod cli;
pub mod run;

pub mod fuse;
pub mod tree;

pub mod repository;

pub mod storage;

pub mod backend;
