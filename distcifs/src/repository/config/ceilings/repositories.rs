//! Which repositories tasks name, and where a checkout may fetch from.

use std::collections::{BTreeSet, HashSet};

use distcifs_settings::expand::{expand, plain};
use distcifs_settings::git;
use serde_json::{Map, Value};

use super::Ceilings;
use crate::repository::config::{CHECKOUT, JobConfig};

/// What may be written for a param that is on.
const ON: [&str; 3] = ["true", "1", "yes"];

/// A repository, however its address is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Repository {
    /// On a server.
    There(git::Place),
    /// On this node, or of another kind: by its text.
    Here(String),
}

impl Repository {
    pub(super) fn of(address: &str) -> Self {
        git::place(address).map_or_else(
            || {
                Repository::Here(
                    address
                        .strip_prefix("file://")
                        .unwrap_or(address)
                        .trim_end_matches('/')
                        .to_owned(),
                )
            },
            Repository::There,
        )
    }
}

/// What a configuration says of repositories.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Repositories {
    /// Those that added tasks may check out.
    named: HashSet<Repository>,
    /// Those of the configuration's tasks that check out submodules too.
    with_submodules: HashSet<Repository>,
    /// Of an untrusted build all that is fetched: what the configuration names with no parameter in it.
    literal: Option<Vec<git::Place>>,
}

impl Repositories {
    /// Those of a configuration, with these values put in.
    pub(super) fn of(config: &JobConfig, values: &Map<String, Value>, untrusted: bool) -> Self {
        let checkouts = || config.tasks.iter().filter(|task| task.kind.as_str() == CHECKOUT);
        let put_in = |text: &str| expand(text, values).ok();
        let address_of = |params: &Map<String, Value>| put_in(params.get("repository")?.as_str()?);
        let on = |params: &Map<String, Value>| {
            let text = params.get("submodules").map(plain).and_then(|text| put_in(&text));
            text.is_some_and(|text| ON.contains(&text.as_str()))
        };
        let named = checkouts().filter_map(|task| address_of(&task.params));
        let named = named.chain(config.allow.repositories.iter().cloned());
        let with_submodules = checkouts().filter(|task| on(&task.params));
        let written = checkouts().filter_map(|task| task.params.get("repository")?.as_str());
        let literal = written.filter(|text| !text.contains("${")).filter_map(git::place);
        Repositories {
            named: named.map(|address| Repository::of(&address)).collect(),
            with_submodules: with_submodules
                .filter_map(|task| address_of(&task.params))
                .map(|address| Repository::of(&address))
                .collect(),
            literal: untrusted.then(|| literal.collect()),
        }
    }

    /// Whether an added task may check this one out.
    pub(super) fn has(&self, address: &str) -> bool {
        self.named.contains(&Repository::of(address))
    }
}

impl Ceilings {
    /// The repositories of servers that a git-checkout with these params may fetch from, its submodules too, without
    /// user and password; `None`: from any.
    pub fn fetches(&self, params: &Map<String, Value>, added: bool) -> Option<Vec<String>> {
        let known = &self.repositories;
        let places: Vec<&git::Place> = match &known.literal {
            Some(literal) => literal.iter().collect(),
            None if !added || self.allow.submodules => return None,
            None => {
                let own = params.get("repository").map(plain).unwrap_or_default();
                if known.with_submodules.contains(&Repository::of(&own)) {
                    return None;
                }
                let there = known.named.iter().filter_map(|repository| match repository {
                    Repository::There(place) => Some(place),
                    Repository::Here(_) => None,
                });
                there.collect()
            }
        };
        let addresses: BTreeSet<String> = places.into_iter().map(git::address).collect();
        Some(addresses.into_iter().collect())
    }
}
