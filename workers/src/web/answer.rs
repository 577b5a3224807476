//! Answers, and the headers that all of them have: nothing foreign runs, nothing is guessed, nothing is framed.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::sight::{Fault, Opened};

/// What pages may do: load our own style, script and pictures, and ask us.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What files of builds may do: show themselves. Scripts, forms and what else a page can do are off.
pub const SANDBOX: &str = "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; \
                           style-src 'self' 'unsafe-inline'; font-src 'self' data:; form-action 'none'; \
                           base-uri 'none'; frame-ancestors 'none'";

/// When to come again while the tree is away, or others have all places, seconds.
pub const RETRY_SECONDS: u32 = 5;

/// What is answered.
#[derive(Debug)]
pub enum Answer {
    /// A page for people.
    Page(String),
    /// For programs.
    Json(Vec<u8>),
    /// A text of a type of its own.
    Text(&'static str, Vec<u8>),
    /// A picture that pages of others show.
    Badge(String),
    /// A file of a build; the name is for whoever keeps it.
    File(Opened, FileKind),
    /// Look there, with the same query: a path below the base, encoded.
    Elsewhere(String),
}

/// How a file of bytes is told to a browser.
#[derive(Debug, Clone)]
pub struct FileKind {
    /// Its type.
    pub mime: &'static str,
    /// Whether it is kept rather than shown.
    pub keep: bool,
    /// Its name, percent-encoded.
    pub name: String,
    /// Its source may grow: nobody keeps it.
    pub grows: bool,
}

/// A response with what all have.
pub fn with_guards(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "same-origin");
    set(header::CACHE_CONTROL, "private, no-cache");
    set(header::VARY, "Accept, Cookie");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=()",
    );
    response
}

/// A body of a type.
pub fn typed(status: StatusCode, mime: &'static str, body: impl Into<Body>) -> Response {
    let mut response = (status, body.into()).into_response();
    let mime = HeaderValue::from_static(mime);
    response.headers_mut().insert(header::CONTENT_TYPE, mime);
    response
}

/// The type of a page.
pub const HTML: &str = "text/html; charset=utf-8";

/// A page.
pub fn page(status: StatusCode, html: String) -> Response {
    typed(status, HTML, html)
}

/// A badge: pages of other sites show it, and what is not a page of ours is kept from them.
pub fn badge(svg: String) -> Response {
    let mut response = typed(StatusCode::OK, "image/svg+xml", svg);
    let all = HeaderValue::from_static("cross-origin");
    response.headers_mut().insert("cross-origin-resource-policy", all);
    response
}

/// Leads elsewhere.
pub fn elsewhere(to: &str) -> Response {
    let Ok(to) = HeaderValue::from_str(to) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::LOCATION, to);
    (StatusCode::FOUND, headers).into_response()
}

/// The status of a fault, and what people are told of it.
pub fn said(fault: &Fault) -> (StatusCode, &'static str, String) {
    match fault {
        Fault::Absent => (
            StatusCode::NOT_FOUND,
            "There is nothing here",
            "It may have been removed or renamed, or its name is misspelt.".to_owned(),
        ),
        Fault::Closed => (
            StatusCode::FORBIDDEN,
            "This is closed",
            "Its modes in the tree do not let everybody read it. Its owner can open it with chmod.".to_owned(),
        ),
        Fault::Asked(why) => (StatusCode::BAD_REQUEST, "That can't be answered", why.clone()),
        Fault::Unreadable(why) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "This can't be read now",
            format!("{why}. Nothing else is held up by that, and this page comes back by itself."),
        ),
        Fault::Busy(what) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Too much at once",
            format!("There are too many {what} just now. The tree is there, and this page comes back by itself."),
        ),
        Fault::Away(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The tree is away",
            "Nothing answers where the tree is mounted. This page comes back by itself when it does.".to_owned(),
        ),
    }
}
