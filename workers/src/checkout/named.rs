//! Where a stranger's build may fetch from: what its job's configuration names, and nothing else.
//!
//! git-checkout works with the node's network. What a stranger wrote may name servers, as submodules, that only the node
//! reaches.

use std::path::PathBuf;

use distcifs_settings::git::Place;
use serde_json::Value;

use super::address::Address;
use crate::record::Build;
use crate::task::desk::{Desk, read};
use crate::tree::{self, Trouble};

/// The ways that an untrusted build may take: the others have nobody who proves to be the server.
const WAYS: [&str; 2] = ["https", "ssh"];

/// A task of the configuration names by this parameter what it checks out.
const REPOSITORY: &str = "repository";

/// Repositories by protocol, server and path.
#[derive(Debug)]
pub(super) struct Named(Vec<Place>);

/// Whether an untrusted build may take this way to a repository at all.
///
/// # Errors
/// `Refused` if not.
fn check(address: &Address) -> tree::Result<()> {
    match address.place() {
        Some((protocol, ..)) if WAYS.contains(&protocol) => Ok(()),
        _ => Err(Trouble::Refused(format!(
            "an untrusted build fetches by {} only",
            WAYS.join(" or ")
        ))),
    }
}

impl Named {
    /// What the configuration of this ticket's build names as it stands. A ticket that stands alone has no
    /// configuration: who posted it names what he wants, and nothing else is fetched.
    ///
    /// # Errors
    /// `Refused` if the repository of the ticket itself is none of these: a parameter may be put into its address, and
    /// what a build records a stranger wrote. If the build's record can't be read.
    pub(super) fn of_own(desk: &Desk, own: &Address) -> tree::Result<Self> {
        check(own)?;
        let (Some(job), Some(build)) = (&desk.ticket.job, desk.ticket.build) else {
            return Ok(Named(own.place().into_iter().collect()));
        };
        let path = PathBuf::from(format!("{job}/builds/{build}/build.json"));
        let bytes = read(&desk.jobs()?, &path).map_err(|e| Trouble::from_io("build.json", &e))?;
        let named = Named(literal(&Build::parse(&bytes).map_err(Trouble::Refused)?));
        if named.has(own) {
            return Ok(named);
        }
        Err(Trouble::Refused(own.masked(&format!(
            "{}: an untrusted build fetches from repositories only that a git-checkout task of the job's configuration \
             names, with no parameter in the address",
            own.shown
        ))))
    }

    /// Whether an address is one of them.
    pub(super) fn has(&self, address: &Address) -> bool {
        address.place().is_some_and(|place| self.0.contains(&place))
    }
}

/// The repositories of the configuration's own tasks whose addresses no parameter is put into.
fn literal(build: &Build) -> Vec<Place> {
    let of_configuration = build.tasks.iter().filter(|task| task.added_by.is_none());
    let named = of_configuration.filter_map(|task| task.params.get(REPOSITORY).and_then(Value::as_str));
    let whole = named.filter(|text| !text.contains("${"));
    whole.filter_map(|text| Address::parse(text).ok()?.place()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn place(text: &str) -> Option<Place> {
        Address::parse(text).unwrap().place()
    }

    /// However it is written, a repository is the same; and nothing else is.
    #[test]
    fn a_repository_is_known_by_protocol_server_and_path() {
        for (one, other) in [
            ("https://Example.org/a/b", "https://example.org/a/b.git"),
            ("https://example.org/a/b/", "https://x:secret@example.org/a/b"),
            ("git@example.org:a/b.git", "ssh://git@example.org/a/b"),
            ("ssh://example.org/a/b", "git+ssh://other@example.org/a/b"),
        ] {
            assert_eq!(place(one), place(other), "{one} {other}");
            assert!(place(one).is_some(), "{one}");
        }
        for (one, other) in [
            ("https://example.org/a/b", "http://example.org/a/b"),
            ("https://example.org/a/b", "ssh://example.org/a/b"),
            ("https://example.org/a/b", "https://example.org:8443/a/b"),
            ("https://example.org/a/b", "https://example.org.evil.test/a/b"),
            ("https://example.org/a/b", "https://example.org@evil.test/a/b"),
            ("https://example.org/a/b", "https://example.org/a/b/../c"),
            ("https://example.org/a/b", "https://example.org/A/b"),
            ("https://example.org/a/b", "https://example.org/a/b.git.git"),
        ] {
            assert_ne!(place(one), place(other), "{one} {other}");
        }
        assert_eq!(place("/srv/git/a"), None);
        assert_eq!(place("file:///srv/git/a"), None);
    }

    #[test]
    fn an_untrusted_build_takes_ways_with_a_proof() {
        for (text, may) in [
            ("https://example.org/a", true),
            ("ssh://example.org/a", true),
            ("git@example.org:a", true),
            ("http://example.org/a", false),
            ("git://example.org/a", false),
            ("/srv/git/a", false),
            ("file:///srv/git/a", false),
        ] {
            assert_eq!(check(&Address::parse(text).unwrap()).is_ok(), may, "{text}");
        }
    }

    /// What a stranger's file adds names nothing, nor does what a parameter is put into.
    #[test]
    fn only_the_configuration_names_repositories() {
        let task = |index: usize, by: Option<usize>, repository: &str| json!({ "index": index, "type": "git-checkout", "added_by": by, "params": { "repository": repository } });
        let tasks = [
            task(0, None, "https://example.org/a"),
            task(1, None, "https://${host}/b"),
            task(2, Some(0), "https://10.0.0.1/c"),
        ];
        let text = json!({ "job": "j", "build": 1, "tasks": tasks }).to_string();
        let named = Named(literal(&Build::parse(text.as_bytes()).unwrap()));
        assert!(named.has(&Address::parse("https://example.org/a.git").unwrap()));
        for text in ["https://10.0.0.1/c", "https://example.org/b"] {
            assert!(!named.has(&Address::parse(text).unwrap()), "{text}");
        }
    }
}
