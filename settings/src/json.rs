//! A small JSON reader that keeps the place of every value and key.
//!
//! It takes what serde_json takes, except for duplicate keys, NUL in strings, nesting beyond 64
//! and texts beyond 1 MiB (doc/decisions/001-json-positions.md).

use std::collections::HashSet;

use super::fault::{Fault, Place, quoted};
use super::text::{START, text_of};

#[cfg(test)]
mod tests;

/// Longest text, bytes: the bound of config.json in doc/tree.md.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting of lists and objects: one call of the reader each, so it bounds the stack.
pub const NESTING_MAX: usize = 64;

/// A value with the place where it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Where its first character stands.
    pub at: Place,
    /// What it is.
    pub kind: Kind,
}

/// The kinds of values.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string, without its escapes.
    String(String),
    /// A list.
    List(Vec<Value>),
    /// An object, its members in the order of the text.
    Object(Vec<Member>),
}

/// A number with the digits that it was written with: version 3.10 is not 3.1.
#[derive(Debug, Clone, PartialEq)]
pub struct Number {
    text: String,
    value: serde_json::Number,
}

impl Number {
    /// A number of JSON; `None` if the text is none, or stands for too large a one.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let begins = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let ends = text.ends_with(|c: char| c.is_ascii_digit());
        let value = serde_json::from_str(text).ok().filter(|_| begins && ends)?;
        let text = text.to_owned();
        Some(Number { text, value })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        self.value.as_u64()
    }

    /// A whole number.
    pub fn as_i64(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The nearest number of 64 bits.
    pub fn as_f64(&self) -> Option<f64> {
        self.value.as_f64()
    }

    /// A number of JSON, or a string of its digits where that would change them.
    fn to_json(&self) -> serde_json::Value {
        if self.value.to_string() == self.text {
            serde_json::Value::Number(self.value.clone())
        } else {
            serde_json::Value::String(self.text.clone())
        }
    }
}

/// A member of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Where the key's quote stands.
    pub at: Place,
    /// The key.
    pub key: String,
    /// The value.
    pub value: Value,
}

impl Value {
    /// The same value without places.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.kind {
            Kind::Null => serde_json::Value::Null,
            Kind::Bool(flag) => serde_json::Value::Bool(*flag),
            Kind::Number(number) => number.to_json(),
            Kind::String(text) => serde_json::Value::String(text.clone()),
            Kind::List(items) => items.iter().map(Value::to_json).collect(),
            Kind::Object(members) => serde_json::Value::Object(to_map(members)),
        }
    }
}

/// Members as a map in the same order.
pub fn to_map(members: &[Member]) -> serde_json::Map<String, serde_json::Value> {
    members
        .iter()
        .map(|member| (member.key.clone(), member.value.to_json()))
        .collect()
}

/// Reads one JSON value with nothing but white space around it.
pub fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    read(bytes, true)
}

/// The same, but a fault quotes nothing of the text.
///
/// # Errors
/// The first fault, with its place.
pub fn parse_without_text(bytes: &[u8]) -> Result<Value, Fault> {
    read(bytes, false)
}

fn read(bytes: &[u8], quotes: bool) -> Result<Value, Fault> {
    let text = text_of(bytes)?;
    let mut reader = Reader {
        text,
        quotes,
        pos: 0,
        mark: START,
        mark_pos: 0,
    };
    reader.skip_space();
    if reader.peek().is_none() {
        return Err(reader.fault("the text is empty; a JSON value is needed"));
    }
    let value = reader.value(0)?;
    reader.skip_space();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.fault("something follows after the end of the value")),
    }
}

