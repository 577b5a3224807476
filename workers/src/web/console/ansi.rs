//! A line of a console as a terminal shows it, as HTML: colours become classes, what moves the cursor within the line is
//! done, all other sequences are dropped, and what can't be seen is written out.

use super::colours::nearest;
use crate::web::show::is_odd;

/// Longest line as it is shown, cells.
const CELLS_MAX: usize = 32 << 10;

/// Parameters of one sequence that are looked at.
const PARAMETERS_MAX: usize = 32;

const BOLD: u8 = 1;
const DIM: u8 = 2;
const ITALIC: u8 = 4;
const UNDERLINE: u8 = 8;
const INVERSE: u8 = 16;
const STRUCK: u8 = 32;

/// How a cell looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Style {
    front: Option<u8>,
    back: Option<u8>,
    bits: u8,
}

/// What a terminal remembers from line to line.
#[derive(Debug, Default)]
pub struct Painter {
    style: Style,
}

/// A line that is being written.
struct Row {
    cells: Vec<(char, Style)>,
    column: usize,
}

impl Row {
    fn put(&mut self, letter: char, style: Style) {
        if self.column >= CELLS_MAX {
            return;
        }
        if self.column < self.cells.len() {
            self.cells[self.column] = (letter, style);
        } else {
            self.cells.resize(self.column, (' ', Style::default()));
            self.cells.push((letter, style));
        }
        self.column += 1;
    }

    /// Erases, as `CSI n K` does.
    fn erase(&mut self, how: usize) {
        let here = self.column.min(self.cells.len());
        match how {
            0 => self.cells.truncate(here),
            1 => self.cells[..here].fill((' ', Style::default())),
            2 => self.cells.clear(),
            _ => {}
        }
    }

    /// A sequence that moves within the line.
    fn control(&mut self, end: char, first: Option<usize>) {
        let n = first.unwrap_or(1).max(1);
        match end {
            'K' => self.erase(first.unwrap_or(0)),
            'G' => self.column = (n - 1).min(CELLS_MAX),
            'C' => self.column = self.column.saturating_add(n).min(CELLS_MAX),
            'D' => self.column = self.column.saturating_sub(n),
            _ => {}
        }
    }
}

impl Painter {
    /// A line without its end, as HTML.
    pub fn line(&mut self, bytes: &[u8]) -> String {
        let mut row = Row {
            cells: Vec::with_capacity(bytes.len().min(CELLS_MAX)),
            column: 0,
        };
        let text = String::from_utf8_lossy(bytes);
        let mut letters = text.trim_end_matches('\r').chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\x1b' => self.escape(&mut letters, &mut row),
                '\u{9b}' => self.sequence(&mut letters, &mut row),
                '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => string(&mut letters),
                '\r' => row.column = 0,
                '\x08' => row.column = row.column.saturating_sub(1),
                '\x07' => {}
                '\t' => {
                    for _ in 0..8 - row.column % 8 {
                        row.put(' ', self.style);
                    }
                }
                odd if is_odd(odd) => seen(odd).chars().for_each(|letter| row.put(letter, self.style)),
                plain => row.put(plain, self.style),
            }
        }
        html(&row.cells)
    }

    /// What follows an ESC.
    fn escape(&mut self, letters: &mut std::str::Chars<'_>, row: &mut Row) {
        match letters.next() {
            Some('[') => self.sequence(letters, row),
            Some(']' | 'P' | 'X' | '^' | '_') => string(letters),
            Some('(' | ')' | '*' | '+' | '-' | '.' | '/' | '#' | '%' | ' ') => drop(letters.next()),
            _ => {}
        }
    }

    /// A control sequence up to its last letter.
    fn sequence(&mut self, letters: &mut std::str::Chars<'_>, row: &mut Row) {
        let mut parameters: Vec<Option<usize>> = vec![None];
        let mut private = false;
        loop {
            // What ends the line, or breaks off, ends the sequence; nothing of it is shown.
            let rest = letters.clone();
            let Some(letter) = letters.next() else { return };
            match letter {
                '0'..='9' => {
                    let digit = letter.to_digit(10).unwrap_or(0) as usize;
                    if let Some(last) = parameters.last_mut() {
                        *last = Some((last.unwrap_or(0) * 10 + digit).min(CELLS_MAX));
                    }
                }
                ';' | ':' if parameters.len() < PARAMETERS_MAX => parameters.push(None),
                ';' | ':' | ' '..='/' => {}
                '<'..='?' => private = true,
                '@'..='~' => {
                    match letter {
                        _ if private => {}
                        'm' => self.style.take(&parameters),
                        end => row.control(end, parameters[0]),
                    }
                    return;
                }
                _ => {
                    *letters = rest;
                    return;
                }
            }
        }
    }
}

