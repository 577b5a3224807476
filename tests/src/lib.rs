//! Shared pieces of the tests on real mounts: a mount that never outlives its test, scripts with
//! a time limit, workers, jobs and bounded waiting, a cluster; and the checker of the tidy test.

pub mod browser;
pub mod cluster;
pub mod faults;
pub mod folder;
pub mod github;
pub mod github_api;
pub mod isolation;
pub mod job;
pub mod machine;
pub mod mount;
pub mod page;
pub mod permissions;
pub mod process;
pub mod programs;
pub mod repository;
pub mod shell;
pub mod stuck;
pub mod terminal;
pub mod tidy;
pub mod wait;
pub mod web;
pub mod worker;

pub use cluster::Cluster;
pub use folder::Folder;
pub use machine::Machine;
pub use mount::Mount;
pub use repository::Repository;
pub use shell::{Output, Sh};
pub use wait::{wait_for, wait_some};
pub use web::Web;
pub use worker::Worker;

use std::io;

/// A job of one execute-shell task that says hello.
pub const HELLO: &str = r#"{"tasks":[{"type":"execute-shell","params":{"script":"echo hello\n"}}]}"#;

/// The errno of what must fail; panics if it did not.
pub fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("it was done, though it must be refused"),
        Err(error) => error.raw_os_error().unwrap_or_else(|| panic!("no errno in {error}")),
    }
}
