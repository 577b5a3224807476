//! git-checkout: brings a commit of a git repository into the workspace.
//!
//! Nothing that stood in the workspace before steers git: `.git` goes and is made anew, and so do
//! attributes that the commit does not have. Submodules are checked out by the same hands, one after
//! the other, so none of git's own scripts runs in a folder that it did not make.

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use distcifs_settings::git::{is_commit, is_ref};

use crate::beneath::{Folder, trouble};
use crate::task::desk::{Desk, say};
use crate::task::{Done, Found, Kind};
use crate::tree::{self, Trouble};

mod address;
mod before;
mod bounds;
mod changed;
mod failure;
mod git;
mod named;
mod pipeline;
mod submodules;

use address::Address;
use before::Before;
use bounds::Kept;
use failure::Failure;
use git::{Git, items};
use named::Named;

/// The worker git-checkout. Parameters: `repository`, `ref` (branch, tag, full ref or commit; default
/// HEAD), `commit`, `checkout-dir`, `depth`, `submodules`, `tasks`, `tasks_optional`.
pub const CHECKOUT: Kind = Kind {
    name: "git-checkout",
    about: "Checks git repositories out into the workspaces of tickets",
    records: &[COMMIT],
    adds: true,
    work: checkout,
};

/// The parameter that says which commit was checked out.
const COMMIT: &str = "git_commit";

/// All history, as git's `--depth` says it.
const DEPTH_OF_ALL: &str = "2147483647";

/// Longest entry of a tree, bytes: a path and some numbers.
const ENTRY_BYTES_MAX: u64 = 16 << 10;

/// What is fetched of all branches.
const BRANCHES: &str = "+refs/heads/*:refs/remotes/origin/*";

/// Pauses before a fetch is tried again that failed for what may pass.
const TRY_AGAIN: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];

/// Shortest beginning of a commit's name that is taken for one, which is what git shows of it. Of shorter
/// ones a large repository has nearly all, and words and years are such.
const SHORT_MIN: usize = 7;

fn checkout(desk: &Desk) -> Done {
    bounds::heed().map_err(|e| trouble("can't bound the memory of this process", &e))?;
    let refused = |why: String| Err(Trouble::Refused(why));
    let Some(text) = desk.param("repository") else {
        return refused("params.repository is missing".to_owned());
    };
    // What was given is not said again: it may be anything, a password too.
    let cant = |why| Trouble::Refused(format!("can't read the repository that params.repository names: {why}"));
    let address = Address::parse(&text).map_err(cant)?;
    let named = Named::of(&desk.ticket, &address)?;
    let wanted = Wanted::read(desk)?;
    let folder = desk.make_folder("checkout-dir")?;
    let submodules = match desk.param("submodules").as_deref() {
        None | Some("false" | "0" | "no") => false,
        Some("true" | "1" | "yes") => true,
        Some(other) => return refused(format!("params.submodules '{other}' is neither true nor false")),
    };
    if !matches!(desk.param("lfs").as_deref(), None | Some("false" | "0" | "no")) {
        return refused("params.lfs is not offered: files of LFS come as pointers".to_owned());
    }
    let repository = Repository {
        folder: &folder,
        address: &address,
        failure: Cell::new(Failure::Unknown),
    };
    let commit = repository.check_out(&wanted)?;
    if submodules {
        submodules::check_out(&repository, wanted.depth.as_deref(), named.as_ref())?;
    }
    repository.tell_lfs("")?;
    let name = wanted.name.as_deref().or(wanted.commit.as_deref()).unwrap_or("HEAD");
    say(&format!("{} {name} is {commit}", address.shown));
    let changed = match desk.ticket.changed {
        true => changed::paths(desk, &repository, &commit)?,
        false => None,
    };
    let (tasks, wrong) = match pipeline::find(desk, &folder, changed) {
        Ok(tasks) => (tasks, None),
        Err(Trouble::Refused(why)) => (None, Some(why)),
        Err(other) => return Err(other),
    };
    let recorded = vec![(COMMIT.to_owned(), commit)];
    Ok(Found { recorded, tasks, wrong })
}

