//! Who sent a delivery: its signature (X-Hub-Signature-256) and the secrets it may be made with.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Longest secret, bytes: GitHub takes no longer ones, and a device would have no end.
const SECRET_BYTES_MAX: u64 = 4096;

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

/// The digest of a body, for deliveries that name themselves by nothing else.
pub fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a secret, without the line ends after it. It is read for each delivery, so that it can be
/// changed at any time.
///
/// # Errors
/// It can't be read, is no regular file, is empty (everybody knows that one) or has over 4 KiB.
pub fn secret(path: &Path) -> Result<Vec<u8>, String> {
    let bad = |why: String| format!("the secret {}: {why}", path.display());
    // A fifo must not hold us up.
    let open = || {
        File::options()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path)
    };
    let read = || -> io::Result<Vec<u8>> {
        let file = open()?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut bytes = Vec::new();
        file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let mut bytes = read().map_err(|error| bad(error.to_string()))?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(bad(format!("it has more than {SECRET_BYTES_MAX} bytes")));
    }
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(bad("it is empty".into()));
    }
    Ok(bytes)
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

    #[test]
    fn secrets_that_are_none() {
        let dir = std::env::temp_dir().join(format!("distcifs-secret-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let write = |bytes: &[u8]| std::fs::write(dir.join("s"), bytes).unwrap();
        write(b" s3 cret\r\n\n");
        assert_eq!(secret(&dir.join("s")).unwrap(), b" s3 cret");
        write(b"\n");
        assert!(secret(&dir.join("s")).unwrap_err().contains("it is empty"));
        write(&[b'x'; 5000]);
        assert!(secret(&dir.join("s")).unwrap_err().contains("more than 4096"));
        assert!(secret(&dir).unwrap_err().contains("no regular file"));
        assert!(secret(Path::new("/dev/zero")).unwrap_err().contains("no regular file"));
        nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(secret(&dir.join("fifo")).unwrap_err().contains("no regular file"));
        assert!(secret(&dir.join("absent")).unwrap_err().contains("absent"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
