//! execute-shell: runs the scripts of tickets.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use distcifs_workers::keeper::{Role, keep};
use distcifs_workers::pages;
use distcifs_workers::reports;
use distcifs_workers::shell::{self, Setup, told, unpack};
use distcifs_workers::tree::{EXIT_TREE_AWAY, Tree, Trouble};
use distcifs_workers::{eprintln, identity};

/// Runs the scripts of tickets, one after the other, each under `sh -e` in its workspace.
///
/// Ends with status 0 on TERM or INT, after the script that runs on USR1, and with 75 when the tree
/// is away. Start several for scripts side by side. A second process of the same name stands above
/// the worker and ends the script if the worker is killed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the tree is mounted
    mount: PathBuf,
    /// What this worker has: a ticket goes to it only if all the ticket's labels are among these
    labels: Vec<String>,
    /// The isolations whose tickets it takes, and no others (default: all that work here)
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    isolation: Vec<String>,
    /// Offers the isolations namespace and lxc also where the kernel has no Landlock (Linux 5.19). A script in
    /// them can then take a folder of the node from a friend there by a socket, and leave a program in it with
    /// which he has the ids of isolated scripts
    #[arg(long)]
    without_landlock: bool,
    /// A folder with environments of one's own; may be repeated
    #[arg(long, value_name = "DIR")]
    environments: Vec<PathBuf>,
    /// Where it keeps images and what its scripts need while they run; workers of a node share it
    /// (default: /var/lib/distcifs/shell, or ~/.local/state/distcifs/shell)
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How much room unpacked images may take, such as 500M
    #[arg(long, value_name = "SIZE", default_value = "20G", value_parser = size)]
    image_cache: u64,
    #[command(flatten)]
    identity: identity::Options,
}

/// A number of bytes, with K, M, G or T after it for powers of 1,024.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = ["", "K", "M", "G", "T"].iter().position(|known| *known == unit);
    let bytes = shift.and_then(|shift| number.parse::<u64>().ok()?.checked_mul(1 << (10 * shift)));
    bytes.ok_or_else(|| "not a number of bytes such as 500M or 20G".to_owned())
}

fn main() -> ExitCode {
    if let Some(ended) = identity::program::main() {
        return ExitCode::from(ended);
    }
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if let Some(ended) = shell::idmap::main(&words) {
        return ended;
    }
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(ended) = unpack::main(&words) {
        return ended;
    }
    if let Some(ended) = told::main(&words) {
        return ended;
    }
    if let Some(ended) = reports::main(&words) {
        return ended;
    }
    let arguments: Arguments = pages::arguments("execute-shell");
    let setup = Setup {
        labels: arguments.labels,
        isolation: arguments.isolation,
        environments: arguments.environments,
        without_landlock: arguments.without_landlock,
        state: arguments.state,
        image_bytes_max: arguments.image_cache,
        identity: arguments.identity,
    };
    match keep() {
        Ok(Role::Worker) => {}
        Ok(Role::Kept(status)) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            if code.is_none() {
                shell::sweep(&setup);
            }
            // Killed: a supervisor may start it again.
            return ExitCode::from(code.unwrap_or(EXIT_TREE_AWAY));
        }
        Err(error) => {
            eprintln!("execute-shell: can't start: {error}");
            return ExitCode::FAILURE;
        }
    }
    let ended = Tree::new(&arguments.mount)
        .map_err(|e| Trouble::Refused(format!("{}: {e}", arguments.mount.display())))
        .and_then(|tree| shell::run(&tree, &setup));
    Trouble::report("execute-shell", ended)
}
