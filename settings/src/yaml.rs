//! A reader of YAML 1.2 that gives the values of [`crate::json`], with the places of the author's text.
//!
//! It reads the events of saphyr-parser and nothing else of it. What it takes is the part of YAML that JSON has
//! too, with aliases and merge keys within bounds. A fault quotes nothing of the text.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput};

use crate::fault::{Fault, Place};
use crate::json::{Kind, Member, NESTING_MAX, Number, TEXT_BYTES_MAX, Value};
use crate::text::{START, check_characters, text_of};

#[cfg(test)]
mod tests;

/// Most values that the aliases of a text stand for in all, those of merge keys too.
pub const ALIASED_NODES_MAX: usize = 1000;

/// Most bytes that they stand for: a thousand aliases of one long text would be a gigabyte.
const ALIASED_BYTES_MAX: usize = TEXT_BYTES_MAX;

/// What is said to a tag.
const NO_TAGS: &str = "tags are not taken: text in quotes is text, and all else is what it looks like";

/// Reads one document of YAML.
///
/// # Errors
/// The first fault, with its place.
pub fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    let text = text_of(bytes)?;
    // YAML has none; the parser does not look at all places.
    check_characters(text)?;
    check_directives(text)?;
    Loader::new(text).document().map(Used::into_value)
}

/// A value where it is used: at its own place, or at that of the alias which stands for it.
#[derive(Clone)]
struct Used {
    at: Place,
    node: Rc<Node>,
}

/// A value that aliases may share until it is known that all of them together are within bounds.
struct Node {
    shape: Shape,
    /// What a copy of it takes.
    size: Size,
    /// Lists and objects inside each other, with itself.
    height: usize,
}

enum Shape {
    Scalar(Kind),
    List(Vec<Used>),
    Object(Vec<Entry>),
}

#[derive(Clone)]
struct Entry {
    at: Place,
    key: String,
    value: Used,
}

#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

