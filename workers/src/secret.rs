//! Secrets in files: of webhooks, and the token of an API.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Longest secret, bytes: nobody takes longer ones, and a device would have no end.
const SECRET_BYTES_MAX: u64 = 4096;

/// Reads a secret, without the line ends after it. Whoever needs it reads it each time, so that it
/// can be changed at any time.
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
