//! Patterns of paths, as a shell has them, looked for in a folder without a shell and without links.
//!
//! `*` and `?` stand for anything but `/`, `[a-z]`, `[!a]` and `[[:digit:]]` for one character of these;
//! a dot in front of a name must be written. Where no path fits, the pattern may be the name itself:
//! `a[1].txt`. All this is what `sh` does, and the tests compare it with `sh`; the glob crates differ in
//! braces, in classes and in what an open bracket means.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::beneath::{self, DEPTH_MAX, Folder, inside, is, trouble};
use crate::tree::{self, Trouble};

/// A pattern, split where its folders are.
#[derive(Debug)]
pub struct Pattern {
    text: String,
    parts: Vec<String>,
}

/// What is done with each place that fits: a name in a folder, and the way there from the top.
pub type Found<'a> = dyn FnMut(&Folder, &OsStr, &Path) -> tree::Result<()> + 'a;

impl Pattern {
    /// Reads one.
    ///
    /// # Errors
    /// `Refused` if it leads out of the folder, or is longer than any path.
    pub fn new(text: &str) -> tree::Result<Self> {
        let refused = |why: &str| Trouble::Refused(format!("'{text}' is not a pattern below the folder: {why}"));
        let Some(path) = inside(text) else {
            return Err(refused("no leading / and no .. please, and no more than 4,095 bytes"));
        };
        let parts: Vec<String> = path
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect();
        if parts.len() > DEPTH_MAX {
            return Err(refused("folders do not nest that deep"));
        }
        Ok(Pattern {
            text: text.to_owned(),
            parts,
        })
    }

    /// Does something with all that fits; whether there was anything. A pattern without a name, `.`,
    /// fits all that is in the folder.
    ///
    /// # Errors
    /// Those of `found`, and if a folder can't be read or is a link.
    pub fn each(&self, root: &Folder, found: &mut Found<'_>) -> tree::Result<bool> {
        if self.parts.is_empty() {
            let top = Path::new("");
            return in_folder(root, top, |_| true, |name, _| found(root, name, top).map(|()| true));
        }
        if self.walk(root, Path::new(""), 0, true, found)? {
            return Ok(true);
        }
        let wild = self.parts.iter().any(|part| is_wild(part));
        Ok(wild && self.walk(root, Path::new(""), 0, false, found)?)
    }

    /// Follows the pattern from its part `at` on; `wild`: whether characters have their meaning.
    fn walk(&self, folder: &Folder, way: &Path, at: usize, wild: bool, found: &mut Found<'_>) -> tree::Result<bool> {
        let Some(part) = self.parts.get(at) else {
            return Ok(false);
        };
        let last = at + 1 == self.parts.len();
        if !(wild && is_wild(part)) {
            let name = OsStr::new(part);
            if last {
                return match folder.stat(name) {
                    Ok(_) => found(folder, name, way).map(|()| true),
                    Err(error) if is_nothing(&error) => Ok(false),
                    Err(error) => Err(self.trouble(way, name, &error)),
                };
            }
            return match folder.enter(name) {
                Ok(below) => self.walk(&below, &way.join(name), at + 1, wild, found),
                Err(error) if is_nothing(&error) => Ok(false),
                Err(error) => Err(self.trouble(way, name, &error)),
            };
        }
        let hidden = part.starts_with('.') || part.starts_with("\\.");
        let fits = |name: &OsStr| {
            let name = name.as_bytes();
            (hidden || !name.starts_with(b".")) && matches(part.as_bytes(), name)
        };
        in_folder(folder, way, fits, |name, kind| {
            if last {
                return found(folder, name, way).map(|()| true);
            }
            if !matches!(kind, FileType::Directory | FileType::Unknown) {
                return Ok(false);
            }
            match folder.enter(name) {
                Ok(below) => self.walk(&below, &way.join(name), at + 1, wild, found),
                Err(error) if is_nothing(&error) || is(&error, Errno::LOOP) => Ok(false),
                Err(error) => Err(self.trouble(way, name, &error)),
            }
        })
    }

    fn trouble(&self, way: &Path, name: &OsStr, error: &std::io::Error) -> Trouble {
        let place = way.join(name);
        if self.text == place.to_string_lossy() {
            return trouble(&format!("'{}'", self.text), error);
        }
        trouble(&format!("'{}', at '{}'", self.text, place.display()), error)
    }
}

