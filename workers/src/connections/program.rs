//! A program that answers HTTP: its threads and its socket.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel holds until they are accepted; beyond it clients try again after a
/// second. The kernel's own bound (net.core.somaxconn) is as high by default.
const BACKLOG: u32 = 4096;

/// Threads that read and write sockets: what takes time is done by others.
const SOCKET_THREADS: usize = 2;

/// Serves until it is told to end, with so many threads for what takes time.
///
/// # Errors
/// It can't start threads, or what serving says.
pub fn run(threads: usize, serve: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SOCKET_THREADS)
        .max_blocking_threads(threads)
        .enable_all()
        .build()
        .map_err(broken)?;
    let ended = runtime.block_on(serve);
    // Threads that wait for a tree that hangs can't be waited for.
    runtime.shutdown_background();
    ended
}

/// What a program says that the system lets do nothing.
pub fn broken(error: std::io::Error) -> String {
    format!("can't start: {error}")
}

/// Listens, and tells where.
///
/// # Errors
/// The address is another's, or not of this machine.
pub fn listen(at: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let listener = bound(at).map_err(|error| format!("can't listen on {at}: {error}"))?;
    let at = listener.local_addr().map_err(broken)?;
    Ok((listener, at))
}

fn bound(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if at.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // So that the next program can begin while connections of the last one linger.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}
