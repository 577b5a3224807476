//! A part of a console: some lines, read from where they stand, however long the console or one of its lines is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memchr::{memchr, memchr_iter, memrchr, memrchr_iter};

use super::ansi::{Painter, escaped};
use super::index::{Index, Known};

/// Bytes that one part reads and sends, at most.
const WINDOW_BYTES: usize = 256 << 10;

/// Bytes that are read to find where the first line of a part begins, at most.
const SEEK_BYTES: u64 = 64 << 20;

/// Bytes of one line that are shown; of a longer one its beginning and its end.
const LINE_BYTES: usize = 16 << 10;

/// Bytes of one part as they are sent, at most, but for its last line: colours that change with each letter take many.
const HTML_BYTES_MAX: usize = 2 << 20;

/// The same of what is sent as it comes: it waits in memory for who takes it slowly.
pub const LIVE_BYTES_MAX: usize = 256 << 10;

/// Words that begin and end a group.
const GROUP: &[u8] = b"::group::";
const END_GROUP: &[u8] = b"::endgroup::";

/// Lines, as they are sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// One element for each line.
    pub html: String,
    /// How many lines.
    pub count: u64,
    /// The first byte.
    pub begin: u64,
    /// The byte behind the last line that has an end.
    pub end: u64,
    /// Number of the first line, from 1; from the end and below 0 where lines were not counted.
    pub first: i64,
    /// Whether bytes follow.
    pub more: bool,
}

/// Renders lines with their numbers.
struct Sheet {
    painter: Painter,
    html: String,
    number: i64,
}

impl Sheet {
    fn new(number: i64) -> Self {
        Sheet {
            painter: Painter::default(),
            html: String::new(),
            number,
        }
    }

    /// One line; `partial` if its end is still to come.
    fn line(&mut self, bytes: &[u8], left_out: u64, partial: bool) {
        let number = self.number;
        self.number += 1;
        let trimmed = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let (class, html) = if let Some(title) = trimmed.strip_prefix(GROUP) {
            ("l gb", self.painter.line(title))
        } else if trimmed == END_GROUP {
            ("l ge", String::new())
        } else {
            ("l", self.paint(bytes, left_out))
        };
        let part = if partial { " part" } else { "" };
        self.html.push_str(&format!(
            "<div class=\"{class}{part}\" id=\"L{number}\"><a href=\"#L{number}\">{number}</a><span>{html}</span></div>\n"
        ));
    }

    fn paint(&mut self, bytes: &[u8], left_out: u64) -> String {
        if left_out == 0 {
            return self.painter.line(bytes);
        }
        let (begin, end) = bytes.split_at(bytes.len() / 2);
        // What a carriage return writes over is not seen: only the end is.
        if let Some(at) = memchr(b'\r', end) {
            return self.painter.line(&end[at + 1..]);
        }
        let note = format!("<em> … {left_out} bytes left out … </em>");
        format!("{}{note}{}", self.painter.line(begin), self.painter.line(end))
    }
}

/// A row that says what is left out between two lines.
pub fn skipped(bytes: u64) -> String {
    let size = escaped(&crate::web::show::size(bytes));
    format!(
        "<div class=\"l skip\"><a></a><span>… {size} left out here: load the page again to see them …</span></div>\n"
    )
}

/// Lines from one on, counted from 0.
///
/// # Errors
/// The file can't be read.
pub fn from_line(file: &File, size: u64, index: &Index, line: u64, most: u64) -> io::Result<Window> {
    let place = index.before_line(line);
    let at = forward(file, size, place.at, line - place.line)?;
    let number = i64::try_from(line).unwrap_or(0) + 1;
    from_byte(file, size, Some(index), at, number, (most, HTML_BYTES_MAX))
}

/// The byte behind so many ends of lines; where it is too far, as far as was read.
fn forward(file: &File, size: u64, mut at: u64, mut lines: u64) -> io::Result<u64> {
    let mut bytes = vec![0; 64 << 10];
    let stop = size.min(at.saturating_add(SEEK_BYTES));
    while lines > 0 && at < stop {
        let count = file.read_at(&mut bytes, at)?;
        if count == 0 {
            break;
        }
        for end in memchr_iter(b'\n', &bytes[..count]) {
            lines -= 1;
            if lines == 0 {
                return Ok(at + end as u64 + 1);
            }
        }
        at += count as u64;
    }
    Ok(at)
}