/// The text and how far it is read.
struct Reader<'a> {
    text: &'a str,
    /// Whether faults may quote it.
    quotes: bool,
    /// Byte that comes next; always at the start of a character.
    pos: usize,
    /// Place of `mark_pos`: moves along with what is asked, so that places cost one pass in all.
    mark: Place,
    mark_pos: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    fn here(&mut self) -> Place {
        self.mark = self
            .mark
            .after(self.text.get(self.mark_pos..self.pos).unwrap_or_default());
        self.mark_pos = self.pos;
        self.mark
    }

    fn fault(&mut self, what: impl Into<String>) -> Fault {
        Fault::new(self.here(), what)
    }

    /// The fault of something else than `expected`.
    fn unexpected(&mut self, expected: &str) -> Fault {
        let found = self.text.get(self.pos..).and_then(|rest| rest.chars().next());
        match found {
            None => self.fault(format!("the text ends where {expected} should be")),
            Some(c) if c.is_control() => self.fault(format!(
                "found the control character U+{:04X} where {expected} should be",
                u32::from(c)
            )),
            Some(c) if self.quotes => self.fault(format!("found `{c}` where {expected} should be")),
            Some(_) => self.fault(format!("{expected} should stand here")),
        }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.pos += 1;
        }
    }

    /// Takes the byte if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.pos += usize::from(found);
        found
    }

    /// Reads a value; `depth` lists and objects are open around it.
    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        let at = self.here();
        let kind = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Kind::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => Kind::Number(self.number(at)?),
            Some(b't') => self.word("true", Kind::Bool(true))?,
            Some(b'f') => self.word("false", Kind::Bool(false))?,
            Some(b'n') => self.word("null", Kind::Null)?,
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Value { at, kind })
    }

    fn word(&mut self, word: &str, kind: Kind) -> Result<Kind, Fault> {
        if !self.text.get(self.pos..).is_some_and(|rest| rest.starts_with(word)) {
            return Err(self.fault("this is no JSON value: text must stand in double quotes"));
        }
        self.pos += word.len();
        Ok(kind)
    }

    /// Takes the opening bracket.
    fn open(&mut self, depth: usize) -> Result<(), Fault> {
        if depth >= NESTING_MAX {
            return Err(self.fault(format!("lists and objects are nested deeper than {NESTING_MAX}")));
        }
        self.pos += 1;
        self.skip_space();
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Result<Kind, Fault> {
        self.open(depth)?;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Kind::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.take(b']') {
                return Ok(Kind::List(items));
            }
            if !self.take(b',') {
                return Err(self.unexpected("a comma or ]"));
            }
            self.skip_space();
        }
    }

    fn object(&mut self, depth: usize) -> Result<Kind, Fault> {
        self.open(depth)?;
        let mut members = Vec::new();
        let mut keys = HashSet::new();
        if self.take(b'}') {
            return Ok(Kind::Object(members));
        }
        loop {
            let member = self.member(depth)?;
            if !keys.insert(member.key.clone()) {
                let what = match self.quotes {
                    true => format!("the key {} stands here twice", quoted(&member.key)),
                    false => "this key stands in its object already".to_owned(),
                };
                return Err(Fault::new(member.at, what));
            }
            members.push(member);
            self.skip_space();
            if self.take(b'}') {
                return Ok(Kind::Object(members));
            }
            if !self.take(b',') {
                return Err(self.unexpected("a comma or }"));
            }
            self.skip_space();
        }
    }

    fn member(&mut self, depth: usize) -> Result<Member, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a key in double quotes"));
        }
        let at = self.here();
        let key = self.string()?;
        self.skip_space();
        if !self.take(b':') {
            return Err(self.unexpected("a colon"));
        }
        self.skip_space();
        Ok(Member {
            at,
            key,
            value: self.value(depth + 1)?,
        })
    }

    /// Reads a string, from its opening quote.
    fn string(&mut self) -> Result<String, Fault> {
        self.pos += 1;
        let mut text = String::new();
        loop {
            let start = self.pos;
            while self.peek().is_some_and(|b| b >= 0x20 && b != b'"' && b != b'\\') {
                self.pos += 1;
            }
            text.push_str(self.text.get(start..self.pos).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(b'\n' | b'\r') => {
                    return Err(self.fault("the line ends within a string; a new line is written \\n"));
                }
                Some(b'\t') => return Err(self.fault("a tab in a string is written \\t")),
                Some(0) => return Err(self.fault("the text contains a NUL")),
                _ => return Err(self.unexpected("the rest of a string")),
            }
        }
    }

    /// Reads an escape, from its backslash.
    fn escape(&mut self) -> Result<char, Fault> {
        self.here();
        self.pos += 1;
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return Err(self.unexpected("one of \" \\ / b f n r t u")),
        };
        self.pos += 1;
        Ok(c)
    }

    /// Reads `uXXXX`, with its second half where it is a surrogate. Faults are at the backslash.
    fn unicode(&mut self) -> Result<char, Fault> {
        let at = self.mark;
        let first = self.hex4(at)?;
        let code = match first {
            0xd800..=0xdbff => {
                if !(self.take(b'\\') && self.peek() == Some(b'u')) {
                    return Err(Fault::new(at, "half a surrogate pair: \\uD8xx needs \\uDCxx after it"));
                }
                let second = self.hex4(at)?;
                if !(0xdc00..=0xdfff).contains(&second) {
                    return Err(Fault::new(at, "half a surrogate pair: \\uD8xx needs \\uDCxx after it"));
                }
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            0 => return Err(Fault::new(at, "a string can't contain NUL")),
            code => code,
        };
        char::from_u32(code).ok_or_else(|| Fault::new(at, "half a surrogate pair: \\uDCxx without \\uD8xx before it"))
    }

    /// Reads `u` and four hexadecimal digits.
    fn hex4(&mut self, at: Place) -> Result<u32, Fault> {
        self.pos += 1;
        let digits = self
            .text
            .get(self.pos..self.pos + 4)
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits.and_then(|d| u32::from_str_radix(d, 16).ok());
        self.pos += 4 * usize::from(code.is_some());
        code.ok_or_else(|| Fault::new(at, "\\u needs four hexadecimal digits"))
    }

    /// Reads a number that starts at `at`: finds its end, and leaves the value to serde_json.
    fn number(&mut self, at: Place) -> Result<Number, Fault> {
        let start = self.pos;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.pos += 1;
        }
        let text = self.text.get(start..self.pos).unwrap_or_default();
        let shown = if self.quotes { quoted(text) } else { "this".to_owned() };
        Number::new(text).ok_or_else(|| Fault::new(at, format!("{shown} is no JSON number, or too large a one")))
    }
}
