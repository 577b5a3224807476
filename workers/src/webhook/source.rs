//! Where the grants come from: one secret for all, or the administrator's file, read again when it
//! has changed.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::grants::{Grants, Owners, located, own_users, uid};
use crate::secret::{Secret, open_plainly, trusted};

/// Longest file, bytes.
const BYTES_MAX: u64 = 1 << 20;

/// Grants as they are now.
#[derive(Debug)]
pub struct Source {
    file: Option<PathBuf>,
    /// Where secrets without a path are; what jobs name in `secret_file` begins with it.
    folder: PathBuf,
    now: Mutex<Now>,
    /// Held by who reads the file: it, or whoever knows the names of users, may not answer for long.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Now {
    grants: Arc<Grants>,
    /// Which state of the file was read last, be it good or not.
    seen: Option<Stamp>,
}

/// By what a file is seen to have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, u64, i64, i64, i64, i64);

impl Stamp {
    fn of(facts: &Metadata) -> Self {
        let (changed, written) = ((facts.ctime(), facts.ctime_nsec()), (facts.mtime(), facts.mtime_nsec()));
        Stamp(
            facts.dev(),
            facts.ino(),
            facts.len(),
            changed.0,
            changed.1,
            written.0,
            written.1,
        )
    }
}

impl Source {
    /// One secret for every repository, for jobs of root, of the user that we run as, and of these.
    ///
    /// # Errors
    /// There is no such user.
    pub fn single(secret: Option<PathBuf>, owners: &[String], folder: PathBuf) -> Result<Self, String> {
        let mut users = own_users();
        for owner in owners {
            users.insert(uid(owner).map_err(|why| format!("--owner: {why}"))?);
        }
        let grants = secret.map(|secret| Grants::single(Secret::at(&folder, &secret), Owners::These(users)));
        Ok(Source {
            file: None,
            folder,
            now: Mutex::new(Now {
                grants: Arc::new(grants.unwrap_or_default()),
                seen: None,
            }),
            turn: Mutex::default(),
        })
    }

    /// The administrator's file.
    ///
    /// # Errors
    /// It can't be read, others may change it, or it has faults: all of them, with their places.
    pub fn open(file: &Path, folder: PathBuf) -> Result<Self, String> {
        let (seen, grants) = read(file, &folder);
        Ok(Source {
            file: Some(file.to_owned()),
            folder,
            now: Mutex::new(Now {
                grants: Arc::new(grants?),
                seen,
            }),
            turn: Mutex::default(),
        })
    }

    /// What holds now. A file that has changed is read; if it is not good, the log says why, once,
    /// and what it said before stays in force. So it does for everybody else while it is read.
    pub fn grants(&self) -> Arc<Grants> {
        if let Some(file) = &self.file
            && let Ok(_turn) = self.turn.try_lock()
        {
            let stamp = file.metadata().ok().map(|facts| Stamp::of(&facts));
            if stamp != self.lock().seen {
                self.take(file);
                self.lock().seen = stamp;
            }
        }
        self.lock().grants.clone()
    }

    /// Reads the file again, though nothing seems to have changed: names of users may have.
    pub fn reread(&self) {
        if let Some(file) = &self.file {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.take(file);
        }
    }

    /// The secret that a job names, if it is one of the folder's.
    pub fn named(&self, path: &str) -> Option<Secret> {
        Secret::below(&self.folder, Path::new(path))
    }

