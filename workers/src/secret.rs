//! Secrets in files: of webhooks, and the token of an API.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

/// Longest secret, bytes: nobody takes longer ones, and a device would have no end.
const SECRET_BYTES_MAX: u64 = 4096;

/// What the name of a secret in a folder looks like, for messages.
pub const SECRET_NAME: &str = "[A-Za-z0-9_.-]+, no dot in front";

/// Where systemd puts the files of LoadCredential=.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// A secret by where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret {
    /// The folder that it is one of; none: it was named by its path.
    folder: Option<PathBuf>,
    path: PathBuf,
}

impl Secret {
    /// The one in this file, be it in the folder of secrets or not.
    pub fn at(folder: &Path, path: &Path) -> Self {
        Secret::below(folder, path).unwrap_or_else(|| Secret {
            folder: None,
            path: path.to_owned(),
        })
    }

    /// The one in this file; `None` if it is not right in the folder of secrets.
    pub fn below(folder: &Path, path: &Path) -> Option<Self> {
        Secret::in_folder(folder, path.strip_prefix(folder).ok()?.to_str()?)
    }

    /// The one of this name in a folder of secrets; `None` if that is no name.
    pub fn in_folder(folder: &Path, name: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        let good = !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain);
        good.then(|| Secret {
            folder: Some(folder.to_owned()),
            path: folder.join(name),
        })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it. One of a folder is believed only if nobody but root and we ourselves can have put
    /// it there.
    ///
    /// # Errors
    /// As [`secret`].
    pub fn read(&self) -> Result<Vec<u8>, String> {
        let Some(folder) = &self.folder else {
            return secret(&self.path);
        };
        let credential = self.credential(folder);
        let (folder, path) = match &credential {
            Some(path) => (path.parent().unwrap_or(folder), path.as_path()),
            None => (folder.as_path(), self.path.as_path()),
        };
        let bad = |place: &Path, why: String| format!("the secret {}: {why}", place.display());
        let facts = folder.metadata().map_err(|error| bad(folder, error.to_string()))?;
        trusted(&facts).map_err(|why| bad(folder, why))?;
        secret(path)
    }

    /// The same secret as systemd hands it to a unit: `LoadCredential=webhook.d:/etc/distcifs/webhook.d`
    /// makes a file `webhook.d_NAME` of each.
    fn credential(&self, folder: &Path) -> Option<PathBuf> {
        let credentials = std::env::var_os(CREDENTIALS)?;
        let name = format!("{}_{}", folder.file_name()?.to_str()?, self.path.file_name()?.to_str()?);
        Some(Path::new(&credentials).join(name)).filter(|path| path.exists())
    }
}

/// Whether only root and we ourselves can have written something; else why not, and the remedy.
///
/// # Errors
/// Somebody else can have.
pub fn trusted(facts: &Metadata) -> Result<(), String> {
    let (owner, own) = (facts.uid(), Uid::effective().as_raw());
    if owner != 0 && owner != own {
        return Err(format!(
            "it belongs to user {owner}, and must to root or to user {own}, whom this runs as: chown root"
        ));
    }
    if facts.mode() & 0o022 != 0 {
        return Err("others may write it: chmod go-w".into());
    }
    Ok(())
}

/// Opens a file to read; a fifo holds nobody up.
///
/// # Errors
/// As open(2).
pub fn open_plainly(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
}

/// Reads a secret, without the line ends after it. Whoever needs it reads it each time, so that it
/// can be changed at any time.
///
/// # Errors
/// It can't be read, is no regular file, others may have written it, it is empty (everybody knows
/// that one) or has over 4 KiB.
pub fn secret(path: &Path) -> Result<Vec<u8>, String> {
    let bad = |why: String| format!("the secret {}: {why}", path.display());
    let read = || -> io::Result<Vec<u8>> {
        let file = open_plainly(path)?;
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        trusted(&facts).map_err(io::Error::other)?;
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

    #[test]
    fn secrets_of_a_folder_are_those_that_only_we_can_have_put_there() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("distcifs-secrets-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(&dir, 0o755);
        std::fs::write(dir.join("a"), "s3cret\n").unwrap();
        mode(&dir.join("a"), 0o600);
        let a = Secret::in_folder(&dir, "a").unwrap();
        assert_eq!(a.read().unwrap(), b"s3cret");
        mode(&dir.join("a"), 0o620);
        assert!(a.read().unwrap_err().contains("chmod go-w"));
        mode(&dir.join("a"), 0o600);
        mode(&dir, 0o777);
        assert!(a.read().unwrap_err().contains("chmod go-w"));
        for name in ["", ".", "..", "a/b", "../a", ".a", "a\n", "a b"] {
            assert_eq!(Secret::in_folder(&dir, name), None, "{name:?}");
        }
        assert_eq!(Secret::at(&dir, &dir.join("a")), a);
        let elsewhere = Secret::at(Path::new("/etc/secrets"), &dir.join("a"));
        assert!(elsewhere != a && elsewhere.read().is_ok(), "named by its whole path");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
