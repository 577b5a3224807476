//! web: shows the tree to browsers.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use distcifs_workers::eprintln;
use distcifs_workers::pages;
use distcifs_workers::web::{self, Settings, privilege};

/// Shows jobs, builds, consoles, artifacts, queues and nodes as web pages that move by themselves.
///
/// It only reads. Visitors see what the modes of the tree let everybody read; with --token-file, who knows the token
/// sees what the user may read that web runs as. Started by root it becomes distci-web, or a user that nobody is. It
/// speaks plain HTTP: TLS is a reverse proxy's. GET /healthz and /metrics are for whoever watches over it. While the
/// tree is away it answers 503. Ends with status 0 on TERM or INT.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the tree is mounted
    mount: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// A name that it answers to beside the listening address and localhost; with a port, for that port alone. May be
    /// repeated
    #[arg(long = "host", value_name = "NAME[:PORT]")]
    hosts: Vec<String>,
    /// What stands before every path, where a proxy shows it below one: /ci
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true, value_parser = base)]
    base_path: String,
    /// A token that visitors must know; it is made where the file is not there. The file is its user's alone
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The user to become, for a web that is started by root
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Connections at once; a newer one pushes out the oldest that nothing is done for
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    connections: u16,
}

/// Checks a path that stands before all others.
fn base(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/-_.".contains(letter);
    match text.is_empty() || text.starts_with('/') && text.chars().all(plain) && !text.contains("//") {
        true => Ok(text.to_owned()),
        false => Err("a path begins with / and has letters, digits, - _ . in it".to_owned()),
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    let mount = std::path::absolute(&arguments.mount);
    let mount = mount.map_err(|error| format!("{}: {error}", arguments.mount.display()))?;
    // A tree that is away has no owner yet: then it is asked when it is there.
    let owner = std::fs::metadata(&mount).ok().map(|facts| facts.uid());
    let token = arguments.token_file.as_deref().map(privilege::token).transpose()?;
    privilege::take(arguments.user.as_deref(), token.is_some(), owner)?;
    if let Some(file) = &arguments.token_file {
        eprintln!("web: open it once with ?token= and what is in {}", file.display());
    }
    web::run(Settings {
        mount,
        listen: arguments.listen,
        hosts: arguments.hosts,
        base: arguments.base_path,
        token,
        connections: usize::from(arguments.connections),
    })
}

fn main() -> ExitCode {
    match run(pages::arguments("web")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("web: {why}");
            ExitCode::FAILURE
        }
    }
}
