//! The style sheet, the script and the icon: a part of the program, and named by what is in them, so that a browser
//! keeps them for good.

use std::sync::LazyLock;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use super::answer::typed;
use super::console::colours;

const SCRIPT: &str = include_str!("static/web.js");
const ICON: &str = include_str!("static/icon.svg");

static STYLE: LazyLock<String> = LazyLock::new(|| format!("{}{}", include_str!("static/web.css"), colours::style()));

/// The name of a file that says what is in it.
fn named(name: &str, ending: &str, text: &str) -> String {
    let digest = blake3::hash(text.as_bytes()).to_hex();
    format!("/static/{name}-{}.{ending}", &digest[..12])
}

static STYLE_PATH: LazyLock<String> = LazyLock::new(|| named("web", "css", &STYLE));
static SCRIPT_PATH: LazyLock<String> = LazyLock::new(|| named("web", "js", SCRIPT));

/// Where the style sheet is.
pub fn style() -> &'static str {
    &STYLE_PATH
}

/// Where the script is.
pub fn script() -> &'static str {
    &SCRIPT_PATH
}

/// One of these files.
pub fn answer(path: &str) -> Option<Response> {
    let (mime, text) = if path == *STYLE_PATH {
        ("text/css; charset=utf-8", STYLE.as_str())
    } else if path == *SCRIPT_PATH {
        ("text/javascript; charset=utf-8", SCRIPT)
    } else if path == "/static/icon.svg" || path == "/favicon.ico" {
        ("image/svg+xml", ICON)
    } else {
        return None;
    };
    let mut response = typed(StatusCode::OK, mime, text);
    let kept = HeaderValue::from_static("public, max-age=31536000, immutable");
    response.headers_mut().insert(header::CACHE_CONTROL, kept);
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_small_and_calls_nobody() {
        assert!(SCRIPT.len() < 15 << 10, "{} bytes", SCRIPT.len());
        for (name, text) in [("script", SCRIPT), ("style", STYLE.as_str())] {
            assert!(!text.contains("://"), "{name} names another place");
            assert!(!text.contains("eval(") && !text.contains("@import"), "{name}");
        }
    }
}
