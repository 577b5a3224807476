//! Patterns of names that are no paths: of refs, and of what `when` looks at. `*` stands for any characters, `/` too.

/// What stands before a pattern that takes away.
const EXCLUDES: char = '!';

/// Whether a list takes what `fits` tells of its patterns: the last one that fits decides, and with `!` in front it
/// takes away. `fits` is given the pattern without it, and whether it had one.
pub fn takes<P: AsRef<str>>(patterns: &[P], fits: impl Fn(&str, bool) -> bool) -> bool {
    let mut last = patterns.iter().rev();
    let decides = last.find_map(|pattern| {
        let (plain, excludes) = split(pattern.as_ref());
        fits(plain, excludes).then_some(!excludes)
    });
    decides.unwrap_or(false)
}

/// Whether a list takes a name.
pub fn takes_name<P: AsRef<str>>(patterns: &[P], name: &str) -> bool {
    takes(patterns, |pattern, _| fits(pattern, name))
}

/// A pattern without the `!` in front of it, and whether it had one.
pub fn split(pattern: &str) -> (&str, bool) {
    pattern
        .strip_prefix(EXCLUDES)
        .map_or((pattern, false), |plain| (plain, true))
}

/// Why a pattern can't be the first of its list.
pub fn misplaced(first: &str) -> Option<&'static str> {
    split(first)
        .1
        .then_some("takes nothing away, because the last pattern that fits decides and this one is the first")
}

/// Whether a name fits one pattern. Each part is looked for once, so it takes as long as both are.
pub fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    let between = name.strip_prefix(head).and_then(|name| name.strip_suffix(tail));
    let Some(mut between) = between else { return false };
    for part in middle.split('*') {
        // The first place is the best: it leaves most for those that follow.
        let Some(at) = between.find(part) else { return false };
        between = between.get(at + part.len()..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "`*` matches any characters, `/` too."
    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, want) in [
            ("refs/heads/*", "refs/heads/a/b", true),
            ("refs/heads/*", "refs/heads", false),
            ("refs/heads/*", "refs/heads/", true),
            ("refs/heads/main", "refs/heads/main", true),
            ("refs/heads/main", "refs/heads/main2", false),
            ("*.md", "doc/a/tree.md", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*ab*ab", "ab", false),
            ("*a*b*", "xaxbx", true),
            ("***", "", true),
            ("", "", true),
            ("", "a", false),
            ("ä*ö", "äxö", true),
        ] {
            assert_eq!(fits(pattern, name), want, "{pattern} {name}");
        }
    }

    /// "Of a list the last pattern that matches decides."
    #[test]
    fn the_last_pattern_that_fits_decides() {
        for (patterns, name, want) in [
            (&["refs/heads/*", "!refs/heads/wip/*"][..], "refs/heads/main", true),
            (&["refs/heads/*", "!refs/heads/wip/*"], "refs/heads/wip/x", false),
            (
                &["refs/heads/*", "!refs/heads/wip/*", "refs/heads/wip/keep"],
                "refs/heads/wip/keep",
                true,
            ),
            (&["!refs/heads/wip/*", "refs/heads/*"], "refs/heads/wip/x", true),
            (&["!x"], "y", false),
            (&[], "y", false),
            (&["*", "!!y"], "!y", false),
        ] {
            assert_eq!(takes_name(patterns, name), want, "{patterns:?} {name}");
        }
        assert!(misplaced("!x").is_some() && misplaced("x!").is_none());
    }

    #[test]
    fn patterns_take_no_longer_than_their_lengths() {
        for (pattern, name, want) in [
            ("*", "", true),
            ("**", "a", true),
            ("", "", true),
            ("", "a", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*a", "aba", true),
            ("a*b*b*a", "aba", false),
            ("*b", "ab", true),
            ("*b", "ba", false),
            ("b*", "ba", true),
            ("a*ab", "aab", true),
            ("é*é", "ééé", true),
            ("*a*b*", "xbxa", false),
            ("*a*b*", "xaxbx", true),
            ("***", "", true),
        ] {
            assert_eq!(fits(pattern, name), want, "{pattern} {name}");
        }
        let (pattern, name) = ("a*".repeat(400_000) + "b", "a".repeat(1 << 20));
        let begun = std::time::Instant::now();
        assert!(!fits(&pattern, &name));
        assert!(!fits(
            &("*".to_owned() + &"ab".repeat(400_000) + "*c*"),
            &"ab".repeat(500_000)
        ));
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
}
