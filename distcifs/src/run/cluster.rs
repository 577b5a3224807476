//! A source that many mounts share, and what `-o` says of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;

use crate::storage::Digest;

/// How the address of such a source begins.
const SCHEME: &str = "zk://";

/// How long a session outlives its mount unless `session_timeout` says otherwise: claims of a dead
/// node are open again after it.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds of `session_timeout`, seconds: less than two ticks of a usual ZooKeeper is refused there,
/// and nobody waits ten minutes for the work of a dead node.
const SESSION_SECONDS: std::ops::RangeInclusive<u64> = 2..=600;

/// Digits of the source's digest in the name of a mount's own folder.
const DIGITS: usize = 8;

/// What `-o` says of a cluster; files that hold keys are named, never their contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOptions {
    /// The pool that holds the contents.
    pub pool: Option<String>,
    /// The namespace in the pool.
    pub namespace: String,
    /// Ceph's configuration; `None`: where Ceph looks for it.
    pub ceph_conf: Option<PathBuf>,
    /// The user, without `client.`.
    pub ceph_user: String,
    /// The user's key; `None`: where Ceph's configuration says.
    pub ceph_keyring: Option<PathBuf>,
    /// A line `user:password` for ZooKeeper.
    pub zk_auth: Option<PathBuf>,
    /// Certificates that sign the ZooKeeper servers': with them the connection is encrypted.
    pub zk_ca: Option<PathBuf>,
    /// Our certificate.
    pub zk_cert: Option<PathBuf>,
    /// Its key.
    pub zk_key: Option<PathBuf>,
    /// How long a session outlives its mount.
    pub session_timeout: Duration,
    /// The first of them that was given, to be named where it means nothing.
    given: Option<String>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions {
            pool: None,
            namespace: "distcifs".into(),
            ceph_conf: None,
            ceph_user: "admin".into(),
            ceph_keyring: None,
            zk_auth: None,
            zk_ca: None,
            zk_cert: None,
            zk_key: None,
            session_timeout: SESSION_TIMEOUT,
            given: None,
        }
    }
}

impl ClusterOptions {
    /// Takes an option, if it is one of these.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Option<Result<(), String>> {
        let taken = match key {
            "pool" => put(&mut self.pool, Ok(Some(value.into()))),
            "namespace" => put(&mut self.namespace, Ok(value.into())),
            "ceph_user" => put(
                &mut self.ceph_user,
                Ok(value.strip_prefix("client.").unwrap_or(value).into()),
            ),
            "ceph_conf" => put(&mut self.ceph_conf, file(key, value)),
            "ceph_keyring" => put(&mut self.ceph_keyring, file(key, value)),
            "zk_auth" => put(&mut self.zk_auth, file(key, value)),
            "zk_ca" => put(&mut self.zk_ca, file(key, value)),
            "zk_cert" => put(&mut self.zk_cert, file(key, value)),
            "zk_key" => put(&mut self.zk_key, file(key, value)),
            "session_timeout" => put(&mut self.session_timeout, seconds(value)),
            _ => return None,
        };
        self.given.get_or_insert_with(|| key.to_owned());
        Some(taken)
    }

    /// Whether they fit the source.
    pub(super) fn check(&self, source: &Path) -> Result<(), String> {
        match (&self.given, &self.pool) {
            (Some(key), _) if !is_cluster(source) => Err(format!(
                "-o {key}: it is for sources of the form {SCHEME}HOST:PORT,…/PATH, and {} is a folder",
                source.display()
            )),
            (_, None) if is_cluster(source) => Err(format!(
                "{}: say with -o pool=NAME which pool of Ceph holds the contents",
                source.display()
            )),
            _ if self.zk_cert.is_some() != self.zk_key.is_some() => {
                Err("-o zk_cert and zk_key are given together or not at all".into())
            }
            _ if self.zk_cert.is_some() && self.zk_ca.is_none() => {
                Err("-o zk_cert: it needs zk_ca=FILE, the certificates that sign the servers'".into())
            }
            _ => Ok(()),
        }
    }
}

/// Sets a field to what was read.
fn put<T>(field: &mut T, read: Result<T, String>) -> Result<(), String> {
    *field = read?;
    Ok(())
}

/// A file's path, which survives the daemon's move to `/`.
fn file(key: &str, value: &str) -> Result<Option<PathBuf>, String> {
    let path = std::path::absolute(value).map_err(|error| format!("-o {key}={value}: {error}"));
    path.map(Some)
}

fn seconds(value: &str) -> Result<Duration, String> {
    let number = value.parse().ok().filter(|number| SESSION_SECONDS.contains(number));
    number.map(Duration::from_secs).ok_or_else(|| {
        format!(
            "-o session_timeout={value}: give seconds, {} to {}",
            SESSION_SECONDS.start(),
            SESSION_SECONDS.end()
        )
    })
}

/// Whether a source is shared by many mounts.
pub(super) fn is_cluster(source: &Path) -> bool {
    source.to_string_lossy().starts_with(SCHEME)
}

/// The folder in which a mount of such a source keeps what is its own: log, session, workspaces.
pub(super) fn state_of(source: &Path, node: &str) -> Result<PathBuf, String> {
    let base = if geteuid().is_root() {
        PathBuf::from("/var/lib/distcifs")
    } else {
        let set = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        set("XDG_STATE_HOME")
            .or_else(|| Some(set("HOME")?.join(".local/state")))
            .map(|base| base.join("distcifs"))
            .ok_or("no HOME is set: say with -o state=DIR where this mount keeps what is its own")?
    };
    let digest = Digest::of(source.as_os_str().as_encoded_bytes()).to_string();
    Ok(base.join(format!("{node}-{}", &digest[..DIGITS])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[(&str, &str)]) -> ClusterOptions {
        let mut options = ClusterOptions::default();
        for (key, value) in words {
            options.set(key, value).unwrap().unwrap();
        }
        options
    }

    #[test]
    fn what_is_missing_or_out_of_place_is_named() {
        let (cluster, folder) = (Path::new("zk://a:2181/ci"), Path::new("/srv/ci"));
        assert!(options(&[]).check(cluster).unwrap_err().contains("pool=NAME"));
        assert!(options(&[]).check(folder).is_ok());
        let error = options(&[("zk_auth", "/k"), ("pool", "p")]).check(folder).unwrap_err();
        assert!(error.contains("zk_auth"), "{error}");
        assert!(options(&[("pool", "p")]).check(cluster).is_ok());
        assert!(options(&[("pool", "p"), ("zk_cert", "/c")]).check(cluster).is_err());
        assert!(ClusterOptions::default().set("session_timeout", "1").unwrap().is_err());
        assert!(ClusterOptions::default().set("colour", "red").is_none());
    }

    #[test]
    fn two_sources_and_two_nodes_have_folders_of_their_own() {
        let of = |source: &str, node| state_of(Path::new(source), node).unwrap();
        assert_ne!(of("zk://a/x", "n"), of("zk://a/y", "n"));
        assert_ne!(of("zk://a/x", "n"), of("zk://a/x", "m"));
    }
}
