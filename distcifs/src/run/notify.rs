//! What a supervisor that asked for it (systemd, `Type=notify`) is told: that the mount answers, and
//! that it ends.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Names the supervisor's socket: a path, or `@` and an abstract name.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells it that the mount answers.
pub(super) fn ready() {
    tell("READY=1");
}

/// Tells it that the end has begun.
pub(super) fn stopping() {
    tell("STOPPING=1");
}

/// A supervisor that can't be told decides by its own time limit.
fn tell(state: &str) {
    let Some(name) = std::env::var_os(VARIABLE) else {
        return;
    };
    if let Err(error) = send(&name, state) {
        tracing::warn!("{VARIABLE}={}: {error}", name.to_string_lossy());
    }
}

fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A supervisor that does not read must not hold us up.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut text = [0; 64];
        socket.set_nonblocking(true).unwrap();
        let bytes = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..bytes]).into_owned()
    }

    #[test]
    fn both_kinds_of_sockets_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(heard(&socket), "READY=1");

        let name = path.as_os_str().as_bytes();
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        let abstract_name = [b"@", name].concat();
        send(OsStr::from_bytes(&abstract_name), "STOPPING=1").unwrap();
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[test]
    fn a_socket_that_nobody_reads_is_an_error_and_no_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("full");
        assert!(send(path.as_os_str(), "READY=1").is_err());
        let _socket = UnixDatagram::bind(&path).unwrap();
        let told = (0..10_000).map(|_| send(path.as_os_str(), "READY=1"));
        assert!(told.into_iter().any(|told| told.is_err()), "the queue has no end");
    }
}
