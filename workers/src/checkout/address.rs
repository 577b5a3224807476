//! Addresses of repositories: which ways of git they may take, and what in them nobody may see.
//!
//! A password in an address is taken out of it. What is given to git as an argument, written to
//! `.git/config` and said to people is without it; git asks for it when the server does.

use std::path::Path;

use distcifs_settings::git::{self, ENDING, protocol};

/// The shortest word that is hidden wherever it stands; shorter ones would hide half of what is said.
const HIDDEN_BYTES_MIN: usize = 4;

/// What stands for what is hidden.
const HIDDEN: &str = "***";

/// The ways that are offered, for messages.
const WAYS: &str = "https, http, ssh and git";

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By a server, with this protocol.
    Server(&'static str),
    /// A file or folder of this node.
    Local,
}

/// User and password for one server.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    /// Scheme, host and port.
    pub(super) server: String,
    pub(super) user: String,
    pub(super) password: String,
}

/// Where a repository is.
#[derive(Clone)]
pub(super) struct Address {
    /// For git, without user and password.
    pub(super) url: String,
    /// For people and `.git/config`: without anything that may be secret.
    pub(super) shown: String,
    pub(super) way: Way,
    pub(super) login: Option<Login>,
    /// What must not be said.
    secrets: Vec<String>,
}

