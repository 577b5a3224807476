//! Tells by a webhook: JSON, signed as GitHub signs, to a server that the job names or the administrator's file has.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::news::News;
use super::{Outcome, Teller};
use crate::webhook::signature::sign;

mod address;
mod named;

use address::is_public;
pub use named::{Hook, Hooks};

/// Longest time for one request, from the look-up of the name to the last byte.
const REQUEST_TIME: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 15 });

/// Longest time for a connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read: they are for the log.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

/// Characters of an answer that the log shows.
const SHOWN_CHARS_MAX: usize = 200;

/// Statuses that no later try changes: the server has understood, and does not want it. What somebody may mend (401, 403,
/// 404) is tried again.
const FINAL: [u16; 8] = [400, 405, 406, 410, 411, 413, 415, 422];

/// What an address that is not public is called in the error of the look-up.
const PRIVATE: &str = "its address is private, and --private is not given";

/// Looks a name up once, and gives on what was checked: to that it is connected, whatever the name means a moment later.
#[derive(Debug)]
struct Checked {
    private: bool,
}

impl Resolver for Checked {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = DefaultResolver::default().resolve(uri, config, timeout)?;
        if self.private {
            return Ok(found);
        }
        // One private address among others is one too many: it would be tried when the others fail.
        if found.iter().any(|address| !is_public(address.ip())) {
            return Err(ureq::Error::Io(std::io::Error::new(
                std::io::ErrorKind::PermissionDenied,
                PRIVATE,
            )));
        }
        Ok(found)
    }
}

/// How webhooks are told.
pub struct Webhooks {
    agent: Agent,
    /// Those with names.
    pub hooks: Hooks,
    /// Whether jobs may name URLs of their own.
    pub any_url: bool,
    /// Where a build can be seen, with `{job}` and `{build}`.
    pub target_url: Option<String>,
}

impl Webhooks {
    /// `file` has those with names; `private`: whether private addresses are told, too.
    pub fn new(file: Option<PathBuf>, private: bool, any_url: bool, target_url: Option<String>) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(REQUEST_TIME))
            .timeout_connect(Some(CONNECT_TIME))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A proxy would look the name up itself.
            .proxy(None)
            .max_idle_connections(0)
            .user_agent(concat!("distcifs-notify-webhook/", env!("CARGO_PKG_VERSION")))
            .build();
        Webhooks {
            agent: Agent::with_parts(config, DefaultConnector::default(), Checked { private }),
            hooks: Hooks::new(file),
            any_url,
            target_url,
        }
    }

    /// Where this goes, and what it is signed with.
    fn hook(&self, news: &News) -> Result<Hook, String> {
        let url = news.said("url").ok_or("it names no URL")?;
        if !distcifs_settings::notify::is_url(url) {
            return self.hooks.named(url, news.owner);
        }
        if !self.any_url {
            return Err("jobs may not name URLs here, but names of the administrator's file".into());
        }
        Ok(Hook {
            url: url.to_owned(),
            secret: None,
        })
    }

    /// What is sent. `text` is what chats show.
    fn body(&self, news: &News) -> Vec<u8> {
        let mut body = news.facts();
        let title = news.title();
        let why = news.text("why");
        let text = if why.is_empty() {
            title
        } else {
            format!("{title}: {why}")
        };
        // As Slack wants it: so no text of a build makes a link or calls somebody.
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        body.insert("text".into(), text.into());
        body.insert("id".into(), news.id.as_str().into());
        if let Some(url) = news.target(self.target_url.as_deref()) {
            body.insert("target_url".into(), url.into());
        }
        Value::from(body).to_string().into_bytes()
    }

    fn post(&self, hook: &Hook, news: &News) -> Outcome {
        let body = self.body(news);
        let server = server(&hook.url);
        let mut request = self
            .agent
            .post(&hook.url)
            .header("Content-Type", "application/json")
            .header("X-Distcifs-Event", word(&news.text("state")))
            // The same whenever it is sent again.
            .header("X-Distcifs-Delivery", word(&news.id));
        if let Some(secret) = &hook.secret {
            request = request.header("X-Hub-Signature-256", sign(secret, &body));
        }
        // The URL is as good as a password, and stands in no log.
        let mut response = match request.send(&body[..]) {
            Ok(response) => response,
            Err(ureq::Error::Io(error)) if error.to_string() == PRIVATE => {
                return Outcome::Never(format!("{server}: {PRIVATE}"));
            }
            Err(ureq::Error::BadUri(_) | ureq::Error::Http(_)) => {
                return Outcome::Never(format!("{server}: a bad URL"));
            }
            Err(error) => return Outcome::Later(format!("{server}: {error}"), None),
        };
        let status = response.status().as_u16();
        let after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok());
        let after = after
            .and_then(|value| value.trim().parse().ok())
            .map(Duration::from_secs);
        let mut why = || format!("{server}: {status}: {}", shown(&mut response));
        match status {
            200..=299 => Outcome::Told,
            300..=399 => Outcome::Never(format!(
                "{server}: {status}: redirects are not followed: name where it leads"
            )),
            _ if FINAL.contains(&status) => Outcome::Never(why()),
            _ => Outcome::Later(why(), after),
        }
    }
}

impl Teller for Webhooks {
    const NAME: &'static str = "notify-webhook";
    const LABEL: &'static str = "webhook";

    fn whom(&self, news: &News) -> String {
        self.hook(news)
            .map_or_else(|_| "nobody".to_owned(), |hook| server(&hook.url))
    }

    fn tell(&self, news: &News) -> Outcome {
        match self.hook(news) {
            Ok(hook) => self.post(&hook, news),
            Err(why) => Outcome::Never(why),
        }
    }
}

/// Protocol, server and port of a URL: what may be said of it.
fn server(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let of = |uri: Uri| Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?));
    uri.and_then(of).unwrap_or_else(|| "a URL".to_owned())
}

/// A word that can stand in a header.
fn word(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).collect()
}

/// The beginning of an answer, for the log.
fn shown(response: &mut ureq::http::Response<ureq::Body>) -> String {
    let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
    let text = text.unwrap_or_default();
    let line: String = String::from_utf8_lossy(&text).chars().take(SHOWN_CHARS_MAX).collect();
    line.escape_debug().to_string()
}

#[cfg(test)]
mod tests;
