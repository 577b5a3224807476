//! A group: builds, or tasks, that share a bound, and the places of those that run.

use std::collections::BTreeSet;

use distcifs_settings::expand;
use distcifs_settings::source::{Source, beginning};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::repository::config::{Group, Supersede};
use crate::repository::model::json::to_json;
use crate::repository::model::keys::Key;
use crate::repository::model::ticket::{BuildRef, Ticket, TicketKey};
use crate::storage::Digest;

/// Longest text of a group's name with its parameters put in, bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Bytes of it that are shown.
const SHOWN_BYTES_MAX: usize = 128;

/// Digits of a group's digest: as many as a job's uid has twice.
const DIGITS: usize = 32;

/// The parameter that a trigger sets with `@ref` too.
const REF: &str = "ref";

/// Who shares a group: builds, or tasks. What holds a place of the one may wait for one of the other, so no two
/// wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Builds of the owner's jobs.
    Builds,
    /// Their tasks.
    Tasks,
}

/// Whose group it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sharing {
    /// The owner of the jobs.
    pub(crate) owner: u32,
    /// Who shares it.
    pub(crate) kind: Kind,
    /// Whether they are builds of what strangers wrote.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) untrusted: bool,
}

/// The group that a ticket needs a place in, as the ticket's entry has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Names its entry: the same for all that share it, and no other's.
    pub digest: String,
    /// Places that may be taken by then, this one's among them.
    pub limit: u32,
    /// What becomes of older builds of the job.
    #[serde(default, skip_serializing_if = "Supersede::is_no")]
    pub supersede: Supersede,
    /// Its name, for people.
    pub name: String,
    /// The first digits of the commit that its ref named before, where older builds are superseded: see [`Push`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub before: String,
    /// Whether its push was told late, as it was when that came: it makes an end of none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

impl Member {
    /// The group that a configuration names, with these parameters put in, and its whole name.
    ///
    /// # Errors
    /// What is wrong with the name, for people.
    pub(crate) fn of(group: &Group, of: Sharing, values: &Map<String, Value>) -> Result<(Self, String), String> {
        let text = expand::expand(&group.name, values).map_err(|error| format!("concurrency.group: {error}"))?;
        if text.len() > TEXT_BYTES_MAX {
            let bytes = text.len();
            return Err(format!(
                "concurrency.group comes to {bytes} bytes with its parameters, and may have {TEXT_BYTES_MAX}"
            ));
        }
        let member = Member {
            digest: digest(&(of, &text)),
            limit: group.limit,
            supersede: group.supersede,
            name: shown(&text),
            before: String::new(),
            late: false,
        };
        Ok((member, text))
    }
}

/// Names a group's entry by what tells it from others.
fn digest<T: Serialize>(of: &T) -> String {
    let mut digest = Digest::of(&to_json(of)).to_string();
    digest.truncate(DIGITS);
    digest
}

/// What `${name}` stands for in the name of a group: these parameters, and as `ref` what the trigger gave with
/// `@ref`.
pub(crate) fn values(params: &[(String, String)], source: &Source) -> Map<String, Value> {
    let named = |(name, value): &(String, String)| (name.clone(), Value::from(value.as_str()));
    let mut values: Map<String, Value> = params.iter().map(named).collect();
    if !source.name.is_empty() || !values.contains_key(REF) {
        values.insert(REF.to_owned(), source.name.as_str().into());
    }
    values
}

/// Whether parameters are put into the name of a group.
pub(crate) fn has_names(name: &str) -> bool {
    let is_name = |segment: &expand::Segment<'_>| matches!(segment, expand::Segment::Name(_));
    expand::segments(name).iter().any(is_name)
}

/// A name as it is shown: what stands in names, and `/`; `_` for all else.
fn shown(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let letters = text.chars().map(|c| if plain(c) { c } else { '_' });
    letters.take(SHOWN_BYTES_MAX).collect()
}

/// A group's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupEntry {
    /// Whose it is.
    #[serde(flatten)]
    pub(crate) of: Sharing,
    /// Its name, for people.
    pub(crate) name: String,
}

