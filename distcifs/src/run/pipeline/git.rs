//! What git says of a working copy.
//!
//! Where it does not speak though there is a repository, nobody knows what it ignores: that is an error, and never
//! "no repository", or what nobody meant to show would be copied.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use distcifs_settings::fault::plain;

/// Where git keeps what it knows.
pub(super) const FOLDER: &str = ".git";

/// Variables of git that say where it looks for a repository: git(1).
const DIR: &str = "GIT_DIR";
const CEILINGS: &str = "GIT_CEILING_DIRECTORIES";
const ACROSS: &str = "GIT_DISCOVERY_ACROSS_FILESYSTEM";

/// The exit status of a question that has no answer.
const NONE: i32 = 1;

/// The folder of the working copy that a folder is in; `None`: it is in no repository.
///
/// # Errors
/// If there is a repository, and git is not there or refuses to speak of it.
pub(super) fn top(folder: &Path) -> Result<Option<PathBuf>, String> {
    let said = run(folder, &["rev-parse", "--show-toplevel"]);
    let why = match said {
        Ok(said) if said.status.success() && !said.stdout.is_empty() => {
            return Ok(Some(PathBuf::from(OsString::from_vec(line_of(said.stdout)))));
        }
        Ok(said) => words(&said),
        Err(error) => format!("git can't be run: {error}"),
    };
    let variable = |name: &str| std::env::var_os(name);
    if let Some(named) = variable(DIR) {
        let named = plain(&named.to_string_lossy()).into_owned();
        return Err(format!("{DIR} is {named}, and git does not say what it ignores: {why}"));
    }
    let Some(found) = repository(folder, variable(CEILINGS).as_deref(), variable(ACROSS).is_some()) else {
        return Ok(None);
    };
    let (above, shown) = (found.parent().unwrap_or(folder), found.display());
    let hide = match above == folder {
        true => String::new(),
        false => format!("; or hide it by {CEILINGS}={}", above.display()),
    };
    Err(format!(
        "{shown} is there, and git does not say what it ignores: {why}\nMend what `git -C {} status` says{hide}",
        above.display()
    ))
}

