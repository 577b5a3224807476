//! `distcifs completion` and `distcifs man`.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
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
    let mut command = Cli::command();
    command.build();
    let Some(dir) = &arguments.dir else {
        let page = page(&command).map_err(|error| Failure::Refused(format!("the manual: {error}")))?;
        return print(&page);
    };
    let place = |error: io::Error| Failure::Refused(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(place)?;
    for command in pages(&command) {
        let file = dir.join(Man::new(command.clone()).get_filename());
        page(command)
            .and_then(|page| std::fs::write(file, page))
            .map_err(place)?;
    }
    Ok(())
}

/// The commands that have a page.
fn pages(command: &Command) -> Vec<&Command> {
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    std::iter::once(command).chain(shown.flat_map(pages)).collect()
}

/// The page of a command, in roff.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    // What follows the options is laid out already: lines stay lines.
    let rest = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for line in rest.lines() {
        match line.strip_prefix("  ") {
            Some(text) => {
                // A dot or an apostrophe would begin a request of roff.
                let guard = if text.starts_with(['.', '\'']) { "\\&" } else { "" };
                writeln!(page, "{guard}{}", text.replace('\\', "\\e").replace('-', "\\-"))?;
            }
            None if line.is_empty() => {}
            None => write!(page, ".fi\n.SH \"{line}\"\n.nf\n")?,
        }
    }
    Ok(page)
}

/// To standard output; a reader that has had enough (`| head`) is no error.
pub(super) fn print(text: &[u8]) -> Outcome {
    match std::io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Refused(format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything after the options is a heading or is indented, and every page tells the exit status.
    #[test]
    fn pages_keep_the_layout_of_the_help() {
        let mut command = Cli::command();
        command.build();
        for command in pages(&command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter(|line| !line.is_empty() && !line.starts_with("  ")) {
                let heading = line.chars().take(2).all(|c| c.is_ascii_uppercase());
                assert!(heading, "{}: neither heading nor indented: {line}", command.get_name());
            }
            let page = String::from_utf8(page(command).unwrap()).unwrap();
            assert!(page.contains(".SH \"EXIT STATUS\"\n.nf\n"), "{page}");
            assert!(!page.contains("\n../"), "a path is no request: {page}");
            assert!(page.starts_with(".ie") && page.contains(".SH SYNOPSIS"), "{page}");
        }
    }
}