/// Who holds a place: the place's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The job's uid.
    pub(crate) uid: String,
    /// The build's number.
    pub(crate) build: u64,
    /// The task's index; absent: the build itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<usize>,
    /// Its ticket.
    pub(crate) queue: String,
    /// The same.
    pub(crate) id: String,
}

impl Holder {
    /// The one that a ticket is.
    pub(crate) fn of(key: &TicketKey, part: &BuildRef) -> Self {
        Holder {
            uid: part.uid.clone(),
            build: part.build,
            task: part.task,
            queue: key.queue.to_string(),
            id: key.id.to_string(),
        }
    }

    /// Its ticket's entry.
    pub(crate) fn ticket_path(&self) -> String {
        Key::Ticket(&self.queue, &self.id).path()
    }
}

/// A group as somebody read it: its entry first, then who stands below it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// The version of its entry; `None`: there is none.
    pub(crate) version: Option<u32>,
    /// Places that are taken.
    pub(crate) taken: BTreeSet<u32>,
}

impl Seen {
    /// What stands below a group's entry of this version.
    pub(crate) fn of<'a>(version: Option<u32>, below: impl IntoIterator<Item = &'a str>) -> Self {
        let taken = below.into_iter().filter_map(|name| name.parse().ok()).collect();
        Seen { version, taken }
    }

    /// The place for one who shares it with at most `limit` - 1 others.
    pub(crate) fn free(&self, limit: u32) -> Option<Place> {
        let held = u32::try_from(self.taken.len()).unwrap_or(u32::MAX);
        let at = (0..limit).find(|place| held < limit && !self.taken.contains(place))?;
        let version = self.version;
        Some(Place { at, version })
    }
}

/// A place that is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its number.
    pub(crate) at: u32,
    /// The version of the group's entry when it was found to be free; `None`: there was none, or it is a place of a
    /// job's `concurrency`.
    pub(crate) version: Option<u32>,
}

/// A ticket of a group that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// The build's number.
    pub(crate) n: u64,
    /// The ticket's place in the order of all.
    pub(crate) created: u64,
    /// Whether it waits for a place.
    pub(crate) waits: bool,
    /// What it wants of older ones.
    pub(crate) supersede: Supersede,
}

/// What a newer build does to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superseded {
    /// The place of the other one in the list.
    pub(crate) at: usize,
    /// The number of the newest that does so.
    pub(crate) by: u64,
    /// Whether it does so though the other one runs.
    pub(crate) though_it_runs: bool,
}

/// Which builds of a job and a group newer ones make an end of. Newer is who has a higher number and came later: of
/// a retry of an old build one of these is not true.
pub(crate) fn superseded(builds: &[Unfinished]) -> Vec<Superseded> {
    let mut order: Vec<usize> = (0..builds.len()).collect();
    order.sort_unstable_by_key(|at| std::cmp::Reverse(builds[*at].created));
    // The highest numbers of those that came later, and want those to end that wait, or that run too.
    let (mut waiting, mut running) = (0, 0);
    let mut ended = Vec::new();
    for at in order {
        let build = &builds[at];
        let by = if build.waits { waiting } else { running };
        if by > build.n {
            let though_it_runs = running > build.n;
            ended.push(Superseded { at, by, though_it_runs });
        }
        match build.supersede {
            Supersede::No => {}
            Supersede::Pending => waiting = waiting.max(build.n),
            Supersede::Running => (waiting, running) = (waiting.max(build.n), running.max(build.n)),
        }
    }
    ended
}

/// What a trigger tells of a push: a ref that names a commit from then on, and what it named before. The commits are
/// known by their first digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Push<'a> {
    name: &'a str,
    before: &'a str,
    commit: String,
}

impl<'a> Push<'a> {
    /// The one that made a build; `None`: it says not all that a push does, and is none.
    pub(crate) fn of(source: &'a Source) -> Option<Self> {
        let (name, before, commit) = (&source.name, &source.before, beginning(&source.commit));
        let is_push = !before.is_empty() && !commit.is_empty();
        is_push.then_some(Push { name, before, commit })
    }

    /// Whether a build was made by the push that followed it: of the same ref, which named its commit before that.
    pub(crate) fn is_followed_by(&self, source: &Source, before: &str) -> bool {
        source.name == self.name && before == self.commit
    }

