//! A group: builds, or tasks, that share a bound, and the places of those that run.

use std::collections::{BTreeSet, HashMap, HashSet};

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
    /// The commit that the build is of, its first digits, where older builds are superseded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub commit: String,
    /// The one before it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub before: String,
}

impl Member {
    /// The same of a build that comes from there.
    pub(crate) fn of_push(self, source: &Source) -> Self {
        let (commit, before) = (beginning(&source.commit), source.before.clone());
        Member { commit, before, ..self }
    }

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
            commit: String::new(),
            before: String::new(),
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
pub(crate) struct Unfinished<'a> {
    /// The build's number.
    pub(crate) n: u64,
    /// The ticket's place in the order of all.
    pub(crate) created: u64,
    /// Whether it waits for a place.
    pub(crate) waits: bool,
    /// What it wants of older ones.
    pub(crate) supersede: Supersede,
    /// The commit that it is of, and the one before it; empty where nobody said.
    pub(crate) push: (&'a str, &'a str),
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
/// a retry of an old build one of these is not true. One whose push came late makes an end of none.
pub(crate) fn superseded(builds: &[Unfinished<'_>]) -> Vec<Superseded> {
    let late = late(builds);
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
            _ if late.contains(&at) => {}
            Supersede::No => {}
            Supersede::Pending => waiting = waiting.max(build.n),
            Supersede::Running => (waiting, running) = (waiting.max(build.n), running.max(build.n)),
        }
    }
    ended
}

/// The builds whose push was told after the one that followed it: that one says that theirs came before. Of two that
/// say so of each other, as after a push that was taken back, neither is late.
fn late(builds: &[Unfinished<'_>]) -> HashSet<usize> {
    let mut after: HashMap<&str, Vec<&Unfinished<'_>>> = HashMap::new();
    for build in builds.iter().filter(|build| !build.push.1.is_empty()) {
        after.entry(build.push.1).or_default().push(build);
    }
    let is_late = |build: &Unfinished<'_>| {
        let follows = |other: &&Unfinished<'_>| other.created < build.created && other.push.0 != build.push.1;
        after.get(build.push.0).is_some_and(|others| others.iter().any(follows))
    };
    let all = builds.iter().enumerate();
    all.filter(|(_, build)| is_late(build)).map(|(at, _)| at).collect()
}

/// Whether two builds are of one job, and their places are none of each other's: one is in a group and the other is
/// not, or their groups are those of two owners.
pub(crate) fn is_bounded_otherwise(one: &Ticket, other: &Ticket) -> bool {
    let job = |ticket: &Ticket| ticket.part.as_ref().map(|part| part.uid.clone());
    let builds = one.is_control() && other.is_control() && one.untrusted == other.untrusted;
    builds
        && job(one) == job(other)
        && match (&one.group, &other.group) {
            (Some(_), Some(_)) => one.owner != other.owner,
            (one, other) => one.is_some() != other.is_some(),
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

    fn build(n: u64, created: u64, waits: bool, supersede: Supersede) -> Unfinished<'static> {
        Unfinished {
            push: ("", ""),
            n,
            created,
            waits,
            supersede,
        }
    }

    /// "A push that is told after the one that followed it ends no build."
    #[test]
    fn a_push_that_was_told_late_ends_none() {
        let of = |n: u64, push: (&'static str, &'static str)| Unfinished {
            push,
            ..build(n, n, true, Supersede::Running)
        };
        let ended = |builds: &[Unfinished<'_>]| -> Vec<u64> {
            let mut ended: Vec<u64> = superseded(builds).iter().map(|ended| builds[ended.at].n).collect();
            ended.sort_unstable();
            ended
        };
        let in_order = [of(1, ("b", "a")), of(2, ("c", "b")), of(3, ("d", "c"))];
        assert_eq!(ended(&in_order), [1, 2]);
        // The push to c was told first, then the one to b.
        assert!(ended(&[of(1, ("c", "b")), of(2, ("b", "a"))]).is_empty());
        // One that comes after both ends both.
        let after = [of(1, ("c", "b")), of(2, ("b", "a")), of(3, ("d", "c"))];
        assert_eq!(ended(&after), [1, 2]);
        // To b, and back to a: the later one is newer. So is the same commit again, and what says nothing.
        assert_eq!(ended(&[of(1, ("b", "a")), of(2, ("a", "b"))]), [1]);
        assert_eq!(ended(&[of(1, ("b", "a")), of(2, ("b", "a"))]), [1]);
        assert_eq!(ended(&[of(1, ("b", "")), of(2, ("", ""))]), [1]);
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
