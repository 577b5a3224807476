//! Images: root file systems that jobs publish, unpacked on the node once and used many times.
//!
//! Each has a lock: whoever uses one holds it shared, whoever unpacks or removes one alone. It is
//! kept under the job, by its uid, and the digest of what was published, so a new build of an image is
//! another image.
//! What is unpacked must be what has that digest, or one job's file system would be taken for another's:
//! jobs can get each other's names at any moment, and a build can be retried. So the folder of builds is
//! opened once, all is looked up from there, and the build's record must be the same before its artifacts
//! are opened and after. What was used least lately goes when all together are larger than the bound.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::stat::Mode;
use serde::Deserialize;

use super::ranges::Ids;
use super::state::remove_tree;
use crate::record::nullable;
use crate::ticket::UNTRUSTED;
use crate::tree::{self, Trouble};

/// Ends the name of an image's lock; its text is the image's size, bytes.
const LOCK: &str = ".lock";

/// Begins the name of an image that is being unpacked or removed.
const UNDER_WAY: &str = ".part-";

/// Longest text of a lock, bytes.
const LOCK_BYTES_MAX: u64 = 64;

/// What an image is made from.
#[derive(Debug, Clone)]
pub struct Source {
    /// For people: `job:debian12, build 3`.
    pub title: String,
    /// The artifacts of that build: the folder itself, whatever has its name by now.
    pub artifacts: Arc<OwnedFd>,
    /// The name it is kept under.
    pub key: String,
}

impl Source {
    /// Finds what `job:<job>` means now: its last successful build, in a folder of jobs as the owner
    /// of the task's job sees them.
    ///
    /// # Errors
    /// `Refused` with what is missing.
    pub fn find(jobs: &Path, image: &str, ids: Option<Ids>) -> tree::Result<Self> {
        let refused = |why: &str| Trouble::Refused(format!("image {image}: {why}"));
        let job = image
            .strip_prefix("job:")
            .filter(|job| !job.is_empty() && !job.starts_with('.') && !job.contains('/'));
        let job = job.ok_or_else(|| refused("it must be job:<job>"))?;
        if !jobs.is_dir() {
            return Err(refused("a ticket that stands alone has no owner who could read it"));
        }
        let seen = |error: io::Error, absent: &str| match error.kind() {
            io::ErrorKind::NotFound => refused(absent),
            io::ErrorKind::PermissionDenied => refused("the owner of this job may not read it"),
            _ => Trouble::from_io(&format!("image {image}"), &error),
        };
        // A job's folder stays the same one when the job is renamed.
        let builds = folder(&jobs.join(job).join("builds")).map_err(|e| seen(e, "there is no such job"))?;
        let last = fs::read_link(within(&builds, "last-success"));
        let last = last.map_err(|e| seen(e, "the job has no successful build yet"))?;
        let build = folder(&within(&builds, &last)).map_err(|e| seen(e, "its build is gone"))?;
        let record = || {
            tree::read(&within(&build, "build.json")).map_err(|trouble| match trouble {
                Trouble::Away(why) => Trouble::Away(why),
                Trouble::Later(why) | Trouble::Held(why) | Trouble::Full(why) => Trouble::Later(why),
                Trouble::Lost(why) | Trouble::Refused(why) => refused(&why),
            })
        };
        let last = last.display();
        let (record, artifacts) = while_it_stays(record, || folder(&within(&build, "artifacts")))?
            .ok_or_else(|| Trouble::Later(format!("image {image}: build {last} was changed just now")))?;
        let (uid, digests) = published(&record).map_err(|why| refused(&why))?;
        if digests.is_empty() {
            return Err(refused(&format!("build {last} published no artifacts")));
        }
        Ok(Source {
            title: format!("{image}, build {last}"),
            artifacts: Arc::new(artifacts.map_err(|e| seen(e, "its build shows no artifacts"))?),
            key: key(&uid, &digests, ids),
        })
    }
}

/// What a record says, and what was opened while it said that; `None` if it said something else after.
fn while_it_stays<T>(
    mut record: impl FnMut() -> tree::Result<Vec<u8>>,
    open: impl FnOnce() -> T,
) -> tree::Result<Option<(Vec<u8>, T)>> {
    let before = record()?;
    let opened = open();
    Ok((record()? == before).then_some((before, opened)))
}

/// A folder, to look things up in, whatever becomes of its name.
fn folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(
        path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?)
}

/// A name in a folder that is open.
fn within(folder: &OwnedFd, name: impl AsRef<Path>) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name)
}

/// The uid of a build's job, and the digests of what its tasks published, in their order.
fn published(record: &[u8]) -> Result<(String, Vec<String>), String> {
    #[derive(Deserialize)]
    struct Build {
        job_uid: String,
        #[serde(default, deserialize_with = "nullable")]
        trust: String,
        #[serde(default, deserialize_with = "nullable")]
        tasks: Vec<Task>,
    }
    #[derive(Default, Deserialize)]
    struct Task {
        #[serde(default)]
        artifacts: Option<String>,
    }
    let build: Build = serde_json::from_slice(record).map_err(|e| format!("build.json: {e}"))?;
    if build.trust == UNTRUSTED {
        return Err("its build is a stranger's".to_owned());
    }
    let digests = build.tasks.into_iter().filter_map(|task| task.artifacts).collect();
    Ok((build.job_uid, digests))
}

