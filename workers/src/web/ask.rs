//! What is answered to each request. Whatever touches the tree happens on threads that may wait for it, of which
//! there are a bounded number.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::address::{Query, parse, path_of};
use super::answer::{Answer, HTML, RETRY_SECONDS, badge, elsewhere, page, said, typed, with_guards};
use super::console::SEARCHES;
use super::console::index::Indexes;
use super::console::tail::Tails;
use super::guard::Guard;
use super::metrics::{Gauges, Metrics};
use super::pages;
use super::places::{self, Places};
use super::room::Room;
use super::shared::Shared;
use super::sight::{Fault, Result, Sight};
use super::statics;
use super::table::Table;
use super::{bytes, live};
use crate::connections::Peer;

/// Threads that may wait for the tree.
pub const THREADS: usize = 64;

/// Pages made at once, and looks of streams; the same of one job.
const PLACES: usize = 24;
const PLACES_OF_ONE: usize = 6;

/// Pieces of files read at once; the same of one job.
const PIECES: usize = 32;
const PIECES_OF_ONE: usize = 8;

// A thread is at hand for whoever has a place.
const _: () = assert!(PLACES + PIECES <= THREADS);

/// Files sent at once: each holds some pieces in memory.
const DOWNLOADS: usize = 256;

/// Bytes of answers that wait until clients take them, beside files; and the same of live pages and consoles, which
/// may wait for longer.
const ANSWERS_BYTES: usize = 128 << 20;
const STREAMS_BYTES: usize = 128 << 20;

/// How long a request waits for a place.
const PLACE_TIME: Duration = Duration::from_secs(3);

/// How long a page may take: the tree answers within 10 s or fails.
const PAGE_TIME: Duration = Duration::from_secs(30);

/// What all requests share.
pub struct App {
    /// The tree.
    pub sight: Sight,
    /// All jobs.
    pub table: Arc<Table>,
    guard: Guard,
    base: String,
    metrics: Metrics,
    places: Places,
    pieces: Arc<Places>,
    downloads: Arc<Semaphore>,
    answers: Room,
    /// Pages that are kept live.
    pub streams: Arc<Semaphore>,
    streams_max: usize,
    /// Room for what they have not taken.
    pub streams_room: Room,
    /// Where lines of consoles begin.
    pub indexes: Indexes,
    /// Consoles that are followed.
    pub tails: Tails,
    searches: Arc<Semaphore>,
    /// Pages that were just made for those who look at them.
    pub mains: Shared<live::Main>,
}

/// How an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// By a browser.
    Html,
    /// By a program.
    Json,
    /// As it is.
    Bytes,
    /// As it changes.
    Events,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The path.
    pub names: Vec<OsString>,
    /// What stands behind the `?`.
    pub query: Query,
    /// How it is wanted.
    pub want: Want,
    /// Where we are reached: `http://host`.
    pub origin: String,
}

