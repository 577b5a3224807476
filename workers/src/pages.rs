//! The command line of a worker: its arguments, its manual page (`--man`) and its completion.

use std::io::{self, Write};
use std::process::exit;

use clap::{Arg, ArgAction, Command, Parser};
use clap_complete::Shell;
use clap_mangen::Man;

/// Reads the arguments of the program `name`; for `--man` and `--completion`, prints what was asked for
/// and ends.
pub fn arguments<A: Parser>(name: &'static str) -> A {
    read(name, A::command())
}

/// The same for a program whose description is not that of its arguments.
pub fn read<A: Parser>(name: &'static str, command: Command) -> A {
    let command = command.name(name).arg(man()).arg(completion());
    let matches = command.clone().get_matches();
    let printed = if matches.get_flag("man") {
        page(name, command)
    } else if let Some(shell) = matches.get_one::<String>("completion") {
        Ok(script(name, command, shell))
    } else {
        return A::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    };
    let printed = printed.and_then(|text| io::stdout().lock().write_all(&text));
    exit(match printed {
        Ok(()) => 0,
        // A reader that has had enough (`| head`) is no error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            eprintln!("{name}: standard output: {error}");
            1
        }
    })
}

fn man() -> Arg {
    let arg = Arg::new("man").long("man").action(ArgAction::SetTrue).exclusive(true);
    arg.help("Prints the manual page; read it with: man -l -")
}

fn completion() -> Arg {
    Arg::new("completion")
        .long("completion")
        .value_name("SHELL")
        .value_parser(["bash", "zsh", "fish"])
        .exclusive(true)
        .help("Prints a completion script for the shell")
}

/// The page, in roff. It is called distcifs-NAME, as there are other programs called cron.
fn page(name: &str, command: Command) -> io::Result<Vec<u8>> {
    let title = format!("distcifs-{name}");
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command.bin_name(name)).title(title.as_str()).section("8");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    let plain = |text: &str| text.replace('\\', "\\e").replace('-', "\\-").replace('\n', " ");
    writeln!(page, ".SH NAME\n{} \\- {}", plain(&title), plain(&about))?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(
        page,
        ".SH FILES\nThe contract between workers and the tree is doc/tree.md, that of workers doc/workers.md.\n\
         .SH \"SEE ALSO\"\ndistcifs(1), distcifs\\-up(1)"
    )?;
    Ok(page)
}

fn script(name: &str, mut command: Command, shell: &str) -> Vec<u8> {
    let shell = match shell {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}
