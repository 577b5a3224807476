//! cron: starts builds when their job's schedule says so.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use distcifs_workers::cron;
use distcifs_workers::pages;
use distcifs_workers::tree::{Tree, Trouble};

/// Starts builds of the jobs that have a schedule (`"cron"` in config.json), each time once,
/// however many of these run.
///
/// Ends with status 0 on TERM or INT, and with 75 when the tree is away.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the tree is mounted
    mount: PathBuf,
    /// How late a time is still on time; later it is missed, and only made up for by jobs with
    /// `"cron_catch_up": true`
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=3600))]
    late: u32,
}

fn main() -> ExitCode {
    let arguments: Arguments = pages::arguments("cron");
    let ended = Tree::new(&arguments.mount)
        .map_err(|e| Trouble::Refused(format!("{}: {e}", arguments.mount.display())))
        .and_then(|tree| cron::run(&tree, arguments.late));
    Trouble::report("cron", ended)
}