/// What is to be checked out.
#[derive(Debug, Default)]
struct Wanted {
    /// Branch, tag, full ref or commit; none: HEAD, or the commit.
    name: Option<String>,
    /// Exactly this commit.
    commit: Option<String>,
    /// How many commits of history; none: all.
    depth: Option<String>,
}

impl Wanted {
    fn read(desk: &Desk) -> tree::Result<Self> {
        let refused = |why: String| Err(Trouble::Refused(why));
        let name = desk.param("ref");
        if let Some(name) = name.as_ref().filter(|name| !is_ref(name)) {
            let bare = name.strip_prefix("*/").filter(|bare| is_ref(bare));
            let hint = bare.map_or(String::new(), |bare| format!(": write {bare}"));
            return refused(format!(
                "params.ref '{name}' is not the name of a branch, tag or commit{hint}"
            ));
        }
        let commit = desk.param("commit").map(|commit| commit.to_ascii_lowercase());
        if let Some(commit) = commit.as_ref().filter(|commit| !is_commit(commit)) {
            return refused(format!(
                "params.commit '{commit}' is not a commit: 40 or 64 hexadecimal digits"
            ));
        }
        let depth = desk.param("depth");
        if let Some(depth) = depth
            .as_ref()
            .filter(|depth| !depth.bytes().all(|b| b.is_ascii_digit()))
        {
            return refused(format!("params.depth '{depth}' is not a number"));
        }
        let depth = depth.filter(|depth| depth.bytes().any(|b| b != b'0'));
        Ok(Wanted { name, commit, depth })
    }
}

/// A repository and the folder that its files come to.
struct Repository<'a> {
    folder: &'a Folder,
    address: &'a Address,
    /// How the last fetch failed, if it did.
    failure: Cell<Failure>,
}

