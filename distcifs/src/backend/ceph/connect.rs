//! Opening a pool: each way in which it can fail is told in one line, with the remedy.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::rados::{Cluster, Outcome, Pool, Read, Write};

/// Longest time to open a pool.
const OPEN_TIME_MAX: Duration = Duration::from_secs(10);

/// Seconds that librados tries to reach a monitor: a little less, so that its own words are heard.
const MONITOR_SECONDS: &str = "8";

/// Settings of librados. By default it waits for ever, and talks to standard error.
const SETTINGS: [(&str, &str); 11] = [
    ("client_mount_timeout", MONITOR_SECONDS),
    ("rados_mon_op_timeout", MONITOR_SECONDS),
    // Seconds until an operation on an object is given up.
    ("rados_osd_op_timeout", "10"),
    // More than we ever have under way: librados would make the caller's thread wait.
    ("objecter_inflight_ops", "4096"),
    ("objecter_inflight_op_bytes", "536870912"),
    // Threads that send and receive, each some GiB/s: more than a network gives, and fewer that wake
    // one another than the default of three.
    ("ms_async_op_threads", "2"),
    // Seconds after an attempt to connect that failed: by default up to fifteen.
    ("ms_max_backoff", "1"),
    ("log_to_stderr", "false"),
    ("err_to_stderr", "false"),
    ("clog_to_monitors", "false"),
    // A mount has no use for a socket, and no right to make one in /var/run/ceph.
    ("admin_socket", ""),
];

/// An object that nobody makes, to see whether we may read and write.
const PROBE: &str = "distcifs/probe";

/// Where the contents are, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The cluster's configuration; `None`: where librados looks for it (/etc/ceph/ceph.conf).
    pub conf: Option<PathBuf>,
    /// The user, without `client.`.
    pub user: String,
    /// The file with the user's key; `None`: where the configuration has it.
    pub keyring: Option<PathBuf>,
    /// The pool.
    pub pool: String,
    /// The namespace in it; empty for the pool's own.
    pub namespace: String,
    /// Ports of servers that are not Ceph's: connections to them are let alone when Ceph's stand still.
    pub not_ceph: Vec<u16>,
}

/// Why a pool can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The configuration can't be read.
    #[error("ceph_conf {path}: {why}; name the cluster's ceph.conf with -o ceph_conf=FILE")]
    Conf {
        /// The file.
        path: String,
        /// How it shows.
        why: String,
    },
    /// There is no key.
    #[error("ceph_keyring {path}: {why}; name a file with the key of client.{user} with -o ceph_keyring=FILE")]
    Keyring {
        /// The file or files looked at.
        path: String,
        /// How it shows.
        why: String,
        /// The user.
        user: String,
    },
    /// The monitors refuse the user with that key.
    #[error(
        "ceph_user {user}: the cluster at {monitors} refuses client.{user} with this key; `ceph auth get client.{user}` \
         shows the right one"
    )]
    User {
        /// The user.
        user: String,
        /// The monitors' addresses.
        monitors: String,
    },
    /// No monitor answers.
    #[error("ceph_conf {conf}: no monitor answers at {monitors}: {why}; is that the address, and does one run there?")]
    Away {
        /// The configuration.
        conf: String,
        /// The monitors' addresses.
        monitors: String,
        /// librados' words.
        why: String,
    },
    /// There is no such pool.
    #[error(
        "pool {pool}: there is none of that name; make it: ceph osd pool create {pool} && ceph osd pool application \
         enable {pool} distci"
    )]
    Pool {
        /// The pool.
        pool: String,
    },
    /// The user may not use the pool.
    #[error(
        "pool {pool}: client.{user} may not {verb} there; let it: ceph auth caps client.{user} mon 'allow r' \
         osd 'allow rw pool={pool}{scope}'"
    )]
    Denied {
        /// The pool.
        pool: String,
        /// The user.
        user: String,
        /// The namespace, as rights name it.
        scope: String,
        /// What it may not.
        verb: &'static str,
    },
    /// The pool does not answer.
    #[error("pool {pool}: no answer from its OSDs: {why}; see `ceph -s`")]
    Silent {
        /// The pool.
        pool: String,
        /// librados' words.
        why: String,
    },
    /// Something else.
    #[error("Ceph: {what}: {why}")]
    Other {
        /// What was tried.
        what: String,
        /// librados' words.
        why: String,
    },
}

/// An open pool.
pub(super) struct Opened {
    pub(super) pool: Pool,
    pub(super) user: String,
    pub(super) ended: Receiver<()>,
}

/// Opens a pool, on a thread of its own that is left alone when it takes too long.
pub(super) fn connect(options: Options) -> Result<Opened, OpenError> {
    let (sender, opened) = channel();
    let conf = conf_name(&options);
    let work = move || {
        // Nobody listens any more if it took too long.
        let _gone = sender.send(open(&options));
    };
    let started = thread::Builder::new().name("ceph-connect".to_owned()).spawn(work);
    started.map_err(|error| OpenError::Other {
        what: "starting a thread".to_owned(),
        why: error.to_string(),
    })?;
    opened.recv_timeout(OPEN_TIME_MAX).unwrap_or_else(|_| {
        Err(OpenError::Away {
            conf,
            monitors: "the addresses it has".to_owned(),
            why: format!("no answer within {} s", OPEN_TIME_MAX.as_secs()),
        })
    })
}

