//! Where the coordinator is and who we are to it. Secrets come from files, never from a command
//! line or the environment.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zookeeper_client::{Acls, Client, Connector};

use super::OpenError;
use crate::storage::bounds::check_path;

/// How long a session outlives the last that the server heard of us, unless told otherwise:
/// so long does work of a dead node wait, and so long may a network be away at no cost.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Shortest and longest session timeouts that are taken: below, a busy machine loses its claims
/// for nothing; above, work of a dead node waits for minutes.
const SESSION_TIMEOUT_BOUNDS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(120)];

/// Longest time to connect to a server and until a silent one is given up: three tenths of the
/// session timeout, so that a third server is reached before claims are in doubt.
const CONNECTION_TIMEOUT_TENTHS: u32 = 3;

/// The port of a host that names none.
const PORT: u16 = 2181;

/// Most hosts taken: ensembles have three to seven.
const HOSTS_MAX: usize = 64;

/// Largest file of credentials or certificates, bytes.
const SECRET_BYTES_MAX: u64 = 1 << 20;

/// How to reach the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `host:port` each; IPv6 addresses stand in brackets.
    pub hosts: Vec<String>,
    /// The entry below which all of ours lie; `/` for the whole of ZooKeeper.
    pub chroot: String,
    /// How long the session outlives us.
    pub session_timeout: Duration,
    /// A file with one line `user:password`, for the scheme `digest`: entries are made for that
    /// user alone. Without it all who may connect may do everything: a client's certificate is
    /// another on each node, so entries can't belong to it.
    pub credentials: Option<PathBuf>,
    /// Encryption; none without.
    pub tls: Option<Tls>,
    /// Where the session's id is kept, so that a mount that restarts ends its former session at
    /// once; one process uses it at a time.
    pub session_file: Option<PathBuf>,
}

/// Files for encryption, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificates that sign the servers'.
    pub ca: PathBuf,
    /// Our certificate and its key, where servers ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Options {
    /// The ports of the servers.
    pub fn ports(&self) -> Vec<u16> {
        let port = |host: &String| host.rsplit_once(':')?.1.parse().ok();
        self.hosts.iter().filter_map(port).collect()
    }

    /// Reads `host:port,host:port/chroot`, with or without `zk://` before it.
    ///
    /// # Errors
    /// `Address`, saying which part is wrong.
    pub fn parse(address: &str) -> Result<Options, OpenError> {
        let wrong = |why: String| OpenError::Address {
            address: address.to_owned(),
            why,
        };
        let bare = address.strip_prefix("zk://").unwrap_or(address);
        let (hosts, chroot) = match bare.find('/') {
            Some(slash) => bare.split_at(slash),
            None => (bare, "/"),
        };
        let hosts: Vec<String> = hosts.split(',').map(host).collect::<Result<_, _>>().map_err(wrong)?;
        if hosts.len() > HOSTS_MAX {
            return Err(wrong(format!("{HOSTS_MAX} hosts at most")));
        }
        let chroot = match chroot.trim_end_matches('/') {
            "" => "/",
            chroot => chroot,
        };
        check_path(chroot).map_err(|_| wrong(format!("{chroot:?} is no path of plain components")))?;
        Ok(Options {
            hosts,
            chroot: chroot.to_owned(),
            session_timeout: SESSION_TIMEOUT,
            credentials: None,
            tls: None,
            session_file: None,
        })
    }
}

/// As it is shown and parsed: `zk://host:port,host:port/chroot`.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zk://{}{}", self.hosts.join(","), self.chroot)
    }
}

/// A host with its port.
fn host(text: &str) -> Result<String, String> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().ok()),
        _ => (text, Some(PORT)),
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._%".contains(c) || (bare.is_some() && c == ':');
    match port {
        Some(port) if port > 0 && !name.is_empty() && bare.unwrap_or(name).chars().all(plain) => {
            Ok(format!("{name}:{port}"))
        }
        _ => Err(format!("{text:?} is no host:port")),
    }
}

/// Everything that is needed to make connections, read from the files once.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) options: Options,
    connector: Connector,
    digest: Option<String>,
    secure: bool,
}