/// Skips a string of the terminal (a title, a link) up to its end.
fn string(letters: &mut std::str::Chars<'_>) {
    while let Some(letter) = letters.next() {
        match letter {
            '\x07' | '\u{9c}' => return,
            '\x1b' => {
                letters.next();
                return;
            }
            _ => {}
        }
    }
}

/// What can't be seen, as something that can.
fn seen(odd: char) -> String {
    match u32::from(odd) {
        code @ 0..=0x1f => char::from_u32(0x2400 + code).unwrap_or('?').to_string(),
        0x7f => '\u{2421}'.to_string(),
        _ => odd.escape_default().to_string(),
    }
}

impl Style {
    /// Select graphic rendition.
    fn take(&mut self, parameters: &[Option<usize>]) {
        let mut rest = parameters.iter().map(|parameter| parameter.unwrap_or(0));
        while let Some(code) = rest.next() {
            match code {
                0 => *self = Style::default(),
                1 => self.bits |= BOLD,
                2 => self.bits |= DIM,
                3 => self.bits |= ITALIC,
                4 => self.bits |= UNDERLINE,
                7 => self.bits |= INVERSE,
                9 => self.bits |= STRUCK,
                22 => self.bits &= !(BOLD | DIM),
                23 => self.bits &= !ITALIC,
                24 => self.bits &= !UNDERLINE,
                27 => self.bits &= !INVERSE,
                29 => self.bits &= !STRUCK,
                30..=37 => self.front = Some((code - 30) as u8),
                38 => self.front = extended(&mut rest).or(self.front),
                39 => self.front = None,
                40..=47 => self.back = Some((code - 40) as u8),
                48 => self.back = extended(&mut rest).or(self.back),
                49 => self.back = None,
                90..=97 => self.front = Some((code - 90 + 8) as u8),
                100..=107 => self.back = Some((code - 100 + 8) as u8),
                _ => {}
            }
        }
    }

    fn classes(self) -> String {
        let (mut front, mut back) = (self.front, self.back);
        let mut classes = Vec::new();
        if self.bits & INVERSE != 0 {
            (front, back) = (back, front);
            if back.is_none() && front.is_none() {
                classes.push("inv".to_owned());
            } else {
                front = front.or(Some(0));
                back = back.or(Some(7));
            }
        }
        for (bit, class) in [
            (BOLD, "bo"),
            (DIM, "di"),
            (ITALIC, "it"),
            (UNDERLINE, "un"),
            (STRUCK, "st"),
        ] {
            if self.bits & bit != 0 {
                classes.push(class.to_owned());
            }
        }
        let letters = if back.is_some() { "h" } else { "f" };
        classes.extend(front.map(|front| format!("{letters}{front}")));
        classes.extend(back.map(|back| format!("g{back}")));
        classes.join(" ")
    }
}

/// A colour of the 256, or of 24 bits.
fn extended(rest: &mut impl Iterator<Item = usize>) -> Option<u8> {
    let mut byte = || rest.next().map(|value| u8::try_from(value).unwrap_or(u8::MAX));
    match byte()? {
        5 => byte(),
        2 => Some(nearest(byte()?, byte()?, byte()?)),
        _ => None,
    }
}

