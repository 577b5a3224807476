//! copy-artifacts, a worker: src/artifacts.rs.

use std::process::ExitCode;

fn main() -> ExitCode {
    distcifs_workers::task::main(&distcifs_workers::artifacts::COPY)
}
