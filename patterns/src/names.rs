//! Names and parts of patterns, as `sh` has them: `*` and `?` stand for anything, `[a-z]`, `[!a]` and
//! `[[:digit:]]` for one character of these. The tests compare all of it with `sh`; the glob crates differ
//! in classes and in what an open bracket means.

/// The classes of characters, as `[[:digit:]]` names them.
const CLASSES: [&str; 12] = [
    "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit",
];

/// Whether a part is more than a name.
pub(crate) fn is_wild(part: &str) -> bool {
    part.contains(['*', '?', '[', '\\'])
}

/// Whether only one name fits a part.
pub(crate) fn is_one_name(part: &str) -> bool {
    let bare = without_escapes(part);
    let set = bare.split_once('[').is_some_and(|(_, rest)| rest.contains(']'));
    !set && !bare.contains(['*', '?'])
}

/// Whether a part names a dot in front.
pub(crate) fn is_hidden_named(part: &str) -> bool {
    part.starts_with('.') || part.starts_with("\\.")
}

/// Refuses what shells and other tools know beside this, and what looks as if it were meant.
pub(crate) fn check(part: &str) -> Result<(), String> {
    let bare = without_escapes(part);
    if bare.contains("**") {
        let hint = match part.strip_prefix("**") {
            Some(rest) if !rest.contains("**") => format!(": **/*{rest} for files at any depth"),
            _ => String::new(),
        };
        return Err(format!(
            "has '{part}', but ** must stand alone between two slashes{hint}"
        ));
    }
    for opening in ["@(", "+(", "!(", "?(", "*("] {
        if let Some((_, rest)) = bare.split_once(opening)
            && rest.split_once(')').is_some_and(|(inner, _)| inner.contains('|'))
        {
            return Err(format!(
                "has {opening}…|…), which is not known: write {{a,b}} for either"
            ));
        }
    }
    for (opening, closing) in [("[:", ":]"), ("[.", ".]"), ("[=", "=]")] {
        for (at, _) in bare.match_indices(opening) {
            let inside = bare[..at]
                .rfind('[')
                .is_some_and(|start| !bare[start..at].contains(']'));
            if !inside {
                continue;
            }
            // Without an end for this one there is none for those behind it.
            let Some((name, _)) = bare[at + 2..].split_once(closing) else {
                break;
            };
            if opening != "[:" || !CLASSES.contains(&name) {
                let known = CLASSES.join(" ");
                return Err(format!(
                    "has {opening}{name}{closing}, which is not known: there are [: :] with {known}"
                ));
            }
        }
    }
    Ok(())
}

/// The text with something without a meaning for each escaped character.
fn without_escapes(part: &str) -> String {
    let (mut out, mut escaped) = (String::new(), false);
    for char in part.chars() {
        if escaped {
            escaped = false;
            out.push('\0');
        } else if char == '\\' {
            escaped = true;
        } else {
            out.push(char);
        }
    }
    out
}

/// Whether a name fits one part of a pattern. It takes at most the product of both lengths in steps.
pub(crate) fn fits(pattern: &[u8], name: &[u8]) -> bool {
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
                assert!(fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
            }
            for name in no {
                assert!(!fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
            }
        }
        assert!(fits(b"?x", b"\xffx"), "what is no UTF-8 is a character too");
    }

    /// Classes without an end are looked at once.
    #[test]
    fn a_mebibyte_of_openings_is_no_work() {
        check(&"[:".repeat(1 << 19)).unwrap();
        check(&("[:x]".repeat(1 << 18) + ":]")).unwrap();
    }

    /// A pattern costs no more than its length by the name's.
    #[test]
    fn a_hostile_pattern_is_no_work() {
        let pattern = "*a".repeat(100) + "b";
        assert!(!fits(pattern.as_bytes(), "a".repeat(255).as_bytes()));
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
                        if fits(pattern.as_bytes(), name.as_bytes()) {
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