/// Does something with the names of a folder that fit; whether anything came of it.
fn in_folder(
    folder: &Folder,
    way: &Path,
    fits: impl Fn(&OsStr) -> bool,
    mut then: impl FnMut(&OsStr, FileType) -> tree::Result<bool>,
) -> tree::Result<bool> {
    let cant = |error: std::io::Error| trouble(&format!("can't read the folder '{}'", shown(way).display()), &error);
    let mut entries = folder.entries().map_err(cant)?;
    let mut any = false;
    while let Some((name, kind)) = beneath::next_name(&mut entries).map_err(cant)? {
        if fits(&name) {
            any |= then(&name, kind)?;
        }
    }
    Ok(any)
}

fn shown(way: &Path) -> PathBuf {
    if way.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        way.to_owned()
    }
}

/// Whether there is nothing of that name.
fn is_nothing(error: &std::io::Error) -> bool {
    is(error, Errno::NOENT) || is(error, Errno::NOTDIR) || is(error, Errno::NAMETOOLONG)
}

/// Whether a part is more than a name.
fn is_wild(part: &str) -> bool {
    let mut escaped = false;
    part.bytes().any(|byte| {
        let wild = !escaped && matches!(byte, b'*' | b'?' | b'[');
        escaped = !escaped && byte == b'\\';
        wild
    })
}

/// Whether a name fits one part of a pattern. It takes at most the product of both lengths in steps.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on if what follows the last star does not fit: the star takes one more.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, n));
            continue;
        }
        let wide = character(&name[n..]);
        match one(&pattern[p..], &name[n..n + wide]) {
            Some(taken) => {
                p += taken;
                n += wide;
            }
            None => match &mut star {
                Some((after, from)) => {
                    *from += character(&name[*from..]);
                    (p, n) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// How many bytes the first character has; what is no UTF-8 counts byte by byte.
fn character(bytes: &[u8]) -> usize {
    let length = match bytes.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => 1,
    };
    match bytes.get(..length) {
        Some(start) if std::str::from_utf8(start).is_ok() => length,
        _ => 1,
    }
}

/// Whether a character fits what the pattern begins with; how many bytes of the pattern that is.
fn one(pattern: &[u8], character: &[u8]) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', rest @ ..] if !rest.is_empty() => rest.starts_with(character).then_some(1 + character.len()),
        [b'[', rest @ ..] => match bracket(rest, character) {
            Some((fits, length)) => fits.then_some(1 + length),
            // Nothing closes it: it stands for itself.
            None => (character == b"[").then_some(1),
        },
        _ => pattern.starts_with(character).then_some(character.len()),
    }
}

/// Whether a character is one of those between brackets, and where these end; `None` if they don't.
fn bracket(set: &[u8], character_: &[u8]) -> Option<(bool, usize)> {
    let wanted = char_of(character_);
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let (mut at, mut fits) = (start, false);
    loop {
        let rest = set.get(at..)?;
        match rest {
            [] => return None,
            [b']', ..] if at > start => return Some((fits != negated, at + 1)),
            [b'[', b':', ..] if let Some((is_in, length)) = class(rest, wanted) => {
                fits |= is_in;
                at += length;
                continue;
            }
            _ => {}
        }
        let (low, length) = member(rest)?;
        at += length;
        match set.get(at..) {
            Some([b'-', after @ ..]) if !matches!(after, [b']', ..] | []) => {
                let (high, length) = member(after)?;
                at += 1 + length;
                fits |= (low..=high).contains(&wanted);
            }
            _ => fits |= low == wanted,
        }
    }
}

/// One character between brackets and its length.
fn member(set: &[u8]) -> Option<(u32, usize)> {
    let escaped = usize::from(set.first() == Some(&b'\\') && set.len() > 1);
    let rest = set.get(escaped..)?;
    let length = character(rest);
    Some((char_of(rest.get(..length)?), escaped + length))
}

/// A number for a character; bytes that are none are beyond all that are.
fn char_of(bytes: &[u8]) -> u32 {
    let text = std::str::from_utf8(bytes).ok();
    match text.and_then(|text| text.chars().next()) {
        Some(char) => char.into(),
        None => 0x11_0000 + u32::from(bytes.first().copied().unwrap_or(0)),
    }
}

