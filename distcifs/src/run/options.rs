//! What `-o` says.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::cluster::{ClusterOptions, is_cluster, state_of};
use crate::repository::trash::{DAYS_MAX, DAYS_USUAL};

/// The options that are ours, for the error that names them.
const KNOWN: &str = "allow_other[=yes|no], passthrough=yes|no|SIZE, node=NAME, cache=DIR, state=DIR, log=FILE, \
                     log_level=LEVEL, control=USER[:USER…], trash_days=DAYS, ro, rw, noexec, exec, noatime, relatime; for a cluster: pool=NAME, \
                     namespace=NAME, ceph_conf=FILE, ceph_user=NAME, ceph_keyring=FILE, zk_auth=FILE, zk_ca=FILE, \
                     zk_cert=FILE, zk_key=FILE, session_timeout=SECONDS";

/// Levels of the log.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Options of fstab(5) and mount(8) that mean nothing here: they are for who calls us, ask for
/// what is always so (nodev, nosuid), or for what can't be had (dev, suid).
const IGNORED: [&str; 25] = [
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "group",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "async",
    "atime",
    "diratime",
    "nodiratime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "default_permissions",
];

/// Everything that decides a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// The folder that holds everything (absolute, without symbolic links), or a cluster's address.
    pub source: PathBuf,
    /// What is said of a cluster.
    pub cluster: ClusterOptions,
    /// Where the mount keeps what is its own: the source itself, if that is a folder; absolute.
    pub state: PathBuf,
    /// Where to mount; absolute.
    pub mountpoint: PathBuf,
    /// Other users may enter; `None`: if we are root.
    pub allow_other: Option<bool>,
    /// Let the kernel read and write workspaces without asking.
    pub passthrough: bool,
    /// Free bytes from which on it does, if that was said.
    pub pass_from: Option<u64>,
    /// The name of this mount among all mounts.
    pub node: String,
    /// Where claimants' folders live; absolute.
    pub cache: PathBuf,
    /// The log; absolute. `None`: `log` in the state's folder, or standard error in the foreground.
    pub log: Option<PathBuf>,
    /// error, warn, info, debug or trace.
    pub log_level: String,
    /// Users of programs that look at all jobs and trigger them.
    pub control: Vec<u32>,
    /// Days that what is removed here stays in the trash.
    pub trash_days: u64,
    /// Mount read-only.
    pub read_only: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
    /// Access times are left alone.
    pub no_atime: bool,
}

impl MountOptions {
    /// Reads the values of all `-o`; both paths must be absolute.
    pub fn parse(source: PathBuf, mountpoint: PathBuf, values: &[String]) -> Result<Self, String> {
        let mut options = MountOptions {
            cache: PathBuf::new(),
            state: PathBuf::new(),
            cluster: ClusterOptions::default(),
            source,
            mountpoint,
            allow_other: None,
            passthrough: true,
            pass_from: None,
            node: String::new(),
            log: None,
            log_level: "info".into(),
            control: Vec::new(),
            trash_days: DAYS_USUAL,
            read_only: false,
            no_exec: false,
            no_atime: false,
        };
        for option in values
            .iter()
            .flat_map(|value| value.split(','))
            .filter(|option| !option.is_empty())
        {
            options.set(option)?;
        }
        if options.node.is_empty() {
            options.node = host_name()?;
        }
        let shared = is_cluster(&options.source);
        if !shared && !options.state.as_os_str().is_empty() {
            return Err(format!(
                "-o state=DIR: a mount of a folder keeps what is its own in it ({})",
                options.source.display()
            ));
        }
        if !shared {
            options.state.clone_from(&options.source);
        } else if options.state.as_os_str().is_empty() {
            options.state = state_of(&options.source, &options.node)?;
        }
        if options.cache.as_os_str().is_empty() {
            options.cache = options.state.join("attempts");
        }
        Ok(options)
    }

