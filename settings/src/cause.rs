//! What github-webhook says of a build in its cause, and which git-checkouts are of that repository: these take the
//! commit that the trigger said.

use serde_json::{Map, Value};

use crate::git::is_commit;
use crate::source::Source;

/// The queue whose tasks check out.
pub const CHECKOUT: &str = "git-checkout";

/// Where servers have the commits that anybody may push.
const OF_STRANGERS: [&str; 2] = ["pull/", "merge-requests/"];

/// The repository of `github push octo/hello 6113728f… refs/heads/main octocat`, in small letters, if that is the commit
/// that it names.
pub fn repository(cause: &str, commit: &str) -> Option<String> {
    let mut words = cause.split_ascii_whitespace();
    let (first, _, repository, told) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let named = repository
        .split_once('/')
        .is_some_and(|(owner, name)| !owner.is_empty() && !name.is_empty());
    (first == "github" && named && is_commit(told) && told.eq_ignore_ascii_case(commit))
        .then(|| repository.to_ascii_lowercase())
}

/// Host and path of a repository's address, in small letters: `https://host/path.git`,
/// `ssh://git@host:22/path`, `git@host:path`. `None`: one of another form, such as a folder.
pub fn address(text: &str) -> Option<(String, String)> {
    let (authority, path) = match text.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?,
        None => text.split_once(':').filter(|(authority, _)| !authority.contains('/'))?,
    };
    let host = authority.rsplit('@').next()?;
    let host = host.split(':').next()?;
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    (!host.is_empty() && !path.is_empty()).then(|| (host.to_ascii_lowercase(), path.to_ascii_lowercase()))
}

/// Which git-checkouts of a build take the commit that its trigger said. Texts are the `repository` and the `ref` of a
/// git-checkout with the build's parameters in it; `None`: it has none, or one whose parameters are not known.
#[derive(Debug)]
pub struct Pinned<'a> {
    source: &'a Source,
    told: Option<String>,
    /// Of the git-checkouts of the configuration, in order: what they add comes from what was checked out.
    repositories: Vec<Option<String>>,
}

impl<'a> Pinned<'a> {
    /// Those of a build: where it comes from, what its trigger said as its cause, and the repositories of the
    /// git-checkouts of its configuration.
    pub fn new(source: &'a Source, cause: &str, repositories: Vec<Option<String>>) -> Self {
        Pinned {
            source,
            told: repository(cause, &source.commit),
            repositories,
        }
    }

    /// Whether a git-checkout takes the commit: one of the repository that the webhook named, if one is checked out by
    /// that name, else one of the first repository. Of several none of which has that name, it is none.
    ///
    /// # Errors
    /// In a build of strangers, whose commit somebody may have approved, that it is not known which takes it, or that
    /// this one takes what another stranger pushed.
    pub fn takes(&self, this: Option<&str>, name: Option<&str>) -> Result<bool, String> {
        if self.source.commit.is_empty() {
            return Ok(false);
        }
        let takes = if self.source.untrusted {
            self.takes_of_stranger(this)?
        } else {
            self.takes_of_own(this)
        };
        match name {
            Some(name) if self.source.untrusted && !takes && self.is_of_strangers(name) => Err(format!(
                "its ref {name} is of what strangers push, and its repository is not that whose commit the build is of: \
                 name another ref"
            )),
            _ => Ok(takes),
        }
    }

    /// Parameters of a git-checkout, the build's parameters put in, with the commit if it takes that.
    ///
    /// # Errors
    /// As of `takes`; it asks for another commit.
    pub fn put_into(&self, mut params: Map<String, Value>) -> Result<Map<String, Value>, String> {
        let text = |name: &str| params.get(name).and_then(Value::as_str);
        if !self.takes(text("repository"), text("ref"))? {
            return Ok(params);
        }
        let (asked, commit) = (text("commit").unwrap_or_default(), &self.source.commit);
        if !asked.is_empty() && !asked.eq_ignore_ascii_case(commit) {
            return Err(format!(
                "it asks for the commit {asked}, and the build is of {commit}: leave params.commit out"
            ));
        }
        params.insert("commit".to_owned(), commit.clone().into());
        Ok(params)
    }

    fn takes_of_own(&self, this: Option<&str>) -> bool {
        let mut all = self.repositories.iter().map(Option::as_deref);
        let first = match &self.told {
            None => all.next(),
            Some(told) => match all.find(|text| is_called(*text, told)) {
                Some(named) => Some(named),
                None => self.only(),
            },
        };
        first.is_some_and(|first| is_same(first, this))
    }

    /// The same where nothing may be left to a guess.
    fn takes_of_stranger(&self, this: Option<&str>) -> Result<bool, String> {
        let Some(told) = &self.told else {
            return Ok(self.takes_of_own(this));
        };
        if self.repositories.iter().any(|text| is_called(text.as_deref(), told)) {
            // On whichever host: each may have what the stranger pushed.
            return Ok(is_called(this, told));
        }
        match self.only() {
            Some(only) => Ok(is_same(only, this)),
            None => Err(format!(
                "none of the repositories that the configuration checks out is called {told}, so it is not known which \
                 takes the commit {}: have one of that name, or one alone",
                self.source.commit
            )),
        }
    }

