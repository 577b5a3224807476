//! Names that git gives.

/// Whether this can be the name of a ref or commit, by git's own rules; never an option or a pattern.
pub fn is_ref(name: &str) -> bool {
    let bad = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    !name.starts_with(['-', '+'])
        && !name.ends_with('.')
        && !name.contains(bad)
        && !name.contains("..")
        && !name.contains("@{")
        && name != "@"
        && name.split('/').all(part)
}

/// Whether this is the whole name of a commit: 40 or 64 hexadecimal digits.
pub fn is_commit(name: &str) -> bool {
    matches!(name.len(), 40 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_refs_are_those_of_git() {
        for name in ["main", "v1.0", "refs/heads/a/b", "HEAD", "0123abcd", "a@b", "ü"] {
            assert!(is_ref(name), "{name}");
        }
        for name in [
            "-x",
            "+a",
            "a..b",
            "a:b",
            "a b",
            "^a",
            "a~1",
            "*",
            "a?",
            "a[",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.",
            "@{u}",
            "@",
            "",
            "a\n",
            "--upload-pack=x",
        ] {
            assert!(!is_ref(name), "{name}");
            let git = std::process::Command::new("git")
                .args(["check-ref-format", "--allow-onelevel", name])
                .output();
            // Git takes one of them, which is a refspec for fetch.
            assert!(name == "+a" || !git.unwrap().status.success(), "{name}");
        }
    }
}
