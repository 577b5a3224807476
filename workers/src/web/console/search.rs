//! Search in the whole of a console, on the server: the browser gets lines that fit, and nothing else.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter, memchr2_iter, memrchr};
use serde::Serialize;

use super::ansi::{Painter, escaped};

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Lines that are shown; more are counted.
pub const HITS_MAX: usize = 200;

/// Bytes of a line around what was found.
const AROUND_BYTES: usize = 120;

/// Longest text that is searched for, bytes.
pub const NEEDLE_BYTES_MAX: usize = 256;

/// A line that fits.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// Its number, from 1.
    pub line: u64,
    /// What stands around the place, as HTML.
    pub html: String,
}

impl Hit {
    /// The line that a page begins with which shows this one: some stand before it.
    pub fn from(&self) -> u64 {
        self.line.saturating_sub(20).max(1)
    }
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The first lines that fit.
    pub hits: Vec<Hit>,
    /// How many lines fit in all.
    pub count: u64,
    /// How far it was searched.
    pub upto: u64,
    /// Whether that is all of it.
    pub whole: bool,
}

/// What is searched for: in small letters alone it stands for capital ones as well.
enum Needle<'a> {
    Exact(Box<Finder<'a>>),
    AnyCase { text: &'a [u8], place: usize },
}

/// How common bytes are in consoles, the commonest first.
const COMMON: &[u8] = b" e0t1airnos/-._lcdump2:fghbyv3456789=kwx\t\"'(),z[]j+*q";

impl<'a> Needle<'a> {
    fn new(text: &'a [u8]) -> Self {
        if text.iter().any(u8::is_ascii_uppercase) || !text.iter().any(u8::is_ascii_lowercase) {
            return Needle::Exact(Box::new(Finder::new(text)));
        }
        // It is looked for by its rarest byte.
        let rare = |byte: &u8| COMMON.iter().position(|common| common == byte).unwrap_or(COMMON.len());
        let place = (0..text.len()).max_by_key(|place| rare(&text[*place])).unwrap_or(0);
        Needle::AnyCase { text, place }
    }

    fn find(&self, bytes: &[u8]) -> Option<usize> {
        match self {
            Needle::Exact(finder) => finder.find(bytes),
            Needle::AnyCase { text, place } => {
                let rare = text[*place];
                let end = bytes.len().saturating_sub(text.len() - place - 1);
                let from = bytes.get(*place..end)?;
                let fits = |at: &usize| {
                    let found = bytes.get(*at..at + text.len());
                    found.is_some_and(|found| found.eq_ignore_ascii_case(text))
                };
                match rare.is_ascii_lowercase() {
                    true => memchr2_iter(rare, rare.to_ascii_uppercase(), from).find(fits),
                    false => memchr_iter(rare, from).find(fits),
                }
            }
        }
    }
}

/// Searches from the beginning on, for a time at most.
///
/// # Errors
/// The file can't be read.
pub fn search(file: &File, size: u64, text: &str, time: Duration) -> io::Result<Found> {
    let begun = Instant::now();
    let needle = Needle::new(text.as_bytes());
    let mut found = Found::default();
    let mut bytes = vec![0; READ_BYTES];
    // What is kept of the last piece, so that nothing is missed on its edge.
    let (mut kept, mut lines, mut in_hit) = (0, 0u64, false);
    let mut at = 0;
    while at < size && begun.elapsed() < time {
        let want = usize::try_from(size - at).unwrap_or(READ_BYTES).min(READ_BYTES - kept);
        let count = file.read_at(&mut bytes[kept..kept + want], at)?;
        if count == 0 {
            break;
        }
        at += count as u64;
        let piece = &bytes[..kept + count];
        let last = at >= size;
        // Bytes of the end are looked at again with what follows.
        let safe = if last {
            piece.len()
        } else {
            piece.len() - (text.len() - 1).min(piece.len())
        };
        let next = look(piece, safe, &needle, text.len(), (&mut lines, &mut in_hit), &mut found);
        let next = next.max(safe);
        kept = piece.len() - next;
        bytes.copy_within(next..next + kept, 0);
    }
    found.upto = at;
    found.whole = at >= size;
    Ok(found)
}

/// Looks through a piece for what begins before `safe`; gives back how far its lines were counted.
fn look(
    piece: &[u8],
    safe: usize,
    needle: &Needle<'_>,
    length: usize,
    (lines, in_hit): (&mut u64, &mut bool),
    found: &mut Found,
) -> usize {
    let mut from = 0;
    loop {
        if *in_hit {
            // One line is found once.
            match memchr(b'\n', &piece[from..safe]) {
                Some(end) => {
                    (from, *in_hit) = (from + end + 1, false);
                    *lines += 1;
                }
                None => return safe,
            }
        }
        let hit = needle
            .find(&piece[from..])
            .map(|hit| from + hit)
            .filter(|hit| *hit < safe);
        let upto = hit.unwrap_or(safe);
        *lines += memchr_iter(b'\n', &piece[from..upto]).count() as u64;
        let Some(hit) = hit else { return safe };
        found.count += 1;
        if found.hits.len() < HITS_MAX {
            found.hits.push(Hit {
                line: *lines + 1,
                html: around(piece, hit, length),
            });
        }
        (from, *in_hit) = (hit, true);
    }
}

/// What stands around a place, as HTML: the place is marked.
fn around(piece: &[u8], hit: usize, length: usize) -> String {
    let begin = memrchr(b'\n', &piece[..hit]).map_or(0, |end| end + 1);
    let begin = begin.max(hit.saturating_sub(AROUND_BYTES));
    let behind = hit + length;
    let end = memchr(b'\n', &piece[behind..]).map_or(piece.len(), |end| behind + end);
    let end = end.min(behind + AROUND_BYTES);
    let paint = |bytes: &[u8]| Painter::default().line(whole_letters(bytes));
    let mark = escaped(&String::from_utf8_lossy(&piece[hit..behind]));
    format!(
        "{}<mark>{mark}</mark>{}",
        paint(&piece[begin..hit]),
        paint(&piece[behind..end])
    )
}

/// Without the rest of a letter whose beginning was cut off.
fn whole_letters(bytes: &[u8]) -> &[u8] {
    let cut = bytes.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
    &bytes[cut..]
}

#[cfg(test)]
mod tests {

    use super::super::tests::file;
    use super::*;

    fn found(text: &[u8], needle: &str) -> Found {
        search(&file(text), text.len() as u64, needle, Duration::MAX).unwrap()
    }

    fn lines(text: &[u8], needle: &str) -> Vec<u64> {
        found(text, needle).hits.iter().map(|hit| hit.line).collect()
    }

    #[test]
    fn lines_are_found_once_by_their_numbers() {
        let text = b"one\ntwo Error error\nthree\nERROR\n\nerror";
        assert_eq!(lines(text, "error"), [2, 4, 6]);
        assert_eq!(lines(text, "Error"), [2]);
        assert_eq!(lines(text, "e"), [1, 2, 3, 4, 6]);
        assert_eq!(lines(text, "absent"), [0u64; 0]);
        assert_eq!(lines(b"100 %", "100 %"), [1]);
        assert_eq!(found(b"a <b> c", "<b>").hits[0].html, "a <mark>&lt;b&gt;</mark> c");
    }

    /// What lies on the edge of two pieces is found, and once.
    #[test]
    fn nothing_is_missed_on_an_edge() {
        for before in READ_BYTES - 12..READ_BYTES + 3 {
            let mut text = b"first line\n".to_vec();
            text.resize(before, b'x');
            text.extend(b"NEEDLE\nlast needle\n");
            assert_eq!(lines(&text, "needle"), [2, 3], "{before}");
            assert_eq!(lines(&text, "NEEDLE"), [2], "{before}");
        }
    }

    #[test]
    fn many_are_counted_and_few_are_sent() {
        let text = b"a needle\n\n".repeat(100_000);
        let found = found(&text, "needle");
        assert_eq!((found.count, found.hits.len(), found.whole), (100_000, HITS_MAX, true));
        assert_eq!(found.hits[HITS_MAX - 1].line, 2 * HITS_MAX as u64 - 1);
    }
}
