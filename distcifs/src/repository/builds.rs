//! Builds: triggered, looked at, listed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use distcifs_settings::source::Source;
use nix::unistd::getuid;

use super::about::Counts;
use super::attempts::AttemptDirs;
use super::config::{JobConfig, TriggerRequest, Upstream};
use super::configure::Configurations;
use super::configure::heads::{Carried, Opened};
use super::consoles::Consoles;
use super::core::{now, random_id};
use super::events::Events;
use super::format::{Gate, STRANGERS};
use super::jobs::{Jobs, counted};
use super::model::build::{Build, Live, live_path};
use super::model::deed::{Did, and};
use super::model::given;
use super::model::group::{Kind, Member, Sharing, values};
use super::model::job::{ConfigHead, Job};
use super::model::json::{from_json, to_json};
use super::model::keys::Key;
use super::model::steps;
use super::model::steps::build::{Begun, RETRIES_MAX, Refused, Token};
use super::model::ticket::{BuildRef, Poster};
use super::model::unknown::Unknown;
use super::names::Name;
use super::people::People;
use super::store::{EpochPin, Store};
use super::tickets::Tickets;
use super::trust::is_held;
use super::{Error, Result};
use crate::storage::{Commit, Digest, Entry, Op};

mod cache;
mod indexes;
mod late;
mod looking;
mod trashed;

pub(crate) use cache::RecordCache;
pub(crate) use indexes::Lines;
pub use trashed::DAYS_USUAL;
pub(crate) use trashed::Trash;

/// Races lost against other triggers of the same job before one gives up.
const RACES_MAX: u32 = 1000;

/// How long an idempotence key is remembered, milliseconds: the seven days promised, and one more
/// so that clocks may differ.
const KEY_LIFE: u64 = 8 * 24 * 3600 * 1000;

/// Keys of one job looked at for their age at once.
const KEYS_SWEPT: usize = 1000;

/// Pause between two such looks on a mount, milliseconds: listing the keys of a job takes the longer
/// the more there are, and a hundred new ones a second are more than any job has for long.
const SWEEP_PAUSE: u64 = 10_000;

/// The builds of all jobs: those that are not finished, the records of the others, and what lies in the trash.
pub struct Builds {
    pub(super) store: Arc<Store>,
    /// Lets what came with the second version of the format be written.
    pub(super) gate: Arc<Gate>,
    pub(super) events: Arc<Events>,
    pub(super) jobs: Arc<Jobs>,
    pub(super) configs: Arc<Configurations>,
    pub(super) tickets: Arc<Tickets>,
    pub(super) consoles: Arc<Consoles>,
    pub(super) attempts: Arc<AttemptDirs>,
    pub(super) people: Arc<People>,
    pub(crate) counts: Arc<Counts>,
    /// Users of the programs that steer, named at the mount.
    pub(super) steering: OnceLock<Vec<u32>>,
    pub(super) records: RecordCache,
    pub(super) trash: Trash,
}

impl Builds {
    /// Starts a build for somebody who is no build.
    #[cfg(test)]
    pub async fn trigger(self: &Arc<Self>, job: &Job, text: &[u8], who: Poster) -> Result<u64> {
        self.trigger_by(job, text, who, None, &Carried::default()).await
    }

