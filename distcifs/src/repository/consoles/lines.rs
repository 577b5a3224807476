//! How a task's output becomes lines of its build's console.
//!
//! Several tasks write to one console, on several mounts. Each begins on a line of its own; where they may
//! run side by side each line says its task, and a line that is not complete is held back for a moment.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

/// How long an incomplete line is held back for its end: a prompt is seen within that time.
pub(super) const HELD_FOR: Duration = Duration::from_secs(1);

/// Longest incomplete line that is held back, bytes.
const HELD_BYTES_MAX: usize = 16 << 10;

/// Most bytes that may wait while the console can't be appended to, beside one write.
pub(super) const BEHIND_BYTES_MAX: usize = 64 << 10;

/// Bytes of names that any task may have in its build's console; one that keeps more may have as many as
/// it may write.
const NAMES_BYTES_MIN: u64 = 1 << 20;

/// Bytes of lines past which no more are made before these are appended: with names, empty lines become many
/// times the bytes that they were.
const MADE_BYTES_MAX: usize = 4 << 20;

/// Stands where they have taken their room.
const CUT: &[u8] = b"[too many lines: the rest stands in the task's own console]\n";

/// Where a task's output stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At the beginning of a line.
    Start,
    /// Within one.
    Inside,
    /// Behind a carriage return: what comes is written over the line, unless it is a line end.
    Return,
}

impl At {
    /// Behind this byte.
    fn behind(byte: u8) -> At {
        match byte {
            b'\n' => At::Start,
            b'\r' => At::Return,
            _ => At::Inside,
        }
    }

    /// Whether this byte begins a line.
    fn begins(self, byte: u8) -> bool {
        match self {
            At::Start => true,
            At::Inside => false,
            At::Return => byte != b'\n' && byte != b'\r',
        }
    }
}

/// One claim's lines in its build's console.
#[derive(Debug)]
pub(super) struct Lines {
    /// What each line begins with; empty where tasks run one after another.
    prefix: Bytes,
    /// Bytes that prefixes may still take.
    room: u64,
    /// They have taken it: nothing is shown here any more.
    cut: bool,
    at: At,
    /// An incomplete line, as it came.
    held: BytesMut,
    since: Option<Instant>,
    /// What is to become lines, and whether it is ours and says itself what it is about.
    queue: VecDeque<(Bytes, bool)>,
    /// What is to be appended now; empty only if the queue is.
    pending: Bytes,
    /// Whether that begins a line.
    starts: bool,
    /// The length of the console after the last append of this claim.
    mine: Option<u64>,
}

impl Lines {
    /// Lines that begin with this name, or as they are if it is empty; `limit`: bytes that the task may write.
    pub(super) fn new(name: &str, limit: u64) -> Self {
        let prefix = if name.is_empty() {
            Bytes::new()
        } else {
            Bytes::from(format!("[{name}] "))
        };
        Lines {
            prefix,
            room: limit.max(NAMES_BYTES_MIN),
            cut: false,
            at: At::Start,
            held: BytesMut::new(),
            since: None,
            queue: VecDeque::new(),
            pending: Bytes::new(),
            starts: true,
            mine: None,
        }
    }