    fn take(&self, file: &Path) {
        let (seen, grants) = read(file, &self.folder);
        let mut now = self.lock();
        now.seen = seen;
        match grants {
            Ok(grants) => {
                eprintln!(
                    "github-webhook: {}: in force, with {} lines",
                    file.display(),
                    grants.len()
                );
                now.grants = Arc::new(grants);
            }
            Err(why) => {
                why.lines().for_each(|line| eprintln!("github-webhook: {line}"));
                eprintln!("github-webhook: {}: what it said before stays in force", file.display());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path, folder: &Path) -> (Option<Stamp>, Result<Grants, String>) {
    let mut seen = None;
    let text = (|| {
        let file: File = open_plainly(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let facts = file
            .metadata()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        seen = Some(Stamp::of(&facts));
        if !facts.is_file() {
            return Err(format!("{}: it is no regular file", path.display()));
        }
        trusted(&facts).map_err(|why| format!("{}: {why}", path.display()))?;
        let mut text = Vec::new();
        file.take(BYTES_MAX + 1)
            .read_to_end(&mut text)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        if text.len() as u64 > BYTES_MAX {
            return Err(format!("{}: it has more than {BYTES_MAX} bytes", path.display()));
        }
        Ok(text)
    })();
    let grants = text.and_then(|text| Grants::parse(&text, folder).map_err(|faults| located(path, &faults)));
    (seen, grants)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("distcifs-source-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_bad_one_changes_nothing() {
        let folder = Folder::new("again");
        let path = folder.0.join("repositories");
        fs::write(&path, "a/b s 0\n").unwrap();
        let source = Source::open(&path, folder.0.clone()).unwrap();
        let of = |name: &str| source.grants().of(name).len();
        assert_eq!((of("a/b"), of("c/d")), (1, 0));
        // Beside and renamed onto it, as editors do; and in place.
        fs::write(folder.0.join("new"), "c/d s 0\n").unwrap();
        fs::rename(folder.0.join("new"), &path).unwrap();
        assert_eq!((of("a/b"), of("c/d")), (0, 1));
        fs::write(&path, "c/d s 0\nnonsense\n").unwrap();
        assert_eq!(of("c/d"), 1);
        fs::remove_file(&path).unwrap();
        assert_eq!(of("c/d"), 1);
        source.reread();
        fs::write(&path, "a/b s 0\n").unwrap();
        assert_eq!((of("a/b"), of("c/d")), (1, 0));
    }

    /// A file that can't be read to its end for long holds up who reads it, and nobody else.
    #[test]
    fn who_reads_the_file_holds_nobody_up() {
        let folder = Folder::new("turn");
        let path = folder.0.join("repositories");
        fs::write(&path, "a/b s 0\n").unwrap();
        let source = Source::open(&path, folder.0.clone()).unwrap();
        let of = |repository: &str| source.grants().of(repository).len();
        let turn = source.turn.lock().unwrap();
        fs::write(&path, "longer/name s 0\n").unwrap();
        assert_eq!((of("a/b"), of("longer/name")), (1, 0), "as it was");
        drop(turn);
        assert_eq!((of("a/b"), of("longer/name")), (0, 1));
    }

    #[test]
    fn what_others_may_change_is_not_believed() {
        let folder = Folder::new("others");
        let path = folder.0.join("repositories");
        fs::write(&path, "a/b s 0\n").unwrap();
        for (mode, good) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let opened = Source::open(&path, folder.0.clone());
            assert_eq!(opened.is_ok(), good, "{mode:o}: {opened:?}");
            if let Err(why) = opened {
                assert!(why.contains("chmod go-w") && why.contains("repositories"), "{why}");
            }
        }
        if nix::unistd::Uid::effective().is_root() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            let why = Source::open(&path, folder.0.clone()).unwrap_err();
            assert!(why.contains("belongs to user 12345"), "{why}");
        }
        let why = Source::open(&folder.0.join("absent"), folder.0.clone()).unwrap_err();
        assert!(why.contains("absent"), "{why}");
        assert!(Source::open(Path::new("/dev/null"), folder.0.clone()).is_err());
    }

    #[test]
    fn jobs_name_only_files_of_the_folder() {
        let source = Source::single(None, &[], "/etc/secrets".into()).unwrap();
        assert!(source.named("/etc/secrets/acme").is_some());
        for path in [
            "/etc/shadow",
            "/etc/secrets",
            "/etc/secrets/",
            "/etc/secrets/../shadow",
            "/etc/secrets/a/b",
            "/etc/secrets/.a",
            "/etc/secrets2/a",
            "acme",
            "",
        ] {
            assert_eq!(source.named(path), None, "{path}");
        }
        assert!(Source::single(None, &["nobody-of-this-name".into()], "/x".into()).is_err());
    }
}