    /// Starts a build, perhaps for another one: its entry and its ticket are made in one step, durably;
    /// its number. `carried` is what was read when the trigger was opened, if that counts yet. Whether the job is
    /// off, or another's, is as it is now.
    pub(crate) async fn trigger_by(
        self: &Arc<Self>,
        job: &Job,
        text: &[u8],
        who: Poster,
        by: Option<&Upstream>,
        carried: &Carried,
    ) -> Result<u64> {
        let Opened { pin, head, config } = match carried.take(&self.store.epochs) {
            Some(opened) => opened,
            None => {
                let pin = self.store.pin_epoch().await?;
                let (head, config) = self.configs.current(job).await?;
                Opened { pin, head, config }
            }
        };
        job.check_switch(&head)?;
        let mut request = TriggerRequest::read(text, &config, by).map_err(Error::Invalid)?;
        let key = request.key.take().map(|token| self.token_path(job, &token, who.uid));
        let (mut live, group) = self.entry_of(job, &head, &config, request, who).await?;
        let asked = live.held;
        for _ in 0..RACES_MAX {
            // What it was held for in an earlier round may be approved by now.
            live.held = asked;
            let token = match &key {
                Some(path) => match self.keyed(job, path).await? {
                    Ok(token) => Some(token),
                    Err(n) => return Ok(n),
                },
                None => None,
            };
            let path = job.path();
            let entry = self.store.get(&path).await?;
            let read = counted(job, entry.as_ref())?;
            let room = self
                .making_room(job, &read, &live, self.may_steer(job, who.uid))
                .await?;
            live.held = room.held;
            let group = self.told(job, group.clone(), &live.source, read.counter.next);
            let begun = begun(who, group.await?);
            let mut step = match steps::build::trigger(job, &read, &live, begun, token.as_ref()) {
                Ok(step) => step,
                Err(Refused::Renamed) => {
                    self.jobs.settle_name(job).await?;
                    continue;
                }
                Err(refused) => return Err(not_begun(job, read.counter.next, refused)),
            };
            let n = step.after;
            step.ops.extend(room.ops);
            if live.held {
                self.lay_held(job).await?;
                let told = self.told_of_held(job, &config.notify, n, &live).await?;
                step.ops.extend(steps::build::telling(&told));
            }
            if self.began(&pin, job, n, &live.nonce, step.ops).await? {
                self.counts.triggered.fetch_add(1, Ordering::Relaxed);
                if key.is_some() {
                    self.sweep_keys_sometimes(job);
                }
                return Ok(n);
            }
        }
        Err(Error::Busy(format!(
            "jobs/{}/trigger: too many others trigger it",
            job.name
        )))
    }

    /// The entry of the build that somebody asks for, and its group; a build of strangers only where all mounts know
    /// such.
    async fn entry_of(
        &self,
        job: &Job,
        head: &ConfigHead,
        config: &JobConfig,
        request: TriggerRequest,
        who: Poster,
    ) -> Result<(Live, Option<Member>)> {
        let source = request.source;
        self.check_commit(job, &source, who.uid)?;
        let what = format!("jobs/{}/trigger", job.name);
        let held = source.untrusted && is_held(&what, config, &source.senders)?;
        if source.untrusted {
            self.gate.pass(STRANGERS).await?;
        }
        if config.group.is_some() || config.tasks.iter().any(|task| task.group.is_some()) {
            self.gate.pass("groups").await?;
        }
        if !config.notify.is_empty() {
            self.gate.pass("notifications").await?;
        }
        let parameters = request.parameters.into_iter();
        let parameters: Vec<_> = parameters.map(|(name, value)| (name.to_string(), value)).collect();
        let group = group_of(job.entry.access.uid, config, &parameters, &source)?;
        let live = Live {
            cause: request.cause,
            priority: config.priority.value,
            source,
            held,
            given: given::pack(&request.given),
            ..self.new_live(job, head, who).await
        };
        Ok((self.with_params(live, parameters).await?, group))
    }

    /// The entry that remembers a token of a user.
    fn token_path(&self, job: &Job, token: &str, uid: u32) -> String {
        let digest = Digest::of(self.scoped(token, uid).as_bytes()).to_string();
        Key::Token(job.uid(), &digest[..32]).path()
    }

    /// Refuses a commit that is said by a user who may not: of a repository that shows forks, as GitHub's do, it may
    /// be a stranger's, and what it brings runs with the rights of the job's owner.
    pub(crate) fn check_commit(&self, job: &Job, source: &Source, uid: u32) -> Result<()> {
        if source.commit.is_empty() && source.before.is_empty() || self.may_steer(job, uid) {
            return Ok(());
        }
        Err(Error::Access(format!(
            "jobs/{}/trigger: only the job's owner, root, and programs that steer say @commit and @before",
            job.name
        )))
    }

    /// Whether this user says what is built of a job: its owner, and those who steer.
    fn may_steer(&self, job: &Job, uid: u32) -> bool {
        uid == job.entry.access.uid || self.steers(uid)
    }

