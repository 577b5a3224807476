//! A console that is followed: its last lines, read on a thread of its own, in which nothing steers a terminal.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use distcifs_settings::fault::plain;

use super::facts::Key;
use super::sight::{Asked, Fault, Sight};

/// Lines that are kept, and bytes of one that are.
const LINES_MAX: usize = 2000;
const LINE_BYTES_MAX: usize = 2048;

/// How much of the end is read at first, and how far it may fall behind before it goes there again, bytes.
const TAIL_BYTES: u64 = 128 << 10;
const BEHIND_BYTES_MAX: u64 = 1 << 20;

/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// Between two looks at a console to which nothing was added, and before one that is not there is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_secs(1);

/// What is shown of a console.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: VecDeque<String>,
    /// How many there were since it was begun, with those that are not kept.
    pushed: usize,
    /// The line that has no end yet, as it came.
    last: Vec<u8>,
    /// Why nothing is read.
    fault: Option<String>,
}

impl Lines {
    /// Takes what was added.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = (LINE_BYTES_MAX + 1).saturating_sub(self.last.len());
            self.last.extend_from_slice(&text[..text.len().min(room)]);
            // What a carriage return writes over needs no room.
            if self.last.len() > LINE_BYTES_MAX
                && let Some(at) = self.last.iter().rposition(|byte| *byte == b'\r')
            {
                self.last.drain(..=at);
            }
            if ended {
                let line = shown(&std::mem::take(&mut self.last));
                self.push(line);
            }
        }
    }

    fn push(&mut self, line: String) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        self.pushed += 1;
    }

    /// How many lines came since it was begun, with those that are not kept and the one that has no end yet.
    pub(super) fn came(&self) -> usize {
        self.pushed + usize::from(!self.last.is_empty())
    }

    /// The last lines, so many, those before the last `back` ones; with the one that has no end yet. And how many lines
    /// there are.
    pub(super) fn window(&self, height: usize, back: usize) -> (Vec<String>, usize) {
        let open = (!self.last.is_empty()).then(|| shown(&self.last));
        let all = self.lines.len() + usize::from(open.is_some());
        let end = all.saturating_sub(back);
        let lines = self.lines.iter().map(String::as_str).chain(open.as_deref());
        let lines = lines.skip(end.saturating_sub(height)).take(end.min(height));
        (lines.map(str::to_owned).collect(), all)
    }

    /// Why nothing is read.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

/// A line as it is shown: what stands behind its last carriage return, without sequences that colour it or move the
/// cursor; anything else that steers is escaped.
pub(super) fn shown(line: &[u8]) -> String {
    let cut = line.len() > LINE_BYTES_MAX;
    let line = &line[..line.len().min(LINE_BYTES_MAX)];
    let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |at| at + 1);
    let line = line[..end].rsplit(|byte| *byte == b'\r').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    let mut seen = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(at) = rest.find('\u{1b}') {
        seen.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = sequence(rest.as_bytes());
        if length == 0 {
            seen.push('\u{1b}');
            rest = &rest[1..];
        } else {
            rest = &rest[length..];
        }
    }
    seen.push_str(rest);
    let mut text = plain(&seen.replace('\t', "    ")).into_owned();
    if cut {
        text.push('…');
    }
    text
}

/// The length of the control sequence (`ESC [ … m`) that a text begins with; 0 if it is none.
fn sequence(text: &[u8]) -> usize {
    let Some(rest) = text.strip_prefix(b"\x1b[") else {
        return 0;
    };
    let middle = rest.iter().take_while(|byte| (0x20..=0x3f).contains(*byte)).count();
    match rest.get(middle) {
        Some(0x40..=0x7e) => 2 + middle + 1,
        _ => 0,
    }
}

/// A console that is followed until this is dropped.
pub(super) struct Follower {
    pub(super) key: Key,
    lines: Arc<Mutex<Lines>>,
    over: Arc<AtomicBool>,
    /// What its thread waits for.
    pub(super) asked: Asked,
}

impl Follower {
    /// Begins to follow a build's console.
    ///
    /// # Errors
    /// There are no threads left.
    pub(super) fn begin(key: Key, sight: &Sight) -> Result<Follower, String> {
        let (lines, over) = (Arc::new(Mutex::new(Lines::default())), Arc::new(AtomicBool::new(false)));
        let sight = sight.another();
        let follower = Follower {
            key: key.clone(),
            lines: lines.clone(),
            over: over.clone(),
            asked: sight.asked.clone(),
        };
        let path = format!("{}/console", key.folder());
        let begun = thread::Builder::new().name("console".into()).spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let fault = read(&sight, &path, &lines, &over);
                lock(&lines).fault = Some(match fault {
                    Fault::Absent => "it has no console".to_owned(),
                    Fault::Closed => "its console is closed to you".to_owned(),
                    Fault::Odd(why) | Fault::Away(why) => super::sight::clean(&why),
                });
                thread::sleep(AGAIN);
            }
        });
        begun.map_err(|error| format!("no thread to follow the console: {error}"))?;
        Ok(follower)
    }

    /// The lines.
    pub(super) fn lines(&self) -> MutexGuard<'_, Lines> {
        lock(&self.lines)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a console from near its end, and goes on as it grows, until it can't be read or nobody looks.
