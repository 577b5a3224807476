//! Why a task ended as it did, with the last that it said.

use distcifs_settings::state::TaskState;

use super::{Result, Tree};
use crate::repository::model::build::Build;

/// Bytes and lines of a console that `why` shows.
const LAST_BYTES_MAX: u64 = 2 << 10;
const LAST_LINES_MAX: usize = 10;

/// Stands for user and password of an address.
const HIDDEN: &str = "***";

impl Tree {
    /// The file `why` of a task.
    pub(super) async fn why_of_task(&self, build: &Build, index: usize) -> Result<String> {
        let mut why = self.repository.why_of_task(build, index).await + "\n";
        if !matches!(build.task(index).state, TaskState::Failure | TaskState::Error) {
            return Ok(why);
        }
        if let Some(console) = build.task_extents(index).last() {
            let length = self.repository.consoles.extent_length(console).await?;
            let from = length.saturating_sub(LAST_BYTES_MAX);
            let size = usize::try_from(length - from).unwrap_or_default();
            let end = self.repository.consoles.read(&console.name, from, size).await?;
            why.push_str(&last_lines(&end, from == 0));
        }
        Ok(why)
    }
}

/// The last lines of this end of a console as a terminal would show them, without what steers one; `whole`:
/// whether it is all.
fn last_lines(end: &[u8], whole: bool) -> String {
    let text = String::from_utf8_lossy(end);
    let mut lines: Vec<&str> = text.lines().collect();
    // The first is the end of a longer one.
    if !whole && lines.len() > 1 {
        lines.remove(0);
    }
    let first = lines.len().saturating_sub(LAST_LINES_MAX);
    lines.iter().skip(first).map(|line| shown(line) + "\n").collect()
}

/// One line: what a carriage return wrote over is gone, colours are too, and what else is not printable is
/// a question mark.
fn shown(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or_default();
    let mut plain = String::with_capacity(line.len());
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' && letters.next_if_eq(&'[').is_some() {
            // Up to the letter that ends such a sequence.
            letters.find(|letter| ('@'..='~').contains(letter));
        } else if letter != '\t' && (letter.is_control() || is_invisible(letter)) {
            plain.push('?');
        } else {
            plain.push(letter);
        }
    }
    without_passwords(&plain)
}

/// Letters that change the order of others, or can't be seen.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The text with user and password of each address hidden.
fn without_passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let ends = |letter: char| letter.is_whitespace() || matches!(letter, '/' | '?' | '#' | '"' | '\'');
        let server = after.find(ends).map_or(after, |end| &after[..end]);
        rest = match server.rfind('@') {
            Some(at) => {
                shown.push_str(HIDDEN);
                &after[at..]
            }
            None => after,
        };
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_plain_and_bounded() {
        let many: String = (1..=30).map(|n| format!("line {n}\n")).collect();
        assert_eq!(last_lines(many.as_bytes(), true).lines().count(), LAST_LINES_MAX);
        assert!(last_lines(many.as_bytes(), true).starts_with("line 21\n"));
        assert_eq!(last_lines(b"cut off\nwhole\nno end", false), "whole\nno end\n");
        assert_eq!(last_lines(b"xxxxxx", false), "xxxxxx\n");
        assert_eq!(last_lines(b"", true), "");
        for (line, expected) in [
            ("10%\r20%\r", "20%"),
            ("\u{1b}[1;31mred\u{1b}[0m\t\u{7}", "red\t?"),
            ("\u{1b}]0;title", "?]0;title"),
            ("\u{202e}x", "?x"),
            ("\u{1b}[", ""),
        ] {
            assert_eq!(shown(line), expected, "{line:?}");
        }
        assert_eq!(last_lines(b"\xff\0", true), "\u{fffd}?\n");
    }

    #[test]
    fn passwords_of_addresses_are_hidden() {
        for (text, expected) in [
            (
                "from https://me:pa@ss@host/x://y a@b",
                "from https://***@host/x://y a@b",
            ),
            ("'ssh://git@host' http://host/a@b", "'ssh://***@host' http://host/a@b"),
            ("://", "://"),
        ] {
            assert_eq!(without_passwords(text), expected);
        }
    }
}
