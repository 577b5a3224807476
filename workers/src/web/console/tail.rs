//! Consoles as they grow: one task follows each console that anybody looks at, and all who look get what it made.
//! A viewer who comes back says how far he was, and gets what he has not seen.

use std::cmp::Ordering as Order;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, timeout};

use super::index::Shared;
use super::window::{LIVE_BYTES_MAX, Window, from_byte, skipped};
use super::{Place, open};
use crate::web::ask::{App, Asked};
use crate::web::facts::is_over;
use crate::web::live::{BEAT, event};
use crate::web::sight::{Fault, Result};

/// How often a console is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// The same after much was sent: a screen shows no more.
const PAUSE: Duration = Duration::from_millis(200);

/// Bytes of HTML after which there is a pause.
const MUCH: usize = 32 << 10;

/// Bytes of a console that may find room in any case.
const LITTLE_BYTES: u64 = 4 << 10;

/// How often it is looked whether the work has ended.
const END_EVERY: Duration = Duration::from_millis(500);

/// The longest time between two looks at a tree that is away.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How far a viewer may be behind; of more the end is shown.
const BEHIND_MAX: u64 = 1 << 20;

/// How much of the end is shown then.
const BEHIND_SHOWN: u64 = 64 << 10;

/// Pieces that wait for a slow viewer; past these he is told from the file.
const PIECES_MAX: usize = 8;

/// What a viewer is told while nothing can be read.
const AWAY: &str = "this console can't be read now; waiting for it";

/// How long one look into the index may take: others wait for it.
const INDEX_TIME: Duration = Duration::from_millis(100);

/// A piece of a console, as it is sent to all.
#[derive(Debug)]
struct Piece {
    begin: u64,
    end: u64,
    text: Bytes,
    next: Next,
}

/// What follows a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Perhaps another.
    More,
    /// Nothing: the work has ended.
    End,
    /// Nothing from this hub: the console can't be read now.
    Away,
}

/// What of a piece a viewer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// All of it.
    All,
    /// What stands behind the part of it that he has: he came later than the look that it begins at.
    Rest,
    /// Nothing: he has it.
    Nothing,
}

impl Piece {
    /// What a viewer gets who has all before a byte. An incomplete line stands behind the end of a piece.
    fn due(&self, at: u64) -> Due {
        match (self.begin.cmp(&at), self.end.cmp(&at)) {
            (Order::Less, Order::Less) => Due::Nothing,
            (Order::Less, _) => Due::Rest,
            _ => Due::All,
        }
    }
}

/// Who follows one console.
struct Hub {
    pieces: broadcast::Sender<Arc<Piece>>,
    upto: AtomicU64,
    /// Whether nothing more will come from it. It is said before the last piece is sent.
    dead: AtomicBool,
}

impl Hub {
    /// Sends the last piece: whoever asks for this console from now on gets another hub.
    fn end(&self, next: Next) {
        self.dead.store(true, Ordering::Release);
        let at = self.upto.load(Ordering::Acquire);
        let _ = self.pieces.send(Arc::new(Piece {
            begin: at,
            end: at,
            text: Bytes::new(),
            next,
        }));
    }
}

/// All that are followed.
#[derive(Default)]
pub struct Tails(Mutex<HashMap<String, Weak<Hub>>>);

impl Tails {
    /// Who follows this console, and whether it is to be started.
    fn of(&self, path: &str, at: u64) -> (Arc<Hub>, bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hub) = all.get(path).and_then(Weak::upgrade)
            && !hub.dead.load(Ordering::Acquire)
        {
            return (hub, false);
        }
        all.retain(|_, hub| hub.strong_count() > 0);
        let hub = Arc::new(Hub {
            pieces: broadcast::Sender::new(PIECES_MAX),
            upto: AtomicU64::new(at),
            dead: AtomicBool::new(false),
        });
        all.insert(path.to_owned(), Arc::downgrade(&hub));
        (hub, true)
    }
}