/// A name for these contents of the job with this uid, unpacked for these ids.
fn key(uid: &str, digests: &[String], ids: Option<Ids>) -> String {
    let ids = ids.map_or_else(String::new, |ids| format!("{}:{}", ids.uid, ids.gid));
    let text = format!("{uid}\n{}\n{ids}", digests.join("\n"));
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// The images of a node.
#[derive(Debug, Clone)]
pub struct Images {
    folder: PathBuf,
    bound: u64,
}

/// An image that can't be removed while this lives.
#[derive(Debug)]
pub struct Lease {
    /// The root file system.
    pub root: PathBuf,
    _lock: Flock<File>,
}

impl Images {
    /// In this folder, with at most so many bytes.
    pub fn new(folder: PathBuf, bound: u64) -> Self {
        Images { folder, bound }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Most bytes that all of them have.
    pub fn bound(&self) -> u64 {
        self.bound
    }

    /// Where an image is once it is unpacked.
    pub(super) fn root(&self, key: &str) -> PathBuf {
        self.folder.join(key)
    }

    /// Where it is until then.
    pub(super) fn part(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{UNDER_WAY}{key}"))
    }

    /// An image that is there, to be used; `None` if it is not, or if somebody is at it.
    ///
    /// # Errors
    /// If its lock can't be had.
    pub fn lease(&self, key: &str) -> io::Result<Option<Lease>> {
        let root = self.root(key);
        if !root.is_dir() {
            return Ok(None);
        }
        let Some(lock) = self.lock(key, FlockArg::LockSharedNonblock)? else {
            return Ok(None);
        };
        // The time of the lock is that of the last use.
        lock.set_modified(SystemTime::now())?;
        Ok(root.is_dir().then_some(Lease { root, _lock: lock }))
    }

    /// The lock of an image, if it is free for this.
    pub(super) fn lock(&self, key: &str, how: FlockArg) -> io::Result<Option<Flock<File>>> {
        let path = self.folder.join(format!("{key}{LOCK}"));
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        let lock = match Flock::lock(open, how) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        };
        // Who removes an image removes its lock: then this is the lock of nothing.
        let same = fs::metadata(&path).is_ok_and(|now| lock.metadata().is_ok_and(|ours| now.ino() == ours.ino()));
        Ok(same.then_some(lock))
    }

    /// Removes those that were used least lately, until all together and `more` bytes are within the bound.
    /// Those in use stay, and so does `but`.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn make_room(&self, but: &str, more: u64) -> io::Result<()> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(key) = name.strip_suffix(LOCK) {
                all.push((entry.metadata()?.modified()?, key.to_owned(), size(&entry.path())));
            }
        }
        all.sort();
        let others: u64 = all.iter().map(|(_, _, bytes)| bytes).sum();
        let mut total = others.saturating_add(more);
        for (_, key, bytes) in all {
            if total <= self.bound {
                break;
            }
            if key != but && self.remove(&key)? {
                total = total.saturating_sub(bytes);
            }
        }
        Ok(())
    }

    /// Removes an image that nobody uses; whether it did.
    fn remove(&self, key: &str) -> io::Result<bool> {
        let Some(_lock) = self.lock(key, FlockArg::LockExclusiveNonblock)? else {
            return Ok(false);
        };
        // What is half removed must not be taken for an image.
        let part = self.part(key);
        if fs::rename(self.root(key), &part).is_ok() && !remove_tree(&part) {
            return Ok(false);
        }
        fs::remove_file(self.folder.join(format!("{key}{LOCK}")))?;
        Ok(true)
    }

    /// Removes what was being unpacked or removed when its worker died.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some(key) = name.strip_prefix(UNDER_WAY) else {
                continue;
            };
            if let Some(_lock) = self.lock(key, FlockArg::LockExclusiveNonblock)? {
                remove_tree(&self.folder.join(&name));
            }
        }
        Ok(())
    }

    /// Removes what was begun of an image.
    pub(super) fn drop_part(&self, key: &str) {
        let part = self.part(key);
        if !remove_tree(&part) {
            eprintln!("{} stays: the next image tries again to remove it", part.display());
        }
    }

    /// An empty folder to unpack into; the lock must be held.
    pub(super) fn begin(&self, key: &str) -> io::Result<PathBuf> {
        let part = self.part(key);
        if !remove_tree(&part) {
            return Err(io::Error::other(format!("{} is in the way", part.display())));
        }
        DirBuilder::new().mode(0o755).create(&part)?;
        Ok(part)
    }
}

