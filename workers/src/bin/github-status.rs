//! github-status: tells GitHub how the builds stand that came from it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use distcifs_workers::pages;
use distcifs_workers::status::github::Api;
use distcifs_workers::status::{self, Settings};
use distcifs_workers::tree::{Tree, Trouble};
use distcifs_workers::webhook::grants::{own_users, uid};

/// Posts commit statuses (pending, success, failure, error) for the builds that github-webhook
/// started.
///
/// Only builds that github-webhook's user triggered are told of, and success or failure only of the
/// commit that their git-checkout recorded.
///
/// What was told is kept in the file of --state, so that nothing is lost while it does not run. At
/// its very first start what has ended already is left alone. Ends with status 0 on
/// TERM or INT, and with 75 when the tree is away.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the tree is mounted
    mount: PathBuf,
    /// The user that github-webhook runs as, by name or number; may be repeated. Without one: root,
    /// and the user that this runs as
    #[arg(long = "receiver", value_name = "USER")]
    receivers: Vec<String>,
    /// The file that keeps what was told; made at the first start
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// A file with a token that may write commit statuses; read each time, so it may change
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// GitHub's API; of GitHub Enterprise it is https://HOST/api/v3
    #[arg(long, value_name = "URL", default_value = "https://api.github.com")]
    api: String,
    /// Where a build can be seen; {job} and {build} in it are replaced
    #[arg(long, value_name = "URL")]
    target_url: Option<String>,
    /// What the statuses are called, with a slash and the job after it
    #[arg(long, value_name = "WORD", default_value = "distcifs")]
    context: String,
}

fn main() -> ExitCode {
    let arguments: Arguments = pages::arguments("github-status");
    let ended = Tree::new(&arguments.mount)
        .map_err(|e| Trouble::Refused(format!("{}: {e}", arguments.mount.display())))
        .and_then(|tree| {
            let api = Api::new(&arguments.api, &arguments.token_file).map_err(Trouble::Refused)?;
            let receivers: Result<BTreeSet<u32>, String> = arguments.receivers.iter().map(|user| uid(user)).collect();
            let receivers = receivers.map_err(|why| Trouble::Refused(format!("--receiver: {why}")))?;
            status::run(Settings {
                tree,
                receivers: if receivers.is_empty() { own_users() } else { receivers },
                state: arguments.state,
                api,
                context: arguments.context,
                target_url: arguments.target_url,
            })
        });
    Trouble::report("github-status", ended)
}
