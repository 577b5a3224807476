//! Connections on which nothing moves.
//!
//! TCP sends what nobody acknowledges again after 0.2 s, 0.4 s, 0.8 s and so on, up to two minutes. So
//! when a network that was away has come back, a connection may stand still for as long as that again,
//! and librados with it, which never gives up a connection of its own accord. A new one is made at once.
//! (What was acknowledged and not answered is not seen here, until something else is sent.)

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libc::{IPPROTO_TCP, TCP_INFO, socklen_t, tcp_info};
use nix::sys::socket::{Shutdown, SockaddrStorage, getpeername, shutdown};

/// `TCP_ESTABLISHED` of the kernel.
const ESTABLISHED: u8 = 1;

/// Sent again in vain so often, one after the other: for 1.4 s where an answer takes no time, and
/// proportionally longer where it does.
const IN_VAIN: u8 = 3;

/// Where the kernel lists our open files.
const FILES: &str = "/proc/self/fd";

/// Between two looks, however many ask for one: it costs a call for each open file.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks for such connections; clones look together.
#[derive(Debug, Clone)]
pub(in crate::backend::ceph) struct Standstill {
    /// Ports of peers whose connections are not librados'.
    spared: Vec<u16>,
    looked: Arc<Mutex<Option<Instant>>>,
}

impl Standstill {
    /// Of this process; librados does not tell which are its own, so these ports' are spared.
    pub(in crate::backend::ceph) fn new(spared: Vec<u16>) -> Standstill {
        Standstill {
            spared,
            looked: Arc::default(),
        }
    }

    /// Whether it is time to look.
    pub(in crate::backend::ceph) fn is_due(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.is_none_or(|looked| looked.elapsed() >= PAUSE);
        if due {
            *looked = Some(Instant::now());
        }
        due
    }

    /// Ends the connections on which nothing moves. Whoever has one is told as of an end by the peer.
    /// Blocks for less than a millisecond.
    pub(in crate::backend::ceph) fn end(&self) {
        let files = match fs::read_dir(FILES) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!("{FILES}: {error}: connections to Ceph that stand still are not found");
                return;
            }
        };
        let numbers = files.filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok());
        let standing = numbers.filter(|file| stands_still(*file) && !self.is_spared(*file));
        let ended = standing.filter(|file| shutdown(*file, Shutdown::Both).is_ok()).count();
        if ended > 0 {
            tracing::info!("{ended} connections to Ceph stood still, and are made anew");
        }
    }

    fn is_spared(&self, file: RawFd) -> bool {
        let Ok(peer) = getpeername::<SockaddrStorage>(file) else {
            return true;
        };
        let four = peer.as_sockaddr_in().map(|peer| peer.port());
        let port = four.or_else(|| peer.as_sockaddr_in6().map(|peer| peer.port()));
        port.is_none_or(|port| self.spared.contains(&port))
    }
}

/// Whether a file is a TCP connection whose peer has been sent the same again in vain.
fn stands_still(file: RawFd) -> bool {
    let mut info = MaybeUninit::<tcp_info>::zeroed();
    let mut length = size_of::<tcp_info>() as socklen_t;
    // SAFETY: the place is as long as told; what is no such socket, or no file any more, is an error.
    let told = unsafe { libc::getsockopt(file, IPPROTO_TCP, TCP_INFO, info.as_mut_ptr().cast(), &raw mut length) };
    // SAFETY: zeros are a valid value, of which the kernel has written a part or all.
    let info = unsafe { info.assume_init() };
    // What did not even leave this machine counts as a probe of the peer's window.
    let in_vain = info.tcpi_retransmits.max(info.tcpi_probes);
    told == 0 && info.tcpi_state == ESTABLISHED && in_vain >= IN_VAIN
}