    /// The repository of all git-checkouts, if they have the same.
    fn only(&self) -> Option<Option<&str>> {
        let mut all = self.repositories.iter().map(Option::as_deref);
        let first = all.next()?;
        all.all(|other| is_same(first, other)).then_some(first)
    }

    /// Whether a ref is that of the build, or another that anybody may push to.
    fn is_of_strangers(&self, name: &str) -> bool {
        let short = |name: &'_ str| name.strip_prefix("refs/").unwrap_or(name).to_owned();
        let (name, own) = (short(name), short(&self.source.name));
        name == own || OF_STRANGERS.iter().any(|folder| name.starts_with(folder))
    }
}

/// Whether two addresses are of the same repository.
fn is_same(one: Option<&str>, other: Option<&str>) -> bool {
    let place = |text: Option<&str>| address(text?);
    one == other || place(one).is_some_and(|of_one| Some(of_one) == place(other))
}

/// Whether a repository has this path, in small letters, on its server.
fn is_called(text: Option<&str>, told: &str) -> bool {
    text.and_then(address).is_some_and(|(_, path)| path == told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "abababababababababababababababababababab";

    /// Which of these git-checkouts, each a repository and a ref, take the commit.
    fn taken(untrusted: bool, told: &str, checkouts: &[(&str, &str)]) -> Vec<Result<bool, String>> {
        let source = Source {
            name: "refs/pull/7/head".to_owned(),
            commit: COMMIT.to_owned(),
            untrusted,
            ..Source::default()
        };
        let all = checkouts.iter().map(|(repository, _)| Some((*repository).to_owned()));
        let pinned = Pinned::new(&source, told, all.collect());
        let one = |(repository, name): &(&str, &str)| pinned.takes(Some(*repository), Some(*name));
        checkouts.iter().map(one).collect()
    }

    /// "What somebody approved is what is checked out": in a build of strangers a git-checkout takes the commit, or what
    /// no stranger may push, or the task is `error`.
    #[test]
    fn a_strangers_commit_is_taken_or_nothing_is() {
        let told = format!("github pull_request octo/hello {COMMIT} refs/pull/7/head eve");
        let (tools, mirror) = (
            "https://git.example/ci/tools",
            "ssh://git@mirror.example/mirrors/hello.git",
        );
        let (own, elsewhere) = ("https://github.com/Octo/hello", "git@mirror.example:octo/hello.git");
        let pull = "refs/pull/7/head";
        // None has the name, and there are two: neither is taken unpinned.
        for result in taken(true, &told, &[(tools, "main"), (mirror, pull)]) {
            let why = result.unwrap_err();
            assert!(why.contains("octo/hello") && why.contains(COMMIT), "{why}");
        }
        let both = [(tools, "main"), (mirror, pull)];
        assert_eq!(taken(false, &told, &both), [Ok(false), Ok(false)]);
        for (checkouts, wanted) in [
            (&[(mirror, pull)][..], &[Some(true)][..]),
            (&[(tools, "main"), (own, pull)], &[Some(false), Some(true)]),
            // One on another host has what was pushed as well.
            (&[(elsewhere, "main"), (own, pull)], &[Some(true), Some(true)]),
            // A pull request of that number may be there, too.
            (&[(own, pull), (tools, pull)], &[Some(true), None]),
            (&[(own, pull), (tools, "pull/7/head")], &[Some(true), None]),
            (&[(own, pull), (tools, "refs/pull/7/merge")], &[Some(true), None]),
            (&[(own, pull), (tools, "merge-requests/8/head")], &[Some(true), None]),
        ] {
            let found: Vec<_> = taken(true, &told, checkouts).into_iter().map(Result::ok).collect();
            assert_eq!(found, wanted, "{checkouts:?}");
        }
        // By hand: the first is the one that is meant.
        assert_eq!(taken(true, "", &[(own, pull), (tools, "main")]), [Ok(true), Ok(false)]);
        assert!(taken(true, "", &[(tools, "main"), (own, pull)])[1].is_err());
    }

    #[test]
    fn a_cause_of_another_commit_or_kind_names_no_repository() {
        let (said, other) = ("ab".repeat(20), "cd".repeat(20));
        let of = |cause: &str| repository(cause, &said);
        let good = format!("github push Octo/hello {} refs/heads/main x", said.to_uppercase());
        assert_eq!(of(&good).as_deref(), Some("octo/hello"));
        for cause in [
            "",
            "cron 2026-01-01T00:00:00Z",
            "github create octo/hello - refs/tags/v1 x",
            &format!("github push octo/hello {other} refs/heads/main x"),
            &format!("gitlab push octo/hello {said} refs/heads/main x"),
            &format!("github push octo {said} refs/heads/main x"),
            &format!("github push /hello {said} refs/heads/main x"),
        ] {
            assert_eq!(of(cause), None, "{cause}");
        }
    }
}