    /// Whether this is root, whoever mounted, or a program that steers.
    fn steers(&self, uid: u32) -> bool {
        uid == 0 || uid == getuid().as_raw() || self.steering.get().is_some_and(|uids| uids.contains(&uid))
    }

    /// A token that no other user can give. Root, whoever mounted and the programs that steer have one set
    /// of them in common: which of these runs on which node is nobody's business.
    fn scoped(&self, token: &str, uid: u32) -> String {
        if self.steers(uid) {
            return token.to_owned();
        }
        // No token has a line end.
        format!("{uid}\n{token}")
    }

    /// Commits the entry and the ticket of a build or a retry; `false` if another was first.
    pub(crate) async fn began(&self, pin: &EpochPin, job: &Job, n: u64, nonce: &str, ops: Vec<Op>) -> Result<bool> {
        let ours = |entry: Option<&Entry>| {
            entry.is_some_and(|e| serde_json::from_slice(&e.data).is_ok_and(|live: Live| live.nonce == nonce))
        };
        if self
            .store
            .commit_pinned(pin, ops, &live_path(job.uid(), n), ours)
            .await?
            == Commit::Done
        {
            return Ok(true);
        }
        // It may have begun, unknown to us, and be over by now.
        Ok(self.record(job, n).await?.is_some_and(|record| record.nonce == nonce))
    }

