//! A reader of TOML that gives the values of [`crate::json`], with the places of the author's text.
//!
//! A fault quotes nothing of the text.

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use crate::fault::{Fault, Place};
use crate::json::{Kind, Member, NESTING_MAX, Number, Value};
use crate::text::{START, check_characters, text_of};

#[cfg(test)]
mod tests;

/// Reads a document of TOML.
///
/// # Errors
/// The first fault, with its place.
pub fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    let text = text_of(bytes)?;
    check_characters(text)?;
    let reader = Reader {
        text,
        places: places(text),
    };
    reader.check_depth()?;
    let top = DeTable::parse(text).map_err(|error| reader.fault(&error))?;
    let kind = reader.object(top.get_ref(), 0)?;
    Ok(Value { at: START, kind })
}

/// The place of each byte, and that of the end.
fn places(text: &str) -> Vec<Place> {
    let mut at = START;
    let mut places = Vec::with_capacity(text.len() + 1);
    for c in text.chars() {
        places.extend(std::iter::repeat_n(at, c.len_utf8()));
        at = at.after(c.encode_utf8(&mut [0; 4]));
    }
    places.push(at);
    places
}

/// A text and where each of its bytes stands.
struct Reader<'a> {
    text: &'a str,
    places: Vec<Place>,
}

impl Reader<'_> {
    fn place(&self, byte: usize) -> Place {
        self.places.get(byte).or(self.places.last()).copied().unwrap_or(START)
    }

    fn fault(&self, error: &Error) -> Fault {
        let at = error.span().map_or(START, |span| self.place(span.start));
        match error.message() {
            "duplicate key" => Fault::new(at, "this key stands in its object already"),
            what => Fault::new(at, format!("no TOML: {what}")),
        }
    }

    /// Counts how deep keys with dots and brackets lead, before anything calls itself as often: the parser bounds
    /// each of both, but not one within the other.
    fn check_depth(&self) -> Result<(), Fault> {
        let mut depth = Depth::default();
        for token in Source::new(self.text).lex() {
            depth.take(token.kind());
            if depth.get() > NESTING_MAX {
                return Err(too_deep(self.place(token.span().start())));
            }
        }
        Ok(())
    }

    fn value(&self, value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Value, Fault> {
        let span = value.span();
        let at = self.place(span.start);
        let raw = || self.text.get(span.clone()).unwrap_or_default();
        let kind = match value.get_ref() {
            DeValue::String(text) if text.contains('\0') => {
                return Err(Fault::new(at, "a string can't contain NUL"));
            }
            DeValue::String(text) => Kind::String(text.to_string()),
            DeValue::Integer(_) | DeValue::Float(_) => Number::new(raw())
                .map(Kind::Number)
                .ok_or_else(|| Fault::new(at, "a number is written as in JSON: 1000, -1, 0.5 or 1e3"))?,
            DeValue::Boolean(flag) => Kind::Bool(*flag),
            DeValue::Datetime(_) => Kind::String(raw().to_owned()),
            DeValue::Array(_) | DeValue::Table(_) if depth >= NESTING_MAX => return Err(too_deep(at)),
            DeValue::Array(items) => Kind::List(
                items
                    .iter()
                    .map(|item| self.value(item, depth + 1))
                    .collect::<Result<_, _>>()?,
            ),
            DeValue::Table(table) => self.object(table, depth)?,
        };
        Ok(Value { at, kind })
    }

    /// An object, its members in the order of the text.
    fn object(&self, table: &DeTable<'_>, depth: usize) -> Result<Kind, Fault> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let member = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let at = self.place(key.span().start);
            let key: String = AsRef::<str>::as_ref(key.get_ref()).to_owned();
            if key.contains('\0') {
                return Err(Fault::new(at, "a string can't contain NUL"));
            }
            let value = self.value(value, depth + 1)?;
            Ok(Member { at, key, value })
        };
        Ok(Kind::Object(entries.into_iter().map(member).collect::<Result<_, _>>()?))
    }
}

fn too_deep(at: Place) -> Fault {
    Fault::new(at, format!("lists and objects are nested deeper than {NESTING_MAX}"))
}

/// How deep the tokens lead at most.
#[derive(Default)]
struct Depth {
    /// Dots of the header above, and whether the line is one.
    header: usize,
    in_header: bool,
    /// Brackets that are open, with the dots before each.
    open: Vec<(TokenKind, usize)>,
    /// The dots and brackets before those that are open.
    sum: usize,
    /// Dots since the last comma or line.
    dots: usize,
    /// Whether something stands in the line.
    begun: bool,
}

impl Depth {
    fn get(&self) -> usize {
        self.header + self.sum + self.dots
    }

    fn take(&mut self, token: TokenKind) {
        match token {
            TokenKind::Dot if self.in_header => self.header += 1,
            TokenKind::Dot => self.dots += 1,
            TokenKind::Comma => self.dots = 0,
            TokenKind::Newline if self.open.is_empty() => {
                self.dots = 0;
                self.in_header = false;
            }
            TokenKind::LeftSquareBracket if self.open.is_empty() && (self.in_header || !self.begun) => {
                self.header = if self.in_header { self.header + 1 } else { 1 };
                self.in_header = true;
            }
            TokenKind::LeftSquareBracket => self.push(TokenKind::RightSquareBracket),
            TokenKind::LeftCurlyBracket => self.push(TokenKind::RightCurlyBracket),
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => self.pop(token),
            _ => {}
        }
        match token {
            TokenKind::Newline => self.begun = false,
            TokenKind::Whitespace => {}
            _ => self.begun = true,
        }
    }

    /// Opens a bracket that `end` closes.
    fn push(&mut self, end: TokenKind) {
        self.sum += self.dots + 1;
        self.open.push((end, std::mem::take(&mut self.dots)));
    }

    /// Closes a bracket; one that closes nothing is left to the parser.
    fn pop(&mut self, end: TokenKind) {
        if let Some((_, dots)) = self.open.pop_if(|(wanted, _)| *wanted == end) {
            self.sum -= dots + 1;
            self.dots = dots;
        }
    }
}