    /// Whether it is the next one after the push that made a build: so it takes that one back, where that followed it.
    pub(crate) fn follows(&self, source: &Source) -> bool {
        source.name == self.name && beginning(&source.commit) == self.before
    }
}

/// Whether two builds are of one job, and their places are none of each other's: one is in a group and the other is
/// not, or their groups are those of two owners. The same of two tasks of one job, whose groups have one name.
pub(crate) fn is_bounded_otherwise(one: &Ticket, other: &Ticket) -> bool {
    let job = |ticket: &Ticket| ticket.part.as_ref().map(|part| part.uid.clone());
    let same = job(one).is_some() && job(one) == job(other) && one.untrusted == other.untrusted;
    let builds = one.is_control();
    same && builds == other.is_control()
        && match (&one.group, &other.group) {
            (Some(group), Some(another)) => one.owner != other.owner && (builds || group.name == another.name),
            (group, another) => builds && group.is_some() != another.is_some(),
        }
}

/// Whose group a ticket's is.
pub(crate) fn sharing(ticket: &Ticket) -> Sharing {
    Sharing {
        owner: ticket.owner.unwrap_or(ticket.uid),
        kind: if ticket.is_control() { Kind::Builds } else { Kind::Tasks },
        untrusted: ticket.untrusted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILDS: Sharing = Sharing {
        owner: 1000,
        kind: Kind::Builds,
        untrusted: false,
    };

    fn member(name: &str, of: Sharing, params: &[(&str, &str)], pushed: &str) -> Result<Member, String> {
        Ok(named(name, of, params, pushed)?.0)
    }

    fn named(name: &str, of: Sharing, params: &[(&str, &str)], pushed: &str) -> Result<(Member, String), String> {
        let group = Group {
            name: name.into(),
            limit: 2,
            supersede: Supersede::No,
        };
        let params: Vec<(String, String)> = params.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let source = Source {
            name: pushed.into(),
            ..Source::default()
        };
        Member::of(&group, of, &values(&params, &source))
    }

    /// "A group is shared by all builds of one owner's jobs that name it. A group of tasks is another one than a
    /// group of builds of the same name. Untrusted builds have groups of their own."
    #[test]
    fn who_shares_a_group() {
        let digest = |name: &str, of| member(name, of, &[], "").unwrap().digest;
        let one = digest("deploy", BUILDS);
        assert_eq!((one.len(), digest("deploy", BUILDS)), (DIGITS, one.clone()));
        let (owner, kind, untrusted) = (1001, Kind::Tasks, true);
        for other in [
            digest("deploy2", BUILDS),
            digest("deploy", Sharing { owner, ..BUILDS }),
            digest("deploy", Sharing { kind, ..BUILDS }),
            digest("deploy", Sharing { untrusted, ..BUILDS }),
        ] {
            assert_ne!(one, other);
        }
    }

    /// "`ref` is what the trigger gave with `@ref`, else the parameter of that name": and no ref is odd.
    #[test]
    fn the_name_of_a_group_is_made_of_parameters() {
        let of = |name: &str, params: &[(&str, &str)], pushed: &str| member(name, BUILDS, params, pushed);
        let pushed = of("deploy-${ref}", &[], "refs/heads/main").unwrap();
        assert_eq!(pushed.name, "deploy-refs/heads/main");
        let (both, param) = ([("ref", "x"), ("team", "y")], [("ref", "x")]);
        assert_eq!(of("${ref}-${team}", &both, "main").unwrap().name, "main-y");
        assert_eq!(of("${ref}", &param, "").unwrap().name, "x");
        assert_eq!(of("deploy-${ref}", &[], "").unwrap().name, "deploy-");
        // What is shown is not what tells them apart.
        let (one, other) = (of("${ref}", &[], "ü#1").unwrap(), of("${ref}", &[], "ö#1").unwrap());
        assert_eq!((one.name.as_str(), other.name.as_str()), ("__1", "__1"));
        assert_ne!(one.digest, other.digest);
        // What a ceiling is held against is the whole name.
        assert_eq!(named("${ref}", BUILDS, &[], "ü#1").unwrap().1, "ü#1");
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let why = of("${p}", &[("p", &long)], "").unwrap_err();
        assert!(why.contains("comes to 1025 bytes"), "{why}");
        assert_eq!(
            of("${p}", &[("p", &long[1..])], "").unwrap().name.len(),
            SHOWN_BYTES_MAX
        );
        assert!(
            of("${unknown}", &[], "")
                .unwrap_err()
                .starts_with("concurrency.group: ")
        );
    }

    /// "A build starts if fewer hold a place than its `limit`": each by its own.
    #[test]
    fn a_place_is_free_if_fewer_are_held_than_the_limit() {
        let free = |taken: &[&str], limit| Some(Seen::of(Some(3), taken.iter().copied()).free(limit)?.at);
        assert_eq!(free(&[], 1), Some(0));
        assert_eq!(free(&["0"], 1), None);
        assert_eq!(free(&["1"], 1), None, "one holds a place, whichever it is");
        assert_eq!(free(&["1"], 2), Some(0));
        assert_eq!(free(&["7"], 2), Some(0));
        assert_eq!(free(&["0", "1", "x"], 3), Some(2));
    }

    fn build(n: u64, created: u64, waits: bool, supersede: Supersede) -> Unfinished {
        Unfinished {
            n,
            created,
            waits,
            supersede,
        }
    }

    /// "Whoever says no `@before` tells no push": and only pushes of one ref are in an order.
    #[test]
    fn pushes_of_a_ref_are_in_an_order() {
        let source = |name: &str, before: &str, commit: &str| Source {
            name: name.into(),
            before: before.into(),
            commit: commit.repeat(40),
            ..Source::default()
        };
        let (b, c) = ("b".repeat(16), "c".repeat(16));
        let (to_b, to_c) = (source("main", "aaaa", "b"), source("main", &b, "c"));
        let push = Push::of(&to_b).unwrap();
        assert!(push.is_followed_by(&to_c, &b) && !push.is_followed_by(&to_b, "aaaa"));
        assert!(!push.is_followed_by(&source("release", "", "c"), &b));
        let back = source("main", &c, "a");
        let back = Push::of(&back).unwrap();
        assert!(back.follows(&to_c) && !back.follows(&to_b));
        assert!(!back.follows(&source("release", "", "c")));
        assert_eq!(Push::of(&source("main", "", "b")), None);
        assert_eq!(Push::of(&source("main", &b, "")), None);
    }

    /// "With `supersede` `pending` a newer build of the job ends those that wait, with `running` those that run
    /// too. Newer is a build with a higher number that was triggered later."
    #[test]
    fn newer_builds_end_older_ones() {
        use Supersede::{No, Pending, Running};
        let ended = |builds: &[Unfinished]| {
            let mut ended: Vec<(u64, u64)> = superseded(builds)
                .into_iter()
                .map(|ended| (builds[ended.at].n, ended.by))
                .collect();
            ended.sort_unstable();
            ended
        };
        let three = |mode| {
            [
                build(1, 1, false, mode),
                build(2, 2, true, mode),
                build(3, 3, true, mode),
            ]
        };
        assert_eq!(ended(&three(No)), []);
        assert_eq!(ended(&three(Pending)), [(2, 3)]);
        assert_eq!(ended(&three(Running)), [(1, 3), (2, 3)]);
        // A retry of build 5 came after build 9: neither is newer.
        let retried = [build(9, 1, false, Running), build(5, 2, true, Running)];
        assert_eq!(ended(&retried), []);
        let later = [retried[0], retried[1], build(10, 3, true, Running)];
        assert_eq!(ended(&later), [(5, 10), (9, 10)]);
        // What the newest wants counts for those that are older than it, and what others want as well.
        let mixed = [
            build(1, 1, false, Running),
            build(2, 2, true, Running),
            build(3, 3, true, No),
        ];
        assert_eq!(ended(&mixed), [(1, 2)]);
        assert_eq!(ended(&[]), []);
        // One that has begun meanwhile goes on, where only those that wait end.
        let runs = |mode| superseded(&three(mode)).iter().all(|ended| ended.though_it_runs);
        assert!(runs(Running) && !runs(Pending));
    }
}
