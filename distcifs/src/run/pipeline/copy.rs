//! The working copy at hand, as a task's workspace.
//!
//! What git lists may lie below a link by now, and a link that was copied may lead out of the workspace. So both are
//! gone into by descriptors, and no link is followed: nothing outside is read, and nothing outside is written.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use distcifs_beneath::{Folder, is, next_name};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::git;

/// A working copy.
#[derive(Debug)]
pub(super) struct WorkingCopy {
    /// Its folder.
    pub(super) top: PathBuf,
    /// The same, as it is gone into.
    pub(super) folder: Folder,
    /// Whether it is git's.
    of_git: bool,
}

impl WorkingCopy {
    /// The one that a folder is in; what is in no repository of git's is the folder itself.
    ///
    /// # Errors
    /// If there is a repository of which git does not speak: what it ignores is not known then.
    pub(super) fn of(folder: &Path) -> Result<Self, String> {
        let top = git::top(folder)?;
        let of_git = top.is_some();
        let top = top.unwrap_or_else(|| folder.to_owned());
        let folder = Folder::open(&top).map_err(|error| format!("{}: {error}", top.display()))?;
        Ok(WorkingCopy { top, folder, of_git })
    }

    /// A line that git says of it, as text; `None`: there is none.
    ///
    /// # Errors
    /// If git fails.
    pub(super) fn line(&self, arguments: &[&str]) -> Result<Option<String>, String> {
        match self.of_git {
            true => git::line(&self.top, arguments),
            false => Ok(None),
        }
    }

    /// The paths in it of what is no folder: what git would take, or all without git; nothing below `but`.
    ///
    /// # Errors
    /// If they can't be listed.
    pub(super) fn paths(&self, but: &Path) -> Result<Vec<PathBuf>, String> {
        let but = but.strip_prefix(&self.top).ok();
        let mut paths = match self.of_git {
            true => git::paths(&self.top)?,
            false => walked(&self.folder, but).map_err(|(path, error)| self.explain(&path, &error))?,
        };
        if let Some(but) = but {
            paths.retain(|path| !path.starts_with(but));
        }
        paths.sort();
        paths.dedup();
        Ok(paths)
    }

    /// Copies what a path names to the same path below another folder; nothing if it is not there any more, or below
    /// a link. `false`: it is left out, as it is neither a file nor a link.
    ///
    /// # Errors
    /// If it can't be copied.
    pub(super) fn copy(&self, path: &Path, to: &Folder) -> Result<bool, String> {
        self.copied(path, to).map_err(|error| self.explain(path, &error))
    }