impl Size {
    fn and(self, other: Size) -> Size {
        Size {
            nodes: self.nodes.saturating_add(other.nodes),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl Used {
    fn into_value(self) -> Value {
        let kind = match &self.node.shape {
            Shape::Scalar(kind) => kind.clone(),
            Shape::List(items) => Kind::List(items.iter().cloned().map(Used::into_value).collect()),
            Shape::Object(entries) => Kind::Object(entries.iter().cloned().map(Entry::into_member).collect()),
        };
        Value { at: self.at, kind }
    }
}

impl Entry {
    fn into_member(self) -> Member {
        Member {
            at: self.at,
            key: self.key,
            value: self.value.into_value(),
        }
    }
}

impl Node {
    fn scalar(text: &str, style: ScalarStyle) -> Self {
        let kind = match style {
            ScalarStyle::Plain => plain(text),
            _ => Kind::String(text.to_owned()),
        };
        Node {
            shape: Shape::Scalar(kind),
            size: Size {
                nodes: 1,
                bytes: text.len(),
            },
            height: 0,
        }
    }

    fn list(items: Vec<Used>) -> Self {
        let inner: Vec<_> = items.iter().map(|item| &item.node).collect();
        let (size, height) = around(&inner, 0);
        let shape = Shape::List(items);
        Node { shape, size, height }
    }

    fn object(entries: Vec<Entry>) -> Self {
        let inner: Vec<_> = entries.iter().map(|entry| &entry.value.node).collect();
        let keys = entries.iter().map(|entry| entry.key.len()).sum();
        let (size, height) = around(&inner, keys);
        let shape = Shape::Object(entries);
        Node { shape, size, height }
    }
}

/// Size and height of what holds these.
fn around(inner: &[&Rc<Node>], bytes: usize) -> (Size, usize) {
    let own = Size { nodes: 1, bytes };
    let size = inner.iter().fold(own, |size, node| size.and(node.size));
    let height = inner.iter().map(|node| node.height).max().unwrap_or(0);
    (size, height + 1)
}

/// A scalar without quotes: only what JSON has words for is no text.
fn plain(text: &str) -> Kind {
    match text {
        "" | "~" | "null" => Kind::Null,
        "true" => Kind::Bool(true),
        "false" => Kind::Bool(false),
        _ => Number::new(text).map_or_else(|| Kind::String(text.to_owned()), Kind::Number),
    }
}

/// The text's events and what was read of them.
struct Loader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// What stands at each anchor whose value is read to its end.
    anchors: HashMap<usize, Rc<Node>>,
    /// What aliases may still stand for.
    room: Size,
    /// Events that were asked for.
    steps: usize,
    last: Place,
}

impl<'a> Loader<'a> {
    fn new(text: &'a str) -> Self {
        Loader {
            parser: Parser::new_from_str(text),
            anchors: HashMap::new(),
            room: Size {
                nodes: ALIASED_NODES_MAX,
                bytes: ALIASED_BYTES_MAX,
            },
            steps: 0,
            last: START,
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Place), Fault> {
        self.steps += 1;
        let (event, span) = match self.parser.next_event() {
            Some(Ok(found)) => found,
            Some(Err(error)) => return Err(scan_fault(&error)),
            None => return Err(Fault::new(self.last, "the text ends too early")),
        };
        self.last = place(span.start);
        Ok((event, self.last))
    }

    fn document(&mut self) -> Result<Used, Fault> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::Nothing, _) => {}
                (Event::DocumentStart(_), _) => break,
                (_, at) => return Err(Fault::new(at, "the text is empty; an object is needed")),
            }
        }
        let (event, at) = self.next()?;
        let value = self.value(event, at, 0)?;
        loop {
            match self.next()? {
                (Event::DocumentEnd | Event::Nothing, _) => {}
                (Event::StreamEnd, _) => return Ok(value),
                (_, at) => return Err(Fault::new(at, "another document begins here, and a file has one")),
            }
        }
    }

    /// Reads a value; `depth` lists and objects are open around it.
    fn value(&mut self, event: Event<'a>, at: Place, depth: usize) -> Result<Used, Fault> {
        let (anchor, tagged) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            _ => (0, false),
        };
        if tagged {
            return Err(Fault::new(at, NO_TAGS));
        }
        let node = match event {
            Event::Alias(anchor) => return self.alias(anchor, at, depth),
            Event::Scalar(text, style, ..) => Node::scalar(&no_nul(&text, at)?, style),
            Event::SequenceStart(..) => Node::list(self.list(at, depth)?),
            Event::MappingStart(..) => Node::object(self.object(at, depth)?),
            _ => return Err(Fault::new(at, "a value is missing here")),
        };
        let node = Rc::new(node);
        if anchor > 0 {
            // Only now: within itself an alias would have no end.
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(Used { at, node })
    }

    /// What an alias stands for, if there is room for a copy.
    fn alias(&mut self, anchor: usize, at: Place, depth: usize) -> Result<Used, Fault> {
        let Some(node) = self.anchors.get(&anchor).map(Rc::clone) else {
            return Err(Fault::new(at, "the alias stands within what it stands for"));
        };
        if depth + node.height > NESTING_MAX {
            return Err(too_deep(at));
        }
        let nodes = self.room.nodes.checked_sub(node.size.nodes);
        let nodes = nodes.ok_or_else(|| {
            let what = format!("aliases and merge keys stand for more than {ALIASED_NODES_MAX} values in all");
            Fault::new(at, what)
        })?;
        let bytes = self.room.bytes.checked_sub(node.size.bytes);
        let bytes = bytes.ok_or_else(|| {
            let what = format!("aliases and merge keys stand for more than {ALIASED_BYTES_MAX} bytes in all");
            Fault::new(at, what)
        })?;
        self.room = Size { nodes, bytes };
        Ok(Used { at, node })
    }

    fn list(&mut self, at: Place, depth: usize) -> Result<Vec<Used>, Fault> {
        if depth >= NESTING_MAX {
            return Err(too_deep(at));
        }
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, at) => items.push(self.value(event, at, depth + 1)?),
            }
        }
    }

    fn object(&mut self, at: Place, depth: usize) -> Result<Vec<Entry>, Fault> {
        if depth >= NESTING_MAX {
            return Err(too_deep(at));
        }
        let mut entries = Vec::new();
        let mut keys = HashSet::new();
        let mut merged = None;
        loop {
            let (event, at) = self.next()?;
            let (key, merge) = match event {
                Event::MappingEnd => break,
                Event::Scalar(.., Some(_)) => return Err(Fault::new(at, NO_TAGS)),
                Event::Scalar(text, style, anchor, _) => {
                    let key = no_nul(&text, at)?;
                    if anchor > 0 {
                        self.anchors.insert(anchor, Rc::new(Node::scalar(&key, style)));
                    }
                    let merge = style == ScalarStyle::Plain && key == "<<";
                    (key, merge)
                }
                _ => return Err(Fault::new(at, "a key must be text, and no alias")),
            };
            let (event, value_at) = self.next()?;
            let value = self.value(event, value_at, depth + 1)?;
            let again = || Fault::new(at, "this key stands in its object already");
            if merge {
                let all = objects(&value)
                    .ok_or_else(|| Fault::new(value_at, "a merge key needs an object, or a list of objects"))?;
                merged.replace(all).map_or(Ok(()), |_| Err(again()))?;
                continue;
            }
            if !keys.insert(key.clone()) {
                return Err(again());
            }
            entries.push(Entry { at, key, value });
        }
        for object in merged.unwrap_or_default() {
            let Shape::Object(inner) = &object.node.shape else {
                continue;
            };
            entries.extend(inner.iter().filter(|entry| keys.insert(entry.key.clone())).cloned());
        }
        Ok(entries)
    }
}

