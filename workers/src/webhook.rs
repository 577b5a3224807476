//! github-webhook: receives GitHub's deliveries over HTTP and triggers the jobs that wait for them.
//!
//! Any number of receivers may run: each trigger carries the digest of the body as its key, so that
//! a body which comes twice, to whichever of them and however often, makes one build.

pub mod body;
pub mod deliver;
pub mod event;
pub mod grants;
pub mod matrix;
pub mod metrics;
pub mod payload;
pub mod quiet;
pub mod requests;
pub mod signature;
pub mod source;
pub mod table;
pub mod watched;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::connections::Connections;
use crate::connections::program::{self, broken};
use crate::tree::Tree;
use requests::App;
use source::Source;

/// How long requests that arrived may still take when the receiver is told to end.
const END_TIME: Duration = Duration::from_secs(5);

/// What a receiver is told at its start.
pub struct Settings {
    /// The tree.
    pub tree: Tree,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who signs for which repositories, for whose jobs.
    pub source: Source,
    /// Proxies whose X-Forwarded-For is believed.
    pub proxies: Vec<IpAddr>,
    /// Connections at once, at most.
    pub connections: usize,
}

/// Serves until TERM or INT. The tree may come and go meanwhile.
///
/// # Errors
/// It can't listen, or can't start threads.
pub fn run(settings: Settings) -> Result<(), String> {
    program::run(requests::PLACES, serve(settings))
}

async fn serve(settings: Settings) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(broken)?;
    let (listener, at) = program::listen(settings.listen)?;
    let app = App::new(settings.tree, settings.source, settings.proxies).map_err(broken)?;
    eprintln!("github-webhook: listening on {at}");
    let told = app.clone();
    let counted = move || told.metrics().pushed_out();
    let connections = Connections::new("github-webhook", settings.connections, app.router(), counted);
    let rereading = async {
        while hang_up.recv().await.is_some() {
            let app = app.clone();
            // Names of users may be looked up over a network.
            let _ = tokio::task::spawn_blocking(move || app.reread()).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = connections.accept(listener) => {}
        () = rereading => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    connections.end(END_TIME).await;
    Ok(())
}
