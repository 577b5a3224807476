//! Webhooks with names: the administrator's file. One line each: name, owners of jobs that may use it, URL, and the file
//! of the secret that signs, if any does.

use std::path::{Path, PathBuf};

use distcifs_settings::names::Name;
use distcifs_settings::notify::is_url;

use crate::secret::{open_plainly, secret, trusted};
use crate::webhook::grants::{Owners, owners, words};

/// Longest file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where something is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The URL.
    pub url: String,
    /// What it is signed with.
    pub secret: Option<Vec<u8>>,
}

/// The file, which is read each time: so it may change.
#[derive(Debug)]
pub struct Hooks {
    file: Option<PathBuf>,
}

/// A line.
struct Line<'a> {
    name: &'a str,
    owners: Owners,
    url: &'a str,
    secret: Option<&'a str>,
}

impl Hooks {
    /// Those of this file.
    pub fn new(file: Option<PathBuf>) -> Self {
        Hooks { file }
    }

    /// Looks at the whole file, so that a fault is told when the worker starts.
    ///
    /// # Errors
    /// `FILE:line: what`, of the first fault.
    pub fn check(&self) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let text = read(file)?;
        let mut known = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let at = |why: String| format!("{}:{number}: {why}", file.display());
            if let Some(line) = parse(line).map_err(at)? {
                if known.contains(&line.name) {
                    return Err(at(format!("{} stands twice", line.name)));
                }
                known.push(line.name);
            }
        }
        Ok(())
    }

    /// The webhook of this name, for jobs of this user. One that others may use is as good as none, so that nobody
    /// learns of names.
    ///
    /// # Errors
    /// Why there is none.
    pub fn named(&self, name: &str, owner: u32) -> Result<Hook, String> {
        let missing = || format!("no webhook is called {name} for jobs of user {owner}: see --hooks");
        let file = self.file.as_ref().ok_or_else(missing)?;
        let text = read(file)?;
        for line in text.lines() {
            match parse(line) {
                Ok(Some(line)) if line.name == name && line.owners.include(owner) => {
                    let secret = line.secret.map(|path| secret(&beside(file, path))).transpose()?;
                    return Ok(Hook {
                        url: line.url.to_owned(),
                        secret,
                    });
                }
                _ => {}
            }
        }
        Err(missing())
    }
}

/// A path, from the folder of the file that names it.
fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("/")).join(path)
}

fn read(file: &Path) -> Result<String, String> {
    use std::io::Read;
    let bad = |why: String| format!("{}: {why}", file.display());
    let opened = open_plainly(file).map_err(|error| bad(error.to_string()))?;
    let facts = opened.metadata().map_err(|error| bad(error.to_string()))?;
    if !facts.is_file() || facts.len() > FILE_BYTES_MAX {
        return Err(bad(format!("it is no file of at most {FILE_BYTES_MAX} bytes")));
    }
    trusted(&facts).map_err(bad)?;
    let mut text = String::new();
    opened
        .take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| bad(error.to_string()))?;
    Ok(text)
}

/// Reads a line; `None`: it says nothing.
fn parse(line: &str) -> Result<Option<Line<'_>>, String> {
    let words: Vec<&str> = words(line).into_iter().map(|(_, word)| word).collect();
    let (name, users, url, secret) = match *words.as_slice() {
        [] => return Ok(None),
        [name, users, url] => (name, users, url, None),
        [name, users, url, secret] => (name, users, url, Some(secret)),
        _ => return Err("write: NAME OWNER[,OWNER…]|* URL [SECRETFILE]".into()),
    };
    if Name::new(name).is_none() {
        return Err("the first word must be a name".into());
    }
    if !is_url(url) {
        return Err("the third word must be an http or https URL without user, password and fragment".into());
    }
    Ok(Some(Line {
        name,
        owners: owners(users)?,
        url,
        secret,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "A name stands for a URL, for jobs of those owners", and is signed by the file beside.
    #[test]
    fn a_name_is_of_those_whom_the_file_lets() {
        let dir = std::env::temp_dir().join(format!("distcifs-hooks-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("hooks");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        let hooks = Hooks::new(Some(file.clone()));
        write("# all\nchat * https://chat.example.org/x key\nops 1000,0 http://127.0.0.1/ # here\n");
        std::fs::write(dir.join("key"), "s3cret\n").unwrap();
        hooks.check().unwrap();
        let chat = hooks.named("chat", 4321).unwrap();
        assert_eq!(
            (chat.url.as_str(), chat.secret.as_deref()),
            ("https://chat.example.org/x", Some(&b"s3cret"[..]))
        );
        assert_eq!(hooks.named("ops", 1000).unwrap().secret, None);
        for (name, owner) in [("ops", 1001), ("none", 0), ("https://chat.example.org/x", 0)] {
            assert!(
                hooks.named(name, owner).unwrap_err().contains("no webhook is called"),
                "{name}"
            );
        }
        std::fs::remove_file(dir.join("key")).unwrap();
        assert!(
            hooks.named("chat", 0).unwrap_err().contains("the secret"),
            "unsigned it is not sent"
        );
        for (text, words) in [
            ("chat *", "write: NAME"),
            ("../x * https://h/", "must be a name"),
            ("chat * ftp://h/", "must be an http or https URL"),
            ("a * https://h/\na * https://h/", "stands twice"),
            ("chat nobody-of-this-name https://h/", "there is no user"),
        ] {
            write(text);
            let fault = hooks.check().unwrap_err();
            assert!(fault.contains(words) && fault.contains("hooks:"), "{text}: {fault}");
        }
        assert!(Hooks::new(None).named("chat", 0).is_err() && Hooks::new(None).check().is_ok());
        assert!(Hooks::new(Some("/dev/zero".into())).check().is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
