//! Bytes from outside as text, and places in it.

use crate::fault::{Fault, Place};
use crate::json::TEXT_BYTES_MAX;

/// Where each text begins.
pub(crate) const START: Place = Place { line: 1, column: 1 };

/// The bytes as text, if they are one that any of the readers takes.
pub(crate) fn text_of(bytes: &[u8]) -> Result<&str, Fault> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(Fault::new(
            START,
            format!("the text is longer than {TEXT_BYTES_MAX} bytes"),
        ));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(Fault::new(
            START,
            "the text begins with a byte order mark; save it as UTF-8 without BOM",
        ));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let at = START.after(&String::from_utf8_lossy(valid));
        Fault::new(at, "the text is not valid UTF-8 here")
    })
}

/// Refuses control characters, but for tabs and line ends.
pub(crate) fn check_characters(text: &str) -> Result<(), Fault> {
    let found = text
        .char_indices()
        .find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\n' | '\r'));
    let Some((at, c)) = found else {
        return Ok(());
    };
    let at = START.after(text.get(..at).unwrap_or_default());
    let code = u32::from(c);
    Err(Fault::new(
        at,
        format!("the control character U+{code:04X} can't stand here"),
    ))
}

impl Place {
    /// The place after the text, which starts here.
    pub(crate) fn after(self, text: &str) -> Place {
        text.chars().fold(self, |at, c| match c {
            '\n' => Place {
                line: at.line.saturating_add(1),
                column: 1,
            },
            _ => Place {
                line: at.line,
                column: at.column.saturating_add(1),
            },
        })
    }
}
