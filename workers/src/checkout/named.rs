//! Where a checkout may fetch from, if not from anywhere: for a stranger's build, and for a task that was added to one.
//!
//! git-checkout works with the node's network. What a stranger wrote, or who may push and no more, may name servers, as
//! submodules, that only the node reaches. What may be fetched stands in the ticket: the mount has read the configuration.

use distcifs_settings::git::{Place, place};

use super::address::Address;
use crate::ticket::Ticket;
use crate::tree::{self, Trouble};

/// The ways that an untrusted build may take: the others have nobody who proves to be the server.
const WAYS: [&str; 2] = ["https", "ssh"];

/// Repositories by protocol, server and path.
#[derive(Debug)]
pub(super) struct Named {
    places: Vec<Place>,
    /// Whether they are those of a stranger's build.
    untrusted: bool,
}

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
    /// What this ticket may fetch from; `None`: from any repository. One that stands alone has no configuration: who posted
    /// it names what he wants, and of a stranger's nothing else is fetched.
    ///
    /// # Errors
    /// `Refused` if its own repository is none of these and a stranger wrote what is built: a parameter may be put into
    /// its address, and what a build records a stranger wrote.
    pub(super) fn of(ticket: &Ticket, own: &Address) -> tree::Result<Option<Self>> {
        let untrusted = ticket.is_untrusted();
        if untrusted {
            check(own)?;
        }
        let places = match &ticket.repositories {
            Some(known) => known.iter().filter_map(|address| place(address)).collect(),
            None if !untrusted => return Ok(None),
            None if ticket.job.is_none() => own.place().into_iter().collect(),
            None => {
                return Err(Trouble::Refused(
                    "ticket.json does not say which repositories an untrusted build may fetch from: the mount is older \
                     than this worker, and is to be updated too"
                        .to_owned(),
                ));
            }
        };
        let named = Named { places, untrusted };
        if !untrusted || named.has(own) {
            return Ok(Some(named));
        }
        Err(Trouble::Refused(own.masked(&format!(
            "{}: an untrusted build fetches from repositories only that a git-checkout task of the job's configuration \
             names, with no parameter in the address",
            own.shown
        ))))
    }

    /// Whether a submodule may be fetched from there. The error is a line for people.
    pub(super) fn may_fetch(&self, address: &Address) -> Result<(), String> {
        if self.has(address) {
            return Ok(());
        }
        let whose = if self.untrusted {
            "an untrusted build fetches from no other"
        } else {
            "submodules of a task that was added come from no other: allow.repositories in config.json names more, and \
             allow.submodules takes any"
        };
        Err(format!(
            "{} is no repository that the job's configuration names, and {whose}",
            address.shown
        ))
    }

    fn has(&self, address: &Address) -> bool {
        address.place().is_some_and(|place| self.places.contains(&place))
    }
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

    fn ticket(untrusted: bool, job: Option<&str>, repositories: Option<&[&str]>) -> Ticket {
        let labels = if untrusted { vec!["untrusted"] } else { Vec::new() };
        let build = job.map(|_| 1);
        let json = json!({ "job": job, "build": build, "labels": labels, "repositories": repositories });
        serde_json::from_value(json).unwrap()
    }

    /// What the ticket names is fetched, of the node's own repositories too where the build is trusted, and nothing else.
    #[test]
    fn a_ticket_says_what_is_fetched() {
        let own = Address::parse("https://example.org/a").unwrap();
        let other = Address::parse("ssh://git@10.0.0.1/b").unwrap();
        let known = ["https://example.org/a.git"];
        for (ticket, may) in [
            (ticket(true, Some("j"), Some(&known)), [true, false]),
            (ticket(false, Some("j"), Some(&known)), [true, false]),
            (ticket(true, None, None), [true, false]),
            (ticket(false, Some("j"), Some(&[])), [false, false]),
        ] {
            let named = Named::of(&ticket, &own).unwrap().unwrap();
            assert_eq!(
                [&own, &other].map(|one| named.may_fetch(one).is_ok()),
                may,
                "{ticket:?}"
            );
        }
        for ticket in [ticket(false, Some("j"), None), ticket(false, None, None)] {
            assert!(Named::of(&ticket, &own).unwrap().is_none(), "{ticket:?}");
        }
        let local = Address::parse("/srv/git/a").unwrap();
        let named = Named::of(&ticket(false, Some("j"), Some(&known)), &local).unwrap();
        let why = named.unwrap().may_fetch(&other).unwrap_err();
        assert!(why.contains("allow.submodules"), "{why}");
        // What says nothing of it is no leave for a stranger's build.
        for (ticket, words) in [
            (ticket(true, Some("j"), None), "the mount is older"),
            (ticket(true, Some("j"), Some(&[])), "with no parameter in the address"),
        ] {
            let refused = Named::of(&ticket, &own).expect_err(words);
            assert!(
                matches!(&refused, Trouble::Refused(why) if why.contains(words)),
                "{refused:?}"
            );
        }
    }
}