impl Address {
    /// Reads one. `Err` is a reason without anything secret.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('-') || text.chars().any(char::is_control) {
            return Err("an address is one line and does not begin with '-'".to_owned());
        }
        let scheme_end = text
            .find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)))
            .unwrap_or(text.len());
        let (scheme, rest) = text.split_at(scheme_end);
        if rest.starts_with("::") {
            return Err(format!(
                "'{scheme}::' is no way to a repository; there are {WAYS}, and local paths"
            ));
        }
        if let Some(rest) = rest.strip_prefix("://") {
            if scheme == "file" {
                return Ok(Address::plain(text, Way::Local));
            }
            let protocol = protocol(scheme)
                .ok_or_else(|| format!("'{scheme}' is no way to a repository; there are {WAYS}, and local paths"))?;
            return Address::of_url(scheme, protocol, rest);
        }
        let colon = text.find(':');
        if colon.is_some_and(|at| !text[..at].contains('/')) {
            return Ok(Address::plain(text, Way::Server("ssh")));
        }
        if Path::new(text).is_absolute() {
            return Ok(Address::plain(text, Way::Local));
        }
        Err("it is neither the address of a server nor an absolute path".to_owned())
    }

    fn plain(text: &str, way: Way) -> Self {
        Address {
            url: text.to_owned(),
            shown: text.to_owned(),
            way,
            login: None,
            secrets: Vec::new(),
        }
    }

    /// `scheme://authority/path`.
    fn of_url(scheme: &str, protocol: &'static str, rest: &str) -> Result<Self, String> {
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        if !is_host(host) {
            return Err(
                "host and port are wrong; in a password, write '/' as %2F, '?' as %3F and '#' as %23".to_owned(),
            );
        }
        let server = format!("{scheme}://{host}");
        let (user, password) = match userinfo.map(|userinfo| userinfo.split_once(':').unwrap_or((userinfo, ""))) {
            Some((user, password)) => (decoded(user)?, decoded(password)?),
            None => (String::new(), String::new()),
        };
        let mut secrets = Secrets::default();
        // An ssh server knows whom by this name, which is no secret; nothing else can be given to it.
        let (login, kept) = match (userinfo, protocol) {
            (Some(userinfo), "ssh") => {
                secrets.add(userinfo.split_once(':').map_or("", |(_, password)| password), &password);
                (None, format!("{}@", userinfo.split(':').next().unwrap_or_default()))
            }
            (Some(userinfo), _) => {
                secrets.add(userinfo, &format!("{user}:{password}"));
                // A user without a password is a token.
                secrets.add("", if password.is_empty() { &user } else { &password });
                // As is one whose password says that there is none.
                if password == "x-oauth-basic" {
                    secrets.add("", &user);
                }
                let login = Login {
                    server: server.clone(),
                    user,
                    password,
                };
                (Some(login).filter(|_| protocol != "git"), String::new())
            }
            (None, _) => (None, String::new()),
        };
        if path.contains(['?', '#']) {
            // git would show it to everybody on the node and keep it in .git/FETCH_HEAD.
            return Err(format!(
                "an address of a repository has no '?' and no '#': a token goes in front of the host, {scheme}://TOKEN@host/path"
            ));
        }
        let shown = format!("{scheme}://{kept}{host}{path}");
        Ok(Address {
            url: shown.clone(),
            shown,
            way: Way::Server(protocol),
            login,
            secrets: secrets.words,
        })
    }

    /// Protocol, server and path of a repository on a server: the same, however its address is written.
    pub(super) fn place(&self) -> Option<git::Place> {
        match self.way {
            Way::Server(_) => git::place(&self.url),
            Way::Local => None,
        }
    }

    /// The same with `.git` at its end, which is what some servers send everybody on to.
    pub(super) fn with_ending(&self) -> Option<Self> {
        let of_web = matches!(self.way, Way::Server("https" | "http"));
        let url = self.url.trim_end_matches('/');
        (of_web && !url.ends_with(ENDING)).then(|| Address {
            url: format!("{url}{ENDING}"),
            ..self.clone()
        })
    }

    /// The address of a submodule, which may be said from its parent's, `../other.git`.
    pub(super) fn of_submodule(&self, text: &str) -> Result<Self, String> {
        let relative = text.starts_with("./") || text.starts_with("../");
        let mut address = if relative {
            let url = joined(&self.url, text).ok_or("it leads out of its server")?;
            let mut address = Address::parse(&url)?;
            // The same server, so the same user.
            address.login.clone_from(&self.login);
            address.secrets.extend(self.secrets.iter().cloned());
            address
        } else {
            Address::parse(text)?
        };
        if address.way == Way::Local {
            return Err(format!(
                "it is a path of this node, and submodules come from servers: {WAYS}"
            ));
        }
        if address.way == Way::Server("http") && self.way != address.way {
            return Err("it is reached by http, which can be changed on its way, and its parent is not".to_owned());
        }
        address.secrets.sort_by_key(|word| std::cmp::Reverse(word.len()));
        Ok(address)
    }

    /// What git said, without this address: that may hold any words.
    pub(super) fn left_out_of(&self, said: &str) -> String {
        let url = self.url.trim_end_matches('/');
        let said = said.replace(url, "");
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        match rest.split_once(['/', ':']) {
            // Who reads the path alone tells it alone.
            Some((_, path)) if path.contains(' ') => said.replace(path, ""),
            _ => said,
        }
    }

    /// The address that a server sends on to, by where it says that what git asked for is.
    pub(super) fn sent_on_to(&self, location: &str) -> Option<String> {
        let end = location.find("/info/refs").or_else(|| location.find(['?', '#']));
        let place = &location[..end.unwrap_or(location.len())];
        let (scheme, rest) = self.url.split_once("://")?;
        let host = rest.split('/').next()?;
        let whole = if place.starts_with("//") {
            format!("{scheme}:{place}")
        } else if place.starts_with('/') {
            format!("{scheme}://{host}{place}")
        } else {
            place.to_owned()
        };
        let found = Address::parse(&whole).ok()?;
        (found.way != Way::Local).then(|| self.masked(&found.shown))
    }

    /// A line without what is secret in this address.
    pub(super) fn masked(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for word in &self.secrets {
            if line.contains(word.as_str()) {
                line = line.replace(word.as_str(), HIDDEN);
            }
        }
        line
    }
}

/// What must not be said, the longest first.
#[derive(Default)]
struct Secrets {
    words: Vec<String>,
}

impl Secrets {
    /// A word as it was written and as it is meant, and how git and curl may write it.
    fn add(&mut self, written: &str, meant: &str) {
        let encoded = |upper: bool| -> String {
            let byte = |byte: u8| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
                other if upper => format!("%{other:02X}"),
                other => format!("%{other:02x}"),
            };
            meant.bytes().map(byte).collect()
        };
        let words = [
            written.to_owned(),
            meant.to_owned(),
            encoded(true),
            encoded(false),
            base64(meant),
        ];
        for word in words {
            if word.len() >= HIDDEN_BYTES_MIN && !self.words.contains(&word) {
                self.words.push(word);
            }
        }
        self.words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    }
}

