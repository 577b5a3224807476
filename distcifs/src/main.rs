//! The program: parse, run, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    match distcifs::cli::parse(std::env::args_os().collect()) {
        Ok(cli) => distcifs::run::run(cli),
        Err(error) => error.exit(),
    }
}