/// Lines from a byte on at which a line begins. `number` is that line's. There are so many lines and bytes at most.
///
/// # Errors
/// The file can't be read.
pub fn from_byte(
    file: &File,
    size: u64,
    index: Option<&Index>,
    begin: u64,
    number: i64,
    (most, most_bytes): (u64, usize),
) -> io::Result<Window> {
    let mut sheet = Sheet::new(number);
    let mut window = Window {
        begin,
        end: begin,
        first: number,
        ..Window::default()
    };
    let bytes = read(file, begin, size)?;
    let mut rest = bytes.as_slice();
    let (mut at, mut partial) = (begin, false);
    while window.count < most && !rest.is_empty() && sheet.html.len() < most_bytes {
        let end = memchr(b'\n', rest);
        if let Some(end) = end.filter(|end| *end <= LINE_BYTES) {
            sheet.line(&rest[..end], 0, false);
            (rest, at) = (&rest[end + 1..], at + end as u64 + 1);
            (window.count, window.end) = (window.count + 1, at);
            continue;
        }
        if end.is_none() && rest.len() <= LINE_BYTES {
            // It has no end yet, or lies on the edge of what was read.
            if at + rest.len() as u64 == size {
                sheet.line(rest, 0, true);
                window.count += 1;
                partial = true;
            }
            break;
        }
        // A long line: it is looked at by itself.
        let (end, whole) = long_end(file, size, index, at)?;
        let cut = cut(file, at, end)?;
        let left_out = (end - at).saturating_sub(cut.len() as u64);
        sheet.line(&cut, left_out, !whole);
        window.count += 1;
        if !whole {
            partial = end == size;
            break;
        }
        at = end + 1;
        window.end = at;
        let done = usize::try_from(at - begin).unwrap_or(usize::MAX);
        if done >= bytes.len() {
            break;
        }
        rest = &bytes[done..];
    }
    window.html = sheet.html;
    window.more = window.end < size && !partial;
    Ok(window)
}

/// Reads a part from a byte on.
fn read(file: &File, at: u64, size: u64) -> io::Result<Vec<u8>> {
    let want = usize::try_from(size.saturating_sub(at))
        .unwrap_or(WINDOW_BYTES)
        .min(WINDOW_BYTES);
    read_exactly(file, at, want)
}

