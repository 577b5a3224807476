//! Lists of patterns of paths, as publish-artifacts and copy-artifacts take them.
//!
//! A pattern is what `sh` has, part by part, with `**` for folders at any depth and `{a,b}` for either.
//! One that begins with `!` excludes. What a list says of a path is said by the last of its patterns that
//! fits the path or a folder that it is in. What other tools have beside this is refused by name, so that
//! nobody gets some of his files for all.

mod braces;
mod names;

use names::{fits, is_hidden_named, is_one_name, is_wild};

/// Longest path, bytes: what the kernel takes.
pub const PATH_BYTES_MAX: usize = 4095;

/// Most folders of a pattern: what is deeper is not copied.
pub const PARTS_MAX: usize = 512;

/// Most patterns of a list.
pub const PATTERNS_MAX: usize = 256;

/// Most ways of all patterns of a list.
pub const WAYS_MAX: usize = 4096;

/// Most bytes of all ways of a list.
pub const BYTES_MAX: usize = 4 << 20;

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
        if text.len() > PATH_BYTES_MAX {
            return Err(format!("must be at most {PATH_BYTES_MAX} bytes long"));
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

/// What the patterns of a list have together, so that no list is more work than it may be.
#[derive(Debug, Default)]
pub struct Together {
    patterns: usize,
    ways: usize,
    bytes: usize,
}

impl Together {
    /// Reads the next pattern of the list.
    ///
    /// # Errors
    /// As [`Rule::parse`]; and if the list has too much with it, then of all that come after it too.
    pub fn parse(&mut self, text: &str) -> Result<Rule, String> {
        self.patterns += 1;
        self.bounded()?;
        let rule = Rule::parse(text)?;
        self.ways += rule.ways.len();
        self.bytes += rule.ways.iter().map(Way::bytes).sum::<usize>();
        self.bounded()?;
        Ok(rule)
    }

    fn bounded(&self) -> Result<(), String> {
        if self.patterns > PATTERNS_MAX {
            return Err(format!("is one too many: a list has at most {PATTERNS_MAX} patterns"));
        }
        if self.ways > WAYS_MAX || self.bytes > BYTES_MAX {
            return Err(format!(
                "is too much with those before it: by their braces the patterns of a list stand for at most \
                 {WAYS_MAX} patterns, of {} MiB",
                BYTES_MAX >> 20
            ));
        }
        Ok(())
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

    fn bytes(&self) -> usize {
        let bytes = |part: &Part| match part {
            Part::Any => 2,
            Part::Name(text) | Part::Wild(text) => text.len(),
        };
        self.parts.iter().map(|part| bytes(part) + 1).sum()
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

    /// Whether a folder that this part fits is meant with all that is in it: it is named, or its dot is.
    /// Else names with a dot in front stay out at any depth.
    pub fn takes_whole(&self) -> bool {
        match self {
            Part::Any => false,
            Part::Name(_) => true,
            Part::Wild(pattern) => is_hidden_named(pattern) || is_one_name(pattern),
        }
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

    /// Whoever may write a configuration may write these; none costs a stack, or time that grows with the
    /// square of its length.
    #[test]
    fn what_would_be_endless_work_is_refused_at_once() {
        let nested = "{a,".repeat(100_000) + &"}".repeat(100_000);
        for text in [
            nested.as_str(),
            &"{".repeat(1 << 20),
            &"[:".repeat(1 << 19),
            &"a".repeat(4096),
        ] {
            assert!(Rule::parse(text).unwrap_err().contains("at most 4095 bytes"));
        }
        let nested = |deep: usize| "{a,".repeat(deep) + &"}".repeat(deep);
        assert!(Rule::parse(&nested(17)).unwrap_err().contains("deeper than 16"));
        assert!(Rule::parse(&"{".repeat(4000)).unwrap_err().contains("deeper than 16"));
        assert_eq!(Rule::parse(&nested(16)).unwrap().ways.len(), 17);
        assert_eq!(Rule::parse(&"{a,b}".repeat(9)).unwrap().ways.len(), 512);
        Rule::parse(&"\\{".repeat(2000)).unwrap();
        Rule::parse(&"[:".repeat(2000)).unwrap();
    }

    #[test]
    fn a_list_has_a_bound_too() {
        let mut list = Together::default();
        for _ in 0..8 {
            list.parse(&"{a,b}".repeat(9)).unwrap();
        }
        for text in ["a", "b"] {
            assert!(list.parse(text).unwrap_err().contains("at most 4096 patterns"));
        }
        let (mut list, wide) = (Together::default(), "x".repeat(4000) + &"{a,b}".repeat(8));
        let refused = (0..5).find_map(|_| list.parse(&wide).err()).unwrap();
        assert!(refused.contains("4 MiB"), "{refused}");
        let mut list = Together::default();
        for _ in 0..256 {
            list.parse("a").unwrap();
        }
        assert!(list.parse("a").unwrap_err().contains("at most 256 patterns"));
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
    fn a_folder_is_whole_if_it_is_named() {
        let part = |text: &str| Part::parse(text).unwrap();
        for text in ["out", "\\!out", "a\\*", ".*", ".config", "\\.c*", "a[b", "a\\[b]"] {
            assert!(part(text).takes_whole(), "{text}");
        }
        for text in ["*", "**", "o?t", "out*", "[o]ut", "[.]x", "\\a*"] {
            assert!(!part(text).takes_whole(), "{text}");
        }
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
