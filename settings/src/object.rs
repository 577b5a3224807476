//! Typed reading of an object's members; what doesn't fit becomes a fault that names the path.

use super::fault::{Faults, Place};
use super::json::{Kind, Member, Value};
use crate::names::Name;

/// Known words that a hint looks through: users who declare more get none for the rest.
const HINT_WORDS_MAX: usize = 1000;

/// Edits by which a key may differ from a known one to be taken for it in a hint.
const HINT_EDITS_MAX: usize = 2;

/// An object and the path that leads to it, `tasks[2].params`; empty at the top.
pub struct Object<'a> {
    /// Where it stands.
    pub at: Place,
    /// The path that leads to it.
    pub path: String,
    /// Its members, in the order of the text.
    pub members: &'a [Member],
}

impl<'a> Object<'a> {
    /// The value as an object.
    pub fn new(value: &'a Value, path: impl Into<String>, faults: &mut Faults) -> Option<Self> {
        let path = path.into();
        match &value.kind {
            Kind::Object(members) => Some(Object {
                at: value.at,
                path,
                members,
            }),
            _ => {
                let name = if path.is_empty() { "the whole" } else { &path };
                faults.add(value.at, format!("{name} must be an object {{…}}"));
                None
            }
        }
    }

    /// The path of a member.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// A member's value.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.members
            .iter()
            .find(|member| member.key == key)
            .map(|member| &member.value)
    }

    /// A member that must be there.
    pub fn required(&self, key: &str, faults: &mut Faults) -> Option<&'a Value> {
        let value = self.get(key);
        if value.is_none() {
            faults.add(self.at, format!("{} is missing", self.path_of(key)));
        }
        value
    }

    /// A member that is an object.
    pub fn object(&self, key: &str, faults: &mut Faults) -> Option<Object<'a>> {
        Object::new(self.get(key)?, self.path_of(key), faults)
    }

    /// A member that is a string.
    pub fn string(&self, key: &str, faults: &mut Faults) -> Option<&'a str> {
        let value = self.get(key)?;
        match &value.kind {
            Kind::String(text) => Some(text),
            _ => {
                faults.add(value.at, format!("{} must be a string", self.path_of(key)));
                None
            }
        }
    }

    /// A member that is true or false.
    pub fn boolean(&self, key: &str, faults: &mut Faults) -> Option<bool> {
        let value = self.get(key)?;
        match value.kind {
            Kind::Bool(flag) => Some(flag),
            _ => {
                faults.add(value.at, format!("{} must be true or false", self.path_of(key)));
                None
            }
        }
    }

    /// A member that is a whole number from `min` to `max`.
    pub fn integer(&self, key: &str, min: u64, max: u64, faults: &mut Faults) -> Option<u64> {
        let value = self.get(key)?;
        let number = match &value.kind {
            Kind::Number(number) => number.as_u64().filter(|n| (min..=max).contains(n)),
            _ => None,
        };
        if number.is_none() {
            faults.add(
                value.at,
                format!("{} must be a whole number from {min} to {max}", self.path_of(key)),
            );
        }
        number
    }

    /// A member that is a number of bytes, `1048576` or `"1M"`, from 1 to `max`.
    pub fn size(&self, key: &str, max: u64, faults: &mut Faults) -> Option<u64> {
        let value = self.get(key)?;
        let bytes = match &value.kind {
            Kind::Number(number) => number.as_u64(),
            Kind::String(text) => parse_size(text),
            _ => None,
        };
        let bytes = bytes.filter(|n| (1..=max).contains(n));
        if bytes.is_none() {
            let path = self.path_of(key);
            faults.add(
                value.at,
                format!("{path} must be a number of bytes from 1 to {max}, or a string such as \"100M\""),
            );
        }
        bytes
    }

    /// A member that is a name.
    pub fn name(&self, key: &str, faults: &mut Faults) -> Option<Name> {
        as_name(self.get(key)?, &self.path_of(key), faults)
    }

    /// A member that is a list of names.
    pub fn names(&self, key: &str, faults: &mut Faults) -> Vec<(Place, Name)> {
        let path = self.path_of(key);
        let items = self
            .get(key)
            .and_then(|value| as_list(value, &path, "names", faults))
            .unwrap_or_default();
        let named = items.iter().enumerate().map(|(i, item)| (item, format!("{path}[{i}]")));
        named
            .filter_map(|(item, path)| Some((item.at, as_name(item, &path, faults)?)))
            .collect()
    }

    /// A member that is a list of strings, with their places.
    pub fn strings(&self, key: &str, faults: &mut Faults) -> Option<Vec<(Place, &'a str)>> {
        let value = self.get(key)?;
        let strings = match &value.kind {
            Kind::List(items) => items.iter().map(|item| Some((item.at, item.as_str()?))).collect(),
            _ => None,
        };
        if strings.is_none() {
            faults.add(value.at, format!("{} must be a list of strings", self.path_of(key)));
        }
        strings
    }

    /// Refuses every key that is not known, but for those that begin with `x-`.
    pub fn only(&self, known: &[&str], faults: &mut Faults) {
        for member in self.members {
            if known.contains(&member.key.as_str()) || member.key.starts_with("x-") {
                continue;
            }
            let place = if self.path.is_empty() {
                String::new()
            } else {
                format!("{}: ", self.path)
            };
            let hint = faults.hint(&member.key, known.iter().copied());
            faults.add(
                member.at,
                format!("{place}unknown key {}{hint}", faults.quoted(&member.key)),
            );
        }
    }
}

