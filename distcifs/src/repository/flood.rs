//! Lines of the log that users cause: refusals, claims that are lost. Each kind is heard, and none floods it.
//!
//! One limit for the process, for it protects the process's one log: who is refused in a loop, or takes a
//! claim and lets it go, would push everything else out of the log otherwise.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// How long lines are counted together.
const SPAN: Duration = Duration::from_secs(10);

/// Lines of one kind in a span: what a person needs to see what goes wrong.
const LINES_PER_KIND: u64 = 10;

/// Lines of all kinds that one user causes in a span: five a second.
const LINES_PER_USER: u64 = 50;

/// Users that are told apart in a span; more of them are one.
const USERS_MAX: usize = 64;

/// Stands for the users beyond.
const OTHERS: u32 = u32::MAX;

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    /// The operation that was refused, or what happened.
    pub(crate) operation: &'static str,
    /// Why it was refused; 0: what happened is no refusal.
    pub(crate) errno: i32,
    /// Who asked for it, or caused it.
    pub(crate) uid: u32,
}

/// What one user caused in a span.
#[derive(Default)]
struct User {
    lines: u64,
    kinds: HashMap<(&'static str, i32), Counted>,
}

#[derive(Default)]
struct Counted {
    lines: u64,
    more: u64,
}

/// What is known of the span at hand.
#[derive(Default)]
struct Limit {
    begun: Option<Instant>,
    users: HashMap<u32, User>,
    /// Whether somebody will say how many more there were.
    awaited: bool,
}

static LIMIT: Mutex<Option<Limit>> = Mutex::new(None);

/// Whether something that a user caused, and that is no refusal, gets a line of its own.
pub(crate) fn has_line_of(happened: &'static str, uid: u32) -> bool {
    has_line(Kind {
        operation: happened,
        errno: 0,
        uid,
    })
}

/// Whether a refusal gets a line of its own. If it does not, a line at the end of the span says how
/// many more of its kind there were.
pub(crate) fn has_line(kind: Kind) -> bool {
    let mut limit = LIMIT.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = limit.get_or_insert_default();
    let now = Instant::now();
    let lines = limit.turn(now);
    let taken = limit.take(kind, now);
    let tell = !taken && !limit.awaited;
    limit.awaited |= tell;
    report(&lines);
    if tell && let Ok(runtime) = Handle::try_current() {
        runtime.spawn(async {
            tokio::time::sleep(SPAN).await;
            let mut limit = LIMIT.lock().unwrap_or_else(PoisonError::into_inner);
            let limit = limit.get_or_insert_default();
            limit.awaited = false;
            report(&limit.close());
        });
    }
    taken
}

fn report(lines: &[String]) {
    lines.iter().for_each(|line| tracing::info!("{line}"));
}

impl Limit {
    /// Begins a new span if the former is over; what it left out.
    fn turn(&mut self, now: Instant) -> Vec<String> {
        match self.begun {
            Some(begun) if now.duration_since(begun) >= SPAN => self.close(),
            _ => Vec::new(),
        }
    }

    /// Ends the span; a line for each kind that was left out in part.
    fn close(&mut self) -> Vec<String> {
        self.begun = None;
        let users = std::mem::take(&mut self.users).into_iter();
        let mut lines: Vec<String> = users
            .flat_map(|(uid, user)| {
                user.kinds
                    .into_iter()
                    .map(move |(kind, counted)| (uid, kind, counted.more))
            })
            .filter(|(_, _, more)| *more > 0)
            .map(|(uid, (operation, errno), more)| {
                let whom = if uid == OTHERS {
                    "others".to_owned()
                } else {
                    format!("user {uid}")
                };
                let (more, span) = (grouped(more), SPAN.as_secs());
                let more = format!("… and {more} more like this in {span} s, for {whom}");
                match errno {
                    0 => format!("{operation}: {more}"),
                    _ => format!(
                        "{operation} refused: {more} ({})",
                        std::io::Error::from_raw_os_error(errno)
                    ),
                }
            })
            .collect();
        lines.sort();
        lines
    }

    /// Whether a line may be written for this one.
    fn take(&mut self, kind: Kind, now: Instant) -> bool {
        self.begun.get_or_insert(now);
        let known = self.users.len() < USERS_MAX || self.users.contains_key(&kind.uid);
        let user = self.users.entry(if known { kind.uid } else { OTHERS }).or_default();
        let counted = user.kinds.entry((kind.operation, kind.errno)).or_default();
        if counted.lines >= LINES_PER_KIND || user.lines >= LINES_PER_USER {
            counted.more += 1;
            return false;
        }
        counted.lines += 1;
        user.lines += 1;
        true
    }
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % 3 == first {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(operation: &'static str, uid: u32) -> Kind {
        Kind {
            operation,
            errno: libc::ENOENT,
            uid,
        }
    }

    #[test]
    fn the_log_says_how_much_it_left_out() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let taken = (0..1244).filter(|_| limit.take(kind("open", 1000), start)).count();
        assert_eq!(taken, 10);
        assert!(limit.take(kind("create", 1000), start), "another kind is heard");
        assert!(limit.take(kind("open", 1001), start), "another user is heard");
        assert!(limit.turn(start + SPAN / 2).is_empty());
        let said = limit.turn(start + SPAN);
        assert_eq!(
            said,
            [
                "open refused: … and 1,234 more like this in 10 s, for user 1000 (No such file or directory (os error 2))"
            ]
        );
        assert!(limit.take(kind("open", 1000), start + SPAN));
    }

    /// "So do other lines that a user causes": they share what he has.
    #[test]
    fn what_is_no_refusal_is_counted_too() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let lost = Kind {
            errno: 0,
            ..kind("claim lost", 7)
        };
        assert_eq!((0..1000).filter(|_| limit.take(lost, start)).count(), 10);
        assert!(limit.take(kind("open", 7), start));
        assert_eq!(
            limit.close(),
            ["claim lost: … and 990 more like this in 10 s, for user 7"]
        );
    }

    #[test]
    fn many_kinds_and_many_users_are_bounded_too() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let operations = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let of_one = operations
            .iter()
            .cycle()
            .take(800)
            .filter(|o| limit.take(kind(o, 7), start));
        assert_eq!(of_one.count(), 50);
        let of_all = (0..100_000).filter(|uid| limit.take(kind("a", *uid), start)).count();
        assert!(of_all < 64 + 10, "{of_all}");
        assert!(limit.users.len() <= USERS_MAX + 1);
        assert!(limit.close().iter().any(|line| line.contains("for others")));
    }

    #[test]
    fn thousands_have_commas() {
        let shown = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }
}