    /// Takes one option.
    fn set(&mut self, option: &str) -> Result<(), String> {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        match (key, value) {
            ("allow_other", None) => self.allow_other = Some(true),
            ("noallow_other", None) => self.allow_other = Some(false),
            ("allow_other", Some(value)) => self.allow_other = Some(yes_or_no(key, value)?),
            ("passthrough", None) => self.passthrough = true,
            ("passthrough", Some(value)) => match size(value) {
                Some(bytes) => (self.passthrough, self.pass_from) = (true, Some(bytes)),
                None => self.passthrough = yes_or_no(key, value)?,
            },
            ("node", Some(value)) => self.node = node(value)?,
            ("cache", Some(value)) => self.cache = absolute(key, value)?,
            ("state", Some(value)) => self.state = absolute(key, value)?,
            ("log", Some(value)) => self.log = Some(absolute(key, value)?),
            ("log_level", Some(value)) if LEVELS.contains(&value) => self.log_level = value.into(),
            ("log_level", Some(value)) => {
                return Err(format!("-o log_level={value}: not one of {}", LEVELS.join(", ")));
            }
            ("control", Some(value)) => self.control.extend(users(value)?),
            ("trash_days", Some(value)) => self.trash_days = days(value)?,
            ("node" | "cache" | "state" | "log" | "log_level" | "control" | "trash_days", None) => {
                return Err(format!("-o {key}: it needs a value: {KNOWN}"));
            }
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("noexec", None) => self.no_exec = true,
            ("exec", None) => self.no_exec = false,
            ("noatime", None) => self.no_atime = true,
            ("relatime", None) => self.no_atime = false,
            ("comment" | "user" | "subtype" | "fsname", Some(_)) => {}
            (key, None) if IGNORED.contains(&key) => {}
            (key, _) if key.starts_with("x-") || key.starts_with("X-") => {}
            (key, value) => match self.cluster.set(key, value.unwrap_or_default()) {
                Some(_) if value.is_none_or(str::is_empty) => {
                    return Err(format!("-o {key}: it needs a value: {KNOWN}"));
                }
                Some(taken) => taken?,
                None => return Err(format!("-o {option}: no such option; known are {KNOWN}")),
            },
        }
        Ok(())
    }
}

/// A switch.
fn yes_or_no(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("-o {key}={value}: say yes or no")),
    }
}

/// A number of bytes, with K, M or G behind it or not.
fn size(value: &str) -> Option<u64> {
    let (digits, shift) = match value.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if value.ends_with('K') => (digits, 10),
        Some(digits) if value.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (value, 0),
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift)
}

/// How long the trash keeps something.
fn days(value: &str) -> Result<u64, String> {
    let days = value.parse().ok().filter(|days| *days <= DAYS_MAX);
    days.ok_or_else(|| format!("-o trash_days={value}: a number of days, from 0 (removed at once) to {DAYS_MAX}"))
}

/// The ids of users that are named, or given by number, with colons between.
fn users(value: &str) -> Result<Vec<u32>, String> {
    let user = |name: &str| match (name.parse(), nix::unistd::User::from_name(name)) {
        (Ok(id), _) => Ok(id),
        (_, Ok(Some(user))) => Ok(user.uid.as_raw()),
        _ => Err(format!("-o control={value}: there is no user {name:?} on this node")),
    };
    value.split(':').map(user).collect()
}

/// A path that survives the daemon's move to `/`.
fn absolute(key: &str, value: &str) -> Result<PathBuf, String> {
    std::path::absolute(value).map_err(|error| format!("-o {key}={value}: {error}"))
}

/// A name that can be a file in /nodes.
fn node(value: &str) -> Result<String, String> {
    match crate::repository::names::Name::new(value) {
        Some(name) => Ok(name.as_str().into()),
        None => Err(format!(
            "-o node={value}: only letters, digits, _ . and -, 128 at most, none of . and - first"
        )),
    }
}

/// The host's name.
fn host_name() -> Result<String, String> {
    let ask = |why: String| format!("{why}: name this mount with -o node=NAME");
    let name =
        nix::unistd::gethostname().map_err(|error| ask(format!("the host's name is not to be had ({error})")))?;
    let name = name.to_string_lossy();
    node(&name).map_err(|_| ask(format!("the host's name {name:?} can't be a file's")))
}

