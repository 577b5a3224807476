//! GitHub's interface for commit statuses: one request, and what its answer means.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::json;
use ureq::Agent;
use ureq::http::{HeaderMap, Response, Uri};

use crate::secret::secret;

/// Longest time for one request, from the look-up of the name to the last byte.
const REQUEST_TIME: Duration = Duration::from_secs(15);

/// Longest time for a connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read: they are for the log.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

/// Characters of an answer that the log shows.
const SHOWN_CHARS_MAX: usize = 200;

/// Longest description that GitHub takes, characters.
const DESCRIPTION_CHARS_MAX: usize = 140;

/// Renamed repositories lead on; more leads are a circle.
const REDIRECTS_MAX: u32 = 3;

/// Pause when a limit is said to be exceeded without a word on how long: what GitHub asks for.
const LIMIT_PAUSE: Duration = Duration::from_secs(60);

/// Longest pause that a server may ask for: GitHub's limits are by the hour.
const PAUSE_MAX: Duration = Duration::from_secs(3700);

/// The states of a commit that GitHub knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The build waits or runs.
    Pending,
    /// It ended well.
    Success,
    /// A task of it failed.
    Failure,
    /// It could not be carried out, or was aborted.
    Error,
}

impl Status {
    /// Of the word in a build's `state`; `None` for a word that is not known.
    pub fn of(state: &str) -> Option<Self> {
        match state {
            "held" | "pending" | "running" => Some(Status::Pending),
            "success" => Some(Status::Success),
            "failure" => Some(Status::Failure),
            "error" | "aborted" => Some(Status::Error),
            _ => None,
        }
    }

    /// GitHub's word.
    pub fn word(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Success => "success",
            Status::Failure => "failure",
            Status::Error => "error",
        }
    }
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// GitHub knows. If it said so, nothing more is to be asked for this long.
    Told(Option<Duration>),
    /// Ask for nothing for this long.
    Pause(Duration, String),
    /// The token is not taken: wait for another.
    BadToken(String),
    /// It may work later.
    Later(String),
    /// It may work later, if somebody changes a permission.
    Refused(String),
    /// It never will.
    Never(String),
}

/// One status.
#[derive(Debug)]
pub struct Telling<'a> {
    /// `owner/name`.
    pub repository: &'a str,
    /// The commit.
    pub commit: &'a str,
    /// The state.
    pub status: Status,
    /// A line for people.
    pub description: &'a str,
    /// Which of the commit's statuses it is.
    pub context: &'a str,
    /// Where the build can be seen.
    pub target_url: Option<&'a str>,
}

/// Where statuses are posted, and with what.
pub struct Api {
    agent: Agent,
    address: String,
    token_file: PathBuf,
}

impl Api {
    /// Checks the address: a token is only sent to where nobody can listen.
    pub fn new(address: &str, token_file: &Path) -> Result<Self, String> {
        let uri: Uri = address.parse().map_err(|error| format!("--api {address}: {error}"))?;
        let host = uri.host().unwrap_or_default();
        let near = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if near => {}
            _ => {
                return Err(format!(
                    "--api {address} must begin with https://, as the token is sent there"
                ));
            }
        }
        let config = Agent::config_builder()
            .timeout_global(Some(REQUEST_TIME))
            .timeout_connect(Some(CONNECT_TIME))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("distcifs-github-status/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Api {
            agent: config.into(),
            address: address.trim_end_matches('/').to_owned(),
            token_file: token_file.to_owned(),
        })
    }

    /// The token as it is now.
    pub fn token(&self) -> Result<String, String> {
        let bytes = secret(&self.token_file)?;
        let text = String::from_utf8(bytes)
            .ok()
            .filter(|text| text.bytes().all(|b| b.is_ascii_graphic()));
        text.ok_or_else(|| format!("the secret {}: it is no token", self.token_file.display()))
    }

    /// Tells GitHub; within [`REQUEST_TIME`] for each of a few redirects.
    pub fn tell(&self, telling: &Telling<'_>, token: &str) -> Outcome {
        let mut url = format!(
            "{}/repos/{}/statuses/{}",
            self.address, telling.repository, telling.commit
        );
        let body = body(telling);
        for _ in 0..=REDIRECTS_MAX {
            let request = self
                .agent
                .post(&url)
                .header("Authorization", format!("Bearer {token}"))
                .header("Accept", "application/vnd.github+json")
                .header("X-GitHub-Api-Version", "2022-11-28")
                .header("Content-Type", "application/json");
            let mut response = match request.send(&body[..]) {
                Ok(response) => response,
                Err(error) => return Outcome::Later(error.to_string()),
            };
            let shown = shown(&mut response);
            let lead = matches!(response.status().as_u16(), 301 | 302 | 307 | 308);
            let location = response.headers().get("location").and_then(|to| to.to_str().ok());
            match location.filter(|_| lead) {
                Some(to) if self.is_ours(to) => url = to.to_owned(),
                _ => return understand(response.status().as_u16(), response.headers(), shown, SystemTime::now()),
            }
        }
        Outcome::Never(format!("more than {REDIRECTS_MAX} redirects"))
    }

    /// Whether an address is of the same server: no other gets the token.
    fn is_ours(&self, address: &str) -> bool {
        let server = |address: &str| {
            let uri: Uri = address.parse().ok()?;
            Some((uri.scheme_str()?.to_owned(), uri.authority()?.as_str().to_owned()))
        };
        server(address).is_some_and(|found| server(&self.address) == Some(found))
    }
}