fn read(sight: &Sight, path: &str, lines: &Mutex<Lines>, over: &AtomicBool) -> Fault {
    let opened = sight.top().and_then(|top| top.open(path));
    let mut file = match opened {
        Ok(file) => file,
        Err(fault) => return fault,
    };
    *lock(lines) = Lines::default();
    let mut bytes = vec![0; READ_BYTES];
    let mut at = 0;
    while !over.load(Ordering::Relaxed) {
        let step = sight.asked.ask(|| step(&mut file, &mut at, &mut bytes));
        match step {
            Err(error) => return error.into(),
            Ok((left, count)) => {
                let mut lines = lock(lines);
                if left > 0 {
                    lines.last.clear();
                    lines.push(format!("({left} bytes are left out)"));
                }
                lines.add(&bytes[..count]);
                drop(lines);
                if count == 0 {
                    thread::sleep(LOOK_EVERY);
                }
            }
        }
    }
    Fault::Absent
}

/// Reads the next piece: how many bytes were passed over before it, and how many were read.
fn step(file: &mut File, at: &mut u64, bytes: &mut [u8]) -> std::io::Result<(u64, usize)> {
    let size = file.metadata()?.len();
    let most = if *at == 0 { TAIL_BYTES } else { BEHIND_BYTES_MAX };
    let behind = size.saturating_sub(*at);
    let left = if behind > most { behind - TAIL_BYTES } else { 0 };
    if left > 0 {
        *at = file.seek(SeekFrom::Start(*at + left))?;
    }
    let count = file.read(bytes)?;
    *at += count as u64;
    Ok((left, count))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use proptest::collection::vec;
    use proptest::prelude::{Just, any, prop_assert, prop_oneof, proptest};

    use super::*;

    #[test]
    fn nothing_in_a_line_steers_a_terminal() {
        for (line, text) in [
            (&b"\x1b[1;31mred\x1b[0m end"[..], "red end"),
            (b"a\x1b]0;title\x07b", "a\\u{1b}]0;title\\u{7}b"),
            (b"10 %\r20 %\r30 %\r", "30 %"),
            (b"old\rnew\r\r", "new"),
            (b"\r\r", ""),
            (b"\x1b[", "\\u{1b}["),
            (b"\x1b[999", "\\u{1b}[999"),
            (b"\x1bP+q\x1b\\", "\\u{1b}P+q\\u{1b}\\"),
            ("a\u{202e}b\u{9b}2J".as_bytes(), "a\\u{202e}b\\u{9b}2J"),
            (b"a\tb\0\xff", "a    b\\u{0}\u{fffd}"),
            ("\x1b[31ä".as_bytes(), "\\u{1b}[31ä"),
        ] {
            assert_eq!(shown(line), text);
        }
    }

    proptest! {
        /// Whatever a script writes, in whatever pieces.
        #[test]
        fn no_bytes_steer_a_terminal(
            pieces in vec(vec(prop_oneof![any::<u8>(), Just(27), Just(b'['), Just(b'\n'), Just(b'\r')], 0..40), 0..20)
        ) {
            let mut lines = Lines::default();
            for piece in &pieces {
                lines.add(piece);
                for line in lines.window(LINES_MAX, 0).0 {
                    prop_assert!(!line.chars().any(char::is_control), "{line:?}");
                }
            }
        }
    }

    #[test]
    fn lines_and_their_number_are_bounded() {
        let mut lines = Lines::default();
        lines.add(&vec![b'x'; 10 << 20]);
        assert!(lines.last.len() <= LINE_BYTES_MAX + 1);
        lines.add(b"\nshort\nwith");
        lines.add(b"out end");
        let (window, all) = lines.window(10, 0);
        assert_eq!(
            (all, &window[1..]),
            (3, &["short".to_owned(), "without end".to_owned()][..])
        );
        assert!(window[0].ends_with('…'));
        assert_eq!(lines.window(1, 1).0, ["short"]);
        for n in 0..5000 {
            lines.add(format!("{n}\n").as_bytes());
        }
        assert_eq!(lines.lines.len(), LINES_MAX);
        assert_eq!(lines.window(1, 0).0, ["4999"]);
    }

    #[test]
    fn a_console_is_followed_from_near_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let build = folder.path().join("jobs/a/builds/1");
        std::fs::create_dir_all(&build).unwrap();
        let path = build.join("console");
        std::fs::write(&path, "old line\n".repeat(1 << 20)).unwrap();
        let follower = Follower::begin(Key::new("a", 1), &Sight::new(folder.path().to_owned())).unwrap();
        let until = |what: &str, seen: &dyn Fn(&[String]) -> bool| {
            let begun = Instant::now();
            while !seen(&follower.lines().window(LINES_MAX, 0).0) {
                assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
                thread::sleep(Duration::from_millis(5));
            }
        };
        until("the end", &|lines| lines.last().is_some_and(|line| line == "old line"));
        until("what was left out", &|lines| {
            lines.len() == LINES_MAX || lines[0].contains("left out")
        });
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"new line\npart").unwrap();
        until("what was added", &|lines| {
            lines.ends_with(&["new line".to_owned(), "part".to_owned()])
        });
        let gone = Follower::begin(Key::new("b", 1), &Sight::new(folder.path().to_owned())).unwrap();
        let begun = Instant::now();
        while gone.lines().fault().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(5));
        }
    }
}