/// Whether a character is of the class that the pattern begins with, `[:digit:]`, and its length.
fn class(set: &[u8], wanted: u32) -> Option<(bool, usize)> {
    let end = set.windows(2).position(|two| two == b":]").filter(|end| *end >= 2)?;
    let char = char::from_u32(wanted).unwrap_or(char::REPLACEMENT_CHARACTER);
    let fits = match set.get(2..end)? {
        b"alnum" => char.is_ascii_alphanumeric(),
        b"alpha" => char.is_ascii_alphabetic(),
        b"blank" => matches!(char, ' ' | '\t'),
        b"cntrl" => char.is_ascii_control(),
        b"digit" => char.is_ascii_digit(),
        b"graph" => char.is_ascii_graphic(),
        b"lower" => char.is_ascii_lowercase(),
        b"print" => char.is_ascii_graphic() || char == ' ',
        b"punct" => char.is_ascii_punctuation(),
        b"space" => char.is_ascii_whitespace() || char == '\x0b',
        b"upper" => char.is_ascii_uppercase(),
        b"xdigit" => char.is_ascii_hexdigit(),
        _ => return None,
    };
    Some((fits, end + 2))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// `*` does not cross a folder here: parts are matched one by one.
    #[test]
    fn names_fit_or_do_not() {
        for (pattern, yes, no) in [
            ("*.txt", &["a.txt", ".txt"][..], &["a.txt2", "txt"][..]),
            ("a?c", &["abc", "aéc"], &["ac", "abbc"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "-x"]),
            ("[!a-c]x", &["dx", "éx"], &["ax"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[a-]", &["-", "a"], &["b"]),
            ("[[:digit:]]*", &["1", "1a"], &["a1"]),
            ("a[b", &["a[b"], &["ab"]),
            ("\\*", &["*"], &["a"]),
            ("*a*b*c", &["abc", "xaybzc"], &["acb"]),
        ] {
            for name in yes {
                assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
            }
            for name in no {
                assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
            }
        }
        assert!(matches(b"?x", b"\xffx"), "what is no UTF-8 is a character too");
    }

    /// A pattern costs no more than its length by the name's.
    #[test]
    fn a_hostile_pattern_is_no_work() {
        let pattern = "*a".repeat(100) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(255).as_bytes()));
    }

    /// What `sh` matches is matched, and nothing else: all short patterns of these characters.
    #[test]
    fn it_is_as_in_sh() {
        let letters = ['a', 'b', '*', '?', '[', ']', '!', '-', '\\'];
        let names = ["a", "b", "ab", "aa", "[", "]", "-", "!", "[a]", "a-b", "\\"];
        let mut seed = 7_u64;
        let mut patterns = Vec::new();
        for _ in 0..3000 {
            let mut pattern = String::new();
            for _ in 0..=seed % 5 {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                pattern.push(letters[usize::try_from((seed >> 33) % 9).unwrap()]);
            }
            // Where a backslash ends a pattern, shells differ.
            if !pattern.ends_with('\\') {
                patterns.push(pattern);
            }
        }
        let script =
            "while IFS= read -r p; do for n; do case $n in $p) printf 1;; *) printf 0;; esac; done; echo; done";
        for shell in ["dash", "bash"] {
            let mut child = match Command::new(shell)
                .args(["-c", script, "x"])
                .args(names)
                .env("LC_ALL", "C.UTF-8")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
            {
                Ok(child) => child,
                Err(_) => continue,
            };
            let mut stdin = child.stdin.take().unwrap();
            let text = patterns.join("\n") + "\n";
            let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, text.as_bytes()));
            let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
            writer.join().unwrap().unwrap();
            let mut differ = Vec::new();
            for (pattern, line) in patterns.iter().zip(said.lines()) {
                let ours: String = names
                    .iter()
                    .map(|name| {
                        if matches(pattern.as_bytes(), name.as_bytes()) {
                            '1'
                        } else {
                            '0'
                        }
                    })
                    .collect();
                if ours != line {
                    differ.push(format!("{pattern}: {ours} and {line}"));
                }
            }
            assert!(differ.is_empty(), "{shell}: {} differ: {differ:?}", differ.len());
        }
    }
}
