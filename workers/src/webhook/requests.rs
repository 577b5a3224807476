//! What is answered to each request; the work is done on a few threads that may wait for the tree.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use super::body::{BODY_BYTES_MAX, Memory, Refused};
use super::deliver::{Answer, Deliverer, Delivery};
use super::metrics::{Gauges, Metrics};
use super::quiet::Quiet;
use super::source::Source;
use super::table::Table;
use crate::connections::Peer;
use crate::lanes::Lanes;
use crate::tree::Tree;

/// Deliveries carried out at once: most of their time is a commit, which they share.
pub const PLACES: usize = 16;

/// How long a delivery waits for a place.
const PLACE_TIME: Duration = Duration::from_secs(3);

/// How long a delivery may take: the tree answers within 10 s or fails, GitHub hangs up after 10 s.
const DELIVERY_TIME: Duration = Duration::from_secs(8);

/// When to come again while the tree is away, seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("10");

/// Longest header value that is looked at, bytes.
const HEADER_BYTES_MAX: usize = 256;

/// What all requests share.
pub struct App {
    deliverer: Arc<Deliverer>,
    places: Arc<Semaphore>,
    memory: Memory,
    metrics: Metrics,
    proxies: Vec<IpAddr>,
    /// What the log is told of requests that anybody could have sent.
    refused: Quiet,
}

impl App {
    /// Starts following the tree.
    pub fn new(tree: Tree, source: Source, proxies: Vec<IpAddr>) -> std::io::Result<Arc<Self>> {
        let table = Table::default();
        table.follow(tree.clone())?;
        Ok(Arc::new(App {
            deliverer: Arc::new(Deliverer {
                tree,
                table,
                source,
                faults: Quiet::default(),
                lanes: Lanes::default(),
            }),
            places: Arc::new(Semaphore::new(PLACES)),
            memory: Memory::default(),
            metrics: Metrics::default(),
            proxies,
            refused: Quiet::default(),
        }))
    }

    /// Which address does what.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/github", post(for_all))
            .route("/jobs/{job}/github-webhook", post(for_one))
            .route("/healthz", get(healthz))
            .route("/metrics", get(metrics))
            .with_state(self.clone())
    }

    /// Reads the administrator's file again.
    pub fn reread(&self) {
        self.deliverer.source.reread();
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Who sent a request: the peer, or whom the last proxy that is believed names.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let said = headers.get_all("x-forwarded-for");
        let words = said.iter().filter_map(|value| value.to_str().ok());
        let named: Vec<IpAddr> = words
            .flat_map(|list| list.split(','))
            .filter_map(|word| word.trim().parse().ok())
            .collect();
        let path = std::iter::once(peer).chain(named.into_iter().rev());
        let believed = |address: &IpAddr| self.proxies.contains(&address.to_canonical());
        let mut last = peer;
        for address in path {
            last = address;
            if !believed(&address) {
                break;
            }
        }
        last
    }

    /// Reads, carries out and answers a delivery.
    async fn receive(self: Arc<Self>, job: Option<String>, request: Request<Body>) -> Response {
        let begun = Instant::now();
        let (head, body) = request.into_parts();
        let peer = head.extensions.get::<Peer>().cloned();
        let client = peer.as_ref().map(|peer| self.client(peer.address, &head.headers));
        let answer = self.answer(job, &head.headers, body, peer.as_ref()).await;
        self.metrics.answered(answer.status, answer.builds, begun.elapsed());
        let word = |name: &str| text(&head.headers, name).unwrap_or_else(|| "-".into());
        let line = format!(
            "{} {} {} from {}: {}",
            answer.status,
            word("x-github-event").escape_debug(),
            word("x-github-delivery").escape_debug(),
            client.map_or_else(|| "-".into(), |client| client.to_string()),
            answer.about,
        );
        if answer.signed {
            eprintln!("github-webhook: {line}");
        } else {
            self.refused.say(&line);
        }
        respond(&answer)
    }

    async fn answer(&self, job: Option<String>, headers: &HeaderMap, body: Body, peer: Option<&Peer>) -> Answer {
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        let body = match self.memory.read(body, length).await {
            Ok(body) => body,
            Err(refused) => return too_much(refused),
        };
        // From here on it is not the client that we wait for.
        let _busy = peer.map(Peer::busy);
        let bytes = |name: &str| headers.get(name).map(|value| value.as_bytes().to_vec());
        let delivery = Delivery {
            body,
            event: text(headers, "x-github-event"),
            signature: bytes("x-hub-signature-256"),
            content_type: bytes("content-type"),
            job,
        };
        self.carry_out(delivery).await
    }

    /// Carries a delivery out on a thread that may wait for the tree.
    async fn carry_out(&self, delivery: Delivery) -> Answer {
        if !self.deliverer.table.is_up() {
            return Answer::new(503, "error", "the tree is away");
        }
        let place = tokio::time::timeout(PLACE_TIME, self.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Answer::new(503, "error", "too many deliveries at once");
        };
        let deliverer = self.deliverer.clone();
        let work = tokio::task::spawn_blocking(move || {
            // A thread that hangs keeps its place, so that there are never more than so many.
            let _place = place;
            deliverer.deliver(&delivery)
        });
        match tokio::time::timeout(DELIVERY_TIME, work).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Answer::new(500, "error", "the delivery could not be carried out"),
            Err(_) => Answer::new(503, "error", "the tree does not answer"),
        }
    }
}