impl Access {
    /// Reads the files.
    pub(super) fn new(options: &Options) -> Result<Access, OpenError> {
        let [shortest, longest] = SESSION_TIMEOUT_BOUNDS;
        if !(shortest..=longest).contains(&options.session_timeout) {
            let why = format!(
                "a session timeout has {} to {} s",
                shortest.as_secs(),
                longest.as_secs()
            );
            return Err(OpenError::Address {
                address: options.to_string(),
                why,
            });
        }
        let timeout = options.session_timeout;
        let mut connector = Client::connector()
            .with_session_timeout(timeout)
            .with_connection_timeout(timeout * CONNECTION_TIMEOUT_TENTHS / 10);
        let digest = options.credentials.as_deref().map(read_digest).transpose()?;
        if let Some(digest) = &digest {
            connector = connector.with_auth("digest", digest.as_bytes());
        }
        if let Some(tls) = &options.tls {
            connector = encrypted(connector, tls)?;
        }
        Ok(Access {
            options: options.clone(),
            connector,
            digest,
            secure: options.tls.is_some(),
        })
    }

    /// What makes sessions.
    pub(super) fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// The hosts, and the entry below which `path` lies, as the client takes them.
    pub(super) fn target(&self, chroot: &str) -> String {
        let scheme = if self.secure { "tcp+tls://" } else { "tcp://" };
        let hosts: Vec<String> = self
            .options
            .hosts
            .iter()
            .map(|host| format!("{scheme}{host}"))
            .collect();
        format!("{}{chroot}", hosts.join(","))
    }

    /// Who may do what with our entries: we everything and others nothing, or all everything if
    /// we have no name.
    pub(super) fn acls(&self) -> Acls<'static> {
        if self.digest.is_some() {
            Acls::creator_all()
        } else {
            Acls::anyone_all()
        }
    }

    /// Who we are, for messages.
    pub(super) fn identity(&self) -> String {
        match (&self.digest, &self.options.credentials) {
            (Some(digest), Some(file)) => {
                let user = digest.split(':').next().unwrap_or_default();
                format!("user {user} of {}", file.display())
            }
            _ => "without credentials".to_owned(),
        }
    }
}

/// Reads `user:password`.
fn read_digest(path: &Path) -> Result<String, OpenError> {
    let text = read_secret(path)?;
    let line = text.lines().next().unwrap_or_default().trim_end();
    match line.split_once(':') {
        Some((user, password)) if !user.is_empty() && !password.is_empty() => Ok(line.to_owned()),
        _ => Err(OpenError::File {
            path: path.to_owned(),
            why: "the first line is not user:password".to_owned(),
        }),
    }
}

/// Reads a file that others should not.
fn read_secret(path: &Path) -> Result<String, OpenError> {
    let text = read_file(path)?;
    if fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o007 != 0) {
        tracing::warn!("{}: holds a secret and others may read it; chmod o= it", path.display());
    }
    Ok(text)
}

fn read_file(path: &Path) -> Result<String, OpenError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(SECRET_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(OpenError::File {
            path: path.to_owned(),
            why: error.to_string(),
        }),
    }
}

#[cfg(feature = "tls")]
fn encrypted(connector: Connector, tls: &Tls) -> Result<Connector, OpenError> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |error: zookeeper_client::Error| OpenError::File {
            path,
            why: error.to_string(),
        }
    };
    // Built together with the workers rustls has two libraries of cryptography, and would panic: it takes neither by
    // itself. An error says that one was taken before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut options = zookeeper_client::TlsOptions::default()
        .with_pem_ca(&read_file(&tls.ca)?)
        .map_err(wrong(&tls.ca))?;
    if let Some((certificate, key)) = &tls.identity {
        options = options
            .with_pem_identity(&read_file(certificate)?, &read_secret(key)?)
            .map_err(wrong(certificate))?;
    }
    Ok(connector.with_tls(options))
}

#[cfg(not(feature = "tls"))]
fn encrypted(_: Connector, tls: &Tls) -> Result<Connector, OpenError> {
    Err(OpenError::File {
        path: tls.ca.clone(),
        why: "this program was built without TLS; build it with --features tls".to_owned(),
    })
}
