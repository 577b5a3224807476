//! github-webhook: receives GitHub's deliveries and triggers the jobs that wait for them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use distcifs_workers::tree::Tree;
use distcifs_workers::webhook::{self, Settings};

/// Receives GitHub's webhook deliveries over HTTP, and triggers the jobs whose `github` entry or
/// git-checkout task they fit.
///
/// POST /github is for all jobs, POST /jobs/JOB/github-webhook for one; GET /healthz and /metrics
/// are for whoever watches over it. It speaks plain HTTP: TLS is a reverse proxy's. While the tree
/// is away it answers 503. Ends with status 0 on TERM or INT.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the tree is mounted
    mount: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The secret of jobs that name no secret_file of their own
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// A proxy whose X-Forwarded-For is believed; may be repeated
    #[arg(long = "proxy", value_name = "ADDRESS")]
    proxies: Vec<IpAddr>,
    /// Connections at once; a newer one pushes out the oldest that has sent no request yet
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    connections: u16,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = Tree::new(&arguments.mount)
        .map_err(|error| format!("{}: {error}", arguments.mount.display()))
        .and_then(|tree| {
            webhook::run(Settings {
                tree,
                listen: arguments.listen,
                secret_file: arguments.secret_file,
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
