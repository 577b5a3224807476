//! Lists of patterns of paths, as publish-artifacts and copy-artifacts take them.
//!
//! A pattern is what `sh` has, part by part, with `**` for folders at any depth and `{a,b}` for either.
//! One that begins with `!` excludes. What a list says of a path is said by the last of its patterns that
//! fits the path or a folder that it is in. What other tools have beside this is refused by name, so that
//! nobody gets some of his files for all.

mod braces;
mod names;

use names::{fits, is_hidden_named, is_wild};

/// Longest path, bytes: what the kernel takes.
pub const PATH_BYTES_MAX: usize = 4095;

/// Most folders of a pattern: no workspace that is deeper can be stored.
pub const PARTS_MAX: usize = 512;

/// One pattern of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// As it was written.
    pub text: String,
    /// Whether it begins with `!`.
    pub excludes: bool,
    /// What it stands for: several ways if it has braces.
    pub ways: Vec<Way>,
}

/// A pattern without braces, split where its folders are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Its parts; none: all that is in the folder.
    pub parts: Vec<Part>,
    /// Whether it ends with `/`: it fits folders only.
    pub folders_only: bool,
}

/// What stands between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// `**`: folders at any depth, or none.
    Any,
    /// One name and no other.
    Name(String),
    /// A pattern of names.
    Wild(String),
}

impl Rule {
    /// Reads one.
    ///
    /// # Errors
    /// What of it is not known, or can't be; the text begins with a verb.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (excludes, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if rest.is_empty() {
            return Err("must not be empty".to_owned());
        }
        if excludes && rest.starts_with('!') {
            return Err("begins with !!: a name that begins with ! is written \\!".to_owned());
        }
        let ways = braces::expand(rest)?;
        let ways: Result<_, _> = ways.iter().map(|way| Way::parse(way)).collect();
        Ok(Rule {
            text: text.to_owned(),
            excludes,
            ways: ways?,
        })
    }

    /// The same text as a name in which no character has a meaning; none if it is that already.
    pub fn as_name(&self) -> Option<Rule> {
        let plain = |way: &Way| way.parts.iter().all(|part| matches!(part, Part::Name(_)));
        if self.ways.len() == 1 && self.ways.iter().all(plain) {
            return None;
        }
        let parts = self.text.split('/').filter(|part| !part.is_empty() && *part != ".");
        let way = Way {
            parts: parts.map(|part| Part::Name(part.to_owned())).collect(),
            folders_only: false,
        };
        Some(Rule {
            ways: vec![way],
            ..self.clone()
        })
    }
}

/// Which pattern of a list can't have the effect that its writer wants, and why not.
pub fn misplaced<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    let first = texts.into_iter().next()?;
    first.starts_with('!').then_some(
        "excludes nothing, because the last pattern that fits decides and this one is the first: put it behind what it \
         takes away from (a name that begins with ! is written \\!)",
    )
}

impl Way {
    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') || text.split('/').any(|part| part == "..") {
            return Err("must stay in the folder: no leading / and no .. please".to_owned());
        }
        if text.len() > PATH_BYTES_MAX || text.contains('\0') {
            return Err(format!("must be a path: no NUL and at most {PATH_BYTES_MAX} bytes"));
        }
        let mut parts: Vec<Part> = Vec::new();
        for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
            let part = Part::parse(part)?;
            if !(part == Part::Any && parts.last() == Some(&Part::Any)) {
                parts.push(part);
            }
        }
        if parts.len() > PARTS_MAX {
            return Err(format!("must have at most {PARTS_MAX} folders"));
        }
        Ok(Way {
            parts,
            folders_only: text.ends_with('/'),
        })
    }
}

impl Part {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "**" {
            return Ok(Part::Any);
        }
        names::check(text)?;
        Ok(if is_wild(text) {
            Part::Wild(text.to_owned())
        } else {
            Part::Name(text.to_owned())
        })
    }

    /// Whether a name fits. `*`, `?` and `**` stand for a dot in front of it only where something is
    /// excluded.
    pub fn fits(&self, name: &[u8], excludes: bool) -> bool {
        match self {
            Part::Any => excludes || !name.starts_with(b"."),
            Part::Name(own) => own.as_bytes() == name,
            Part::Wild(pattern) => {
                let hidden = name.starts_with(b".") && !excludes && !is_hidden_named(pattern);
                !hidden && fits(pattern.as_bytes(), name) || excludes && pattern.as_bytes() == name
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What other tools have and this one has not is refused, with what is meant instead where that is
    /// known.
    #[test]
    fn what_is_not_known_is_refused() {
        for (text, why) in [
            ("**.jar", "**/*.jar"),
            ("a/b**/c", "stand alone"),
            ("***", "stand alone"),
            ("@(a|b)", "{a,b}"),
            ("x/!(a|b)c", "{a,b}"),
            ("{1..3}", "{1..3}"),
            ("[[:foo:]]", "[:foo:]"),
            ("[[.a.]]", "[.a.]"),
            ("[[=a=]]", "[=a=]"),
            ("!", "empty"),
            ("", "empty"),
            ("/a", "no leading /"),
            ("!/a", "no leading /"),
            ("a/../b", "no .."),
            ("{a,/b}", "no leading /"),
            ("{a,b}/{..,c}", "no .."),
            ("!!a", "!!"),
        ] {
            let refused = Rule::parse(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        let many = "{a,b}".repeat(20);
        assert!(Rule::parse(&many).unwrap_err().contains("more than 1000"));
        for text in [
            "a", "**", "*", "\\!a", "a\\*\\*b", "[*][*]", "a(1|2)", "{}", "{a", "a}", "x..y",
        ] {
            Rule::parse(text).unwrap();
        }
    }

    #[test]
    fn an_exclusion_comes_after_what_it_takes_from() {
        assert!(misplaced(["!a", "b"]).is_some());
        assert!(misplaced(["b", "!a"]).is_none() && misplaced(["\\!a"]).is_none() && misplaced([]).is_none());
    }

    #[test]
    fn dots_in_front_are_written_but_where_something_is_excluded() {
        let part = |text: &str| Part::parse(text).unwrap();
        for text in ["*", "?x", "[.]x", "**"] {
            assert!(!part(text).fits(b".x", false), "{text}");
            assert!(part(text).fits(b".x", true), "{text}");
        }
        for text in [".*", "\\.x", ".x", ".?"] {
            assert!(part(text).fits(b".x", false), "{text}");
        }
        assert!(part("a[1]").fits(b"a[1]", true) && !part("a[1]").fits(b"a[1]", false));
    }

    #[test]
    fn braces_stand_for_either() {
        let ways = |text: &str| -> Vec<String> { braces::expand(text).unwrap() };
        assert_eq!(ways("a.{jar,war}"), ["a.jar", "a.war"]);
        assert_eq!(
            ways("{a,b{c,d}}/{e,}x"),
            ["a/ex", "a/x", "bc/ex", "bc/x", "bd/ex", "bd/x"]
        );
        assert_eq!(ways("{a}\\{b,c}{}{x"), ["{a}\\{b,c}{}{x"]);
        assert_eq!(ways("{a\\,b,c}"), ["a\\,b", "c"]);
    }
}
