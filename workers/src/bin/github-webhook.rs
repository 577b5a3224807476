//! github-webhook: receives GitHub's deliveries and triggers the jobs that wait for them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use distcifs_workers::eprintln;
use distcifs_workers::pages;
use distcifs_workers::tree::Tree;
use distcifs_workers::webhook::source::Source;
use distcifs_workers::webhook::{self, Settings};

/// Where the administrator keeps secrets.
const SECRETS: &str = "/etc/distcifs/webhook.d";

/// Receives GitHub's webhook deliveries over HTTP, and triggers the jobs whose `github` entry or
/// git-checkout task they fit, if the owner of the job may use the repository.
///
/// POST /github is for all jobs, POST /jobs/JOB/github-webhook for one; GET /healthz and /metrics
/// are for whoever watches over it. It speaks plain HTTP: TLS is a reverse proxy's. While the tree
/// is away it answers 503. Ends with status 0 on TERM or INT; reads the file of --repositories
/// again on HUP, and when it has changed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the tree is mounted
    mount: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Whose jobs may use which repositories: lines of a repository (octo/hello, octo/* or *), its
    /// secret (a name in the folder of --secrets-dir, or a whole path) and users (names, numbers,
    /// or * for all). Only root and the receiver's user may be able to write it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["secret_file", "owners"])]
    repositories: Option<PathBuf>,
    /// Without --repositories: the secret of all repositories, for jobs of root, of the receiver's
    /// user and of each --owner
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// A user whose jobs may use any repository, by --secret-file; may be repeated
    #[arg(long = "owner", value_name = "USER", requires = "secret_file")]
    owners: Vec<String>,
    /// The folder of the secrets that --repositories names, and of those that jobs may ask for by
    /// `secret_file`
    #[arg(long, value_name = "DIR", default_value = SECRETS)]
    secrets_dir: PathBuf,
    /// A proxy whose X-Forwarded-For is believed; may be repeated
    #[arg(long = "proxy", value_name = "ADDRESS")]
    proxies: Vec<IpAddr>,
    /// Connections at once; a newer one pushes out the oldest that has sent no request yet
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    connections: u16,
}

fn main() -> ExitCode {
    let arguments: Arguments = pages::arguments("github-webhook");
    let ended = Tree::new(&arguments.mount)
        .map_err(|error| format!("{}: {error}", arguments.mount.display()))
        .and_then(|tree| {
            let source = match &arguments.repositories {
                Some(file) => Source::open(file, arguments.secrets_dir),
                None => Source::single(arguments.secret_file, &arguments.owners, arguments.secrets_dir),
            };
            webhook::run(Settings {
                tree,
                listen: arguments.listen,
                source: source?,
                proxies: arguments.proxies,
                connections: usize::from(arguments.connections),
            })
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("github-webhook: {why}");
            ExitCode::FAILURE
        }
    }
}