fn body(telling: &Telling<'_>) -> Vec<u8> {
    let description: String = telling.description.chars().take(DESCRIPTION_CHARS_MAX).collect();
    let mut body = json!({
        "state": telling.status.word(), "description": description, "context": telling.context,
    });
    if let Some(url) = telling.target_url {
        body["target_url"] = url.into();
    }
    body.to_string().into_bytes()
}

/// The beginning of an answer, for the log.
fn shown(response: &mut Response<ureq::Body>) -> String {
    let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
    let text = text.unwrap_or_default();
    let message = serde_json::from_slice(&text)
        .ok()
        .and_then(|json: serde_json::Value| Some(json.get("message")?.as_str()?.to_owned()));
    let text = message.unwrap_or_else(|| String::from_utf8_lossy(&text).into_owned());
    let line: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    line.escape_debug().to_string()
}

/// What an answer means. A limit may be said by its own status, 429, or by 403 with headers.
fn understand(status: u16, headers: &HeaderMap, shown: String, now: SystemTime) -> Outcome {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let retry_after = number("retry-after").map(Duration::from_secs);
    let used_up = number("x-ratelimit-remaining") == Some(0);
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    // A second more, as clocks differ by some.
    let reset = number("x-ratelimit-reset").map(|at| Duration::from_secs(at.saturating_add(1)).saturating_sub(since));
    let limit = retry_after.or(reset.filter(|_| used_up));
    let pause = limit.map(|pause| pause.clamp(Duration::from_secs(1), PAUSE_MAX));
    let why = format!("{status}: {shown}");
    match (status, pause) {
        (200..=299, pause) => Outcome::Told(pause),
        (401, _) => Outcome::BadToken(why),
        (403 | 429, Some(pause)) => Outcome::Pause(pause, why),
        (429, None) => Outcome::Pause(LIMIT_PAUSE, why),
        (403 | 404, None) => Outcome::Refused(why),
        (408 | 425 | 500..=599, Some(pause)) => Outcome::Pause(pause, why),
        (408 | 425 | 500..=599, None) => Outcome::Later(why),
        _ => Outcome::Never(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: u16, headers: &[(&'static str, &str)]) -> Outcome {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        understand(status, &map, "m".into(), UNIX_EPOCH + Duration::from_secs(1000))
    }

    #[test]
    fn answers_mean_what_github_says_of_them() {
        let seconds = Duration::from_secs;
        let why = |status: u16| format!("{status}: m");
        assert_eq!(meaning(201, &[]), Outcome::Told(None));
        assert_eq!(
            meaning(201, &[("x-ratelimit-remaining", "4999"), ("x-ratelimit-reset", "2000")]),
            Outcome::Told(None)
        );
        assert_eq!(
            meaning(201, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1009")]),
            Outcome::Told(Some(seconds(10)))
        );
        assert_eq!(
            meaning(403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1009")]),
            Outcome::Pause(seconds(10), why(403))
        );
        assert_eq!(
            meaning(403, &[("retry-after", "7")]),
            Outcome::Pause(seconds(7), why(403))
        );
        assert_eq!(
            meaning(429, &[("retry-after", "0")]),
            Outcome::Pause(seconds(1), why(429))
        );
        assert_eq!(meaning(429, &[]), Outcome::Pause(LIMIT_PAUSE, why(429)));
        assert_eq!(
            meaning(429, &[("retry-after", "99999999999")]),
            Outcome::Pause(PAUSE_MAX, why(429))
        );
        assert_eq!(
            meaning(
                403,
                &[
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "18446744073709551615")
                ]
            ),
            Outcome::Pause(PAUSE_MAX, why(403))
        );
        assert_eq!(
            meaning(403, &[("x-ratelimit-remaining", "12")]),
            Outcome::Refused(why(403))
        );
        assert_eq!(meaning(401, &[]), Outcome::BadToken(why(401)));
        assert_eq!(meaning(404, &[]), Outcome::Refused(why(404)));
        assert_eq!(meaning(422, &[]), Outcome::Never(why(422)));
        assert_eq!(meaning(502, &[]), Outcome::Later(why(502)));
        assert_eq!(
            meaning(503, &[("retry-after", "30")]),
            Outcome::Pause(seconds(30), why(503))
        );
    }

    #[test]
    fn the_token_goes_to_the_named_server_only() {
        let file = Path::new("/nonexistent");
        for address in ["http://api.github.com", "ftp://localhost", "api.github.com", ""] {
            assert!(Api::new(address, file).is_err(), "{address}");
        }
        let api = Api::new("https://ghe.example.org/api/v3/", file).unwrap();
        assert!(api.is_ours("https://ghe.example.org/api/v3/repositories/1/statuses/x"));
        for address in [
            "https://example.org/x",
            "http://ghe.example.org/x",
            "https://ghe.example.org:444/x",
            "/x",
        ] {
            assert!(!api.is_ours(address), "{address}");
        }
        assert!(Api::new("http://127.0.0.1:80", file).is_ok());
    }
}
