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

/// Ends the names of repositories on servers.
pub const ENDING: &str = ".git";

/// The protocol of git that the scheme of an address stands for.
pub fn protocol(scheme: &str) -> Option<&'static str> {
    Some(match scheme {
        "https" => "https",
        "http" => "http",
        "ssh" | "git+ssh" | "ssh+git" => "ssh",
        "git" => "git",
        _ => return None,
    })
}

/// Protocol, server and path of a repository on a server.
pub type Place = (&'static str, String, String);

/// The place that an address names: the same, however the address is written. `None`: it is no address of a server.
pub fn place(address: &str) -> Option<Place> {
    if address.contains(['?', '#']) || address.contains(char::is_control) {
        return None;
    }
    let (protocol, authority, path) = match address.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            (protocol(scheme)?, authority, path)
        }
        None => {
            let (authority, path) = address.split_once(':')?;
            ("ssh", authority, path)
        }
    };
    if authority.contains('/') {
        return None;
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = path.trim_matches('/');
    let path = path.strip_suffix(ENDING).unwrap_or(path);
    Some((protocol, host.to_ascii_lowercase(), path.to_owned()))
}

/// An address of a place, without user and password. It names that place again.
pub fn address((protocol, host, path): &Place) -> String {
    format!("{protocol}://{host}/{path}{ENDING}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However it is written, a repository is the same; and what only looks like it is another.
    #[test]
    fn a_repository_is_known_by_protocol_server_and_path() {
        let main = place("https://example.org/a/b");
        assert_eq!(main, Some(("https", "example.org".to_owned(), "a/b".to_owned())));
        for text in [
            "https://Example.org/a/b.git",
            "https://example.org/a/b/",
            "https://user:secret@example.org/a/b",
        ] {
            assert_eq!(place(text), main, "{text}");
        }
        assert_eq!(place("git@example.org:a/b.git"), place("ssh://other@example.org/a/b"));
        for text in [
            "http://example.org/a/b",
            "HTTPS://example.org/a/b",
            "https://example.org:8443/a/b",
            "https://example.org@evil.test/a/b",
            "https://evil.test?@example.org/a/b",
            "https://evil.test#@example.org/a/b",
            "https://evil.test\n@example.org/a/b",
            "https://example.org/a/b/../c",
            "https://example.org/A/b",
            "ext::sh -c https://example.org/a/b",
            "https:example.org/a/b",
        ] {
            assert_ne!(place(text), main, "{text}");
        }
        for text in ["/srv/git/a", "/srv/a:b", "file:///srv/git/a", "", "a/b", "x:a://b"] {
            assert_eq!(place(text), None, "{text}");
        }
    }

    /// What is said of a repository names it again, and nobody's password.
    #[test]
    fn an_address_of_a_place_names_that_place() {
        for text in [
            "https://example.org/a/b",
            "https://TOKEN@example.org:8443/a/b.git",
            "https://example.org/a/b.git.git",
            "https://example.org/a/b/.git",
            "https://example.org",
            "git@example.org:~/a b",
            "ssh://git@[::1]:22/a",
            "git://example.org//a//",
        ] {
            let place = place(text).unwrap();
            let told = address(&place);
            assert_eq!(super::place(&told), Some(place), "{text}: {told}");
            assert!(!told.contains('@'), "{told}");
        }
    }

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
