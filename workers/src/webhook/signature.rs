//! Who sent a delivery: its signature (X-Hub-Signature-256).

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// HMAC-SHA256 of the raw body, as the header has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 32]);

impl Signature {
    /// Reads `sha256=` and 64 hexadecimal digits.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let digits = header.strip_prefix(b"sha256=").filter(|digits| digits.len() == 64)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            let hexadecimal = pair.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16).ok().filter(|_| hexadecimal)?;
        }
        Some(Signature(bytes))
    }

    /// Whether it was made of this body with this secret, in a time that does not depend on where
    /// they differ.
    pub fn is_by(&self, secret: &[u8], body: &[u8]) -> bool {
        Hmac::<Sha256>::new_from_slice(secret).is_ok_and(|mut mac| {
            mac.update(body);
            mac.verify_slice(&self.0).is_ok()
        })
    }
}

/// The header of a body that this secret signs.
pub fn sign(secret: &[u8], body: &[u8]) -> String {
    let mut header = String::from("sha256=");
    // No key is refused: a long one is hashed first.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) {
        mac.update(body);
        for byte in mac.finalize().into_bytes() {
            header.push_str(&format!("{byte:02x}"));
        }
    }
    header
}

/// The digest of a body, for deliveries that name themselves by nothing else.
pub fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl dgst -sha256 -hmac`, as GitHub's documentation has it.
    const HEADER: &[u8] = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn githubs_own_example_is_taken_and_nothing_beside_it() {
        let signature = Signature::parse(HEADER).unwrap();
        assert!(signature.is_by(b"It's a Secret to Everybody", b"Hello, World!"));
        assert!(!signature.is_by(b"It's a Secret to Everybody", b"Hello, World"));
        assert!(!signature.is_by(b"it's a Secret to Everybody", b"Hello, World!"));
        assert!(!signature.is_by(b"", b"Hello, World!"));
        let made = sign(b"It's a Secret to Everybody", b"Hello, World!");
        assert_eq!(made.as_bytes(), HEADER);
    }

    #[test]
    fn headers_of_another_form_are_none() {
        let upper = String::from_utf8_lossy(HEADER)
            .to_uppercase()
            .replace("SHA256", "sha256");
        assert_eq!(Signature::parse(upper.as_bytes()), Signature::parse(HEADER));
        for bad in [
            &b""[..],
            b"sha256=",
            &HEADER[7..],
            &HEADER[..HEADER.len() - 1],
            b"sha1=757107ea0eb2509fc211221cce984b8a37570b6d",
            b"sha256=+57107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
            "sha256=é57107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e1".as_bytes(),
        ] {
            assert_eq!(Signature::parse(bad), None, "{bad:?}");
        }
    }
}