impl Repository<'_> {
    fn git(&self) -> Git<'_> {
        Git {
            folder: self.folder,
            address: self.address,
        }
    }

    /// Fetches what is wanted and checks it out; gives the commit.
    fn check_out(&self, wanted: &Wanted) -> tree::Result<String> {
        let before = Before::take(self.folder)?;
        let long = wanted.commit.as_ref().or(wanted.name.as_ref());
        let sha256 = long.is_some_and(|name| name.len() == 64 && is_commit(name));
        self.init(sha256)?;
        let commit = match self.bring(wanted)? {
            Some(commit) => commit,
            None => self.bring_again(wanted, sha256)?,
        };
        if before.had_files {
            self.forget_attributes(&commit)?;
        }
        let branch = self.name_what_came(wanted)?;
        let how = branch.as_deref().map_or(vec!["--detach"], |branch| vec!["-B", branch]);
        let arguments = [&["checkout", "-q", "-f"], how.as_slice(), &[&commit, "--"]].concat();
        let (done, said) = self.git().run_heard(&arguments)?;
        if !done {
            let why = Failure::of(&said, self.address).why();
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            return Err(self.failed(&format!("can't check {commit} out{why}")));
        }
        let is = self.git().line(&["rev-parse", "--verify", "-q", "HEAD^{commit}"])?;
        if is.as_deref() != Some(commit.as_str()) {
            return Err(self.failed(&format!("{commit} was to be checked out, and was not")));
        }
        before.clean_up(self)?;
        Ok(commit)
    }

    /// A repository that nobody has touched.
    fn init(&self, sha256: bool) -> tree::Result<()> {
        let format = if sha256 {
            "--object-format=sha256"
        } else {
            "--object-format=sha1"
        };
        rustix::fs::mkdirat(self.folder, ".git", rustix::fs::Mode::from_raw_mode(0o777))
            .map_err(|errno| cant_make(errno.into()))?;
        let git = self.git();
        let made = git.run(&["init", "-q", "--template=", format])?
            && git.run(&["config", "remote.origin.url", &self.address.shown])?
            && git.run(&["config", "remote.origin.fetch", BRANCHES])?;
        if made {
            return Ok(());
        }
        Err(self.failed("can't make a repository in the workspace"))
    }

    /// Fetches what is wanted and gives its commit; `None` if it could not be fetched.
    fn bring(&self, wanted: &Wanted) -> tree::Result<Option<String>> {
        let depth = wanted.depth.as_deref();
        let name = wanted.name.as_deref().or(wanted.commit.as_deref()).unwrap_or("HEAD");
        let Some(mut found) = self.fetch_commit(name, depth)? else {
            return Ok(None);
        };
        let Some(commit) = wanted.commit.as_deref() else {
            return Ok(Some(found));
        };
        if found != commit && wanted.name.is_some() {
            if depth.is_some() {
                // It may be behind what was fetched; without all history nobody can tell.
                self.fetch(&["--no-tags", "--depth", DEPTH_OF_ALL], &[name])?;
                found = self.peeled("FETCH_HEAD")?.unwrap_or(found);
            }
            let within = found == commit
                || self.peeled(commit)?.as_deref() == Some(commit)
                    && self.git().run(&["merge-base", "--is-ancestor", commit, &found])?;
            if !within {
                return Err(self.failed(&format!(
                    "{name} of {} does not have the commit {commit}: it is at {found}",
                    self.address.shown
                )));
            }
            commit.clone_into(&mut found);
        }
        if found == commit {
            return Ok(Some(found));
        }
        Err(self.failed(&format!(
            "params.commit {commit} names no commit, but something whose commit is {found}"
        )))
    }

    /// What is done if nothing could be fetched: the repository may have names of the other kind.
    fn bring_again(&self, wanted: &Wanted, sha256: bool) -> tree::Result<String> {
        let failure = self.failure.get();
        if let Failure::Passing(why) = failure {
            return Err(self.unreadable(why));
        }
        let references = self.references()?;
        let other = self.address.with_ending();
        if let Some(address) = other.as_ref().filter(|_| references == References::Unreadable) {
            let other = Repository {
                folder: self.folder,
                address,
                failure: Cell::new(Failure::Unknown),
            };
            if let Some(commit) = other.bring(wanted)? {
                return Ok(commit);
            }
            if failure == Failure::SentOn {
                return Err(self.sent_on(&other)?);
            }
        }
        if failure == Failure::SentOn {
            return Err(self.sent_on(self)?);
        }
        if let Some(why) = failure.why() {
            return Err(self.unreadable(why));
        }
        if !sha256 && matches!(&references, References::First(name) if name.len() == 64) {
            self.folder.remove(OsStr::new(".git")).map_err(cant_make)?;
            self.init(true)?;
            if let Some(commit) = self.bring(wanted)? {
                return Ok(commit);
            }
        }
        Err(self.no_such(wanted, &references))
    }

    /// What is said of a server that sends on: where to, if it tells. If that is the address which was tried
    /// too, what came of it.
    fn sent_on(&self, other: &Repository<'_>) -> tree::Result<Trouble> {
        let Some(to) = self.git().sent_on_to()? else {
            return Ok(self.unreadable(Failure::SentOn.why().unwrap_or_default()));
        };
        if to == other.address.url
            && let Failure::Passing(why) | Failure::Lasting(why) = other.failure.get()
        {
            return Ok(other.unreadable(why));
        }
        Ok(self.unreadable(&format!(
            "its server sends on to {to}, and that is not followed: write that address, if it is the right one"
        )))
    }

    /// Fetches what a name means. A short commit, which no server looks up, comes with everything.
    fn fetch_commit(&self, name: &str, depth: Option<&str>) -> tree::Result<Option<String>> {
        // This one alone is a word of git's own.
        let name = if name == "tag" { "+tag" } else { name };
        let fetched = match depth {
            Some(depth) => self.fetch(&["--no-tags", "--depth", depth], &[name])?,
            None => self.fetch(&["--tags", "--force"], &[name, BRANCHES])?,
        };
        if fetched {
            return self.peeled("FETCH_HEAD");
        }
        let short = is_hexadecimal(name) && name.len() >= SHORT_MIN;
        if !short || !self.fetch(&["--tags", "--force"], &[BRANCHES])? {
            return Ok(None);
        }
        let found = self.peeled(name)?;
        if let Some(commit) = found.as_ref().filter(|commit| *commit != name) {
            say(&format!(
                "git-checkout: there is no branch or tag {name}: it is taken for the beginning of the commit {commit}"
            ));
        }
        Ok(found)
    }

    fn fetch(&self, options: &[&str], what: &[&str]) -> tree::Result<bool> {
        let git = self.git();
        let mut arguments = vec!["fetch", "-q", "--no-recurse-submodules", "--no-auto-maintenance"];
        arguments.extend(git.reading());
        arguments.extend(options);
        arguments.extend(["--", &self.address.url]);
        arguments.extend(what);
        let mut pauses = TRY_AGAIN.iter();
        loop {
            let (done, said) = git.run_heard(&arguments)?;
            let failure = Failure::of(&said, self.address);
            self.failure.set(failure);
            let pause = match failure {
                Failure::Passing(why) if !done => pauses.next().map(|pause| (pause, why)),
                _ => None,
            };
            let Some((pause, why)) = pause else {
                return Ok(done);
            };
            say(&format!("{why}: trying again in {} s", pause.as_secs()));
            std::thread::sleep(*pause);
        }
    }

    /// Gives a tag that was fetched its name, for `git describe`, and a branch the name under which the
    /// repository has it; gives the branch.
    fn name_what_came(&self, wanted: &Wanted) -> tree::Result<Option<String>> {
        let Some(name) = wanted.name.as_deref() else {
            return Ok(None);
        };
        let text = self.folder.read(".git/FETCH_HEAD").and_then(|file| {
            let mut line = String::new();
            BufReader::new(file.take(ENTRY_BYTES_MAX)).read_line(&mut line)?;
            Ok(line)
        });
        let text = text.unwrap_or_default();
        let Some((object, said)) = text.split_once('\t') else {
            return Ok(None);
        };
        // Git takes a name as it is, then below refs/, and then as a tag or a branch.
        let bare = name.strip_prefix("refs/").unwrap_or(name);
        for (kind, short, here) in [
            ("tag", Some(name), "refs/tags/"),
            ("tag", bare.strip_prefix("tags/"), "refs/tags/"),
            ("branch", Some(name), "refs/remotes/origin/"),
            ("branch", bare.strip_prefix("heads/"), "refs/remotes/origin/"),
        ] {
            let Some(short) = short.filter(|short| *short != "HEAD" && !short.starts_with('-')) else {
                continue;
            };
            if !said.trim_start().starts_with(&format!("{kind} '{short}' of ")) {
                continue;
            }
            let place = format!("{here}{short}");
            if !self.git().run(&["update-ref", &place, object])? {
                return Err(self.failed(&format!("can't note {place}")));
            }
            return Ok((kind == "branch").then(|| short.to_owned()));
        }
        Ok(None)
    }

    fn peeled(&self, name: &str) -> tree::Result<Option<String>> {
        let commit = format!("{name}^{{commit}}");
        self.git().line(&["rev-parse", "--verify", "-q", &commit])
    }

    /// What the repository names.
    fn references(&self) -> tree::Result<References> {
        let git = self.git();
        let mut arguments = vec!["ls-remote", "-q"];
        arguments.extend(git.reading());
        arguments.extend(["--", &self.address.url]);
        let mut first = String::new();
        let done = git.read(&arguments, |out| {
            out.take(ENTRY_BYTES_MAX).read_line(&mut first)?;
            io::copy(out, &mut io::sink()).map(drop)
        })?;
        Ok(match first.split_whitespace().next() {
            _ if !done => References::Unreadable,
            Some(object) => References::First(object.to_owned()),
            None => References::None,
        })
    }

    /// Removes attributes that somebody left where the commit has none: git would read them.
    fn forget_attributes(&self, commit: &str) -> tree::Result<()> {
        let (mut folders, mut tracked, mut kept) = (vec![PathBuf::new()], HashSet::new(), Kept::default());
        let done = self.git().read(&["ls-tree", "-r", "-t", "-z", commit], |out| {
            items(out, ENTRY_BYTES_MAX, |item| {
                let Some(at) = item.iter().position(|byte| *byte == b'\t') else {
                    return Ok(());
                };
                let path = Path::new(OsStr::from_bytes(&item[at + 1..]));
                let is_folder = item.starts_with(b"040000 ");
                kept.add(item, is_folder)?;
                if is_folder {
                    folders.push(path.to_owned());
                } else if path.file_name() == Some(OsStr::new(".gitattributes")) {
                    tracked.insert(path.to_owned());
                }
                Ok(())
            })
        })?;
        if !done {
            return Err(self.failed(&format!("can't read the commit {commit}")));
        }
        for path in folders {
            // What is not there, or no folder, has none; git puts a folder in its place.
            if let Ok(folder) = self.folder.enter(&path)
                && !tracked.contains(&path.join(".gitattributes"))
            {
                let removed = folder.remove(OsStr::new(".gitattributes"));
                removed.map_err(|e| trouble("can't remove .gitattributes", &e))?;
            }
        }
        Ok(())
    }

    /// Says so on the console if attributes of the commit name LFS; `whose` names a submodule.
    fn tell_lfs(&self, whose: &str) -> tree::Result<()> {
        let places = [".gitattributes", "**/.gitattributes"].map(|place| format!(":(glob){place}"));
        let mut arguments = vec!["grep", "-q", "-F", "-e", "filter=lfs", "HEAD", "--"];
        arguments.extend(places.iter().map(String::as_str));
        if self.git().run(&arguments)? {
            say(&format!(
                "git-checkout: files of LFS{whose} came as pointers: `git lfs pull` in a script fetches what they stand for"
            ));
        }
        Ok(())
    }

    /// Why nothing could be fetched.
    fn no_such(&self, wanted: &Wanted, references: &References) -> Trouble {
        let shown = &self.address.shown;
        let name = wanted.name.as_deref().or(wanted.commit.as_deref()).unwrap_or("HEAD");
        match references {
            References::Unreadable => self.unreadable("is the address right, and may the owner of this job read it?"),
            References::None => self.failed(&format!("the repository {shown} is empty: it has no branch yet")),
            References::First(_) if self.failure.get() != Failure::NoSuchRef => self.failed(&format!(
                "the repository {shown} has no {name}, or it could not be fetched"
            )),
            References::First(_) => self.failed(&format!("the repository {shown} has no {name}{}", hint(name))),
        }
    }

    fn unreadable(&self, why: &str) -> Trouble {
        self.failed(&format!("can't read the repository {}: {why}", self.address.shown))
    }

    /// A reason, without what is secret.
    fn failed(&self, why: &str) -> Trouble {
        Trouble::Refused(self.address.masked(why))
    }
}

/// What a repository names.
#[derive(Debug, PartialEq, Eq)]
enum References {
    /// It can't be read.
    Unreadable,
    /// Nothing: it is empty.
    None,
    /// The object that it names first, and more.
    First(String),
}

/// What may have been meant by a name that a repository does not have.
fn hint(name: &str) -> String {
    if name == "HEAD" {
        return ": its HEAD is a branch that is not there, so say in params.ref which is meant".to_owned();
    }
    let short = name.strip_prefix("refs/").unwrap_or(name);
    let short = short.strip_prefix("remotes/").unwrap_or(short);
    match short.strip_prefix("origin/") {
        Some(branch) => format!(": the branch itself is called {branch}"),
        None if is_hexadecimal(name) && name.len() < SHORT_MIN => {
            format!(", and the beginning of a commit has at least {SHORT_MIN} digits")
        }
        None => String::new(),
    }
}

fn cant_make(error: std::io::Error) -> Trouble {
    trouble("can't make .git anew", &error)
}

fn is_hexadecimal(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