    /// How an idempotence key is entered, or the build that it stands for. One whose build was pushed out or ran out of
    /// time before anybody approved it is free again: so what is sent once more is held once more.
    async fn keyed(&self, job: &Job, path: &str) -> Result<std::result::Result<Token, u64>> {
        let token = |version| {
            let path = path.to_owned();
            Ok(Ok(Token { path, version }))
        };
        let Some(entry) = self.store.get(path).await? else {
            return token(None);
        };
        let (n, _): (u64, u64) = from_json(path, &entry.data)?;
        let dismissal = match self.build_head(job, n).await {
            Ok(build) => build.dismissal(),
            Err(Error::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        match dismissal {
            Some(cause) if cause.frees_key() => token(Some(entry.version)),
            _ => Ok(Err(n)),
        }
    }

    /// Removes some old keys of a job in the background, unless that was done a moment ago.
    fn sweep_keys_sometimes(self: &Arc<Self>, job: &Job) {
        let (swept, now) = (&self.records.swept, now());
        let last = swept.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= SWEEP_PAUSE;
        if !due
            || swept
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        let (builds, job) = (self.clone(), job.clone());
        self.store.runtime.spawn(async move {
            if let Err(error) = builds.sweep_keys(&job).await {
                tracing::warn!(job = %job.name, %error, "removing old idempotence keys");
            }
        });
    }

    /// Removes some keys that are old enough.
    async fn sweep_keys(&self, job: &Job) -> Result<()> {
        let folder = Key::JobKeys(job.uid()).path();
        let mut names = self.store.children(&folder).await?;
        names.sort();
        // Each call begins elsewhere: the names are digests.
        let start = names.partition_point(|name| *name < format!("{:04x}", now() % 0x1_0000));
        for name in names.iter().cycle().skip(start).take(names.len().min(KEYS_SWEPT)) {
            let path = format!("{folder}/{name}");
            let Some(entry) = self.store.get(&path).await? else {
                continue;
            };
            let (_, made): (u64, u64) = from_json(&path, &entry.data)?;
            if now().saturating_sub(made) > KEY_LIFE {
                self.store
                    .commit(vec![super::model::ops::delete(path, Some(entry.version))])
                    .await?;
            }
        }
        Ok(())
    }

    /// The entry of a new build, without what its trigger says.
    async fn new_live(&self, job: &Job, head: &ConfigHead, who: Poster) -> Live {
        let (triggered, uid) = (now(), who.uid);
        let by = and(&[], Did::Triggered, self.people.person(uid).await);
        Live {
            config: head.entry(),
            plan: None,
            params: None,
            params_digest: None,
            run: 0,
            abort: false,
            insist: false,
            superseded: None,
            keep: false,
            triggered,
            uid,
            owner: Some(job.entry.access.uid),
            by,
            cause: None,
            source: Source::default(),
            given: String::new(),
            held: false,
            approved: None,
            ended: None,
            before: None,
            priority: 0,
            nonce: random_id(),
            unknown: Unknown::default(),
        }
    }

    /// An entry with these parameters: themselves if there is room for them, else the digest of their JSON.
    pub(crate) async fn with_params(&self, live: Live, params: Vec<(String, String)>) -> Result<Live> {
        let json = to_json(&params);
        if live.has_room_for(json.len()) {
            let params = Some(params);
            return Ok(Live { params, ..live });
        }
        let params_digest = Some(self.store.keep_body(json).await?.to_string());
        Ok(Live { params_digest, ..live })
    }

    /// The parameters of an unfinished build.
    pub(crate) async fn live_params(&self, live: &Live) -> Result<Vec<(String, String)>> {
        if let Some(params) = &live.params {
            return Ok(params.clone());
        }
        let digest = live.params_digest.as_deref().and_then(Digest::parse);
        let digest = digest.ok_or_else(|| Error::Io("build: its parameters are missing".into()))?;
        from_json("parameters", &self.store.body(digest).await?)
    }

    /// Numbers of the builds that are not finished, ascending.
    pub(crate) async fn live_numbers(&self, job: &Job) -> Result<Vec<u64>> {
        let mut numbers: Vec<u64> = self
            .store
            .children(&job.path())
            .await?
            .iter()
            .filter_map(|n| n.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Numbers of all builds, ascending.
    pub async fn build_numbers(&self, job: &Job) -> Result<Vec<u64>> {
        let mut numbers = self.live_numbers(job).await?;
        numbers.extend(self.finished_numbers(job).await?);
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// Whether there is such a build.
    pub async fn has_build(&self, job: &Job, n: u64) -> Result<bool> {
        Ok(self.store.get(&live_path(job.uid(), n)).await?.is_some() || self.record(job, n).await?.is_some())
    }

    /// The bound of `concurrency` for a build's job, and whether the build is a stranger's.
    pub(crate) async fn concurrency_of(&self, part: &BuildRef) -> Result<Option<(u32, bool)>> {
        let path = live_path(&part.uid, part.build);
        let Some(entry) = self.store.get(&path).await? else {
            return Ok(None);
        };
        let live: Live = from_json(&path, &entry.data)?;
        let Some(name) = Name::new(&part.job) else {
            return Ok(None);
        };
        let bound = self.configs.parsed(&name, &live.config.digest).await?.concurrency;
        Ok(bound.map(|bound| (bound, live.source.untrusted)))
    }

    /// The text of a build's configuration.
    pub async fn build_config_text(&self, build: &Build) -> Result<Bytes> {
        self.configs.text_of(&build.config_entry()).await
    }
}

/// Who begins a build now.
pub(crate) fn begun(who: Poster, group: Option<Member>) -> Begun {
    Begun {
        who,
        nonce: random_id(),
        at: now(),
        group,
    }
}

/// The group in which a build needs a place, whose job belongs to this user.
///
/// # Errors
/// `Invalid` if its name is none with these parameters.
pub(crate) fn group_of(
    owner: u32,
    config: &JobConfig,
    params: &[(String, String)],
    source: &Source,
) -> Result<Option<Member>> {
    let Some(group) = &config.group else { return Ok(None) };
    let of = Sharing {
        owner,
        kind: Kind::Builds,
        untrusted: source.untrusted,
    };
    let (member, _) = Member::of(group, of, &values(params, source)).map_err(Error::Invalid)?;
    Ok(Some(member))
}

/// Why a build does not begin.
pub(crate) fn not_begun(job: &Job, n: u64, refused: Refused) -> Error {
    let build = format!("jobs/{}/builds/{n}", job.name);
    match refused {
        Refused::Owner(then) => Error::Access(format!(
            "{build} was triggered when user {then} owned the job: trigger a new one"
        )),
        Refused::TooOften => Error::Busy(format!("{build}: retried {RETRIES_MAX} times")),
        Refused::Unnamed => Error::Invalid(format!("{build}: no valid name for its ticket")),
        Refused::Unapproved => Error::NotPermitted(format!(
            "{build} ended without approval: trigger a new one, and approve that"
        )),
        _ => Error::Busy(format!("{build} is not finished")),
    }
}
