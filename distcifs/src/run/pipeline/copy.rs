//! The working copy at hand, as a task's workspace.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

/// Where git keeps what it knows.
const GIT: &str = ".git";

/// A working copy.
#[derive(Debug)]
pub(super) struct WorkingCopy {
    /// Its folder.
    pub(super) top: PathBuf,
    /// Whether it is git's.
    of_git: bool,
}

impl WorkingCopy {
    /// The one that a folder is in; what git does not know is the folder itself.
    pub(super) fn of(folder: &Path) -> Self {
        let top = git(folder, &["rev-parse", "--show-toplevel"]);
        match top.filter(|top| !top.is_empty()) {
            Some(top) => WorkingCopy {
                top: PathBuf::from(OsStr::from_bytes(&top)),
                of_git: true,
            },
            None => WorkingCopy {
                top: folder.to_owned(),
                of_git: false,
            },
        }
    }

    /// A line that git says of it, as text.
    pub(super) fn line(&self, arguments: &[&str]) -> Option<String> {
        let line = git(&self.top, arguments).filter(|_| self.of_git)?;
        String::from_utf8(line).ok().filter(|line| !line.is_empty())
    }

    /// The paths in it of what is no folder: what git would take, or all without git; nothing below `but`.
    ///
    /// # Errors
    /// If they can't be listed.
    pub(super) fn paths(&self, but: &Path) -> Result<Vec<PathBuf>, String> {
        let explain = |error: io::Error| format!("{}: {error}", self.top.display());
        let mut paths = if self.of_git {
            let listed = git(&self.top, &["ls-files", "-z", "-c", "-o", "--exclude-standard"]);
            let listed = listed.ok_or_else(|| format!("{}: git ls-files failed", self.top.display()))?;
            let parts = listed.split(|byte| *byte == 0).filter(|path| !path.is_empty());
            parts.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect()
        } else {
            walked(&self.top).map_err(explain)?
        };
        if let Ok(inner) = but.strip_prefix(&self.top) {
            paths.retain(|path| !path.starts_with(inner));
        }
        paths.sort();
        paths.dedup();
        Ok(paths)
    }

    /// Copies what a path names; nothing if it is not there any more. `false`: it is left out, as it is neither a file nor
    /// a link.
    ///
    /// # Errors
    /// If it can't be copied.
    pub(super) fn copy(&self, path: &Path, to: &Path) -> Result<bool, String> {
        let copied = || -> io::Result<bool> {
            let (from, to) = (self.top.join(path), to.join(path));
            let meta = match fs::symlink_metadata(&from) {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Ok(true);
                }
                other => other?,
            };
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)?;
            }
            if meta.is_symlink() {
                symlink(fs::read_link(&from)?, &to)?;
            } else if meta.is_file() {
                fs::copy(&from, &to)?;
            } else {
                return Ok(false);
            }
            Ok(true)
        };
        copied().map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// All that is below a folder, links not followed.
fn walked(top: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(top.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            match entry.file_type()?.is_dir() {
                true if path.components().next() == Some(Component::Normal(OsStr::new(GIT))) => {}
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    Ok(found)
}

/// What git says in a folder, without the line end; `None` if it fails or is not there.
fn git(folder: &Path, arguments: &[&str]) -> Option<Vec<u8>> {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(arguments);
    let said = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let mut text = said.stdout;
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    said.status.success().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(copy: &WorkingCopy, but: &Path) -> Vec<String> {
        let paths = copy.paths(but).unwrap();
        paths.iter().map(|path| path.display().to_string()).collect()
    }

    /// "What git would take: what it knows, and new files that it does not ignore."
    #[test]
    fn what_git_would_take_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let run = |arguments: &[&str]| assert!(git(&top, arguments).is_some(), "{arguments:?}");
        for (path, text) in [
            ("a", "1"),
            ("in/b c", "2"),
            (".gitignore", "out\n"),
            ("out/x", "3"),
            ("gone", "4"),
        ] {
            fs::create_dir_all(top.join(path).parent().unwrap()).unwrap();
            fs::write(top.join(path), text).unwrap();
        }
        // Without git all counts.
        let plain = WorkingCopy::of(&top);
        assert_eq!(shown(&plain, Path::new("/nowhere")).len(), 5);
        assert_eq!(shown(&plain, &top.join("out")), [".gitignore", "a", "gone", "in/b c"]);
        run(&["init", "-q"]);
        run(&["add", "a", "gone"]);
        fs::remove_file(top.join("gone")).unwrap();
        symlink("a", top.join("link")).unwrap();
        let copy = WorkingCopy::of(&top.join("in"));
        assert_eq!(copy.top, top);
        assert_eq!(
            shown(&copy, Path::new("/nowhere")),
            [".gitignore", "a", "gone", "in/b c", "link"]
        );
        let to = tempfile::tempdir().unwrap();
        for path in copy.paths(Path::new("/nowhere")).unwrap() {
            assert!(copy.copy(&path, to.path()).unwrap(), "{}", path.display());
        }
        assert_eq!(fs::read_to_string(to.path().join("in/b c")).unwrap(), "2");
        assert_eq!(fs::read_link(to.path().join("link")).unwrap(), Path::new("a"));
        assert!(!to.path().join("gone").exists() && !to.path().join("out").exists());
        assert!(
            !copy.copy(Path::new("in"), to.path()).unwrap(),
            "a folder, as of a submodule"
        );
    }
}
