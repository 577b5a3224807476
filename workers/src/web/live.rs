//! Pages that are open move by themselves: what changes of a page is sent again, by server-sent events. Everything
//! is bounded: how many pages, how often, how long.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use tokio::time::{Instant, sleep, timeout};

use super::answer::{Answer, typed};
use super::ask::{App, Asked, Want};
use super::bytes::filled;
use super::console;
use super::shared::KEPT_TIME;
use super::sight::{Fault, Result};
use super::table::Change;
use super::{pages, places};
use crate::connections::Peer;

/// How long a stream lives; the browser then asks again and goes on where it was.
pub const STREAM_TIME: Duration = Duration::from_secs(3600);

/// Within this time something is sent, so that nobody in between thinks the stream dead.
pub const BEAT: Duration = Duration::from_secs(15);

/// How often a page is looked at without an event, where something hangs on time or the tree tells no events.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The same of a page that only events change.
const LOOK_LATE: Duration = Duration::from_secs(15);

/// What a page has in it that shows something under way.
const UNDER_WAY: &str = "data-since";

/// The name of the event that tells that nothing can be read now, and its id.
const AWAY: &str = "away";

/// The shortest time between two versions of a page.
const PAUSE: Duration = Duration::from_millis(300);

/// Keeps a page live, or a console.
pub async fn stream(app: Arc<App>, asked: Asked, headers: &HeaderMap, peer: Option<&Peer>) -> Response {
    let Ok(place) = app.streams.clone().try_acquire_owned() else {
        return app.fault(&Fault::Busy("live pages"), Want::Events);
    };
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let last = last.map(ToOwned::to_owned);
    let (sender, body) = filled(peer.map(Peer::busy));
    if console::is_console(&asked.names) {
        let (app, asked) = (app.clone(), asked.clone());
        tokio::spawn(async move {
            let _place = place;
            let until = Instant::now() + STREAM_TIME;
            console::tail::follow(app, asked, last, sender, until).await;
        });
    } else {
        // What changes from now on is heard, so what is made from now on has what changed before.
        let (changes, since) = (app.table.changes(), Instant::now());
        // What can't be shown at all is said at once.
        if let Err(fault) = shared(&app, &asked, since).await
            && !fault.passes()
        {
            return app.fault(&fault, Want::Events);
        }
        tokio::spawn(follow(app.clone(), asked, last, sender, (place, changes, since)));
    }
    let mut response = typed(StatusCode::OK, "text/event-stream", body);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect what is sent.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Sends the page whenever it has changed.
async fn follow(
    app: Arc<App>,
    asked: Asked,
    last: Option<String>,
    to: Sender<Bytes>,
    (_place, mut changes, mut since): (OwnedSemaphorePermit, broadcast::Receiver<Change>, Instant),
) {
    // A browser that comes back while the tree is away has said "live" meanwhile: it is told again.
    let mut last = last.filter(|id| id != AWAY);
    let until = Instant::now() + STREAM_TIME;
    let mut beat = Instant::now();
    while Instant::now() < until {
        let mut look = LOOK_EVERY;
        let event = match shared(&app, &asked, since).await {
            Ok(main) => {
                if app.table.told() && !main.under_way {
                    look = LOOK_LATE;
                }
                let changed = last.as_deref() != Some(&*main.digest);
                changed.then(|| (main.event, main.digest.to_string()))
            }
            // What was shown still stands.
            Err(Fault::Busy(_)) => None,
            Err(fault) if fault.passes() => {
                let away = AWAY.to_owned();
                let words = match fault {
                    Fault::Away(_) => "the tree is away; waiting for it",
                    _ => "this can't be read now; waiting for it",
                };
                (last.as_ref() != Some(&away)).then(|| (event(AWAY, &away, words).into(), away))
            }
            // It was removed, or closed: the page says so when it is loaded again.
            Err(_) => {
                let _ = to.send(event("gone", "gone", "").into()).await;
                return;
            }
        };
        let text = match event {
            Some((text, digest)) => {
                last = Some(digest);
                Some(text)
            }
            None if beat.elapsed() >= BEAT => Some(Bytes::from_static(b": \n\n")),
            None => None,
        };
        if let Some(text) = text {
            beat = Instant::now();
            if to.send(text).await.is_err() {
                return;
            }
        }
        sleep(PAUSE).await;
        let heard = tokio::select! {
            () = to.closed() => return,
            heard = matters(&mut changes, &asked, look) => heard,
        };
        since = Instant::now();
        if !heard {
            since = since.checked_sub(KEPT_TIME).unwrap_or(since);
        }
    }
}

/// Waits for a change of what a page shows, for a while; whether there was one.
async fn matters(changes: &mut broadcast::Receiver<Change>, asked: &Asked, look: Duration) -> bool {
    let job = match asked.names.first() {
        Some(top) if top == "jobs" => asked.names.get(1).and_then(|name| name.to_str()),
        _ => None,
    };
    let waiting = async {
        loop {
            match (changes.recv().await, job) {
                (Ok(Change::Job(of)), Some(job)) if *of != *job => {}
                (Ok(Change::Tickets), Some(_)) => {}
                (Err(broadcast::error::RecvError::Closed), _) => std::future::pending().await,
                _ => return,
            }
        }
    };
    timeout(look, waiting).await.is_ok()
}

/// An event as it is written: an id, a name, and data without bare ends of lines.
pub fn event(name: &str, id: &str, data: &str) -> String {
    let mut text = format!("id: {id}\nevent: {name}\n");
    for line in data.split(['\n', '\r']) {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    text
}

/// The main part of a page as all get it who look at it.
#[derive(Debug, Clone)]
pub struct Main {
    event: Bytes,
    digest: Arc<str>,
    under_way: bool,
}

/// The main part of a page, made once for all who look at it just now; begun at `since` or later.
async fn shared(app: &Arc<App>, asked: &Asked, since: Instant) -> Result<Main> {
    let name = format!("{:?} {:?}", asked.names, asked.query);
    let (this, mut wanted) = (app.clone(), asked.clone());
    wanted.want = Want::Html;
    let making = async {
        app.work(&places::of(&asked.names), move || {
            let Answer::Page(html) = pages::answer(&this, &wanted)? else {
                return Err(Fault::Absent);
            };
            let main = main_of(&html);
            let digest = blake3::hash(main.as_bytes()).to_hex()[..16].to_owned();
            Ok(Main {
                event: this.streams_room.keep(event("page", &digest, main))?,
                digest: digest.into(),
                under_way: main.contains(UNDER_WAY),
            })
        })
        .await
    };
    app.mains.get(&name, since, making).await
}

/// What stands in a page's main element: text in it is escaped, so no other one is found.
fn main_of(html: &str) -> &str {
    let begin = html.find("<main").unwrap_or(0);
    let end = html.rfind("</main>").map_or(html.len(), |at| at + "</main>".len());
    html.get(begin..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_event_whatever_is_in_it() {
        assert_eq!(
            event("page", "7", "a\nevent: x\r\n\nb"),
            "id: 7\nevent: page\ndata: a\ndata: event: x\ndata: \ndata: \ndata: b\n\n"
        );
    }

    #[test]
    fn the_main_part_is_found() {
        assert_eq!(main_of("<head><main id=a>x</main></body>"), "<main id=a>x</main>");
    }
}
