//! What the workers of the queue `notify` have in common: they hold what is to be told, try it when its time has come,
//! and go on with others meanwhile.
//!
//! One thread reads `.next`; a few tell. A ticket is held until somebody took what it says, or until it is given up: so
//! a worker that dies loses none, and another goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::beneath::more_descriptors;
use crate::signals;
use crate::ticket::Claimed;
use crate::tree::{Lines, Result, Tree, Trouble};

pub mod due;
#[cfg(feature = "github")]
pub mod hook;
pub mod mail;
pub mod news;

use due::{Due, Tried};
use news::News;

/// The queue.
pub const QUEUE: &str = "notify";

/// Tickets that one worker holds: each has its folder open. More wait in the queue.
const HELD_MAX: usize = 512;

/// Threads that tell: most of their time they wait for somebody else's server.
const TELLERS: usize = 16;

/// How long what is under way may still take when the worker is told to end.
const END_TIME: Duration = Duration::from_secs(5);

/// How long nobody looks whether there is something to do.
const TICK: Duration = Duration::from_millis(500);

/// How it ended that something was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Told,
    /// It may be taken later, not before that time if one is said.
    Later(String, Option<Duration>),
    /// It never will.
    Never(String),
}

/// How a worker tells.
pub trait Teller: Send + Sync + 'static {
    /// The program, for messages.
    const NAME: &'static str;
    /// The label of its tickets.
    const LABEL: &'static str;

    /// Whom this goes to: of those that go to the same few are tried at once, so that one that hangs holds up no other.
    fn whom(&self, news: &News) -> String;

    /// Tells it, within a minute.
    fn tell(&self, news: &News) -> Outcome;
}

/// Runs until TERM or INT (`Ok`) or until the tree is away (`Err`). `patience`: how long something is tried.
pub fn run<T: Teller>(tree: &Tree, teller: T, patience: Duration) -> Result<()> {
    let broken = |e: std::io::Error| Trouble::Refused(format!("can't start: {e}"));
    let _wake = signals::install().map_err(broken)?;
    more_descriptors();
    let mut next = tree.next(QUEUE, &[T::LABEL.to_owned()])?;
    let desk = Arc::new(Desk {
        tree: tree.clone(),
        teller,
        patience,
        held: Mutex::default(),
        news: Condvar::new(),
    });
    let mut tellers = Vec::new();
    for _ in 0..TELLERS {
        let desk = desk.clone();
        let teller = thread::Builder::new().name("tell".into()).spawn(move || desk.serve());
        tellers.push(teller.map_err(broken)?);
    }
    let ended = desk.read(&mut next);
    signals::stop();
    desk.news.notify_all();
    let begun = Instant::now();
    while begun.elapsed() < END_TIME && !tellers.iter().all(thread::JoinHandle::is_finished) {
        thread::sleep(Duration::from_millis(20));
    }
    // What is still being told goes with this process, and is told again.
    if ended.is_ok() {
        desk.lock().tickets.values().for_each(|held| held.claimed.give_back());
    }
    ended
}

/// A ticket that is held.
#[derive(Clone)]
struct Held {
    /// Tells this claim from a later one of the same ticket, which may come while this one is told.
    number: u64,
    claimed: Claimed,
    /// Nothing before it was read.
    news: Option<Arc<News>>,
}

/// All that are held.
#[derive(Default)]
struct All {
    tickets: BTreeMap<String, Held>,
    due: Due,
    /// Claims so far.
    claims: u64,
}

impl All {
    /// Whether this claim of a ticket is the one that is held.
    fn has(&self, id: &str, held: &Held) -> bool {
        self.tickets.get(id).is_some_and(|known| known.number == held.number)
    }
}

struct Desk<T> {
    tree: Tree,
    teller: T,
    patience: Duration,
    held: Mutex<All>,
    news: Condvar,
}

impl<T: Teller> Desk<T> {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes tickets, no more than may be held: each read of the stream claims another.
    fn read(&self, next: &mut Lines) -> Result<()> {
        while !signals::stopping() {
            if self.lock().tickets.len() >= HELD_MAX {
                thread::sleep(TICK);
                continue;
            }
            let id = next.next_line()?;
            if id.is_empty() {
                continue;
            }
            let claimed = Claimed::to_be_entered(self.tree.ticket(QUEUE, &id));
            // At once: by its name it may be another's later.
            if let Err(trouble) = claimed.enter() {
                eprintln!("{}: {id}: {trouble}", T::NAME);
                give_back_unentered(&claimed.folder, &trouble);
                continue;
            }
            self.hold(id, claimed);
            self.news.notify_one();
        }
        Ok(())
    }

