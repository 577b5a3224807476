//! notify-webhook: tells other servers how builds stand.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use distcifs_workers::notify::{self, hook::Webhooks};
use distcifs_workers::pages;
use distcifs_workers::tree::{Tree, Trouble};

/// Tells other servers how builds stand, as their jobs' `notify` asks for it: JSON by POST, signed as
/// GitHub signs.
///
/// Follows no redirect, and tries for a day what may be taken later, while it goes on with others. Ends
/// with status 0 on TERM or INT, and with 75 when the tree is away.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the tree is mounted
    mount: PathBuf,
    /// Webhooks with names, a line each: NAME OWNER[,OWNER...]|* URL, and a SECRETFILE if
    /// requests are signed; read each time, so it may change
    #[arg(long, value_name = "FILE")]
    hooks: Option<PathBuf>,
    /// Only those of --hooks: jobs may name no URL
    #[arg(long, requires = "hooks")]
    only_hooks: bool,
    /// Private addresses, too, of this machine or its networks
    #[arg(long)]
    private: bool,
    /// Where a build can be seen; {job} and {build} in it are replaced
    #[arg(long, value_name = "URL")]
    target_url: Option<String>,
    /// How long one that is not taken is tried
    #[arg(long, value_name = "SECONDS", default_value_t = 86400)]
    try_for: u64,
}

fn main() -> ExitCode {
    let arguments: Arguments = pages::arguments("notify-webhook");
    let ended = Tree::new(&arguments.mount)
        .map_err(|e| Trouble::Refused(format!("{}: {e}", arguments.mount.display())))
        .and_then(|tree| {
            let any_url = !arguments.only_hooks;
            let hooks = Webhooks::new(arguments.hooks, arguments.private, any_url, arguments.target_url);
            hooks.hooks.check().map_err(Trouble::Refused)?;
            notify::run(&tree, hooks, Duration::from_secs(arguments.try_for))
        });
    Trouble::report("notify-webhook", ended)
}
