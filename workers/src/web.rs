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
pub mod privilege;
pub mod show;
pub mod sight;
pub mod statics;
pub mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};

use crate::connections::Connections;
use ask::App;
use guard::Guard;
use sight::Sight;

/// How long requests that arrived may still take when the program is told to end.
const END_TIME: Duration = Duration::from_secs(2);

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4096;

/// Threads that read and write sockets: what takes time is done by others.
const SOCKET_THREADS: usize = 2;

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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SOCKET_THREADS)
        .max_blocking_threads(ask::THREADS)
        .enable_all()
        .build()
        .map_err(|error| format!("can't start: {error}"))?;
    crate::beneath::more_descriptors();
    let ended = runtime.block_on(serve(settings));
    // Threads that wait for a tree that hangs can't be waited for.
    runtime.shutdown_background();
    ended
}

fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if at.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // So that the next one can begin while connections of the last one linger.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

async fn serve(settings: Settings) -> Result<(), String> {
    let broken = |error: std::io::Error| format!("can't start: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let listener = listen(settings.listen).map_err(|error| format!("can't listen on {}: {error}", settings.listen))?;
    let at = listener.local_addr().map_err(broken)?;
    let sight = Sight::new(settings.mount, settings.token.is_some());
    let guard = Guard::new(at, &settings.hosts, settings.token);
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