fn too_much(refused: Refused) -> Answer {
    let (status, why) = match refused {
        Refused::Long => (413, format!("the body has more than {BODY_BYTES_MAX} bytes")),
        Refused::Slow => (408, "the body did not arrive in time".into()),
        Refused::Broken => (400, "the body broke off".into()),
        Refused::Full => (503, "too many large deliveries at once".into()),
    };
    Answer::new(status, "error", why)
}

fn respond(answer: &Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    let mut response = (status, format!("{}\n", answer.body)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    match answer.status {
        503 => drop(response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER)),
        // What is left of the body is not read.
        400 | 408 | 413 => {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        _ => {}
    }
    response
}

/// A header as text, if it is text and not too long.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= HEADER_BYTES_MAX).then(|| value.to_owned())
}

async fn for_all(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    app.receive(None, request).await
}

async fn for_one(State(app): State<Arc<App>>, Path(job): Path<String>, request: Request<Body>) -> Response {
    app.receive(Some(job), request).await
}

async fn healthz(State(app): State<Arc<App>>) -> Response {
    if app.deliverer.table.is_up() {
        return "ok\n".into_response();
    }
    let away = (StatusCode::SERVICE_UNAVAILABLE, "the tree is away\n");
    ([(header::RETRY_AFTER, RETRY_AFTER)], away).into_response()
}

async fn metrics(State(app): State<Arc<App>>, request: Request<Body>) -> String {
    let table = &app.deliverer.table;
    let peer = request.extensions().get::<Peer>();
    app.metrics.page(&Gauges {
        up: table.is_up(),
        jobs: table.len(),
        connections: peer.map_or(0, Peer::connections),
        body_bytes: app.memory.used(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proxies_that_are_named_are_believed() {
        let tree = Tree::new(std::path::Path::new("/nonexistent/tree")).unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let source = Source::single(None, &[], "/nonexistent".into()).unwrap();
        let app = App::new(tree, source, vec![address("127.0.0.1"), address("10.0.0.2")]).unwrap();
        for (peer, headers, client) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("127.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["6.6.6.6", "203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("::ffff:127.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["nonsense"], "127.0.0.1"),
        ] {
            let mut map = HeaderMap::new();
            for value in headers {
                map.append("x-forwarded-for", HeaderValue::from_static(value));
            }
            assert_eq!(app.client(address(peer), &map), address(client), "{peer} {headers:?}");
        }
    }
}