/// A line that git says in a folder; `None`: there is none.
///
/// # Errors
/// If git fails, or its answer is no text.
pub(super) fn line(folder: &Path, arguments: &[&str]) -> Result<Option<String>, String> {
    let told = |what: &str| format!("{}: git {}: {what}", folder.display(), arguments.join(" "));
    let said = run(folder, arguments).map_err(|error| told(&error.to_string()))?;
    if said.status.code() == Some(NONE) {
        return Ok(None);
    }
    if !said.status.success() {
        return Err(told(&words(&said)));
    }
    let text = String::from_utf8(line_of(said.stdout)).map_err(|_| told("its answer is not UTF-8"))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// The paths that git would take of a working copy: what it knows, and new files that it does not ignore.
///
/// # Errors
/// If git fails.
pub(super) fn paths(top: &Path) -> Result<Vec<PathBuf>, String> {
    let told = |what: String| format!("{}: git ls-files: {what}", top.display());
    let said = run(top, &["ls-files", "-z", "-c", "-o", "--exclude-standard"]);
    let said = said.map_err(|error| told(error.to_string()))?;
    if !said.status.success() {
        return Err(told(words(&said)));
    }
    let parts = said.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    Ok(parts.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect())
}

/// The repository that git would find for a folder: it goes up to the end of the file system, or to a ceiling.
fn repository(folder: &Path, ceilings: Option<&OsStr>, across: bool) -> Option<PathBuf> {
    let ceilings: Vec<PathBuf> = ceilings.iter().flat_map(std::env::split_paths).collect();
    let device = |folder: &Path| fs::metadata(folder).map(|meta| meta.dev()).ok();
    let first = device(folder);
    folder
        .ancestors()
        .enumerate()
        .take_while(|(at, above)| {
            let within = across || device(above) == first;
            *at == 0 || within && !ceilings.iter().any(|ceiling| ceiling == above)
        })
        .map(|(_, above)| above.join(FOLDER))
        .find(|path| path.symlink_metadata().is_ok())
}

/// Runs git in a folder. Nothing that the repository names is run.
fn run(folder: &Path, arguments: &[&str]) -> io::Result<Output> {
    let mut command = Command::new("git");
    command.args(["-c", "core.fsmonitor=false", "-C"]).arg(folder);
    command.args(arguments).stdin(Stdio::null()).output()
}

/// What git says went wrong, for a terminal.
fn words(said: &Output) -> String {
    let words = String::from_utf8_lossy(&said.stderr);
    let lines: Vec<String> = words.trim().lines().map(|line| plain(line).into_owned()).collect();
    match lines.is_empty() {
        true => said.status.to_string(),
        false => lines.join("\n"),
    }
}

/// The answer without the end of its line.
fn line_of(mut answer: Vec<u8>) -> Vec<u8> {
    if answer.last() == Some(&b'\n') {
        answer.pop();
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// "Without a repository all files; with one of which git does not speak none": damaged, or another user's.
    #[test]
    fn a_repository_that_git_does_not_speak_of_is_no_folder_without_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        let inner = folder.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(top(&inner), Ok(None));
        assert!(run(&folder, &["init", "-q"]).unwrap().status.success());
        assert_eq!(top(&inner), Ok(Some(folder.clone())));
        fs::write(folder.join(".git/config"), "[core]\n\trepositoryformatversion = 99\n").unwrap();
        let why = top(&inner).unwrap_err();
        for words in [&*format!("{}/.git is there", folder.display()), "99", CEILINGS] {
            assert!(why.contains(words), "{words}: {why}");
        }
        fs::remove_dir_all(folder.join(FOLDER)).unwrap();
        fs::write(folder.join(FOLDER), "gitdir: /nowhere\n").unwrap();
        assert!(top(&inner).unwrap_err().contains("/nowhere"));
        fs::remove_file(folder.join(FOLDER)).unwrap();
        symlink("nowhere", folder.join(FOLDER)).unwrap();
        assert!(top(&folder).is_err(), "a link that leads nowhere");
    }

    #[test]
    fn a_ceiling_hides_what_is_above_it_and_not_the_folder_itself() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::create_dir(dir.path().join(FOLDER)).unwrap();
        let found = |ceiling: &Path| repository(&inner, Some(ceiling.as_os_str()), false);
        assert_eq!(found(Path::new("/nowhere")), Some(dir.path().join(FOLDER)));
        for ceiling in [dir.path().to_owned(), dir.path().join("a")] {
            assert_eq!(found(&ceiling), None);
        }
        assert_eq!(found(&inner), Some(dir.path().join(FOLDER)));
        fs::create_dir(inner.join(FOLDER)).unwrap();
        assert_eq!(found(&dir.path().join("a")), Some(inner.join(FOLDER)));
    }

    /// A detached head has no branch, and one that can't be read is an error.
    #[test]
    fn no_answer_is_none_and_a_failure_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(run(dir.path(), &["init", "-q", "-b", "main"]).unwrap().status.success());
        let ask = || line(dir.path(), &["symbolic-ref", "-q", "HEAD"]);
        assert_eq!(ask(), Ok(Some("refs/heads/main".into())));
        assert_eq!(line(dir.path(), &["rev-parse", "--verify", "-q", "HEAD"]), Ok(None));
        fs::write(dir.path().join(".git/HEAD"), format!("{}\n", "1".repeat(40))).unwrap();
        assert_eq!(ask(), Ok(None));
        fs::write(dir.path().join(".git/HEAD"), "rubbish\n").unwrap();
        assert!(ask().is_err());
        assert!(paths(dir.path()).is_err());
    }
}
