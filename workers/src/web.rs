//! web: shows the tree to browsers. It only reads, so nothing that it does can break a build.
//!
//! Whatever it runs as, visitors see what the modes let everybody read (`sight`), unless they are asked for a
//! token. Everything from outside is bounded: connections, requests at once, time, bytes.

pub mod address;
pub mod answer;
pub mod ask;
pub mod bytes;
pub mod console;
pub mod facts;
pub mod guard;
pub mod live;
pub mod metrics;
pub mod pages;
pub mod places;
pub mod privilege;
pub mod room;
pub mod shared;
pub mod show;
pub mod sight;
pub mod statics;
pub mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::connections::Connections;
use crate::connections::program::{self, broken};
use ask::App;
use guard::Guard;
use sight::Sight;

/// How long requests that arrived may still take when the program is told to end.
const END_TIME: Duration = Duration::from_secs(2);

/// What the program is told at its start.
pub struct Settings {
    /// Where the tree is mounted, absolute.
    pub mount: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Names that it answers to beside the listening address and localhost.
    pub hosts: Vec<String>,
    /// What stands before every path: empty, or `/ci`.
    pub base: String,
    /// What visitors must know to see anything; then they see what this user may read.
    pub token: Option<String>,
    /// Connections at once, at most.
    pub connections: usize,
}

/// Serves until TERM or INT. The tree may come and go meanwhile.
///
/// # Errors
/// It can't listen, or can't start threads.
pub fn run(settings: Settings) -> Result<(), String> {
    crate::beneath::more_descriptors();
    program::run(ask::THREADS, serve(settings))
}

async fn serve(settings: Settings) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let (listener, at) = program::listen(settings.listen)?;
    let sight = Sight::new(settings.mount, settings.token.is_some());
    let guard = Guard::new(at, &settings.hosts, &settings.base, settings.token);
    let app = App::new(sight, guard, settings.base, settings.connections).map_err(broken)?;
    eprintln!("web: listening on http://{at}{}/", app.base());
    let told = app.clone();
    let counted = move || told.metrics().pushed_out();
    let connections = Connections::new("web", settings.connections, app.router(), counted);
    tokio::select! {
        () = connections.accept(listener) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    connections.end(END_TIME).await;
    Ok(())
}
