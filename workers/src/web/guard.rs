//! Who is answered: by the name that was asked for, so that no page of another site is let in by a name that
//! leads here; and by a token, where visitors are to have one.

use std::net::SocketAddr;

use axum::http::{HeaderMap, Uri, header};

/// Longest header that is looked at, bytes.
const HEADER_BYTES_MAX: usize = 4096;

/// Where the name of the cookie begins. Browsers tell no port of a host from another, so port and path follow.
const COOKIE: &str = "distcifs_web";

/// What the value of a cookie is made of a token for.
const SESSION: &str = "distcifs 2026-11 web: the cookie of one who has shown the token";

/// What is asked of each request.
#[derive(Debug)]
pub struct Guard {
    /// Names in small letters; with a port where they hold for that alone.
    hosts: Vec<String>,
    /// What stands before every path.
    base: String,
    /// The name of the cookie.
    cookie: String,
    secret: Option<Secret>,
}

/// What visitors must know.
#[derive(Debug)]
struct Secret {
    token: blake3::Hash,
    /// The value of the cookie: who finds it out does not know the token.
    session: blake3::Hash,
}

impl Guard {
    /// For a listening address, further names, what stands before every path, and the token that visitors must have.
    pub fn new(listen: SocketAddr, hosts: &[String], base: &str, token: Option<String>) -> Self {
        let port = listen.port();
        let mut names = vec![listen.to_string(), format!("localhost:{port}")];
        if listen.ip().is_loopback() || listen.ip().is_unspecified() {
            names.extend([format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
        }
        names.extend(hosts.iter().map(|host| host.to_ascii_lowercase()));
        let cookie = format!("{COOKIE}_{port}{}", base.replace('/', "_"));
        let secret = |token: String| Secret {
            token: blake3::hash(token.as_bytes()),
            session: blake3::derive_key(SESSION, format!("{cookie} {token}").as_bytes()).into(),
        };
        Guard {
            hosts: names,
            base: base.to_owned(),
            secret: token.map(secret),
            cookie,
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
        self.secret.is_some()
    }

    /// Whether this is the token.
    pub fn is_token(&self, said: &str) -> bool {
        // Hashes are compared in constant time.
        let right = |secret: &Secret| blake3::hash(said.as_bytes()) == secret.token;
        self.secret.as_ref().is_none_or(right)
    }

    fn is_session(&self, said: &str) -> bool {
        let said = blake3::Hash::from_hex(said);
        let right = |secret: &Secret| said.is_ok_and(|said| said == secret.session);
        self.secret.as_ref().is_none_or(right)
    }

    /// The cookie of who has shown the token, as it is set; `secure` for one who came by TLS.
    pub fn cookie(&self, secure: bool) -> String {
        let session = self.secret.as_ref().map(|secret| secret.session.to_hex());
        let session = session.as_deref().unwrap_or_default();
        let secure = if secure { "; Secure" } else { "" };
        format!(
            "{}={session}; Path={}/; HttpOnly; SameSite=Lax{secure}",
            self.cookie, self.base
        )
    }

    /// Whether a request has the token as a bearer's, or the cookie of who has shown it.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        if self.secret.is_none() {
            return true;
        }
        let text = |value: &axum::http::HeaderValue| {
            let text = value.to_str().ok()?.to_owned();
            (text.len() <= HEADER_BYTES_MAX).then_some(text)
        };
        let bearer = headers.get(header::AUTHORIZATION).and_then(text);
        let bearer = bearer.and_then(|text| Some(text.strip_prefix("Bearer ")?.trim().to_owned()));
        let mut cookies = headers.get_all(header::COOKIE).iter().filter_map(text);
        let opens = |text: String| {
            let mut parts = text.split(';').filter_map(|part| part.trim().split_once('='));
            parts.any(|(name, value)| name == self.cookie && self.is_session(value))
        };
        bearer.is_some_and(|said| self.is_token(&said)) || cookies.any(opens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(token: Option<&str>) -> Guard {
        let hosts = ["CI.example.org".to_owned(), "other:99".to_owned()];
        Guard::new(
            "127.0.0.1:8090".parse().unwrap(),
            &hosts,
            "/ci",
            token.map(ToOwned::to_owned),
        )
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
        let cookie = guard.cookie(true);
        let (pair, rest) = cookie.split_once("; ").unwrap();
        assert_eq!(rest, "Path=/ci/; HttpOnly; SameSite=Lax; Secure");
        assert!(pair.starts_with("distcifs_web_8090_ci=") && !pair.contains("s3cret"));
        assert!(admits(header::COOKIE, &format!("a=b; {pair}")));
        assert!(admits(header::COOKIE, &format!("distcifs_web_8090_ci=x; {pair}")));
        assert!(admits(header::AUTHORIZATION, "Bearer s3cret"));
        // That of another instance with the same token.
        let other = Guard::new("127.0.0.1:8091".parse().unwrap(), &[], "/ci", Some("s3cret".to_owned()));
        let (_, value) = other
            .cookie(true)
            .split_once('=')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        let value = value.split(';').next().unwrap();
        assert!(!admits(header::COOKIE, &format!("distcifs_web_8090_ci={value}")));
        for (name, value) in [
            (header::COOKIE, "distcifs_web_8090_ci="),
            (header::COOKIE, "distcifs_web_8090_ci=s3cret"),
            (header::COOKIE, "distcifs_web=s3cret"),
            (header::AUTHORIZATION, "Bearer distcifs_web_8090_ci"),
            (header::AUTHORIZATION, "Basic s3cret"),
            (header::AUTHORIZATION, "s3cret"),
        ] {
            assert!(!admits(name.clone(), value), "{name} {value}");
        }
        assert!(!guard.admits(&HeaderMap::new()));
    }
}
