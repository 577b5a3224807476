//! Whom a build may tell how it stands, and what: addresses of people and of webhooks, and the names of what is told.

/// Longest address of a person, bytes: what SMTP takes.
pub const ADDRESS_BYTES_MAX: usize = 254;

/// Longest part of it before the `@`, bytes.
const LOCAL_BYTES_MAX: usize = 64;

/// Longest URL of a webhook, bytes.
pub const URL_BYTES_MAX: usize = 1000;

/// The names under which a ticket says what is told: no entry can give them another meaning.
pub const FACTS: [&str; 17] = [
    "job",
    "build",
    "run",
    "state",
    "events",
    "why",
    "event",
    "ref",
    "commit",
    "base",
    "trust",
    "senders",
    "cause",
    "failed",
    "triggered",
    "finished",
    "before",
];

/// Whether this may be somebody's mail address. What has a meaning to a mail server or on a command line (`|`, `!`, `%`,
/// quotes, a `-` in front) is none, though SMTP knows some of it.
pub fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+-=~&'".contains(c);
    let word = |word: &str| !word.is_empty() && word.chars().all(plain);
    text.len() <= ADDRESS_BYTES_MAX
        && local.len() <= LOCAL_BYTES_MAX
        && !local.starts_with('-')
        && local.split('.').all(word)
        && is_host(domain)
}

/// Whether this may be the name of a host.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Whether this may be the URL of a webhook: http or https, without user, password and fragment. Its server is looked
/// at by who connects to it.
pub fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else { return false };
    let server = rest.split(['/', '?']).next().unwrap_or_default();
    let plain = |b: u8| b.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&b);
    text.len() <= URL_BYTES_MAX && !server.is_empty() && !server.contains('@') && rest.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "A header or an option can't be made of an address."
    #[test]
    fn an_address_is_one_plain_word() {
        for good in [
            "team@example.org",
            "a.b+ci@x.example.org",
            "o'neil@localhost",
            "root@ci-1",
        ] {
            assert!(is_address(good), "{good}");
        }
        let long = format!("{}@example.org", "a".repeat(65));
        for bad in [
            "",
            "root",
            "@example.org",
            "a@",
            "-oQ/tmp@example.org",
            "|sh@example.org",
            "a b@example.org",
            "a@example.org\nBcc: b@example.org",
            "a@example.org,b@example.org",
            "<a@example.org>",
            "a..b@example.org",
            "a@-x.org",
            "a@x..org",
            "a%b@example.org",
            "ä@example.org",
            &long,
        ] {
            assert!(!is_address(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_url_names_a_server_and_no_user() {
        for good in ["https://example.org", "http://[::1]:80/x?y=z", "https://h/%20;a=b,c"] {
            assert!(is_url(good), "{good}");
        }
        let long = format!("https://h/{}", "a".repeat(URL_BYTES_MAX));
        for bad in [
            "",
            "ftp://h/",
            "https://",
            "https:///x",
            "https://u:p@h/",
            "https://h/#x",
            "https://h/a b",
            "https://h/\r\nX: y",
            "https://h/ä",
            "HTTPS://h",
            &long,
        ] {
            assert!(!is_url(bad), "{bad:?}");
        }
    }
}
