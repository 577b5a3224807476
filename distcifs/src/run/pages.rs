//! `distcifs completion` and `distcifs man`.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use super::{Failure, Outcome};
use crate::cli::{self, Cli};

/// Prints a completion script.
pub(super) fn completion(arguments: &cli::Completion) -> Outcome {
    let shell = match arguments.shell {
        cli::Shell::Bash => Shell::Bash,
        cli::Shell::Zsh => Shell::Zsh,
        cli::Shell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "distcifs", &mut script);
    print(&script)
}

/// Prints the main page, or writes one for each command.
pub(super) fn man(arguments: &cli::Man) -> Outcome {
    let explain = |error: std::io::Error| Failure::Refused(format!("the manual: {error}"));
    match &arguments.dir {
        Some(dir) => {
            let place = |error: std::io::Error| Failure::Refused(format!("{}: {error}", dir.display()));
            std::fs::create_dir_all(dir).map_err(place)?;
            clap_mangen::generate_to(Cli::command(), dir).map_err(place)
        }
        None => {
            let mut page = Vec::new();
            Man::new(Cli::command()).render(&mut page).map_err(explain)?;
            print(&page)
        }
    }
}

/// To standard output; a reader that has had enough (`| head`) is no error.
fn print(text: &[u8]) -> Outcome {
    match std::io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Refused(format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