fn read_exactly(file: &File, at: u64, want: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; want];
    let mut done = 0;
    while done < want {
        match file.read_at(&mut bytes[done..], at + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Where a long line ends, and whether it does: by the index where that knows, else by looking.
fn long_end(file: &File, size: u64, index: Option<&Index>, at: u64) -> io::Result<(u64, bool)> {
    let mut from = at;
    if let Some((near, far)) = index.and_then(|index| index.line_end(at)) {
        if let Some(end) = find_end(file, from, near.min(size))? {
            return Ok((end, true));
        }
        match far {
            Known::At(end) => return Ok((end, true)),
            Known::NotBefore(later) => from = later.max(from),
        }
    }
    let stop = size.min(from.saturating_add(SEEK_BYTES));
    Ok(match find_end(file, from, stop)? {
        Some(end) => (end, true),
        None => (stop, false),
    })
}

/// The first end of a line between two bytes.
fn find_end(file: &File, mut from: u64, to: u64) -> io::Result<Option<u64>> {
    let mut bytes = vec![0; super::index::READ_BYTES.min(usize::try_from(to.saturating_sub(from)).unwrap_or(0))];
    while from < to {
        let want = usize::try_from(to - from).unwrap_or(bytes.len()).min(bytes.len());
        let count = file.read_at(&mut bytes[..want], from)?;
        if count == 0 {
            break;
        }
        if let Some(end) = memchr(b'\n', &bytes[..count]) {
            return Ok(Some(from + end as u64));
        }
        from += count as u64;
    }
    Ok(None)
}

/// The beginning and the end of a line that is too long to be shown.
fn cut(file: &File, at: u64, end: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(end - at).unwrap_or(usize::MAX);
    if length <= LINE_BYTES {
        return read_exactly(file, at, length);
    }
    let half = LINE_BYTES / 2;
    let mut bytes = read_exactly(file, at, half)?;
    bytes.extend(read_exactly(file, end - half as u64, half)?);
    Ok(bytes)
}

/// The last lines. `lines` is how many have ended in all, if that is known.
///
/// # Errors
/// The file can't be read.
pub fn last(file: &File, size: u64, lines: Option<u64>, most: u64) -> io::Result<Window> {
    let begin = size.saturating_sub(WINDOW_BYTES as u64);
    let bytes = read(file, begin, size)?;
    // The line end that ends everything begins no line.
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let wanted = usize::try_from(most).unwrap_or(usize::MAX);
    let ends: Vec<usize> = memrchr_iter(b'\n', body).take(wanted).collect();
    let start = match ends.last() {
        Some(end) if ends.len() == wanted || begin > 0 => end + 1,
        // All of it is within reach, or one line alone is longer.
        _ if begin == 0 => 0,
        _ => memrchr(b'\n', body).map_or(0, |end| end + 1),
    };
    let shown = memchr_iter(b'\n', &bytes[start..]).count() as u64;
    let partial = u64::from(!bytes.is_empty() && !bytes.ends_with(b"\n"));
    let first = match lines {
        Some(lines) => i64::try_from(lines.saturating_sub(shown)).unwrap_or(0) + 1,
        None if begin == 0 && start == 0 => 1,
        None => -i64::try_from(shown + partial).unwrap_or(0),
    };
    let most = (most.saturating_add(1), HTML_BYTES_MAX);
    from_byte(file, size, None, begin + start as u64, first, most)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::file;
    use super::*;

    fn indexed(text: &[u8]) -> (File, u64, Index) {
        let (file, mut index) = (file(text), Index::default());
        index.extend(&file, text.len() as u64, Duration::MAX).unwrap();
        (file, text.len() as u64, index)
    }

    fn rows(window: &Window) -> Vec<(String, String)> {
        let row = |line: &str| {
            let id = line
                .split("id=\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap()
                .to_owned();
            let text = line.split("<span>").nth(1).unwrap().trim_end_matches("</span></div>");
            (id, text.to_owned())
        };
        window.html.lines().map(row).collect()
    }

    #[test]
    fn lines_have_their_numbers_wherever_one_begins() {
        let text: String = (1..=50_000).map(|n| format!("line {n}\n")).collect();
        let (file, size, index) = indexed(text.as_bytes());
        for line in [0u64, 1, 4_999, 12_345, 49_990] {
            let window = from_line(&file, size, &index, line, 20).unwrap();
            for (n, (id, text)) in rows(&window).into_iter().enumerate() {
                let number = line + n as u64 + 1;
                assert_eq!((id, text), (format!("L{number}"), format!("line {number}")));
            }
            assert_eq!(window.more, line + 20 < 50_000);
        }
        let end = last(&file, size, Some(index.lines()), 3).unwrap();
        assert_eq!(rows(&end)[0], ("L49998".into(), "line 49998".into()));
        let end = last(&file, size, None, 3).unwrap();
        assert_eq!(rows(&end)[2], ("L-1".into(), "line 50000".into()));
        assert_eq!((end.end, end.more), (size, false));
    }

    #[test]
    fn what_has_no_end_yet_is_shown_and_not_counted() {
        let (file, size, index) = indexed(b"a\nb");
        let end = last(&file, size, Some(index.lines()), 10).unwrap();
        assert_eq!(rows(&end), [("L1".into(), "a".into()), ("L2".into(), "b".into())]);
        assert!(end.html.contains("class=\"l part\" id=\"L2\""));
        assert_eq!((end.end, end.more), (2, false));
        for text in [&b""[..], b"\n", b"x\n"] {
            let (file, size, index) = indexed(text);
            let end = last(&file, size, Some(index.lines()), 10).unwrap();
            assert_eq!((end.count, end.more), (index.lines(), false));
        }
    }

    /// "100 MB in one line."
    #[test]
    fn a_line_of_any_length_is_one_line() {
        let long = 3 << 20;
        let text = [b"one\n".as_slice(), &vec![b'x'; long], b"END\nthree\n"].concat();
        let (file, size, index) = indexed(&text);
        let window = from_line(&file, size, &index, 0, 10).unwrap();
        let found = rows(&window);
        assert_eq!(found.len(), 2);
        assert!(found[1].1.contains("bytes left out") && found[1].1.ends_with("xEND"));
        assert!(window.html.len() < 2 * LINE_BYTES && window.more);
        let after = from_byte(&file, size, Some(&index), window.end, 3, (10, HTML_BYTES_MAX)).unwrap();
        assert_eq!(rows(&after), [("L3".into(), "three".into())]);
        let progress = [vec![b'x'; long], b"\r10 %\r100 %\n".to_vec()].concat();
        let (file, size, index) = indexed(&progress);
        assert_eq!(rows(&from_line(&file, size, &index, 0, 10).unwrap())[0].1, "100 %");
        let (file, size, index) = indexed(&vec![b'y'; long]);
        let window = from_line(&file, size, &index, 0, 10).unwrap();
        assert_eq!((window.count, window.more), (1, false));
        assert_eq!(last(&file, size, Some(0), 10).unwrap().count, 1);
    }

    #[test]
    fn groups_are_marked() {
        let (file, size, index) = indexed(b"::group::a <b>\nx\n::endgroup::\n ::group::no\n");
        let html = from_line(&file, size, &index, 0, 10).unwrap().html;
        assert!(html.contains("class=\"l gb\" id=\"L1\"") && html.contains("<span>a &lt;b&gt;</span>"));
        assert!(html.contains("class=\"l ge\" id=\"L3\"") && html.contains("class=\"l\" id=\"L4\""));
    }
}
