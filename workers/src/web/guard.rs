//! Who is answered: by the name that was asked for, so that no page of another site is let in by a name that
//! leads here; and by a token, where visitors are to have one.

use std::net::SocketAddr;

use axum::http::{HeaderMap, Uri, header};

/// Longest header that is looked at, bytes.
const HEADER_BYTES_MAX: usize = 4096;

/// Name of the cookie that holds the token.
pub const COOKIE: &str = "distcifs_web";

/// What is asked of each request.
#[derive(Debug)]
pub struct Guard {
    /// Names in small letters; with a port where they hold for that alone.
    hosts: Vec<String>,
    token: Option<blake3::Hash>,
}

impl Guard {
    /// For a listening address, further names, and the token that visitors must have.
    pub fn new(listen: SocketAddr, hosts: &[String], token: Option<String>) -> Self {
        let port = listen.port();
        let mut names = vec![listen.to_string(), format!("localhost:{port}")];
        if listen.ip().is_loopback() || listen.ip().is_unspecified() {
            names.extend([format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
        }
        names.extend(hosts.iter().map(|host| host.to_ascii_lowercase()));
        Guard {
            hosts: names,
            token: token.map(|token| blake3::hash(token.as_bytes())),
        }
    }

    /// The name that a request asks for, if it is one of ours.
    pub fn host<'a>(&self, uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
        let mut said = headers.get_all(header::HOST).iter();
        let (first, second) = (said.next(), said.next());
        let named = first.and_then(|host| host.to_str().ok())?;
        // Two names, or a target with another one, are how a proxy is made to see one and we another.
        if second.is_some() || uri.authority().is_some_and(|target| target.as_str() != named) {
            return None;
        }
        self.knows(named).then_some(named)
    }

    fn knows(&self, named: &str) -> bool {
        let named = named.to_ascii_lowercase();
        let bare = match named.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => named.as_str(),
        };
        self.hosts.iter().any(|host| *host == named || *host == bare)
    }

    /// Whether visitors need a token.
    pub fn wants_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether this is the token.
    pub fn is_token(&self, said: &str) -> bool {
        // Hashes are compared in constant time.
        self.token.is_none_or(|token| blake3::hash(said.as_bytes()) == token)
    }

    /// Whether a request has the token, in its cookie or as a bearer's.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        if self.token.is_none() {
            return true;
        }
        let text = |value: &axum::http::HeaderValue| {
            let text = value.to_str().ok()?.to_owned();
            (text.len() <= HEADER_BYTES_MAX).then_some(text)
        };
        let bearer = headers.get(header::AUTHORIZATION).and_then(text);
        let bearer = bearer.and_then(|text| Some(text.strip_prefix("Bearer ")?.trim().to_owned()));
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(text);
        let cookie = |text: String| {
            text.split(';').find_map(|part| {
                let (name, value) = part.trim().split_once('=')?;
                (name == COOKIE).then(|| value.to_owned())
            })
        };
        let mut said = bearer.into_iter().chain(cookies.filter_map(cookie));
        said.any(|said| self.is_token(&said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(token: Option<&str>) -> Guard {
        let hosts = ["CI.example.org".to_owned(), "other:99".to_owned()];
        Guard::new("127.0.0.1:8090".parse().unwrap(), &hosts, token.map(ToOwned::to_owned))
    }

    #[test]
    fn names_that_are_ours() {
        let guard = guard(None);
        let asked = |hosts: &[&str], uri: &str| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            guard.host(&uri.parse().unwrap(), &headers).is_some()
        };
        for host in [
            "127.0.0.1:8090",
            "localhost:8090",
            "[::1]:8090",
            "ci.example.org",
            "ci.Example.org:443",
            "other:99",
        ] {
            assert!(asked(&[host], "/"), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost",
            "localhost:80",
            "other",
            "other:98",
            "ci.example.org.evil.example",
            "127.0.0.1:8090.evil.example",
        ] {
            assert!(!asked(&[host], "/"), "{host}");
        }
        assert!(!asked(&[], "/"));
        assert!(!asked(&["ci.example.org", "ci.example.org"], "/"));
        assert!(!asked(&["ci.example.org"], "http://evil.example/"));
    }

    #[test]
    fn only_the_token_opens() {
        let guard = guard(Some("s3cret"));
        let admits = |name: header::HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            guard.admits(&headers)
        };
        assert!(admits(header::COOKIE, "a=b; distcifs_web=s3cret"));
        assert!(admits(header::AUTHORIZATION, "Bearer s3cret"));
        for (name, value) in [
            (header::COOKIE, "distcifs_web="),
            (header::COOKIE, "distcifs_web=s3cre"),
            (header::COOKIE, "xdistcifs_web=s3cret"),
            (header::AUTHORIZATION, "Basic s3cret"),
            (header::AUTHORIZATION, "s3cret"),
        ] {
            assert!(!admits(name.clone(), value), "{name} {value}");
        }
        assert!(!guard.admits(&HeaderMap::new()));
    }
}