/// Sends what comes to a console from a byte on: from `last`, which the viewer was told, or the query's `after`.
pub async fn follow(app: Arc<App>, asked: Asked, last: Option<String>, to: Sender<Bytes>, until: Instant) {
    let told = last.as_deref().and_then(|id| id.parse().ok());
    let mut at: u64 = told.or_else(|| asked.query.number("after")).unwrap_or(0);
    let place = match Place::of(&asked.names) {
        Some(place) => place,
        None => return,
    };
    if told.is_none() && !begin(&app, &place, at, (&to, until)).await {
        return;
    }
    let mut away = false;
    while Instant::now() < until {
        let Some(size) = readable(&app, &place, (at, until), &mut away, &to).await else {
            return;
        };
        // Nobody waits beyond the end: others follow by what one viewer said.
        at = at.min(size);
        let (hub, new) = app.tails.of(&place.key(), at);
        let mut pieces = hub.pieces.subscribe();
        if new {
            tokio::spawn(keep(app.clone(), place.clone(), Arc::downgrade(&hub)));
        } else if hub.dead.load(Ordering::Acquire) {
            // Its last piece may have been sent before we could hear it.
            drop(hub);
            sleep(LOOK_EVERY).await;
            continue;
        }
        let ended = one_hub(&app, &place, &hub, &mut pieces, (&mut at, until), &to).await;
        match ended {
            Ended::Viewer => return,
            Ended::Console => {
                let _ = to.send(event("end", &at.to_string(), "").into()).await;
                return;
            }
            Ended::Gone => {
                let _ = to.send(event("gone", &at.to_string(), "").into()).await;
                return;
            }
            Ended::Hub => {
                away = true;
                if to.send(event("away", &at.to_string(), AWAY).into()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Waits until a console can be read, and gives its bytes; `None` where it is gone, and when nobody listens any more.
async fn readable(
    app: &Arc<App>,
    place: &Place,
    (at, until): (u64, Instant),
    away: &mut bool,
    to: &Sender<Bytes>,
) -> Option<u64> {
    let (mut pause, job) = (LOOK_EVERY, place.of_job());
    while Instant::now() < until && !to.is_closed() {
        let (this, of) = (app.clone(), place.clone());
        let size = app.work(&job, move || open(&this, &of).map(|(opened, _)| opened.size));
        match size.await {
            Ok(size) => {
                let back = !std::mem::take(away) || to.send(event("back", &at.to_string(), "").into()).await.is_ok();
                return back.then_some(size);
            }
            Err(Fault::Busy(_)) => sleep(PAUSE).await,
            Err(fault) if fault.passes() => {
                // It is told once, and tried again, less and less often.
                let text = match std::mem::replace(away, true) {
                    true => ": \n\n".to_owned(),
                    false => event("away", &at.to_string(), AWAY),
                };
                to.send(text.into()).await.ok()?;
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Err(_) => {
                let _ = to.send(event("gone", &at.to_string(), "").into()).await;
                return None;
            }
        }
    }
    None
}

/// Tells the number of the line that a viewer is at, when lines have been counted so far.
async fn begin(app: &Arc<App>, place: &Place, at: u64, (to, until): (&Sender<Bytes>, Instant)) -> bool {
    while Instant::now() < until {
        let (this, place) = (app.clone(), place.clone());
        let counted = app.work(&place.of_job(), move || number(&this, &place, at)).await;
        let text = match counted {
            Ok(Some(line)) => {
                let text = event("at", &at.to_string(), &line.to_string());
                return to.send(text.into()).await.is_ok();
            }
            Ok(None) => {
                sleep(LOOK_EVERY).await;
                ": \n\n".to_owned()
            }
            Err(fault) if fault.passes() => {
                sleep(END_EVERY).await;
                ": \n\n".to_owned()
            }
            Err(_) => {
                let _ = to.send(event("gone", &at.to_string(), "").into()).await;
                return false;
            }
        };
        if to.send(text.into()).await.is_err() {
            return false;
        }
    }
    false
}

/// The number of the line that begins at a byte; `None` if more has to be counted.
fn number(app: &App, place: &Place, at: u64) -> Result<Option<u64>> {
    let (opened, index) = open(app, place)?;
    let at = at.min(opened.size);
    let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
    if !index.extend(&opened.file, at, INDEX_TIME)? {
        return Ok(None);
    }
    Ok(index.line_at(&opened.file, at)?.map(|line| line + 1))
}

/// Why a viewer hears nothing more.
enum Ended {
    Viewer,
    Console,
    Gone,
    Hub,
}

/// Gives a viewer what he has not seen, and then all that one hub makes.
async fn one_hub(
    app: &Arc<App>,
    place: &Place,
    hub: &Hub,
    pieces: &mut broadcast::Receiver<Arc<Piece>>,
    (at, until): (&mut u64, Instant),
    to: &Sender<Bytes>,
) -> Ended {
    loop {
        let upto = hub.upto.load(Ordering::Acquire);
        if *at < upto
            && let Some(ended) = catch_up(app, place, at, upto, to).await
        {
            return ended;
        }
        let next = tokio::select! {
            () = to.closed() => return Ended::Viewer,
            () = tokio::time::sleep_until(until) => return Ended::Viewer,
            next = timeout(BEAT, pieces.recv()) => next,
        };
        let sent = match next {
            Err(_) => to.send(Bytes::from_static(b": \n\n")).await,
            Ok(Err(RecvError::Closed)) => return Ended::Hub,
            Ok(Err(RecvError::Lagged(_))) => continue,
            Ok(Ok(piece)) => {
                if piece.begin > *at
                    && let Some(ended) = catch_up(app, place, at, piece.begin, to).await
                {
                    return ended;
                }
                let sent = match piece.due(*at) {
                    Due::All if !piece.text.is_empty() => to.send(piece.text.clone()).await,
                    Due::Rest => {
                        if let Some(ended) = rest(app, place, at, to).await {
                            return ended;
                        }
                        Ok(())
                    }
                    Due::All | Due::Nothing => Ok(()),
                };
                *at = piece.end.max(*at);
                match piece.next {
                    Next::End => return Ended::Console,
                    Next::Away => return Ended::Hub,
                    Next::More => sent,
                }
            }
        };
        if sent.is_err() {
            return Ended::Viewer;
        }
    }
}

/// Reads for one viewer what he has not seen.
async fn catch_up(app: &Arc<App>, place: &Place, at: &mut u64, upto: u64, to: &Sender<Bytes>) -> Option<Ended> {
    while *at < upto {
        // Nothing is made while he has not taken the last.
        let Ok(slot) = to.reserve().await else {
            return Some(Ended::Viewer);
        };
        let (this, place, from) = (app.clone(), place.clone(), *at);
        let made = app
            .work(&place.of_job(), move || piece(&this, &place, from, upto))
            .await;
        match made {
            Ok(Some(piece)) if piece.end > *at => {
                *at = piece.end;
                slot.send(piece.text);
            }
            Ok(None) | Err(Fault::Busy(_)) if to.is_closed() => return Some(Ended::Viewer),
            // More has to be counted.
            Ok(None) => sleep(LOOK_EVERY).await,
            // Others have all places, or all room.
            Err(Fault::Busy(_)) => sleep(PAUSE).await,
            Ok(Some(_)) => return None,
            Err(fault) if fault.passes() => return Some(Ended::Hub),
            Err(_) => return Some(Ended::Gone),
        }
    }
    None
}

/// Reads for one viewer all that stands behind what he has, an incomplete line too.
async fn rest(app: &Arc<App>, place: &Place, at: &mut u64, to: &Sender<Bytes>) -> Option<Ended> {
    while let Ok(slot) = to.reserve().await {
        let (this, place, from) = (app.clone(), place.clone(), *at);
        match app
            .work(&place.of_job(), move || piece(&this, &place, from, u64::MAX))
            .await
        {
            Ok(Some(piece)) => {
                *at = piece.end.max(*at);
                if !piece.text.is_empty() {
                    slot.send(piece.text);
                }
                return None;
            }
            Ok(None) => sleep(LOOK_EVERY).await,
            Err(Fault::Busy(_)) => sleep(PAUSE).await,
            Err(fault) if fault.passes() => return Some(Ended::Hub),
            Err(_) => return Some(Ended::Gone),
        }
    }
    Some(Ended::Viewer)
}

/// What stands from a byte on; `None` if lines have to be counted first.
fn piece(app: &App, place: &Place, from: u64, upto: u64) -> Result<Option<Piece>> {
    let (opened, index) = open(app, place)?;
    made(app, &opened.file, opened.size.min(upto.max(from)), &index, from)
}

fn made(app: &App, file: &std::fs::File, size: u64, index: &Shared, from: u64) -> Result<Option<Piece>> {
    if size.saturating_sub(from) > LITTLE_BYTES {
        // What would find no room is not made.
        app.streams_room.has(LIVE_BYTES_MAX)?;
    }
    let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
    if !index.extend(file, size, INDEX_TIME)? {
        return Ok(None);
    }
    let mut begin = from;
    let mut html = String::new();
    if size.saturating_sub(from) > BEHIND_MAX {
        let place = index.before_byte(size - BEHIND_SHOWN);
        if place.at > from {
            html = skipped(place.at - from);
            begin = place.at;
        }
    }
    let Some(line) = index.line_at(file, begin)? else {
        return Ok(None);
    };
    let number = i64::try_from(line).unwrap_or(0) + 1;
    let window: Window = from_byte(file, size, Some(&index), begin, number, (u64::MAX, LIVE_BYTES_MAX))?;
    html.push_str(&window.html);
    let text = match html.is_empty() {
        true => Bytes::new(),
        false => app
            .streams_room
            .keep(event("lines", &window.end.to_string(), html.trim_end()))?,
    };
    Ok(Some(Piece {
        begin: from,
        end: window.end,
        text,
        next: Next::More,
    }))
}

/// What a hub saw at its last look.
#[derive(Default, Clone, Copy)]
struct Look {
    upto: u64,
    /// Of an incomplete line behind it, so that it is sent when it grows.
    size: u64,
    over: bool,
}

/// Follows a console for as long as anybody looks.
async fn keep(app: Arc<App>, place: Place, hub: Weak<Hub>) {
    let mut look = match hub.upgrade() {
        Some(hub) => Look {
            upto: hub.upto.load(Ordering::Acquire),
            ..Look::default()
        },
        None => return,
    };
    let (mut asked, job) = (Instant::now(), place.of_job());
    loop {
        let Some(hub) = hub.upgrade() else { return };
        let over = look.over
            || asked.elapsed() >= END_EVERY && {
                asked = Instant::now();
                let (this, place) = (app.clone(), place.clone());
                matches!(
                    app.work(&job, move || over(&this, &place)).await,
                    Ok(true) | Err(Fault::Absent | Fault::Closed)
                )
            };
        let (this, of) = (app.clone(), place.clone());
        let made = app.work(&job, move || grown(&this, &of, look)).await;
        let mut sent = 0;
        match made {
            Ok((None, size)) => look.size = size,
            Ok((Some(piece), size)) => {
                sent = piece.text.len();
                look.size = size;
                look.upto = piece.end;
                let _ = hub.pieces.send(Arc::new(piece));
                hub.upto.store(look.upto, Ordering::Release);
            }
            Err(Fault::Busy(_)) => {
                drop(hub);
                sleep(PAUSE).await;
                continue;
            }
            Err(fault) if fault.passes() => return hub.end(Next::Away),
            Err(_) => look.over = true,
        }
        // What was written before the end is there at the look after it.
        if look.over && sent == 0 {
            return hub.end(Next::End);
        }
        look.over = over;
        drop(hub);
        sleep(if sent > MUCH { PAUSE } else { LOOK_EVERY }).await;
    }
}

/// What came since the last look.
fn grown(app: &App, place: &Place, look: Look) -> Result<(Option<Piece>, u64)> {
    let (opened, index) = open(app, place)?;
    if opened.size <= look.size.max(look.upto) {
        return Ok((None, look.size));
    }
    let piece = made(app, &opened.file, opened.size, &index, look.upto)?;
    Ok(match piece {
        Some(piece) => (Some(piece), opened.size),
        None => (None, look.size),
    })
}

/// Whether the work whose console it is has ended.
fn over(app: &App, place: &Place) -> Result<bool> {
    let state = place.folder(app)?.text("state")?;
    Ok(is_over(&state) || state == "skipped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_gets_what_he_has_not_seen() {
        let piece = |begin, end| Piece {
            begin,
            end,
            text: Bytes::from_static(b"x"),
            next: Next::More,
        };
        for (begin, end, at, due) in [
            (10, 20, 10, Due::All),
            // An incomplete line, which has grown.
            (10, 10, 10, Due::All),
            // He came when the page had more than the last look.
            (10, 20, 15, Due::Rest),
            (10, 20, 20, Due::Rest),
            (10, 20, 21, Due::Nothing),
            (10, 10, 11, Due::Nothing),
        ] {
            assert_eq!(piece(begin, end).due(at), due, "{begin} to {end} for {at}");
        }
    }
}