impl App {
    /// Begins to follow the tree.
    ///
    /// # Errors
    /// There are no threads left.
    pub fn new(sight: Sight, guard: Guard, base: String, connections: usize) -> std::io::Result<Arc<Self>> {
        let table = Table::follow(sight.clone())?;
        let streams_max = (connections / 2).max(1);
        Ok(Arc::new(App {
            sight,
            table,
            guard,
            base,
            metrics: Metrics::default(),
            places: Places::new(PLACES, PLACES_OF_ONE),
            pieces: Arc::new(Places::new(PIECES, PIECES_OF_ONE)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS)),
            answers: Room::new(ANSWERS_BYTES),
            streams: Arc::new(Semaphore::new(streams_max)),
            streams_max,
            streams_room: Room::new(STREAMS_BYTES),
            indexes: Indexes::default(),
            tails: Tails::default(),
            searches: Arc::new(Semaphore::new(SEARCHES)),
            mains: Shared::default(),
        }))
    }

    /// What stands before every path.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A turn to search, unless others have them all.
    pub fn searching(&self) -> Option<OwnedSemaphorePermit> {
        self.searches.clone().try_acquire_owned().ok()
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Everything is looked at by one function.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().fallback(handle).with_state(self.clone())
    }

    async fn answer(self: Arc<Self>, head: &Parts, peer: Option<&Peer>) -> Response {
        if head.method != Method::GET && head.method != Method::HEAD {
            let mut refused = typed(
                StatusCode::METHOD_NOT_ALLOWED,
                TEXT,
                "this page only shows: GET and HEAD\n",
            );
            refused
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return closing(refused);
        }
        let Some(host) = self.guard.host(&head.uri, &head.headers) else {
            let why = "this server has no such name: it is started with --host NAME for each that it has\n";
            return typed(StatusCode::MISDIRECTED_REQUEST, TEXT, why);
        };
        let Some(path) = head.uri.path().strip_prefix(self.base.as_str()) else {
            return typed(
                StatusCode::NOT_FOUND,
                TEXT,
                format!("everything is below {}/\n", self.base),
            );
        };
        let query = Query::parse(head.uri.query().unwrap_or_default());
        if path.is_empty() {
            return elsewhere(&format!("{}/{}", self.base, query.without("")));
        }
        if let Some(found) = statics::answer(path) {
            return found;
        }
        if path == "/healthz" {
            return self.healthz().await;
        }
        if let Some(refused) = self.strange(head, path, &query) {
            return refused;
        }
        let want = want(&head.headers, &query);
        let Some((names, _)) = parse(path) else {
            return self.fault(&Fault::Absent, want);
        };
        if names == ["metrics"] {
            return self.all_metrics(peer).await;
        }
        let asked = Asked {
            names,
            query,
            want,
            origin: format!("{}://{host}", scheme(&head.headers)),
        };
        match want {
            Want::Events => live::stream(self, asked, &head.headers, peer).await,
            _ => self.show(asked, head, peer).await,
        }
    }

    /// Who has no token is told so; who brings one gets it as a cookie.
    fn strange(&self, head: &Parts, path: &str, query: &Query) -> Option<Response> {
        if !self.guard.wants_token() {
            return None;
        }
        if let Some(said) = query.find("token")
            && self.guard.is_token(said)
        {
            let to = parse(path).map_or("/".to_owned(), |(names, folder)| path_of(&names, folder));
            let mut response = elsewhere(&format!("{}{to}{}", self.base, query.without("token")));
            let cookie = self.guard.cookie(scheme(&head.headers) == "https");
            let cookie = HeaderValue::from_str(&cookie).ok()?;
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            return Some(response);
        }
        if self.guard.admits(&head.headers) {
            return None;
        }
        let mut refused = match want(&head.headers, query) {
            Want::Html => page(StatusCode::UNAUTHORIZED, pages::stranger(&self.base)),
            _ => typed(StatusCode::UNAUTHORIZED, TEXT, "a token is needed\n"),
        };
        let how = HeaderValue::from_static("Bearer");
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, how);
        Some(refused)
    }

    async fn show(self: Arc<Self>, asked: Asked, head: &Parts, peer: Option<&Peer>) -> Response {
        let busy = peer.map(Peer::busy);
        let want = asked.want;
        let (of, query) = (places::of(&asked.names), asked.query.without("token"));
        let (app, wanted) = (self.clone(), asked);
        match self.work(&of, move || pages::answer(&app, &wanted)).await {
            Ok(Answer::Page(html)) => self.whole(HTML, html, want),
            Ok(Answer::Json(json)) => self.whole("application/json", json, want),
            Ok(Answer::Text(mime, text)) => self.whole(mime, text, want),
            Ok(Answer::Badge(svg)) => badge(svg),
            Ok(Answer::Elsewhere(to)) => elsewhere(&format!("{}{to}{query}", self.base)),
            Ok(Answer::File(opened, kind)) => match self.downloads.clone().try_acquire_owned() {
                Ok(place) => {
                    let only_head = head.method == Method::HEAD;
                    let reader = bytes::Reader {
                        pieces: self.pieces.clone(),
                        of,
                        _download: place,
                    };
                    bytes::send(opened, &kind, &head.headers, only_head, (reader, busy))
                }
                Err(_) => self.fault(&Fault::Busy("files that are sent"), want),
            },
            Err(fault) => self.fault(&fault, want),
        }
    }

    /// An answer that is whole in memory until the client has taken it.
    fn whole(&self, mime: &'static str, body: impl Into<Bytes>, want: Want) -> Response {
        match self.answers.keep(body) {
            Ok(body) => typed(StatusCode::OK, mime, body),
            Err(fault) => self.fault(&fault, want),
        }
    }

    /// Does what may wait for the tree on a thread of its own; `of` says what it is of, as `places::of` does.
    ///
    /// # Errors
    /// As the work; `Unreadable` if it takes too long, `Busy` if there is no place for it.
    pub async fn work<T, F>(&self, of: &str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let Some(place) = self.places.take(of, PLACE_TIME).await else {
            return Err(Fault::Busy("requests"));
        };
        let working = tokio::task::spawn_blocking(move || {
            // A thread that hangs keeps its place, so that there are never more than so many.
            let _place = place;
            work()
        });
        match tokio::time::timeout(PAGE_TIME, working).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Fault::Unreadable(
                "this could not be made, which is a fault of web".to_owned(),
            )),
            Err(_) => {
                let seconds = PAGE_TIME.as_secs();
                Err(Fault::Unreadable(format!("the tree did not answer within {seconds} s")))
            }
        }
    }

    /// Answers with what is wrong.
    pub fn fault(&self, fault: &Fault, want: Want) -> Response {
        let (status, title, why) = said(fault);
        let mut response = match want {
            Want::Html => page(status, pages::fault(&self.base, title, &why, fault)),
            Want::Json => {
                let text = serde_json::json!({ "error": title, "why": why }).to_string();
                typed(status, "application/json", format!("{text}\n"))
            }
            Want::Bytes | Want::Events => typed(status, TEXT, format!("{title}. {why}\n")),
        };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let after = HeaderValue::from(RETRY_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        response
    }

    async fn healthz(&self) -> Response {
        let sight = self.sight.clone();
        match self.work("healthz", move || sight.top()).await {
            Ok(_) => typed(StatusCode::OK, TEXT, "ok\n"),
            Err(fault) => self.fault(&fault, Want::Bytes),
        }
    }

    async fn all_metrics(&self, peer: Option<&Peer>) -> Response {
        let sight = self.sight.clone();
        let of_mount = self
            .work("metrics", move || sight.top()?.bytes("metrics", METRICS_BYTES_MAX))
            .await;
        let of_mount = of_mount.map(|text| String::from_utf8_lossy(&text).into_owned());
        let own = self.metrics.page(&Gauges {
            up: self.table.up(),
            jobs: self.table.count().0,
            connections: peer.map_or(0, Peer::connections),
            streams: self.streams_max - self.streams.available_permits(),
        });
        let text = format!("{}{own}", of_mount.unwrap_or_default());
        self.whole("text/plain; version=0.0.4; charset=utf-8", text, Want::Bytes)
    }
}