/// The objects of a merge key's value.
fn objects(value: &Used) -> Option<Vec<Used>> {
    let is_object = |used: &Used| matches!(used.node.shape, Shape::Object(_));
    match &value.node.shape {
        Shape::Object(_) => Some(vec![value.clone()]),
        Shape::List(items) => items.iter().all(is_object).then(|| items.clone()),
        Shape::Scalar(_) => None,
    }
}

fn too_deep(at: Place) -> Fault {
    Fault::new(at, format!("lists and objects are nested deeper than {NESTING_MAX}"))
}

/// The text, unless an escape brings in what no file or variable can hold.
fn no_nul(text: &str, at: Place) -> Result<String, Fault> {
    match text.contains('\0') {
        true => Err(Fault::new(at, "a string can't contain NUL")),
        false => Ok(text.to_owned()),
    }
}

/// Lines with `%` before the document: the parser reads over them, whatever they ask for.
fn check_directives(text: &str) -> Result<(), Fault> {
    let head = text.lines().zip(1..).take_while(|(line, _)| {
        let line = line.trim_start();
        line.is_empty() || line.starts_with(['#', '%'])
    });
    for (line, number) in head {
        if line.starts_with('%') && line.trim_end() != "%YAML 1.2" {
            let at = Place {
                line: number,
                column: 1,
            };
            return Err(Fault::new(at, "no directive is taken but %YAML 1.2"));
        }
    }
    Ok(())
}

fn place(marker: Marker) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place {
        line: number(marker.line()),
        column: number(marker.col()).saturating_add(1),
    }
}

/// What the parser says; one of its messages shows a character of the text.
fn scan_fault(error: &ScanError) -> Fault {
    let what = match error.info() {
        info if info.starts_with("unexpected character") => "this character begins no value: put it in quotes",
        info if info.ends_with("found unknown anchor") => "no anchor before it has the name of this alias",
        info => info,
    };
    Fault::new(place(*error.marker()), format!("no YAML: {what}"))
}