    /// Takes output; what is complete of it is to be appended.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        if self.cut {
            return;
        }
        if self.prefix.is_empty() {
            return self.enqueue(Bytes::copy_from_slice(bytes), false);
        }
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if complete > 0 {
            self.held.extend_from_slice(&bytes[..complete]);
            self.let_go();
            if self.cut {
                return;
            }
        }
        self.held.extend_from_slice(&bytes[complete..]);
        if self.held.len() > HELD_BYTES_MAX {
            self.let_go();
        } else if !self.held.is_empty() {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// A line of ours and not of the task: it says itself what it is about.
    pub(super) fn take_line(&mut self, line: &str) {
        self.let_go();
        self.enqueue(Bytes::copy_from_slice(line.as_bytes()), true);
    }

    /// What is held back is to be appended, too.
    pub(super) fn let_go(&mut self) {
        self.since = None;
        let held = std::mem::take(&mut self.held);
        self.enqueue(held.freeze(), false);
    }

    /// How long the incomplete line may still be held back, if there is one.
    pub(super) fn holds_for(&self) -> Option<Duration> {
        self.since.map(|since| HELD_FOR.saturating_sub(since.elapsed()))
    }

    /// Bytes that are to be appended or held back.
    pub(super) fn waiting(&self) -> usize {
        let queued = self.queue.iter().map(|(bytes, _)| bytes.len());
        self.pending.len() + self.held.len() + queued.sum::<usize>()
    }

    /// Whether there is something to append.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The next piece, of at most `room` bytes, for a console that is this long; `last`: its last byte.
    pub(super) fn piece(&self, total: u64, last: Option<u8>, room: usize) -> Bytes {
        let mut whole = BytesMut::new();
        if !self.continues(total) {
            if last.is_some_and(|last| last != b'\n') {
                whole.extend_from_slice(b"\n");
            }
            if !self.starts {
                whole.extend_from_slice(&self.prefix);
            }
        }
        if whole.is_empty() {
            return self.pending.slice(..self.pending.len().min(room));
        }
        whole.extend_from_slice(&self.pending);
        whole.truncate(room);
        whole.freeze()
    }

    /// Whether nobody else has written since this claim did.
    pub(super) fn continues(&self, total: u64) -> bool {
        self.mine == Some(total)
    }

    /// This piece stands, and the console has this length now. `total`, `last`: what it was made for.
    pub(super) fn appended(&mut self, piece: &Bytes, total: u64, last: Option<u8>, length: u64) {
        let mut whole = self.piece(total, last, usize::MAX);
        whole.advance(piece.len().min(whole.len()));
        self.pending = whole;
        self.mine = Some(length);
        self.starts = piece.last() == Some(&b'\n');
        if self.pending.is_empty() {
            self.make();
        }
    }

    /// The line end that is missing behind what this claim wrote last; nothing where there is none missing.
    pub(super) fn missing_end(&self, total: u64) -> &'static [u8] {
        if self.at != At::Start && self.continues(total) {
            b"\n"
        } else {
            b""
        }
    }

    /// The last line has its end.
    pub(super) fn ended(&mut self) {
        self.at = At::Start;
    }

    /// Bytes are to become lines, behind all that is there already.
    fn enqueue(&mut self, bytes: Bytes, ours: bool) {
        self.queue.push_back((bytes, ours));
        self.make();
    }

    /// Makes lines of what is queued, as many as there may be.
    fn make(&mut self) {
        let mut lines = BytesMut::new();
        while self.pending.len() + lines.len() < MADE_BYTES_MAX
            && let Some((bytes, ours)) = self.queue.pop_front()
        {
            let Some(first) = bytes.first().filter(|_| ours || !self.cut) else {
                continue;
            };
            if self.pending.is_empty() && lines.is_empty() {
                self.starts = self.at.begins(*first);
            }
            if ours && self.at != At::Start {
                lines.extend_from_slice(b"\n");
            }
            if ours || self.prefix.is_empty() {
                lines.extend_from_slice(&bytes);
                self.at = bytes.last().map_or(self.at, |last| At::behind(*last));
                continue;
            }
            let room = MADE_BYTES_MAX.saturating_sub(self.pending.len());
            let done = self.name_lines(&bytes, &mut lines, room);
            if done < bytes.len() {
                self.queue.push_front((bytes.slice(done..), false));
            }
        }
        if !lines.is_empty() {
            let mut all = BytesMut::with_capacity(self.pending.len() + lines.len());
            all.extend_from_slice(&self.pending);
            all.extend_from_slice(&lines);
            self.pending = all.freeze();
        }
    }

    /// Makes lines that begin with a name until they have so many bytes; of how many bytes it did.
    fn name_lines(&mut self, bytes: &[u8], lines: &mut BytesMut, room: usize) -> usize {
        for (done, byte) in bytes.iter().enumerate() {
            if lines.len() >= room {
                return done;
            }
            if self.at.begins(*byte) {
                lines.extend_from_slice(&self.prefix);
                self.room = self.room.saturating_sub(self.prefix.len() as u64);
                if self.room == 0 {
                    // Empty lines would become a hundred times as many bytes.
                    lines.extend_from_slice(CUT);
                    (self.cut, self.at) = (true, At::Start);
                    break;
                }
            }
            lines.extend_from_slice(&[*byte]);
            self.at = At::behind(*byte);
        }
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A console that several write to.
    #[derive(Default)]
    struct Console(Vec<u8>);

    impl Console {
        /// Appends what of it is to be appended, in pieces of so many bytes.
        fn put(&mut self, lines: &mut Lines, room: usize) {
            while lines.is_pending() {
                let (total, last) = (self.0.len() as u64, self.0.last().copied());
                let piece = lines.piece(total, last, room);
                self.0.extend_from_slice(&piece);
                lines.appended(&piece, total, last, self.0.len() as u64);
            }
        }

        fn write(&mut self, lines: &mut Lines, text: &str) {
            lines.take(text.as_bytes());
            self.put(lines, 1 << 20);
        }

        fn end(&mut self, lines: &mut Lines) {
            lines.let_go();
            self.put(lines, 1 << 20);
            let end = lines.missing_end(self.0.len() as u64);
            self.0.extend_from_slice(end);
            lines.ended();
        }

        fn text(&self) -> &str {
            std::str::from_utf8(&self.0).unwrap()
        }
    }

    const LIMIT: u64 = 1 << 20;

    #[test]
    fn one_after_another_each_begins_a_line_and_no_byte_is_held_back() {
        let mut console = Console::default();
        let (mut first, mut second) = (Lines::new("", LIMIT), Lines::new("", LIMIT));
        console.write(&mut first, "a prompt> ");
        assert_eq!(console.text(), "a prompt> ");
        console.write(&mut first, "answer");
        console.end(&mut first);
        console.end(&mut first);
        console.write(&mut second, "other");
        assert_eq!(console.text(), "a prompt> answer\nother");
        // Its claim was lost, and another begins.
        let mut again = Lines::new("", LIMIT);
        again.take_line("[claim 2]\n");
        console.put(&mut again, 1 << 20);
        console.write(&mut again, "other\n");
        console.end(&mut again);
        assert_eq!(console.text(), "a prompt> answer\nother\n[claim 2]\nother\n");
    }

    #[test]
    fn side_by_side_each_line_says_its_task() {
        let mut console = Console::default();
        let (mut a, mut b) = (Lines::new("a", LIMIT), Lines::new("b", LIMIT));
        console.write(&mut a, "one\ntw");
        console.write(&mut b, "eins\n\n");
        console.write(&mut a, "o\r\nthree");
        assert!(a.holds_for().is_some() && b.holds_for().is_none());
        assert_eq!(console.text(), "[a] one\n[b] eins\n[b] \n[a] two\r\n");
        // Held back no longer; then the other says something.
        a.let_go();
        console.put(&mut a, 1 << 20);
        console.write(&mut a, "!");
        a.let_go();
        console.put(&mut a, 1 << 20);
        console.write(&mut b, "zwei\n");
        console.write(&mut a, "?\n");
        console.end(&mut a);
        console.write(&mut b, "x");
        console.end(&mut b);
        assert_eq!(
            console.text(),
            "[a] one\n[b] eins\n[b] \n[a] two\r\n[a] three!\n[b] zwei\n[a] ?\n[b] x\n"
        );
    }

    #[test]
    fn what_is_written_over_a_line_says_its_task_again() {
        let mut console = Console::default();
        let mut a = Lines::new("a", LIMIT);
        for text in ["10%\r", "20%", "\r\r30%\r", "\ndone\n"] {
            console.write(&mut a, text);
        }
        assert_eq!(console.text(), "[a] 10%\r[a] 20%\r\r[a] 30%\r\n[a] done\n");
    }

    #[test]
    fn what_is_long_is_not_held_back_and_the_room_for_names_is_bounded() {
        let mut console = Console::default();
        let mut a = Lines::new("a", LIMIT);
        console.write(&mut a, &"x".repeat(HELD_BYTES_MAX + 1));
        assert!(console.0.len() > HELD_BYTES_MAX && a.holds_for().is_none());
        let mut console = Console::default();
        let mut a = Lines::new(&"n".repeat(100), LIMIT);
        console.write(&mut a, &"\n".repeat(1 << 20));
        console.write(&mut a, "more\n");
        assert!(console.0.len() < 2 * NAMES_BYTES_MIN as usize, "{}", console.0.len());
        assert!(console.0.ends_with(CUT));
        // What is behind the cut in the same write is not shown either; a line of ours is.
        let mut console = Console::default();
        let mut a = Lines::new(&"n".repeat(100), LIMIT);
        console.write(&mut a, &format!("{}rest", "\n".repeat(1 << 20)));
        assert!(a.holds_for().is_none());
        console.end(&mut a);
        a.take_line("ours\n");
        console.put(&mut a, 1 << 20);
        assert_eq!(console.text().matches("too many lines").count(), 1);
        assert!(console.text().ends_with("\nours\n"));
    }

    #[test]
    fn few_lines_are_made_before_they_are_appended() {
        let mut console = Console::default();
        let mut a = Lines::new(&"n".repeat(100), 64 << 20);
        let text = format!("{}x\n", "\n".repeat(300_000));
        a.take(text.as_bytes());
        a.take_line("ours\n");
        assert!(a.waiting() < MADE_BYTES_MAX + (1 << 20), "{}", a.waiting());
        console.put(&mut a, 1 << 20);
        console.write(&mut a, "y\n");
        let name = format!("[{}] ", "n".repeat(100));
        let lines: String = text.lines().map(|line| format!("{name}{line}\n")).collect();
        assert!(console.text() == format!("{lines}ours\n{name}y\n"));
    }

    /// However they take turns and whatever the pieces, without names all bytes are there in order, no line
    /// is of two tasks, and with names each line begins with one.
    #[test]
    fn pieces_and_turns_mix_nothing() {
        for room in [7, 8, 50] {
            for name in ["a", ""] {
                let mut console = Console::default();
                let other = if name.is_empty() { "" } else { "b" };
                let (mut one, mut two) = (Lines::new(name, LIMIT), Lines::new(other, LIMIT));
                for turn in 0..200_usize {
                    let (lines, letter) = if turn % 3 == 0 {
                        (&mut two, "b")
                    } else {
                        (&mut one, "a")
                    };
                    let end = if turn % 5 < 2 { "\n" } else { "" };
                    lines.take(format!("{}{end}", letter.repeat(turn % 7)).as_bytes());
                    if turn % 4 == 0 {
                        lines.let_go();
                    }
                    console.put(lines, room);
                }
                console.end(&mut one);
                console.end(&mut two);
                for line in console.text().lines() {
                    let own = line.strip_prefix(if line.contains('b') { "[b] " } else { "[a] " });
                    let own = if name.is_empty() {
                        line
                    } else {
                        own.unwrap_or_else(|| panic!("{line}"))
                    };
                    assert!(!(own.contains('a') && own.contains('b')), "{line}");
                }
                for (turns, letter) in [(0, 'b'), (1, 'a')] {
                    let wrote = (0..200_usize)
                        .filter(|turn| (turn % 3 == 0) == (turns == 0))
                        .map(|turn| turn % 7);
                    let names = if name.is_empty() {
                        0
                    } else {
                        console.text().matches(&format!("[{letter}] ")).count()
                    };
                    assert_eq!(console.text().matches(letter).count() - names, wrote.sum::<usize>());
                }
            }
        }
    }
}