/// The size that a lock tells, bytes.
fn size(lock: &Path) -> u64 {
    let mut text = String::new();
    let read = File::open(lock).and_then(|file| file.take(LOCK_BYTES_MAX).read_to_string(&mut text));
    read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn images(name: &str, bound: u64) -> Images {
        let folder = std::env::temp_dir().join(format!("distcifs-images-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        Images::new(folder, bound)
    }

    /// An image of so many bytes, used so long ago.
    fn add(images: &Images, key: &str, bytes: u64, age: u64) {
        fs::create_dir(images.root(key)).unwrap();
        let lock = images.folder.join(format!("{key}{LOCK}"));
        fs::write(&lock, format!("{bytes}\n")).unwrap();
        let then = SystemTime::now() - Duration::from_secs(age);
        File::options()
            .write(true)
            .open(lock)
            .unwrap()
            .set_modified(then)
            .unwrap();
    }

    #[test]
    fn what_was_used_least_lately_goes_first() {
        let images = images("room", 100);
        for (key, age) in [("old", 30), ("used", 20), ("young", 10), ("new", 0)] {
            add(&images, key, 40, age);
        }
        let lease = images.lease("used").unwrap().unwrap();
        images.make_room("new", 0).unwrap();
        let left: Vec<bool> = ["old", "used", "young", "new"]
            .map(|key| images.root(key).exists())
            .into();
        assert_eq!(left, [false, true, false, true]);
        assert!(images.lease("old").unwrap().is_none());
        drop(lease);
        images.make_room("new", 60).unwrap();
        assert!(!images.root("used").exists(), "room for what is being unpacked");
        fs::remove_dir_all(&images.folder).unwrap();
    }

    #[test]
    fn what_is_being_made_is_not_given_out_and_is_swept_when_its_maker_died() {
        let images = images("sweep", 100);
        add(&images, "a", 1, 0);
        let maker = images.lock("a", FlockArg::LockExclusiveNonblock).unwrap().unwrap();
        assert!(images.lease("a").unwrap().is_none());
        images.begin("a").unwrap();
        images.sweep().unwrap();
        assert!(images.part("a").exists(), "its maker lives");
        drop(maker);
        images.sweep().unwrap();
        assert!(!images.part("a").exists() && images.lease("a").unwrap().is_some());
        fs::remove_dir_all(&images.folder).unwrap();
    }

    /// A job with a build that says this digest, and has this as its artifacts.
    fn publish(jobs: &Path, job: &str, digest: &str, text: &str) -> PathBuf {
        let build = jobs.join(job).join("builds/1");
        fs::create_dir_all(build.join("artifacts")).unwrap();
        std::os::unix::fs::symlink("1", build.with_file_name("last-success")).unwrap();
        fs::write(build.join("build.json"), record(digest)).unwrap();
        fs::write(build.join("artifacts/i"), text).unwrap();
        build
    }

    fn record(digest: &str) -> String {
        format!(r#"{{"job_uid":"of-{digest}","tasks":[{{"artifacts":"{digest}"}}]}}"#)
    }

    /// "Nobody puts something in the place of another's image": neither by a job that gets the name between
    /// the look at the digest and the reading, nor by a build that is retried meanwhile.
    #[test]
    fn what_is_unpacked_is_what_has_the_digest() {
        let jobs = std::env::temp_dir().join(format!("distcifs-images-jobs-{}", std::process::id()));
        let _ = fs::remove_dir_all(&jobs);
        publish(&jobs, "tiny", "aa", "good");
        publish(&jobs, "evil", "bb", "bad");
        let find = || Source::find(&jobs, "job:tiny", None);
        let source = find().unwrap();
        fs::rename(jobs.join("tiny"), jobs.join("away")).unwrap();
        fs::rename(jobs.join("evil"), jobs.join("tiny")).unwrap();
        assert_eq!(fs::read_to_string(within(&source.artifacts, "i")).unwrap(), "good");
        assert_ne!(find().unwrap().key, source.key);
        fs::remove_dir_all(&jobs).unwrap();
        let mut said = ["aa", "bb", "bb", "bb"].map(record).into_iter();
        let mut found = || while_it_stays(|| Ok(said.next().unwrap().into_bytes()), || 7).unwrap();
        assert_eq!(found(), None, "it was retried while its artifacts were opened");
        assert_eq!(found(), Some((record("bb").into_bytes(), 7)));
    }

    #[test]
    fn an_image_is_named_by_all_that_was_published() {
        let record = br#"{"job_uid":"u","tasks":[{"artifacts":"aa"},{"artifacts":null},{},{"artifacts":"bb"}]}"#;
        let (uid, digests) = published(record).unwrap();
        assert_eq!((&*uid, &*digests), ("u", &["aa".to_owned(), "bb".to_owned()][..]));
        let ids = Some(Ids { uid: 1, gid: 1 });
        assert_ne!(
            key("u", &digests, None),
            key("v", &digests, None),
            "each job has its own"
        );
        let key = |digests: &[String], ids| key("u", digests, ids);
        assert_ne!(key(&digests, None), key(&digests, ids));
        assert_ne!(key(&digests, ids), key(&digests[..1], ids));
        assert!(published(b"{").is_err());
    }
}
