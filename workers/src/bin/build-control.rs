//! build-control: carries builds through their tasks.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use distcifs_workers::control;
use distcifs_workers::pages;
use distcifs_workers::tree::{Tree, Trouble};

/// Carries builds through their tasks: posts a ticket for each task when its time has come,
/// and writes how the build ended.
///
/// Ends with status 0 on TERM or INT, and with 75 when the tree is away.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the tree is mounted
    mount: PathBuf,
}

fn main() -> ExitCode {
    let arguments: Arguments = pages::arguments("build-control");
    let ended = Tree::new(&arguments.mount)
        .map_err(|e| Trouble::Refused(format!("{}: {e}", arguments.mount.display())))
        .and_then(|tree| control::run(&tree));
    Trouble::report("build-control", ended)
}
