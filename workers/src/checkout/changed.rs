//! Which paths a commit changes, for `when`: since the merge base with the branch that a pull request asks to be taken
//! into, else since the last commit of its ref that the job built with success.
//!
//! What can't be found out is not known, and then every task runs that asks for it.

use std::io;
use std::path::Path;

use super::Repository;
use super::git::items;
use crate::beneath::Folder;
use crate::task::desk::{Desk, read, say};
use crate::tree;

use distcifs_settings::git::is_commit;

/// Most paths that are told, and most bytes of them: the bounds of tasks.json.
const PATHS_MAX: usize = 10_000;
const BYTES_MAX: usize = 512 << 10;

/// Longest path, bytes.
const PATH_BYTES_MAX: u64 = 16 << 10;

/// Builds before this one that are looked at for the last success of its ref.
const BUILDS_MAX: u64 = 200;

/// The paths that a commit changes; none if nobody knows. What it is that they changed since, or why that is not known,
/// is said on the console.
///
/// # Errors
/// If git can't be run.
pub(super) fn paths(desk: &Desk, repository: &Repository<'_>, commit: &str) -> tree::Result<Option<Vec<String>>> {
    let unknown = |why: &str| {
        say(&format!(
            "git-checkout: which paths changed is not known: {why}; tasks that ask for it run"
        ));
        Ok(None)
    };
    let since = match since(desk, repository, commit)? {
        Ok(since) => since,
        Err(why) => return unknown(&why),
    };
    match listed(repository, &since, commit)? {
        Some(paths) => {
            say(&format!("git-checkout: {} paths changed since {since}", paths.len()));
            Ok(Some(paths))
        }
        None => unknown(&format!("{since} can't be compared, or too many did")),
    }
}

/// The commit to compare with, or why there is none.
fn since(desk: &Desk, repository: &Repository<'_>, commit: &str) -> tree::Result<Result<String, String>> {
    let source = &desk.ticket.source;
    // This may be another repository than that of the trigger, whose branches say nothing of what changed there.
    let told = &source.commit;
    // Of one that is not here at all git would say more than anybody needs.
    let is_told = |told: &str| -> tree::Result<bool> {
        let is_here = repository.peeled(told)?.is_some();
        Ok(is_here && repository.git().run(&["merge-base", "--is-ancestor", told, commit])?)
    };
    if !told.is_empty() && !is_told(told)? {
        return Ok(Err(format!(
            "the commit {told} of the trigger is not what is checked out here"
        )));
    }
    if !source.base.is_empty() && told.is_empty() {
        return Ok(Err("the trigger said @base and no @commit".to_owned()));
    }
    if !source.base.is_empty() {
        let Some(branch) = source.base.strip_prefix("refs/heads/") else {
            return Ok(Err(format!("@base {} is no branch", source.base)));
        };
        let base = format!("refs/remotes/origin/{branch}");
        let found = match repository.peeled(&base)? {
            Some(base) => repository.git().line(&["merge-base", &base, commit])?,
            None => None,
        };
        let why = || format!("{branch} and the commit have no common one here: params.depth leaves it out, perhaps");
        return Ok(found.filter(|found| is_commit(found)).ok_or_else(why));
    }
    if source.name.is_empty() {
        return Ok(Err("the trigger said no @ref".to_owned()));
    }
    let Some(built) = Earlier::of(desk).and_then(|earlier| earlier.last_success()) else {
        return Ok(Err(format!("no build of {} was a success before", source.name)));
    };
    // It may be on no branch any more, or be left out by the depth; two trees are enough to compare.
    if repository.peeled(&built)?.is_none() {
        let shallow = repository.git().line(&["rev-parse", "--is-shallow-repository"])?;
        let depth: &[&str] = if shallow.as_deref() == Some("true") {
            &["--depth", "1"]
        } else {
            &[]
        };
        repository.fetch(&[&["--no-tags"], depth].concat(), &[&built])?;
    }
    let found = repository.peeled(&built)?;
    Ok(found.ok_or_else(|| format!("the repository does not have {built} any more, which was built before")))
}

/// The paths that differ; none if that can't be told or are too many.
fn listed(repository: &Repository<'_>, since: &str, commit: &str) -> tree::Result<Option<Vec<String>>> {
    let (mut paths, mut bytes) = (Vec::new(), 0);
    let arguments = [
        "diff-tree",
        "-r",
        "-z",
        "--name-only",
        "--no-renames",
        "--no-ext-diff",
        // What is built may say in its .gitmodules that a submodule that moves is no change.
        "--ignore-submodules=none",
        since,
        commit,
    ];
    let done = repository.git().read(&arguments, |out| {
        items(out, PATH_BYTES_MAX, |item| {
            // The rest is read too: who can't write ends with an error.
            if bytes <= BYTES_MAX && paths.len() <= PATHS_MAX {
                let text = text_of(item);
                bytes += text.len();
                paths.push(text);
            }
            Ok(())
        })
    })?;
    let whole = done && bytes <= BYTES_MAX && paths.len() <= PATHS_MAX;
    Ok(whole.then_some(paths))
}

/// A path as text. What no text of tasks may have is replaced.
fn text_of(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(plain).collect()
}

/// The builds of a job before that of a ticket.
struct Earlier<'a> {
    builds: Folder,
    build: u64,
    /// The ref that is built.
    name: &'a str,
}

impl<'a> Earlier<'a> {
    fn of(desk: &'a Desk) -> Option<Self> {
        let (job, build) = (desk.ticket.job.as_ref()?, desk.ticket.build?);
        let builds = desk.jobs().ok()?.enter(Path::new(job).join("builds")).ok()?;
        Some(Earlier {
            builds,
            build,
            name: &desk.ticket.source.name,
        })
    }

    /// The commit of the last trusted build of this ref that was a success.
    fn last_success(&self) -> Option<String> {
        let first = self.build.saturating_sub(BUILDS_MAX).max(1);
        (first..self.build).rev().find_map(|n| self.commit_of(n).ok().flatten())
    }

    /// The commit of a build, if that is a trusted one of this ref and was a success.
    fn commit_of(&self, n: u64) -> io::Result<Option<String>> {
        let build = self.builds.enter(n.to_string())?;
        let fits = line(&build, "state")? == "success"
            && line(&build, "ref")? == self.name
            && line(&build, "trust")? != "untrusted";
        if !fits {
            return Ok(None);
        }
        // That of the trigger is the pushed repository's; others may have been checked out beside it.
        let commit = match line(&build, "commit")? {
            told if told.is_empty() => line(&build.enter("params")?, super::COMMIT)?,
            told => told,
        };
        Ok(Some(commit).filter(|commit| is_commit(commit)))
    }
}

/// The line of a small file; empty if it is not there.
fn line(folder: &Folder, name: &str) -> io::Result<String> {
    match read(folder, Path::new(name)) {
        Ok(text) => Ok(String::from_utf8_lossy(text.trim_ascii()).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}