    /// Takes a claim in, instead of an earlier one of the same ticket, which is lost then.
    fn hold(&self, id: String, claimed: Claimed) {
        let mut all = self.lock();
        all.claims += 1;
        let held = Held {
            number: all.claims,
            claimed,
            news: None,
        };
        all.tickets.insert(id.clone(), held);
        // Whom it goes to is known when it was read.
        all.due.add(id, String::new(), Instant::now());
    }

    /// Tells what is due until the worker ends.
    fn serve(&self) {
        while !signals::stopping() {
            let mut all = self.lock();
            let Some(id) = all.due.take(Instant::now()) else {
                drop(self.news.wait_timeout(all, TICK));
                continue;
            };
            let Some(held) = all.tickets.get(&id).cloned() else {
                all.due.remove(&id);
                continue;
            };
            drop(all);
            self.step(&id, &held);
            self.news.notify_one();
        }
    }

    /// Reads a ticket, or tells what it says.
    fn step(&self, id: &str, held: &Held) {
        if let Err(Trouble::Lost(_)) = held.claimed.check() {
            return self.forget(id, held);
        }
        let Some(news) = &held.news else {
            return self.look_at(id, held);
        };
        match self.teller.tell(news) {
            Outcome::Told => self.end(id, held, "success", ""),
            Outcome::Never(why) => self.give_up(id, held, &why),
            Outcome::Later(why, _) if self.is_over(news) => self.give_up(id, held, &why),
            Outcome::Later(why, after) => {
                let mut all = self.lock();
                if !all.has(id, held) {
                    return;
                }
                let Tried { pause, tries } = all.due.again(id, Instant::now(), after);
                drop(all);
                // Said at first, and then ever more seldom.
                if tries.is_power_of_two() {
                    eprintln!("{}: {id}: {why}; again in {:.1} s", T::NAME, pause.as_secs_f64());
                }
            }
        }
    }

    fn look_at(&self, id: &str, held: &Held) {
        let read = held.claimed.ticket().and_then(|ticket| News::of(id, ticket));
        match read {
            Ok(news) => {
                let whom = self.teller.whom(&news);
                let mut all = self.lock();
                if let Some(known) = all.tickets.get_mut(id).filter(|known| known.number == held.number) {
                    known.news = Some(Arc::new(news));
                    all.due.add(id.to_owned(), whom, Instant::now());
                }
            }
            Err(Trouble::Lost(_)) => self.forget(id, held),
            Err(Trouble::Refused(why)) => self.give_up(id, held, &why),
            Err(trouble) => {
                eprintln!("{}: {id}: {trouble}; the ticket is given back", T::NAME);
                held.claimed.give_back();
                self.forget(id, held);
            }
        }
    }

    /// Whether it was tried for long enough, whoever did.
    fn is_over(&self, news: &News) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(news.since()) >= self.patience
    }

    fn give_up(&self, id: &str, held: &Held, why: &str) {
        eprintln!("{}: {id}: given up: {why}", T::NAME);
        self.end(id, held, "failure", why);
    }

    fn end(&self, id: &str, held: &Held, outcome: &str, message: &str) {
        if let Err(trouble) = held.claimed.finish(outcome, message) {
            // Whoever reads the stream ends this process.
            eprintln!("{}: {id}: {trouble}", T::NAME);
        }
        self.forget(id, held);
    }

    /// Lets this claim go: a later one of the same ticket stays, and is told.
    fn forget(&self, id: &str, held: &Held) {
        let mut all = self.lock();
        if all.has(id, held) {
            all.tickets.remove(id);
            all.due.remove(id);
        }
    }
}

/// Gives a ticket back that was not entered, by its name, unless it is known to be another's.
fn give_back_unentered(folder: &std::path::Path, trouble: &Trouble) {
    if !matches!(trouble, Trouble::Lost(_) | Trouble::Away(_)) {
        // Whether that works or not: its claim goes with this process at last.
        let _ = std::fs::remove_file(folder.join("claim"));
    }
}

/// The parameters of a ticket.
type Params = Map<String, Value>;

/// What a ticket says, for the tests of those who tell it.
#[cfg(test)]
pub(crate) fn news(params: Value) -> News {
    let ticket: crate::ticket::Ticket =
        serde_json::from_value(serde_json::json!({ "params": params, "owner": 1000 })).unwrap();
    News::of("hello.7.0-0123456789abcdef", ticket).unwrap()
}

#[cfg(test)]
mod tests;