impl Value {
    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::String(text) => Some(text),
            _ => None,
        }
    }

    /// The text of a string, number or bool.
    pub fn to_text(&self) -> Option<String> {
        match &self.kind {
            Kind::String(text) => Some(text.clone()),
            Kind::Number(number) => Some(number.text().to_owned()),
            Kind::Bool(flag) => Some(flag.to_string()),
            Kind::Null | Kind::List(_) | Kind::Object(_) => None,
        }
    }
}

/// The items of a list.
pub fn as_list<'a>(value: &'a Value, path: &str, of: &str, faults: &mut Faults) -> Option<&'a [Value]> {
    match &value.kind {
        Kind::List(items) => Some(items),
        _ => {
            faults.add(value.at, format!("{path} must be a list of {of}"));
            None
        }
    }
}

/// The value as a name.
pub fn as_name(value: &Value, path: &str, faults: &mut Faults) -> Option<Name> {
    let name = value.as_str().and_then(Name::new);
    if name.is_none() {
        faults.add(
            value.at,
            format!("{path} must be a name: letters, digits and _ . -, not first . or -, at most 128 bytes"),
        );
    }
    name
}

/// A number of bytes with a unit: `100M`, `100 MiB`, `512K`, `2G`; units are powers of 1,024.
fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(split)?;
    let shift = match unit.trim_start().to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// `; did you mean timeout?`, or nothing if no known word is near.
pub fn hint<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known
        .take(HINT_WORDS_MAX)
        .map(|k| (distance(word, k), k))
        .filter(|(d, _)| *d <= HINT_EDITS_MAX)
        .min();
    near.map(|(_, k)| format!("; did you mean {k}?")).unwrap_or_default()
}

/// Edits (one byte put in, taken out or changed) between two words; more than the hint's bound for
/// words whose lengths differ by more.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > HINT_EDITS_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut left = i + 1;
        let mut corner = i;
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let best = (corner + usize::from(x != y)).min(left + 1).min(*cell + 1);
            corner = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_near_words_only() {
        let known = ["timeout", "type", "labels"];
        assert_eq!(hint("timeuot", known.into_iter()), "; did you mean timeout?");
        assert_eq!(hint("label", known.into_iter()), "; did you mean labels?");
        assert_eq!(hint("colour", known.into_iter()), "");
        assert_eq!(
            (distance("", "ab"), distance("kitten", "sitten"), distance("ab", "ba")),
            (2, 1, 2)
        );
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("100M"), Some(100 << 20));
        assert_eq!(parse_size("2 GiB"), Some(2 << 30));
        assert_eq!(parse_size("17"), Some(17));
        assert_eq!(
            (
                parse_size("M"),
                parse_size("1T"),
                parse_size("-1"),
                parse_size("99999999999G")
            ),
            (None, None, None, None)
        );
    }
}
