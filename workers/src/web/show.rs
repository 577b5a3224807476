//! What people read: names of any bytes, times, durations, sizes, commands of a shell.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// Whether a character can't be seen, or changes how others are seen.
pub fn is_odd(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{061c}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Bytes as text in which everything can be seen: what can't be is written as `\u{202e}` or `\xff`.
pub fn plain(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match is_odd(letter) {
                true => text.extend(letter.escape_default()),
                false => text.push(letter),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Words as a shell takes them, each in single quotes where it needs them; `None` where one has in it what can't be seen.
pub fn command(words: &[&[u8]]) -> Option<String> {
    let word = |word: &&[u8]| {
        let text = std::str::from_utf8(word).ok()?;
        if text.chars().any(is_odd) {
            return None;
        }
        let simple = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
        match !text.is_empty() && text.chars().all(simple) {
            true => Some(text.to_owned()),
            false => Some(format!("'{}'", text.replace('\'', r"'\''"))),
        }
    };
    Some(words.iter().map(word).collect::<Option<Vec<_>>>()?.join(" "))
}

/// A time, milliseconds since 1970; 0 stands for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Moment(u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0))
    }

    /// Whether there is one.
    pub fn known(self) -> bool {
        self.0 > 0
    }

    fn written(self, form: &str) -> String {
        let time = i64::try_from(self.0)
            .ok()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok());
        time.map(|time| time.strftime(form).to_string()).unwrap_or_default()
    }

    /// As programs read it.
    pub fn iso(self) -> String {
        self.written("%Y-%m-%dT%H:%M:%SZ")
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.written("%Y-%m-%d %H:%M:%S"))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.known() {
            true => to.serialize_u64(self.0),
            false => to.serialize_none(),
        }
    }
}

/// How long something took, of milliseconds.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..=9 => format!("{}.{} s", seconds, ms % 1000 / 100),
        10..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A number of bytes.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return match unit {
                "bytes" => format!("{bytes} bytes"),
                _ => format!("{value:.1} {unit}"),
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// How many of all, as a part of a hundred.
pub fn percent(part: usize, all: usize) -> String {
    match all {
        0 => "–".to_owned(),
        all => format!("{} %", part * 100 / all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hides_in_what_is_shown() {
        assert_eq!(plain("ä <b>".as_bytes()), "ä <b>");
        assert_eq!(plain("a\u{202e}b\x1b[0m\n".as_bytes()), "a\\u{202e}b\\u{1b}[0m\\n");
        assert_eq!(plain(b"a\xffb"), "a\\xffb");
    }

    #[test]
    fn commands_are_quoted_and_hide_nothing() {
        assert_eq!(command(&[b"cat", b"/ci/a"]).as_deref(), Some("cat /ci/a"));
        assert_eq!(command(&[b"cat", b"it's $(x)"]).as_deref(), Some(r"cat 'it'\''s $(x)'"));
        assert_eq!(command(&[b"cat", b""]).as_deref(), Some("cat ''"));
        for hidden in ["a\nb", "a\u{202e}b", "a\u{7f}", "\u{200b}"] {
            assert_eq!(command(&[b"cat", hidden.as_bytes()]), None, "{hidden:?}");
        }
        assert_eq!(command(&[b"cat", b"\xff"]), None);
    }

    #[test]
    fn times_and_sizes() {
        assert_eq!(Moment(1_796_063_184_965).iso(), "2026-11-30T18:26:24Z");
        assert_eq!(Moment(u64::MAX).iso(), "");
        for (ms, text) in [
            (0, "0 ms"),
            (640, "640 ms"),
            (1_250, "1.2 s"),
            (61_000, "1 min 01 s"),
            (3_720_000, "1 h 02 min"),
            (90_000_000, "1 d 01 h"),
        ] {
            assert_eq!(duration(ms), text);
        }
        assert_eq!((size(1023), size(1536)), ("1023 bytes".into(), "1.5 KiB".into()));
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }
}