    fn copied(&self, path: &Path, to: &Folder) -> io::Result<bool> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let Some(from) = there(self.folder.enter(parent))? else {
            return Ok(true);
        };
        let Some(stat) = there(from.stat(name))? else {
            return Ok(true);
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => to.make(parent)?.link_to(name, &from.target(name)?)?,
            FileType::RegularFile => {
                let file = from.read(name)?;
                // It may be a fifo by now, which would be read for ever.
                if !file.metadata()?.is_file() {
                    return Ok(false);
                }
                fill(&file, &to.make(parent)?, name)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn explain(&self, path: &Path, error: &io::Error) -> String {
        let place = self.top.join(path);
        let place = place.display();
        if is(error, Errno::LOOP) {
            return format!("{place}: a link took its place while it was copied: try again");
        }
        if is(error, Errno::NOSYS) {
            return format!("{place}: {error}; this needs Linux 5.6 and its openat2");
        }
        format!("{place}: {error}")
    }
}

/// What is there. As git sees it, what is below a link is not.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error)
            if [Errno::NOENT, Errno::NOTDIR, Errno::LOOP]
                .iter()
                .any(|gone| is(&error, *gone)) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Copies a file's bytes, as many as it has now, and its mode.
fn fill(source: &File, folder: &Folder, name: &OsStr) -> io::Result<()> {
    let meta = source.metadata()?;
    let mut file = folder.create(name, 0o600)?;
    io::copy(&mut source.take(meta.len()), &mut file)?;
    file.set_permissions(Permissions::from_mode(meta.mode() & 0o777))?;
    nix::unistd::close(file).map_err(io::Error::from)
}

/// All that is below a folder, links not followed, without git's own folder and `but`. An error has its place.
fn walked(top: &Folder, but: Option<&Path>) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(path) = folders.pop() {
        let at = |error| (path.clone(), error);
        let Some(folder) = there(top.enter_far(&path)).map_err(at)? else {
            continue;
        };
        let mut entries = folder.entries().map_err(at)?;
        while let Some((name, told)) = next_name(&mut entries).map_err(at)? {
            let kind = match told {
                // Not all file systems tell it.
                FileType::Unknown => match there(folder.stat(&name)).map_err(at)? {
                    Some(stat) => FileType::from_raw_mode(stat.st_mode),
                    None => continue,
                },
                told => told,
            };
            let path = path.join(&name);
            match kind == FileType::Directory {
                true if path == Path::new(git::FOLDER) || Some(path.as_path()) == but => {}
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    const NOWHERE: &str = "/nowhere";

    fn shown(copy: &WorkingCopy, but: &Path) -> Vec<String> {
        let paths = copy.paths(but).unwrap();
        paths.iter().map(|path| path.display().to_string()).collect()
    }

    fn run(top: &Path, arguments: &[&str]) {
        let status = Command::new("git").arg("-C").arg(top).args(arguments).status();
        assert!(status.unwrap().success(), "{arguments:?}");
    }

    fn fill(top: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            fs::create_dir_all(top.join(path).parent().unwrap()).unwrap();
            fs::write(top.join(path), text).unwrap();
        }
    }

    /// What comes into a folder of all paths.
    fn copied(copy: &WorkingCopy) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        let folder = Folder::open(to.path()).unwrap();
        for path in copy.paths(Path::new(NOWHERE)).unwrap() {
            assert!(copy.copy(&path, &folder).unwrap(), "{}", path.display());
        }
        to
    }

    /// "What git would take: what it knows, and new files that it does not ignore."
    #[test]
    fn what_git_would_take_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fill(
            &top,
            &[
                ("a", "1"),
                ("in/b c", "2"),
                (".gitignore", "out\n"),
                ("out/x", "3"),
                ("gone", "4"),
            ],
        );
        fs::set_permissions(top.join("a"), Permissions::from_mode(0o755)).unwrap();
        // Without git all counts.
        let plain = WorkingCopy::of(&top).unwrap();
        assert_eq!(shown(&plain, Path::new(NOWHERE)).len(), 5);
        assert_eq!(shown(&plain, &top.join("out")), [".gitignore", "a", "gone", "in/b c"]);
        run(&top, &["init", "-q"]);
        run(&top, &["add", "a", "gone"]);
        fs::remove_file(top.join("gone")).unwrap();
        symlink("a", top.join("link")).unwrap();
        let copy = WorkingCopy::of(&top.join("in")).unwrap();
        assert_eq!(copy.top, top);
        assert_eq!(
            shown(&copy, Path::new(NOWHERE)),
            [".gitignore", "a", "gone", "in/b c", "link"]
        );
        let to = copied(&copy);
        assert_eq!(fs::read_to_string(to.path().join("in/b c")).unwrap(), "2");
        assert_eq!(fs::read_link(to.path().join("link")).unwrap(), Path::new("a"));
        assert_eq!(fs::metadata(to.path().join("a")).unwrap().mode() & 0o777, 0o755);
        assert!(!to.path().join("gone").exists() && !to.path().join("out").exists());
        let folder = Folder::open(to.path()).unwrap();
        assert!(
            !copy.copy(Path::new("in"), &folder).unwrap(),
            "a folder, as of a submodule"
        );
    }

    /// "Nothing outside of the working copy is read, and nothing outside of the workspace is written": git knows files
    /// below a folder that is a link by now.
    #[test]
    fn what_is_below_a_link_is_gone() {
        let outside = tempfile::tempdir().unwrap();
        fill(outside.path(), &[("own/file", "mine"), ("other/file", "secret")]);
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fill(&top, &[("data/file", "1"), ("data2/file", "2"), ("z", "3")]);
        run(&top, &["init", "-q"]);
        run(&top, &["add", "."]);
        for (name, to) in [("data", "own"), ("data2", "other")] {
            fs::remove_dir_all(top.join(name)).unwrap();
            symlink(outside.path().join(to), top.join(name)).unwrap();
        }
        let copy = WorkingCopy::of(&top).unwrap();
        assert_eq!(
            shown(&copy, Path::new(NOWHERE)),
            ["data", "data/file", "data2", "data2/file", "z"]
        );
        let to = copied(&copy);
        assert_eq!(fs::read_to_string(outside.path().join("own/file")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(outside.path().join("other/file")).unwrap(), "secret");
        assert_eq!(fs::read_dir(outside.path().join("own")).unwrap().count(), 1);
        assert_eq!(
            fs::read_link(to.path().join("data")).unwrap(),
            outside.path().join("own")
        );
        assert_eq!(fs::read_to_string(to.path().join("z")).unwrap(), "3");
    }

    /// The same, if the link is made while it is copied: the workspace has it already, and the working copy a folder again.
    #[test]
    fn nothing_is_written_below_a_link_of_the_workspace() {
        let outside = tempfile::tempdir().unwrap();
        fill(outside.path(), &[("file", "mine")]);
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fill(&top, &[("data/file", "new"), ("file", "new")]);
        let to = tempfile::tempdir().unwrap();
        symlink(outside.path(), to.path().join("data")).unwrap();
        symlink(outside.path().join("file"), to.path().join("file")).unwrap();
        let (copy, folder) = (WorkingCopy::of(&top).unwrap(), Folder::open(to.path()).unwrap());
        let why = copy.copy(Path::new("data/file"), &folder).unwrap_err();
        assert!(why.contains("data/file: a link took its place"), "{why}");
        assert!(copy.copy(Path::new("file"), &folder).unwrap());
        assert_eq!(fs::read_to_string(to.path().join("file")).unwrap(), "new");
        assert_eq!(fs::read_to_string(outside.path().join("file")).unwrap(), "mine");
    }

    /// A fifo that nobody writes into is left out, and holds up nothing.
    #[test]
    fn what_is_neither_a_file_nor_a_link_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        nix::unistd::mkfifo(&top.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let to = tempfile::tempdir().unwrap();
        let (copy, folder) = (WorkingCopy::of(&top).unwrap(), Folder::open(to.path()).unwrap());
        assert_eq!(shown(&copy, Path::new(NOWHERE)), ["fifo"]);
        assert!(!copy.copy(Path::new("fifo"), &folder).unwrap());
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    }
}
