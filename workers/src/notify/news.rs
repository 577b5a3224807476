//! What a ticket of the queue `notify` says, as those who tell it need it: each text is one line, without what steers a
//! terminal, a mail or a page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use distcifs_settings::names::Name;
use distcifs_settings::notify::FACTS;
use serde_json::{Map, Value};

use super::Params;
use crate::ticket::Ticket;
use crate::tree::{Result, Trouble};

/// Characters of a text that are told.
const TEXT_CHARS_MAX: usize = 400;

/// What is told.
#[derive(Debug, Clone)]
pub struct News {
    /// The ticket, which is the same whenever it is told again.
    pub id: String,
    /// The user whose job it is.
    pub owner: u32,
    params: Params,
    /// Of those whom it goes to, who need no other try, and whether they were told.
    settled: Arc<Mutex<BTreeMap<String, bool>>>,
}

impl News {
    /// What a ticket says.
    ///
    /// # Errors
    /// `Refused` if it is none of this queue: each is of a build, and its owner is said.
    pub fn of(id: &str, ticket: Ticket) -> Result<News> {
        let refused = |what: &str| Trouble::Refused(format!("it is no notification: {what}"));
        let params = ticket.params;
        let job = params.get("job").and_then(Value::as_str);
        if job.and_then(Name::new).is_none() {
            return Err(refused("it names no job"));
        }
        if params.get("build").and_then(Value::as_u64).is_none() {
            return Err(refused("it names no build"));
        }
        if params.get("state").and_then(Value::as_str).is_none() {
            return Err(refused("it says no state"));
        }
        Ok(News {
            id: id.to_owned(),
            owner: ticket.owner.ok_or_else(|| refused("nobody owns it"))?,
            params,
            settled: Arc::default(),
        })
    }

    /// Notes that one whom it goes to needs no other try, and whether he was told.
    pub fn settle(&self, whom: &str, told: bool) {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.insert(whom.to_owned(), told);
    }

    /// Whether that was noted of somebody.
    pub fn is_settled(&self, whom: &str) -> bool {
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.contains_key(whom)
    }

    /// Whether anybody is noted to have been told.
    pub fn was_told(&self) -> bool {
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.values().any(|told| *told)
    }

    /// A text, as a line; empty if there is none.
    pub fn text(&self, name: &str) -> String {
        match self.params.get(name) {
            Some(Value::String(text)) => line(text),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        }
    }

    /// A list of texts, each as a line.
    pub fn list(&self, name: &str) -> Vec<String> {
        let items = self.params.get(name).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(line)
            .collect()
    }

    /// A text as the configuration has it.
    pub fn said(&self, name: &str) -> Option<&str> {
        self.params.get(name)?.as_str()
    }

    /// When what is told happened, since 1970.
    pub fn since(&self) -> Duration {
        let at = |name: &str| self.params.get(name).and_then(Value::as_u64);
        Duration::from_millis(at("finished").or_else(|| at("triggered")).unwrap_or_default())
    }

    /// `hello/7: failure (changed)`.
    pub fn title(&self) -> String {
        let state = self.text("state");
        let more: Vec<String> = self.list("events").into_iter().filter(|word| *word != state).collect();
        let more = if more.is_empty() {
            String::new()
        } else {
            format!(" ({})", more.join(", "))
        };
        format!("{}/{}: {state}{more}", self.text("job"), self.text("build"))
    }

    /// What is told, by name: nothing of how.
    pub fn facts(&self) -> Map<String, Value> {
        let told = self.params.iter().filter(|(name, _)| FACTS.contains(&name.as_str()));
        told.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Where the build can be seen, if that is known.
    pub fn target(&self, template: Option<&str>) -> Option<String> {
        let filled = template?.replace("{job}", &self.text("job"));
        Some(filled.replace("{build}", &self.text("build")))
    }
}

/// A text as one line, without what steers or can't be seen.
fn line(text: &str) -> String {
    let text: String = text
        .chars()
        .take(TEXT_CHARS_MAX)
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .collect();
    distcifs_settings::fault::plain(text.trim()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::news;
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_lines_and_a_title_says_what_happened() {
        let told = news(json!({
            "job": "hello", "build": 7, "state": "success", "events": ["success", "changed", "fixed"],
            "why": "a\r\nBcc: x@example.org\u{1b}[31m\u{202e}", "triggered": 5000, "to": ["x"], "url": "https://secret",
        }));
        assert_eq!(told.title(), "hello/7: success (changed, fixed)");
        assert_eq!(told.text("why"), "a  Bcc: x@example.org\\u{1b}[31m\\u{202e}");
        assert_eq!(told.since(), Duration::from_secs(5));
        assert!(!told.facts().contains_key("url") && told.facts().contains_key("why"));
        assert_eq!(
            told.target(Some("https://ci/{job}/{build}")).as_deref(),
            Some("https://ci/hello/7")
        );
        assert_eq!((told.text("x"), told.target(None)), (String::new(), None));
    }

    /// A ticket that somebody else posted is none: it is not told.
    #[test]
    fn what_is_no_notification_is_refused() {
        for params in [
            json!({}),
            json!({"job": "a", "build": 1}),
            json!({"job": "../a", "build": 1, "state": "x"}),
        ] {
            let ticket = serde_json::from_value(json!({"params": params, "owner": 0})).unwrap();
            assert!(matches!(News::of("t", ticket), Err(Trouble::Refused(_))), "{params}");
        }
    }
}
