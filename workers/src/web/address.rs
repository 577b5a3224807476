//! Addresses: a request's path as names of the tree, and names as parts of a path.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Longest name, bytes: NAME_MAX.
const NAME_BYTES_MAX: usize = 255;

/// Longest query that is looked at, bytes.
const QUERY_BYTES_MAX: usize = 4096;

/// Deepest path, names.
const DEPTH_MAX: usize = 256;

/// The names that a path is of; whether it ends with a slash. `None` where it can name nothing that is shown:
/// what begins with a dot, is empty, or has a slash or NUL in it.
pub fn parse(path: &str) -> Option<(Vec<OsString>, bool)> {
    let whole = path;
    let path = path.strip_prefix('/')?;
    let (path, folder) = match path.strip_suffix('/') {
        Some(path) => (path, true),
        None => (path, path.is_empty()),
    };
    if path.is_empty() {
        // The slash of an empty path is not there twice.
        return folder.then(|| (Vec::new(), true)).filter(|_| whole == "/");
    }
    let names = path.split('/').map(name).collect::<Option<Vec<OsString>>>()?;
    (names.len() <= DEPTH_MAX).then_some((names, folder))
}

fn name(part: &str) -> Option<OsString> {
    let bytes = decoded(part, false)?;
    let hidden = matches!(bytes.first(), None | Some(b'.'));
    let odd = bytes.iter().any(|byte| matches!(byte, b'/' | 0));
    (!hidden && !odd && bytes.len() <= NAME_BYTES_MAX).then(|| OsString::from_vec(bytes))
}

/// The path of names: a slash that no second one follows, whatever the names are. So it leads to no other host.
pub fn path_of(names: &[OsString], folder: bool) -> String {
    let path: String = names.iter().map(|name| format!("/{}", encoded(name))).collect();
    match folder || path.is_empty() {
        true => path + "/",
        false => path,
    }
}

/// Whether a name is listed: what begins with a dot is not.
pub fn is_shown(name: &OsStr) -> bool {
    !name.as_bytes().starts_with(b".") && !name.is_empty()
}

/// Takes `%41` for what it stands for; `None` if one is not whole. In a form `+` is a space.
fn decoded(text: &str, form: bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if form => b' ',
            other => other,
        });
    }
    Some(bytes)
}

/// A name as a part of a path.
pub fn encoded(name: &OsStr) -> String {
    encode(name.as_bytes())
}

/// Bytes as a part of a path or a value of a query.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// The query of a request: `key=value&…`.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads one; what is no text, or too long, counts as absent.
    pub fn parse(text: &str) -> Self {
        if text.len() > QUERY_BYTES_MAX {
            return Query::default();
        }
        let word = |text: &str| decoded(text, true).and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            Some((word(key)?, word(value)?))
        };
        Query(
            text.split('&')
                .filter(|part| !part.is_empty())
                .filter_map(pair)
                .collect(),
        )
    }

    /// A value, empty if it is not said.
    pub fn get(&self, key: &str) -> &str {
        self.find(key).unwrap_or_default()
    }

    /// A value, if it is said.
    pub fn find(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// A number, if it is said and is one.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key).parse().ok()
    }

    /// All of it but one key, as it stands in an address; empty or with a `?` in front.
    pub fn without(&self, key: &str) -> String {
        let rest = self.0.iter().filter(|(name, _)| name != key);
        let word = |(name, value): &(String, String)| match value.is_empty() {
            true => encode(name.as_bytes()),
            false => format!("{}={}", encode(name.as_bytes()), encode(value.as_bytes())),
        };
        let parts: Vec<String> = rest.map(word).collect();
        match parts.is_empty() {
            true => String::new(),
            false => format!("?{}", parts.join("&")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_listed_are_named() {
        let names = |path: &str| {
            let (names, folder) = parse(path)?;
            let text = names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>();
            Some((text.join("|"), folder))
        };
        let some = |text: &str, folder| Some((text.to_owned(), folder));
        assert_eq!(names("/"), some("", true));
        assert_eq!(names("/jobs/a%20b"), some("jobs|a b", false));
        assert_eq!(names("/jobs/a+b/"), some("jobs|a+b", true));
        assert_eq!(names("/a/%E2%80%AEx"), some("a|\u{202e}x", false));
        for path in [
            "",
            "jobs",
            "//",
            "/jobs//a",
            "/./a",
            "/jobs/../a",
            "/jobs/%2e%2e/a",
            "/jobs/.trash",
            "/.events",
            "/jobs/%2Etrash",
            "/a%2fb",
            "/a%2F..%2Fb",
            "/a%00",
            "/a%",
            "/a%4",
            "/a%zz",
            "/%",
        ] {
            assert_eq!(names(path), None, "{path}");
        }
        assert_eq!(names(&format!("/{}", "a".repeat(256))), None);
        assert_eq!(names(&"/a".repeat(300)), None);
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let all: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
        let name = OsString::from_vec(all);
        let (names, _) = parse(&format!("/{}", encoded(&name))).unwrap();
        assert_eq!(names, [name]);
    }

    #[test]
    fn a_path_leads_to_no_other_host() {
        for (path, same) in [
            ("/", "/"),
            ("/jobs/a%20b/", "/jobs/a%20b/"),
            ("/j%C3%B6bs", "/j%C3%B6bs"),
            ("/%5Cevil.example/", "/%5Cevil.example/"),
            ("/x%0d%0aSet-Cookie:%20a", "/x%0D%0ASet-Cookie%3A%20a"),
        ] {
            let (names, folder) = parse(path).unwrap();
            assert_eq!(path_of(&names, folder), same);
        }
        assert_eq!(parse("//evil.example/"), None);
    }

    #[test]
    fn queries() {
        let query = Query::parse("q=a+b%26c&page=3&&x&bad=%zz&q=second");
        assert_eq!((query.get("q"), query.number("page")), ("a b&c", Some(3)));
        assert_eq!((query.find("x"), query.find("bad")), (Some(""), None));
        assert_eq!(query.without("page"), "?q=a%20b%26c&x&q=second");
        assert_eq!(Query::parse(&"a".repeat(5000)).find("a"), None);
    }
}