/// Both paths as the mount needs them; the source is made if only it is missing.
pub fn places(source: &Path, mountpoint: &Path) -> Result<(PathBuf, PathBuf), String> {
    let mountpoint = resolve(mountpoint);
    if is_cluster(source) {
        return Ok((source.to_owned(), mountpoint));
    }
    if source.to_string_lossy().contains("://") {
        return Err(format!(
            "{}: a source is a folder, or zk://HOST:PORT,…/PATH for a cluster",
            source.display()
        ));
    }
    if !source.exists() {
        // Who may see what is decided by the mount: nobody else needs to look behind it.
        let made = std::fs::DirBuilder::new().mode(0o700).create(source);
        made.map_err(|error| {
            format!(
                "can't make the source {}: {error}; make its parent first",
                source.display()
            )
        })?;
    }
    let source = source
        .canonicalize()
        .map_err(|error| format!("{}: {error}", source.display()))?;
    if !source.is_dir() {
        return Err(format!("{}: the source must be a folder", source.display()));
    }
    if mountpoint.starts_with(&source) || source.starts_with(&mountpoint) {
        return Err(format!(
            "{} and {}: one is inside the other; choose a mount point elsewhere",
            source.display(),
            mountpoint.display()
        ));
    }
    Ok((source, mountpoint))
}

/// Absolute and without symbolic links, also if the last part is a dead mount or absent.
pub fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let through_parent = || Some(absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?));
    absolute.canonicalize().ok().or_else(through_parent).unwrap_or(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> Result<MountOptions, String> {
        let values: Vec<String> = values.iter().map(|value| (*value).into()).collect();
        MountOptions::parse("/s".into(), "/m".into(), &values)
    }

    #[test]
    fn nothing_said_means_the_documented_defaults() {
        let options = parse(&["node=a"]).unwrap();
        assert_eq!(options.cache, Path::new("/s/attempts"));
        assert_eq!(
            (options.allow_other, options.passthrough, options.log),
            (None, true, None)
        );
        assert_eq!((options.log_level.as_str(), options.trash_days), ("info", 7));
    }

    #[test]
    fn every_key_is_read_and_the_last_one_counts() {
        let options = parse(&[
            "allow_other=no,passthrough=no",
            "node=n.1,cache=/c,log=/l",
            "log_level=debug,rw,ro,trash_days=0",
        ]);
        let options = options.unwrap();
        assert_eq!((options.allow_other, options.passthrough), (Some(false), false));
        assert_eq!((options.node.as_str(), options.log_level.as_str()), ("n.1", "debug"));
        assert_eq!((options.cache, options.log), ("/c".into(), Some("/l".into())));
        assert!(options.read_only && options.trash_days == 0);
        assert_eq!(
            parse(&["node=a,noallow_other,allow_other"]).unwrap().allow_other,
            Some(true)
        );
    }

    #[test]
    fn what_fstab_holds_changes_nothing() {
        let fstab = "rw,noauto,nofail,_netdev,x-systemd.automount,x-systemd.idle-timeout=60,user,dev,suid,exec,nodev,\
                     nosuid,relatime,defaults,comment=hello,,";
        assert_eq!(parse(&["node=a", fstab]), parse(&["node=a"]));
    }

    #[test]
    fn what_is_unknown_or_incomplete_is_named() {
        for (option, word) in [
            ("colour=red", "colour=red"),
            ("passthrough=maybe", "yes or no"),
            ("log_level=loud", "log_level=loud"),
            ("cache", "needs a value"),
            ("node=a/b", "node=a/b"),
            ("session_timeout=5s", "seconds"),
            ("trash_days=-1", "trash_days=-1"),
            ("trash_days=3651", "3650"),
            ("trash_days", "needs a value"),
            ("pool", "needs a value"),
            ("pool=", "needs a value"),
        ] {
            let error = parse(&[option]).unwrap_err();
            assert!(error.contains(word), "{option}: {error}");
        }
    }

    #[test]
    fn a_mount_point_inside_the_source_is_refused_and_the_reverse() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("s");
        assert!(
            places(&source, &source.join("m"))
                .unwrap_err()
                .contains("inside the other")
        );
        assert!(places(&source, dir.path()).unwrap_err().contains("inside the other"));
        assert!(places(&source, &dir.path().join("m")).is_ok());
        assert!(
            places(&dir.path().join("no/s"), &dir.path().join("m"))
                .unwrap_err()
                .contains("parent")
        );
    }
}
