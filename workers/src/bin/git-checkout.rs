//! git-checkout, a worker: src/checkout.rs.

use std::process::ExitCode;

fn main() -> ExitCode {
    distcifs_workers::task::main(&distcifs_workers::checkout::CHECKOUT)
}