fn conf_name(options: &Options) -> String {
    let default = || "/etc/ceph/ceph.conf".to_owned();
    options
        .conf
        .as_ref()
        .map_or_else(default, |path| path.display().to_string())
}

/// The error for a step that librados has no special words for.
fn other(what: impl Into<String>, errno: Errno) -> OpenError {
    OpenError::Other {
        what: what.into(),
        why: errno.desc().to_owned(),
    }
}

fn open(options: &Options) -> Result<Opened, OpenError> {
    let cluster = Cluster::new(&options.user).map_err(|e| other(format!("ceph_user {}", options.user), e))?;
    configure(&cluster, options)?;
    let monitors = cluster.get("mon_host").unwrap_or_default();
    if monitors.is_empty() {
        return Err(OpenError::Conf {
            path: conf_name(options),
            why: "it names no monitor (mon_host)".to_owned(),
        });
    }
    let keyring = cluster.get("keyring").unwrap_or_default();
    cluster.connect().map_err(|errno| match errno {
        Errno::ENOENT | Errno::EPERM | Errno::EACCES if !has_key(&keyring, &options.user) => OpenError::Keyring {
            path: keyring,
            why: format!("no key of client.{} there", options.user),
            user: options.user.clone(),
        },
        Errno::EIO | Errno::EINVAL => OpenError::Keyring {
            path: keyring,
            why: "not a keyring of Ceph".to_owned(),
            user: options.user.clone(),
        },
        Errno::EPERM | Errno::EACCES => OpenError::User {
            user: options.user.clone(),
            monitors,
        },
        errno => OpenError::Away {
            conf: conf_name(options),
            monitors,
            why: errno.desc().to_owned(),
        },
    })?;
    let (pool, ended) = cluster
        .pool(&options.pool, &options.namespace)
        .map_err(|errno| match errno {
            Errno::ENOENT => OpenError::Pool {
                pool: options.pool.clone(),
            },
            Errno::EPERM | Errno::EACCES => denied(options, "look for pools"),
            errno => silent(options, errno),
        })?;
    try_out(&pool, options)?;
    Ok(Opened {
        pool,
        user: options.user.clone(),
        ended,
    })
}

fn configure(cluster: &Cluster, options: &Options) -> Result<(), OpenError> {
    let unreadable = |path: &Path| std::fs::File::open(path).err().map(|error| error.to_string());
    let conf_error = |why: String| OpenError::Conf {
        path: conf_name(options),
        why,
    };
    if let Some(why) = options.conf.as_deref().and_then(unreadable) {
        return Err(conf_error(why));
    }
    cluster.read_conf(options.conf.as_deref()).map_err(|errno| {
        conf_error(match errno {
            Errno::ENOENT => "there is no such file".to_owned(),
            _ => format!("not a configuration of Ceph: {}", errno.desc()),
        })
    })?;
    if let Some(path) = &options.keyring {
        let name = path.display().to_string();
        if let Some(why) = unreadable(path) {
            return Err(OpenError::Keyring {
                path: name,
                why,
                user: options.user.clone(),
            });
        }
        cluster
            .set("keyring", &name)
            .map_err(|e| other(format!("ceph_keyring {name}"), e))?;
    }
    for (option, value) in SETTINGS {
        cluster
            .set(option, value)
            .map_err(|e| other(format!("setting {option}"), e))?;
    }
    Ok(())
}

/// Whether one of the files in a list has a key of this user.
fn has_key(files: &str, user: &str) -> bool {
    let section = format!("[client.{user}]");
    let has = |text: String| text.lines().any(|line| line.trim() == section);
    files
        .split([',', ';', ' '])
        .filter(|file| !file.is_empty())
        .any(|file| std::fs::read_to_string(file).is_ok_and(has))
}

fn denied(options: &Options, verb: &'static str) -> OpenError {
    let scope = match options.namespace.as_str() {
        "" => String::new(),
        namespace => format!(" namespace={namespace}"),
    };
    OpenError::Denied {
        pool: options.pool.clone(),
        user: options.user.clone(),
        scope,
        verb,
    }
}

fn silent(options: &Options, errno: Errno) -> OpenError {
    OpenError::Silent {
        pool: options.pool.clone(),
        why: errno.desc().to_owned(),
    }
}

/// Finds out whether we may read and write. Permission is looked at first; the object is not there.
fn try_out(pool: &Pool, options: &Options) -> Result<(), OpenError> {
    let judge = |verb, tried| match tried {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EPERM | Errno::EACCES) => Err(denied(options, verb)),
        Err(errno) => Err(silent(options, errno)),
    };
    judge("read", wait(read_probe(pool)))?;
    judge("write", wait(write_probe(pool)))
}

async fn read_probe(pool: &Pool) -> Outcome<()> {
    pool.read(PROBE, Read::default(), room().await?).await.map(drop)
}

async fn write_probe(pool: &Pool) -> Outcome<()> {
    pool.write(PROBE, Write::new().assert_exists().remove(), room().await?, drop)
        .await
}

/// Room for a single call.
pub(super) async fn room() -> Outcome<OwnedSemaphorePermit> {
    let room = Arc::new(Semaphore::new(1)).acquire_owned();
    room.await.map_err(|_| Errno::ECANCELED)
}

/// Waits for a call on this thread, which has no runtime.
fn wait<T>(call: impl Future<Output = T>) -> T {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut call = std::pin::pin!(call);
    loop {
        if let std::task::Poll::Ready(done) = call.as_mut().poll(&mut context) {
            return done;
        }
        thread::park();
    }
}
