//! The body of a delivery as JSON: read as it is or out of a form, with bounds on what it may cost.

use std::io::{self, BufReader, Read};

use serde::de::DeserializeOwned;

/// Deepest nesting: GitHub's payloads have about ten levels.
const DEPTH_MAX: usize = 64;

/// Longest string, bytes as written: the longest that GitHub sends is the text of a pull request,
/// 64 Ki characters.
const STRING_BYTES_MAX: usize = 1 << 20;

/// The name of the field that holds the payload in a form.
const FIELD: &[u8] = b"payload=";

/// How a body holds its JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// application/json.
    Json,
    /// application/x-www-form-urlencoded, with a field `payload`.
    Fields,
}

impl Form {
    /// By the header Content-Type; without one it is JSON. `None`: something else.
    pub fn of(content_type: Option<&[u8]>) -> Option<Self> {
        let Some(header) = content_type else {
            return Some(Form::Json);
        };
        let kind = header.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        if kind.eq_ignore_ascii_case(b"application/json") {
            Some(Form::Json)
        } else if kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            Some(Form::Fields)
        } else {
            None
        }
    }
}

/// Reads what the type asks for, and skips the rest. Beside the body it takes no more than a few
/// of the longest strings, whatever the body is.
pub fn read<T: DeserializeOwned>(body: &[u8], form: Form) -> Result<T, String> {
    // What curl sends calls itself a form unless told otherwise.
    let form = if body.trim_ascii_start().first() == Some(&b'{') {
        Form::Json
    } else {
        form
    };
    let json = |error: serde_json::Error| format!("the body is not the JSON of a delivery: {error}");
    match form {
        Form::Json => {
            Guard::default().feed(body)?;
            serde_json::from_slice(body).map_err(json)
        }
        Form::Fields => {
            let fields = body.split(|b| *b == b'&');
            let field = fields.filter_map(|field| field.strip_prefix(FIELD)).next();
            let field = field.ok_or("the form has no field payload")?;
            let decoder = Decoder {
                rest: field,
                guard: Guard::default(),
            };
            serde_json::from_reader(BufReader::new(decoder)).map_err(json)
        }
    }
}

/// Looks at JSON as it goes by: how deep, how long the strings.
#[derive(Default)]
struct Guard {
    depth: usize,
    /// Bytes of the string that is open.
    string: Option<usize>,
    escaped: bool,
}

impl Guard {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        for byte in bytes {
            match (&mut self.string, byte) {
                (Some(_), _) if std::mem::take(&mut self.escaped) => {}
                (Some(_), b'"') => self.string = None,
                (Some(length), byte) => {
                    self.escaped = *byte == b'\\';
                    *length += 1;
                    if *length > STRING_BYTES_MAX {
                        return Err(format!("the body has a string of more than {STRING_BYTES_MAX} bytes"));
                    }
                }
                (None, b'"') => self.string = Some(0),
                (None, b'{' | b'[') => {
                    self.depth += 1;
                    if self.depth > DEPTH_MAX {
                        return Err(format!("the body is nested more than {DEPTH_MAX} deep"));
                    }
                }
                (None, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
                (None, _) => {}
            }
        }
        Ok(())
    }
}

/// A form's field without its percent signs, as it is read.
struct Decoder<'a> {
    rest: &'a [u8],
    guard: Guard,
}

impl Read for Decoder<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        while count < out.len() {
            let (byte, rest) = match self.rest {
                [] => break,
                [b'+', rest @ ..] => (b' ', rest),
                [b'%', high, low, rest @ ..] => {
                    let digit = |b: &u8| char::from(*b).to_digit(16);
                    let pair = digit(high).zip(digit(low)).map(|(high, low)| high * 16 + low);
                    let byte = pair.and_then(|pair| u8::try_from(pair).ok());
                    (
                        byte.ok_or_else(|| io::Error::other("a % without two digits after it"))?,
                        rest,
                    )
                }
                [b'%', ..] => return Err(io::Error::other("a % without two digits after it")),
                [byte, rest @ ..] => (*byte, rest),
            };
            out[count] = byte;
            count += 1;
            self.rest = rest;
        }
        self.guard.feed(&out[..count]).map_err(io::Error::other)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Body {
        r#ref: String,
    }

    #[test]
    fn json_and_forms_hold_the_same() {
        let wanted = Body {
            r#ref: "a+ é%\"".into(),
        };
        let json = r#"{"x": [{"y": "]}"}], "ref": "a+ é%\""}"#;
        assert_eq!(read::<Body>(json.as_bytes(), Form::Json).unwrap(), wanted);
        let form = "a=b&payload=%7B%22ref%22%3A+%22a%2b+%C3%A9%25%5C%22%22%7d&payload=2";
        assert_eq!(read::<Body>(form.as_bytes(), Form::Fields).unwrap(), wanted);
        for bad in [
            "",
            "payload",
            "Payload={}",
            "payload=%",
            "payload=%4",
            "payload=%zz",
            "payload=",
        ] {
            assert!(read::<Body>(bad.as_bytes(), Form::Fields).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_type_of_the_body() {
        assert_eq!(Form::of(None), Some(Form::Json));
        assert_eq!(Form::of(Some(b"Application/JSON; charset=utf-8")), Some(Form::Json));
        assert_eq!(Form::of(Some(b"application/x-www-form-urlencoded")), Some(Form::Fields));
        assert_eq!(Form::of(Some(b"multipart/form-data; boundary=x")), None);
    }

    #[test]
    fn what_would_cost_too_much_is_refused() {
        let deep = |n: usize| format!("{{\"ref\": \"x\", \"y\": {}1{}}}", "[".repeat(n), "]".repeat(n));
        assert!(read::<Body>(deep(63).as_bytes(), Form::Json).is_ok());
        let why = read::<Body>(deep(64).as_bytes(), Form::Json).unwrap_err();
        assert!(why.contains("nested more than 64"), "{why}");
        let why = read::<Body>(format!("payload={}", "[".repeat(1 << 20)).as_bytes(), Form::Fields).unwrap_err();
        assert!(why.contains("nested more than 64"), "{why}");
        let long = |n: usize| format!("{{\"ref\": \"x\", \"{}\": 1}}", "x".repeat(n));
        assert!(read::<Body>(long(1 << 20).as_bytes(), Form::Json).is_ok());
        assert!(
            read::<Body>(long((1 << 20) + 1).as_bytes(), Form::Json)
                .unwrap_err()
                .contains("a string of more")
        );
        assert!(read::<Body>(b"{\"ref\": \"a\\\"[[\"}", Form::Json).is_ok());
    }
}
