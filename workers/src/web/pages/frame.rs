//! What all pages have around what they show.

use askama::Template;

use crate::web::address::encode;
use crate::web::answer::RETRY_SECONDS;
use crate::web::ask::App;
use crate::web::show::command;
use crate::web::sight::Fault;
use crate::web::statics;

/// The frame of a page.
#[derive(Debug, Default)]
pub struct Frame {
    /// What stands before every path.
    pub base: String,
    /// The title.
    pub title: String,
    /// Names and addresses of what it is in.
    pub crumbs: Vec<(String, String)>,
    /// What does the same in a shell.
    pub command: Option<String>,
    /// Whether it is kept live, as a page or as a console.
    pub live: &'static str,
    /// Seconds after which a page without a script comes again.
    pub refresh: u32,
}

impl Frame {
    /// Of a page; the command begins with a program, and names a path below the mount.
    pub fn new(app: &App, title: &str, words: &[&str], path: &[&[u8]]) -> Self {
        let mut place = app.sight.mount().as_os_str().as_encoded_bytes().to_vec();
        for name in path {
            place.push(b'/');
            place.extend_from_slice(name);
        }
        let mut all: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        all.push(&place);
        Frame {
            base: app.base().to_owned(),
            title: title.to_owned(),
            command: command(&all),
            ..Frame::default()
        }
    }

    /// With a way back.
    pub fn within(mut self, name: &str, path: &str) -> Self {
        self.crumbs.push((name.to_owned(), format!("{}{path}", self.base)));
        self
    }

    /// Kept live.
    pub fn live(mut self, how: &'static str) -> Self {
        self.live = how;
        self
    }

    /// The style sheet.
    pub fn style(&self) -> &'static str {
        statics::style()
    }

    /// The script.
    pub fn script(&self) -> &'static str {
        statics::script()
    }
}

/// Text as a part of an address.
pub(super) fn part(text: &str) -> String {
    encode(text.as_bytes())
}

#[derive(Template)]
#[template(path = "fault.html")]
struct FaultPage {
    frame: Frame,
    why: String,
}

/// The page for what can't be shown.
pub fn fault(base: &str, title: &str, why: &str, fault: &Fault) -> String {
    let page = FaultPage {
        frame: Frame {
            base: base.to_owned(),
            title: title.to_owned(),
            refresh: if fault.passes() { RETRY_SECONDS } else { 0 },
            ..Frame::default()
        },
        why: why.to_owned(),
    };
    page.render().unwrap_or_else(|_| title.to_owned())
}

/// The page for who has no token.
pub fn stranger(base: &str) -> String {
    fault(
        base,
        "A token is needed",
        "Open the address that web was started with a token for: it ends with ?token= and the token.",
        &Fault::Closed,
    )
}
