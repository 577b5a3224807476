//! Connections of a server of HTTP: bounded in number and in time. A newer one pushes out the oldest that
//! has not sent its request yet, so that those who hold connections open hold up nobody. Who does not read
//! what he asked for is closed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub mod counts;
mod patient;
pub mod program;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tower_service::Service;

use patient::Patient;

/// How long the head of a request may take, and how long a connection may be idle.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// Longest head of a request, bytes; also what a connection reads ahead.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Header lines of a request, at most: a proxy and GitHub send some twenty.
const HEADERS_MAX: usize = 64;

/// Pause after an accept that failed, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a full house looks whether somebody can be pushed out.
const FULL_LOOK: Duration = Duration::from_millis(50);

/// The other end of a connection, as requests see it.
#[derive(Clone)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    busy: Arc<AtomicBool>,
    open: Arc<Open>,
}

impl Peer {
    /// Keeps the connection from being pushed out for as long as the value lives.
    pub fn busy(&self) -> Busy {
        self.busy.store(true, Ordering::Relaxed);
        Busy(self.busy.clone())
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.open.lock().all.len()
    }
}

/// A request is being carried out.
pub struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The connections that are open, the oldest first.
#[derive(Default)]
struct Open {
    all: Mutex<All>,
    freed: Notify,
}

#[derive(Default)]
struct All {
    all: BTreeMap<u64, One>,
    next: u64,
}

struct One {
    busy: Arc<AtomicBool>,
    task: Option<AbortHandle>,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the oldest connection that nothing is done for; false if there is none.
    fn push_out(&self) -> bool {
        let mut open = self.lock();
        let idle = |one: &One| !one.busy.load(Ordering::Relaxed) && one.task.is_some();
        let Some(oldest) = open.all.iter().find(|(_, one)| idle(one)).map(|(id, _)| *id) else {
            return false;
        };
        if let Some(task) = open.all.remove(&oldest).and_then(|one| one.task) {
            task.abort();
        }
        true
    }
}

/// A connection's place; dropping it gives it back.
struct Place {
    id: u64,
    open: Arc<Open>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.lock().all.remove(&self.id);
        self.open.freed.notify_waiters();
    }
}

/// Accepts and serves connections.
pub struct Connections {
    program: &'static str,
    most: usize,
    router: Router,
    pushed_out: Box<dyn Fn() + Send + Sync>,
    open: Arc<Open>,
    end: watch::Sender<bool>,
}

impl Connections {
    /// Serves at most so many at once, for a program that is called so; `pushed_out` is told of each that made
    /// room for a newer one.
    pub fn new(
        program: &'static str,
        most: usize,
        router: Router,
        pushed_out: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Connections {
            program,
            most,
            router,
            pushed_out: Box::new(pushed_out),
            open: Arc::default(),
            end: watch::Sender::new(false),
        }
    }

    /// Accepts for ever.
    pub async fn accept(&self, listener: TcpListener) {
        loop {
            self.make_room().await;
            match listener.accept().await {
                Ok((stream, address)) => self.serve(stream, address.ip()),
                Err(error) => {
                    eprintln!("{}: accept: {error}", self.program);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until there is room for one more.
    async fn make_room(&self) {
        while self.open.lock().all.len() >= self.most {
            if self.open.push_out() {
                (self.pushed_out)();
            } else {
                // All are being carried out, which takes some seconds at most.
                let _ = tokio::time::timeout(FULL_LOOK, self.open.freed.notified()).await;
            }
        }
    }

    fn serve(&self, stream: TcpStream, address: IpAddr) {
        let busy = Arc::new(AtomicBool::new(false));
        let id = {
            let mut open = self.open.lock();
            open.next += 1;
            let id = open.next;
            let one = One {
                busy: busy.clone(),
                task: None,
            };
            open.all.insert(id, one);
            id
        };
        let open = self.open.clone();
        let place = Place { id, open: open.clone() };
        let peer = Peer { address, busy, open };
        let task = tokio::spawn(serve(stream, peer, self.router.clone(), self.end.subscribe(), place));
        // It may have ended already.
        if let Some(one) = self.open.lock().all.get_mut(&id) {
            one.task = Some(task.abort_handle());
        }
    }

    /// Lets requests that arrived finish, for some time.
    pub async fn end(&self, time: Duration) {
        self.end.send_replace(true);
        let ended = async {
            while !self.open.lock().all.is_empty() {
                let _ = tokio::time::timeout(FULL_LOOK, self.open.freed.notified()).await;
            }
        };
        let _ = tokio::time::timeout(time, ended).await;
    }
}

/// Serves one connection until it ends, or until all do.
async fn serve(stream: TcpStream, peer: Peer, router: Router, mut end: watch::Receiver<bool>, place: Place) {
    let _place = place;
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let mut router = router.clone();
        async move { router.call(request.map(Body::new)).await }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(Patient::new(stream)), service));
    let told_to_end = async move { drop(end.wait_for(|end| *end).await) };
    // What breaks a connection is the client's affair.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = told_to_end => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