fn html(cells: &[(char, Style)]) -> String {
    let mut html = String::with_capacity(cells.len() + 16);
    for run in cells.chunk_by(|a, b| a.1 == b.1) {
        let style = run.first().map(|cell| cell.1).unwrap_or_default();
        let plain = style == Style::default();
        if !plain {
            html.push_str("<span class=\"");
            html.push_str(&style.classes());
            html.push_str("\">");
        }
        run.iter().for_each(|(letter, _)| push(&mut html, *letter));
        if !plain {
            html.push_str("</span>");
        }
    }
    html
}

fn push(html: &mut String, letter: char) {
    match letter {
        '&' => html.push_str("&amp;"),
        '<' => html.push_str("&lt;"),
        '>' => html.push_str("&gt;"),
        '"' => html.push_str("&quot;"),
        '\'' => html.push_str("&#39;"),
        other => html.push(other),
    }
}

/// Text as HTML.
pub fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    text.chars().for_each(|letter| push(&mut html, letter));
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        Painter::default().line(text.as_bytes())
    }

    #[test]
    fn colours_become_classes() {
        for (text, html) in [
            ("\x1b[1;31merror:\x1b[0m x", "<span class=\"bo f1\">error:</span> x"),
            ("\x1b[38;5;208mx", "<span class=\"f208\">x</span>"),
            ("\x1b[48:5:20mx", "<span class=\"g20\">x</span>"),
            ("\x1b[38;2;255;0;0mx", "<span class=\"f196\">x</span>"),
            ("\x1b[30;43mx", "<span class=\"h0 g3\">x</span>"),
            ("\x1b[7mx\x1b[27my", "<span class=\"inv\">x</span>y"),
            ("\x1b[7;31mx", "<span class=\"h0 g1\">x</span>"),
            ("\x1b[95mx\x1b[39my", "<span class=\"f13\">x</span>y"),
            ("\x1b[38;5mx", "x"),
            ("\x1b[38;2;999;0mx", "x"),
            ("\x1b[999mx", "x"),
        ] {
            assert_eq!(line(text), html, "{text:?}");
        }
    }

    #[test]
    fn lines_are_as_a_terminal_shows_them() {
        for (text, html) in [
            ("10 %\r20 %\r100 %\r", "100 %"),
            ("abc\rX", "Xbc"),
            ("abc\r\x1b[KX", "X"),
            ("abc\x08\x08X", "aXc"),
            ("a\tb", "a       b"),
            ("ab\x1b[5Gc", "ab  c"),
            ("ab\x1b[2Dc", "cb"),
            ("abc\x1b[1Kd", "   d"),
            ("dos\r", "dos"),
        ] {
            assert_eq!(line(text), html, "{text:?}");
        }
    }

    #[test]
    fn nothing_of_a_line_gets_out_of_it() {
        for (text, html) in [
            (
                "<script>alert('1')</script>",
                "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;",
            ),
            ("\x1b]0;title\x07x", "x"),
            ("\x1b]8;;http://evil\x1b\\x\x1b]8;;\x1b\\", "x"),
            ("\x1b]8;;never ended", ""),
            ("\x1bPq#0;2\x1b\\x", "x"),
            ("\x1b[2J\x1b[1;1Hx\x1b[10Ay", "xy"),
            ("\x1b[?25lx\x1b[>4;2my", "xy"),
            ("\x1b(Bx\x1b", "x"),
            ("\x1b[31", ""),
            ("\x1b[31\u{1}x", "\u{2401}x"),
            ("a\u{0}b\u{7f}", "a\u{2400}b\u{2421}"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("\u{9b}31mx", "<span class=\"f1\">x</span>"),
            ("\x1b[99999999999999999999Cx", ""),
        ] {
            assert_eq!(line(text), html, "{text:?}");
        }
        assert_eq!(Painter::default().line(b"a\xff\xfeb"), "a\u{fffd}\u{fffd}b");
        let many = format!("\x1b[{}m", "1;".repeat(100_000));
        assert_eq!(line(&many), "");
    }

    #[test]
    fn a_colour_goes_on_in_the_next_line() {
        let mut painter = Painter::default();
        painter.line(b"\x1b[32m");
        assert_eq!(painter.line(b"x"), "<span class=\"f2\">x</span>");
    }
}