/// As a server is told user and password.
fn base64(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_bytes().chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

/// A name or number with a port, or not.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let of_name = |c: char| c.is_alphanumeric() || "-._~%".contains(c);
    let named = match host.strip_prefix('[') {
        Some(number) => number.ends_with(']') && number.chars().all(|c| c.is_ascii_hexdigit() || ":.]%".contains(c)),
        None => host.chars().all(of_name) && !host.starts_with('-'),
    };
    !host.is_empty() && named && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
}

/// What a part of an address means: `%2F` is `/`.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%');
        let byte = code.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    let text = String::from_utf8(bytes).map_err(|_| "user and password must be UTF-8".to_owned())?;
    if text.chars().any(char::is_control) {
        return Err("user and password can have no control characters".to_owned());
    }
    Ok(text)
}

/// What `./` and `../` in front of a submodule's address mean, as git has it.
fn joined(base: &str, relative: &str) -> Option<String> {
    let base = base.trim_end_matches('/');
    let start = match base.find("://") {
        // The host is not a part that `..` takes away.
        Some(at) => at + 3 + base[at + 3..].find('/')?,
        None => base.find(':').map_or(0, |at| at + 1),
    };
    let (server, path) = base.split_at(start);
    let mut parts: Vec<&str> = path.split('/').collect();
    let mut rest = relative;
    loop {
        if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("../") {
            rest = after;
            parts.pop().filter(|part| !part.is_empty())?;
        } else {
            break;
        }
    }
    parts.push(rest.trim_end_matches('/'));
    Some(format!("{server}{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn the_ways_are_those_that_are_named() {
        for (text, way) in [
            ("https://example.org/a.git", Way::Server("https")),
            ("http://127.0.0.1:9/x", Way::Server("http")),
            ("ssh://git@example.org:22/~/a", Way::Server("ssh")),
            ("git@example.org:a/b.git", Way::Server("ssh")),
            ("git://[::1]:9418/a", Way::Server("git")),
            ("/srv/a", Way::Local),
            ("file:///srv/a", Way::Local),
        ] {
            let found = address(text);
            assert_eq!((found.way, found.url.as_str(), found.shown.as_str()), (way, text, text));
        }
        for (text, why) in [
            ("ext::sh -c true", "no way"),
            ("fd::3", "no way"),
            ("ftp://example.org/a", "no way"),
            ("rad://a", "no way"),
            ("a/b", "neither"),
            ("../a", "neither"),
            (".", "neither"),
            ("", "neither"),
            ("--upload-pack=x", "does not begin with"),
            ("https://example.org/a\nb", "one line"),
            ("https://-oProxyCommand=x/a", "wrong"),
            ("https:///a", "wrong"),
        ] {
            let why_not = Address::parse(text).err().unwrap();
            assert!(why_not.contains(why), "{text}: {why_not}");
        }
    }

    /// A password stands in nothing that is shown, however it is written.
    #[test]
    fn passwords_are_taken_out() {
        for (text, url, user, password) in [
            (
                "https://user:hunter2@example.org/a",
                "https://example.org/a",
                "user",
                "hunter2",
            ),
            (
                "http://u%40x:p%2Fs%3as@example.org:80/a",
                "http://example.org:80/a",
                "u@x",
                "p/s:s",
            ),
            (
                "https://TOKEN123@example.org/a",
                "https://example.org/a",
                "TOKEN123",
                "",
            ),
            (
                "https://a:b@c:secret@example.org/a",
                "https://example.org/a",
                "a",
                "b@c:secret",
            ),
        ] {
            let found = address(text);
            assert_eq!((found.url.as_str(), found.shown.as_str()), (url, url));
            let login = found.login.clone().unwrap();
            assert_eq!((login.user.as_str(), login.password.as_str()), (user, password));
            let userinfo = text.split("://").nth(1).unwrap().rsplit_once('@').unwrap().0;
            let line = format!(
                "can't read {text} {userinfo} {} .",
                base64(&format!("{user}:{password}"))
            );
            let masked = found.masked(&line);
            for word in [userinfo, password] {
                assert!(word.is_empty() || !masked.contains(word), "{masked}");
            }
        }
        for text in [
            "https://example.org/a?private_token=glpat&x=y",
            "https://example.org/a#glpat",
            "https://example.org?glpat",
            "ssh://git@example.org/a?glpat",
        ] {
            let why = Address::parse(text).err().unwrap();
            assert!(why.contains("TOKEN@host") && !why.contains("glpat"), "{why}");
        }
        let found = address("ssh://git:hunter2@example.org/a");
        assert_eq!(
            (found.url.as_str(), found.login.is_none()),
            ("ssh://git@example.org/a", true)
        );
        assert_eq!(found.masked("hunter2 git"), "*** git");
        let why = Address::parse("https://user:hunter2/3@example.org/a").err().unwrap();
        assert!(why.contains("%2F") && !why.contains("hunter2"), "{why}");
    }

    /// "A redirection is not followed; where a server knows the name with `.git` only, that is tried."
    #[test]
    fn names_on_servers_may_end_in_git() {
        let ending = |text: &str| address(text).with_ending().map(|found| found.url);
        assert_eq!(
            ending("https://u:p@example.org/a/").unwrap(),
            "https://example.org/a.git"
        );
        for text in [
            "https://example.org/a.git",
            "ssh://example.org/a",
            "git@example.org:a",
            "/srv/a",
        ] {
            assert_eq!(ending(text), None, "{text}");
        }
    }

    /// "`why` names the new address, if the server does": without what is secret in it, and never anything
    /// but an address.
    #[test]
    fn where_a_server_sends_on_to_is_an_address() {
        let from = address("http://u:hunter2@example.org:81/o/old");
        let refs = "info/refs?service=git-upload-pack";
        for (location, to) in [
            (
                format!("https://example.org/o/new.git/{refs}"),
                Some("https://example.org/o/new.git"),
            ),
            (format!("/o/new/{refs}"), Some("http://example.org:81/o/new")),
            (format!("//b.example.org/o/{refs}"), Some("http://b.example.org/o")),
            (
                "https://example.org/login?next=/o/old".to_owned(),
                Some("https://example.org/login"),
            ),
            (
                format!("https://a:secret99@example.org/o/{refs}"),
                Some("https://example.org/o"),
            ),
            (
                format!("https://example.org/hunter2/{refs}"),
                Some("https://example.org/***"),
            ),
            ("file:///etc/passwd".to_owned(), None),
            ("ext::sh".to_owned(), None),
            ("o/new".to_owned(), None),
            ("https://example.org/\u{1b}[31m".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(from.sent_on_to(&location).as_deref(), to, "{location}");
        }
    }

    #[test]
    fn base64_is_what_servers_are_told() {
        for (text, code) in [
            ("", ""),
            ("a", "YQ=="),
            ("ab", "YWI="),
            ("abc", "YWJj"),
            ("user:pass", "dXNlcjpwYXNz"),
        ] {
            assert_eq!(base64(text), code);
        }
    }

    /// Submodules may be said from their parent's address; they are never paths of the node.
    #[test]
    fn submodules_come_from_servers() {
        let parent = address("https://u:hunter2@example.org/a/b.git/");
        let found = parent.of_submodule("../c.git").unwrap();
        assert_eq!(found.url, "https://example.org/a/c.git");
        assert_eq!(found.login.unwrap().password, "hunter2");
        let other = parent.of_submodule("https://other.org/x").unwrap();
        assert!(other.login.is_none());
        let ssh = address("git@example.org:a/b.git");
        assert_eq!(ssh.of_submodule("../../c").unwrap().url, "git@example.org:c");
        for text in [
            "../../../c",
            "../../../../c",
            "/etc",
            "file:///etc",
            "c",
            "ext::sh",
            "http://other.org/x",
        ] {
            assert!(parent.of_submodule(text).is_err(), "{text}");
        }
        let http = address("http://example.org/a/b.git");
        assert_eq!(http.of_submodule("../c.git").unwrap().url, "http://example.org/a/c.git");
        let local = address("/srv/a.git");
        assert!(local.of_submodule("../b.git").is_err());
    }
}
