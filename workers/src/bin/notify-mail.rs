//! notify-mail: tells by mail how builds stand.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use distcifs_settings::notify::is_address;
use distcifs_workers::notify::{self, mail::Mail};
use distcifs_workers::pages;
use distcifs_workers::tree::{Tree, Trouble};

/// Tells by mail how builds stand, as their jobs' `notify` asks for it.
///
/// Hands each message to sendmail, and tries for a day while that does not take it. Ends with status 0
/// on TERM or INT, and with 75 when the tree is away.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the tree is mounted
    mount: PathBuf,
    /// Whom the mail is from
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// The program that sends
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/sendmail")]
    sendmail: PathBuf,
    /// A domain that mail may go to; may be repeated. Without one: any
    #[arg(long = "domain", value_name = "DOMAIN")]
    domains: Vec<String>,
    /// Where a build can be seen; {job} and {build} in it are replaced
    #[arg(long, value_name = "URL")]
    target_url: Option<String>,
    /// How long one that sendmail does not take is tried
    #[arg(long, value_name = "SECONDS", default_value_t = 86400)]
    try_for: u64,
}

fn main() -> ExitCode {
    let arguments: Arguments = pages::arguments("notify-mail");
    let ended = Tree::new(&arguments.mount)
        .map_err(|e| Trouble::Refused(format!("{}: {e}", arguments.mount.display())))
        .and_then(|tree| {
            if !is_address(&arguments.from) {
                return Err(Trouble::Refused(format!(
                    "--from {}: it must be a plain address",
                    arguments.from
                )));
            }
            let mail = Mail {
                sendmail: arguments.sendmail,
                from: arguments.from,
                domains: arguments.domains,
                target_url: arguments.target_url,
            };
            notify::run(&tree, mail, Duration::from_secs(arguments.try_for))
        });
    Trouble::report("notify-mail", ended)
}
