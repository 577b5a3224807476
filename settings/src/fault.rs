//! What is wrong with a text, and where.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use super::object::hint;

/// Faults kept of one text: enough for a round of mending, few enough for a screen or two.
pub const FAULTS_MAX: usize = 50;

/// Characters of a fault's words: keys and values of users are quoted in them.
const WHAT_CHARS_MAX: usize = 400;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// One fault: `12:17: tasks[2].params.artifacts must be a list of strings`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Line, from 1; 0 if the fault is with the whole file.
    pub line: u32,
    /// Column in characters, from 1; 0 with line 0.
    pub column: u32,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Fault {
    /// A fault at a place. Keys and values of a text stand in it, and it stands in a line on a terminal: what steers one
    /// is escaped.
    pub fn new(at: Place, what: impl Into<String>) -> Self {
        Fault {
            line: at.line,
            column: at.column,
            what: shorten(shown(what.into()), WHAT_CHARS_MAX),
        }
    }

    /// A fault of the whole file, such as that it can't be read.
    pub fn of_file(what: impl Into<String>) -> Self {
        Fault {
            line: 0,
            column: 0,
            what: shown(what.into()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return f.write_str(&self.what);
        }
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

/// The faults found so far: the first ones by place, each once.
#[derive(Debug, Default)]
pub struct Faults {
    found: BTreeSet<Fault>,
    stored: bool,
    silent: bool,
}

impl Faults {
    /// Of a text that was taken before, perhaps when there were fewer rules.
    pub fn of_stored() -> Self {
        Faults {
            stored: true,
            ..Faults::default()
        }
    }

    /// Of a text that may not be shown to those who read the faults: they name places and known words, and quote
    /// nothing of it.
    pub fn without_text() -> Self {
        Faults {
            silent: true,
            ..Faults::default()
        }
    }

    /// A key or value of the text in quotes, as far as it may be shown.
    pub fn quoted(&self, text: &str) -> String {
        match self.silent {
            true => quoted("…"),
            false => quoted(text),
        }
    }

    /// A key of the text as a part of a path or a sentence, as far as it may be shown.
    pub fn part<'a>(&self, key: &'a str) -> &'a str {
        self.shown(key, "…")
    }

    /// Words that have something of the text in them, as far as it may be shown; else others.
    pub fn shown<'a>(&self, words: &'a str, others: &'a str) -> &'a str {
        if self.silent { others } else { words }
    }

    /// The same as [`Faults::hint`], where the known words are those of the text.
    pub fn hint_of_text<'a>(&self, word: &str, known: impl Iterator<Item = &'a str>) -> String {
        match self.silent {
            true => String::new(),
            false => self.hint(word, known),
        }
    }

    /// Whether the text was taken before: what only newer rules refuse is no fault of it then, or builds
    /// that have it could not be read any more.
    pub fn is_stored(&self) -> bool {
        self.stored
    }

    /// Notes a fault.
    pub fn add(&mut self, at: Place, what: impl Into<String>) {
        self.found.insert(Fault::new(at, what));
        if self.found.len() > FAULTS_MAX {
            self.found.pop_last();
        }
    }

    /// Words for a message about an unknown word: `; did you mean timeout?` if a known one is near.
    /// Nothing once there are enough faults: comparing costs time, and the text is a stranger's.
    pub fn hint<'a>(&self, word: &str, known: impl Iterator<Item = &'a str>) -> String {
        if self.found.len() >= FAULTS_MAX {
            return String::new();
        }
        hint(word, known)
    }

    /// Whether none was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The faults, sorted by place.
    pub fn into_sorted(self) -> Vec<Fault> {
        self.found.into_iter().collect()
    }
}

/// The text in quotes, shortened: for keys and values of users in messages.
pub fn quoted(text: &str) -> String {
    const QUOTED_CHARS_MAX: usize = 60;
    format!("{:?}", shorten(text.to_owned(), QUOTED_CHARS_MAX))
}

/// A text for a line on a terminal: what ends the line, steers the terminal, changes the order of letters or can't be
/// seen is escaped.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match steers(letter) {
            true => plain.extend(letter.escape_default()),
            false => plain.push(letter),
        }
    }
    Cow::Owned(plain)
}

/// The same of a text of several lines.
pub fn plain_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(plain).collect();
    lines.join("\n")
}

fn steers(letter: char) -> bool {
    let invisible = matches!(letter, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    letter != '\t' && letter.is_control() || invisible
}

fn shown(text: String) -> String {
    match plain(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(plain) => plain,
    }
}

/// At most `max` characters of the text, with `…` where something was cut.
fn shorten(mut text: String, max: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "A key or a value of a text steers no terminal that shows its faults, and each fault is one line."
    #[test]
    fn what_steers_a_terminal_is_escaped() {
        let at = Place { line: 1, column: 2 };
        let fault = Fault::new(at, "params.\u{1b}[31mX\r\n\u{9b}1m\u{202e}é\"\\ is unknown");
        assert_eq!(
            fault.to_string(),
            "1:2: params.\\u{1b}[31mX\\r\\n\\u{9b}1m\\u{202e}é\"\\ is unknown"
        );
        assert_eq!(Fault::of_file("a\u{7}b").to_string(), "a\\u{7}b");
        assert!(matches!(plain("nothing: é ü \"a\""), Cow::Borrowed(_)));
        assert_eq!(plain_lines("a\u{1b}\nb\r\n"), "a\\u{1b}\nb");
        assert_eq!(plain("a\u{61c}\u{e0041}\u{fff9}"), "a\\u{61c}\\u{e0041}\\u{fff9}");
        let long = Fault::new(at, "\u{1b}".repeat(WHAT_CHARS_MAX));
        assert_eq!(long.what.chars().count(), WHAT_CHARS_MAX + 1, "escaped, and then cut");
    }
}