/// The type of a plain text.
const TEXT: &str = "text/plain; charset=utf-8";

/// Longest metrics of a mount that are passed on, bytes.
const METRICS_BYTES_MAX: u64 = 1 << 20;

/// The body of the request is not read, so nothing more can follow on this connection.
fn closing(mut response: Response) -> Response {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

/// How an answer is wanted, by what the client says that it accepts.
fn want(headers: &HeaderMap, query: &Query) -> Want {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let accepted = accepted.unwrap_or("*/*");
    let has = |mime: &str| {
        accepted
            .split(',')
            .any(|one| one.split(';').next().unwrap_or("").trim() == mime)
    };
    if query.find("raw").is_some() {
        Want::Bytes
    } else if has("text/event-stream") {
        Want::Events
    } else if has("text/html") {
        Want::Html
    } else if has("application/json") {
        Want::Json
    } else {
        Want::Bytes
    }
}

/// By which scheme a proxy says that it is reached; feeds have whole addresses.
fn scheme(headers: &HeaderMap) -> &'static str {
    match headers.get("x-forwarded-proto").map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        _ => "http",
    }
}

async fn handle(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let begun = Instant::now();
    let (head, _) = request.into_parts();
    let peer = head.extensions.get::<Peer>().cloned();
    let response = with_guards(app.clone().answer(&head, peer.as_ref()).await);
    app.metrics.answered(response.status().as_u16(), begun.elapsed());
    response
}
