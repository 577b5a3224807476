//! Making sessions and ending them, each within a bound.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zookeeper_client::{Client, CreateMode, Error, SessionInfo, SessionState};

use super::OpenError;
use super::clock;
use super::link::{Link, is_over};
use super::options::Access;

/// Longest wait for a first session: with what follows, a mount has its answer within 10 s.
const FIRST_SESSION_MAX: Duration = Duration::from_secs(5);

/// Longest wait for the look around after that.
const CHECK_MAX: Duration = Duration::from_secs(2);

/// Longest wait for a session, or for the end of one, when there was one before.
pub(super) const SESSION_MAX: Duration = Duration::from_secs(10);

/// Longest wait for a server to confirm the end of a session.
pub(super) const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// Longest wait for a host to say how it is.
const PROBE_MAX: Duration = Duration::from_secs(1);

/// Most of that which is read, bytes.
const SAID_BYTES_MAX: u64 = 4096;

/// Makes the first session, and looks whether we may work there.
pub(super) async fn open(access: &Access) -> Result<Link, OpenError> {
    let sent = clock::now();
    let client = connect(access, &access.options.chroot).await?;
    check(access, &client).await?;
    Ok(Link::new(client, sent))
}

/// Makes the entry below which all of ours lie, and those above it, if they are not there.
pub(super) async fn make_root(access: &Access) -> Result<(), OpenError> {
    let client = connect(access, "").await?;
    let chroot = &access.options.chroot;
    if chroot != "/" {
        let folder = CreateMode::Persistent.with_acls(access.acls());
        bounded(client.mkdir(chroot, &folder))
            .await
            .map_err(|error| failed(access, error))?;
    }
    let Ok(client) = client.chroot(chroot.as_str()) else {
        return Err(failed(access, Error::BadArguments(&"chroot")));
    };
    let checked = check(access, &client).await;
    farewell(client).await;
    checked
}

async fn connect(access: &Access, chroot: &str) -> Result<Client, OpenError> {
    let target = access.target(chroot);
    match timeout(FIRST_SESSION_MAX, access.connector().connect(&target)).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(Error::AuthFailed)) => Err(failed(access, Error::AuthFailed)),
        Ok(Err(_)) | Err(_) => Err(OpenError::Unreachable {
            address: access.options.to_string(),
            why: probe(access).await,
        }),
    }
}

/// What each host says when it is asked how it is.
async fn probe(access: &Access) -> String {
    let ask = |host: &String| tokio::spawn(ask(host.clone(), access.options.tls.is_some()));
    let asked: Vec<_> = access.options.hosts.iter().map(ask).collect();
    let mut said = Vec::new();
    for task in asked {
        said.extend(task.await);
    }
    said.join("; ")
}

async fn ask(host: String, encrypted: bool) -> String {
    let mut stream = match timeout(PROBE_MAX, TcpStream::connect(host.as_str())).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return format!("{host}: {error}"),
        Err(_) => return format!("{host}: no answer"),
    };
    let mut said = String::new();
    let asking = async {
        stream.write_all(b"srvr").await?;
        stream.take(SAID_BYTES_MAX).read_to_string(&mut said).await
    };
    // Whoever takes a connection and says nothing on it has said what it is not.
    let _unanswered = timeout(PROBE_MAX, asking).await;
    let line = said.lines().next().unwrap_or_default();
    match line {
        "" if encrypted => format!("{host}: no TLS with it; see whether each side knows the other's certificate"),
        "" => format!("{host}: takes connections, but is no ZooKeeper or speaks TLS"),
        line if line.starts_with("Zookeeper version") => format!("{host}: serves, but gives us no session"),
        line => format!("{host}: {line}"),
    }
}

/// Looks whether the entry is there, and whether we may read and change it: by a change that its
/// guard never lets happen.
async fn check(access: &Access, client: &Client) -> Result<(), OpenError> {
    let looking = async {
        client.get_data("/").await?;
        client.set_data("/", b"", Some(i32::MIN)).await.map(drop)
    };
    match bounded(looking).await {
        Ok(()) | Err(Error::BadVersion) => Ok(()),
        Err(error) => Err(failed(access, error)),
    }
}

/// Waits for an answer of the server, at most [`CHECK_MAX`].
async fn bounded<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(CHECK_MAX, call).await.unwrap_or(Err(Error::Timeout))
}

fn failed(access: &Access, error: Error) -> OpenError {
    let (address, chroot) = (access.options.to_string(), access.options.chroot.clone());
    match error {
        Error::NoNode => OpenError::NoChroot { address, chroot },
        Error::NoAuth | Error::AuthFailed | Error::InvalidAcl => OpenError::NotAllowed {
            address,
            chroot,
            identity: access.identity(),
        },
        other => OpenError::Unusable {
            address,
            why: other.to_string(),
        },
    }
}

/// Makes a session after another; the hosts are tried once each. Nothing is read under it before
/// its server has caught up: what this mount has seen it must not see undone.
pub(super) async fn reopen(access: &Access) -> Result<Link, Error> {
    let sent = clock::now();
    let target = access.target(&access.options.chroot);
    let opening = async {
        let client = access.connector().with_fail_eagerly().connect(&target).await?;
        client.sync("/").await?;
        Ok(client)
    };
    let client = timeout(SESSION_MAX, opening).await.unwrap_or(Err(Error::Timeout))?;
    Ok(Link::new(client, sent))
}

/// Ends a session wherever its connection is, so that nothing that was sent under it can happen
/// any more.
///
/// # Errors
/// If no server could be asked. A session that is not there is no error.
pub(super) async fn end(access: &Access, session: SessionInfo) -> Result<(), Error> {
    let target = access.target("");
    let connecting = access
        .connector()
        .with_fail_eagerly()
        .with_session(session)
        .connect(&target);
    match timeout(SESSION_MAX, connecting).await.unwrap_or(Err(Error::Timeout)) {
        Ok(client) => farewell(client).await.then_some(()).ok_or(Error::Timeout),
        Err(Error::SessionExpired) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lets a client go, and waits until the server has ended its session; whether it did.
pub(super) async fn farewell(client: Client) -> bool {
    let mut states = client.state_watcher();
    drop(client);
    let over = async {
        let mut state = states.peek_state();
        while !is_over(state) {
            state = states.changed().await;
        }
        state != SessionState::AuthFailed
    };
    timeout(FAREWELL_MAX, over).await.unwrap_or(false)
}
