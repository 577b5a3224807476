//! Making sessions and ending them, each within a bound.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use zookeeper_client::{Client, CreateMode, Error, SessionInfo, SessionState};

use super::OpenError;
use super::clock;
use super::link::{Link, is_over};
use super::options::Access;

/// Longest wait for a first session: with what follows, a mount has its answer within 10 s.
const FIRST_SESSION_MAX: Duration = Duration::from_secs(5);

/// Longest wait for each of the checks after that.
const CHECK_MAX: Duration = Duration::from_secs(2);

/// Longest wait for a session, or for the end of one, when there was one before.
pub(super) const SESSION_MAX: Duration = Duration::from_secs(10);

/// Longest wait for a server to confirm the end of a session.
pub(super) const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// Longest wait for a host to say why it gives no session.
const PROBE_MAX: Duration = Duration::from_secs(1);

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
    let why = match timeout(FIRST_SESSION_MAX, access.connector().connect(&target)).await {
        Ok(Ok(client)) => return Ok(client),
        Ok(Err(Error::AuthFailed)) => return Err(failed(access, Error::AuthFailed)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("none within {} s", FIRST_SESSION_MAX.as_secs()),
    };
    Err(OpenError::Unreachable {
        address: access.options.to_string(),
        why: probe(&access.options.hosts).await.unwrap_or(why),
    })
}

/// What the hosts say to a bare connection; `None` if all take it.
async fn probe(hosts: &[String]) -> Option<String> {
    let mut said = Vec::new();
    for host in hosts {
        let host = host.clone();
        said.push(tokio::spawn(async move {
            match timeout(PROBE_MAX, TcpStream::connect(host.as_str())).await {
                Ok(Ok(_)) => (true, format!("{host}: connects, but serves no session")),
                Ok(Err(error)) => (false, format!("{host}: {error}")),
                Err(_) => (false, format!("{host}: no answer")),
            }
        }));
    }
    let mut lines = Vec::new();
    for task in said {
        lines.extend(task.await.ok());
    }
    let all = lines.iter().all(|(connects, _)| *connects);
    let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
    (!all).then(|| lines.join("; "))
}

/// Looks whether the entry is there, and whether we may read and change it: by a change that its
/// guard never lets happen.
async fn check(access: &Access, client: &Client) -> Result<(), OpenError> {
    let read = bounded(client.get_data("/")).await.map(drop);
    let change = match read {
        Ok(()) => bounded(client.set_data("/", b"", Some(i32::MIN))).await.map(drop),
        Err(error) => Err(error),
    };
    match change {
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

/// Makes a session after another; the hosts are tried once each.
pub(super) async fn reopen(access: &Access) -> Result<Link, Error> {
    let sent = clock::now();
    let target = access.target(&access.options.chroot);
    let connecting = access.connector().with_fail_eagerly().connect(&target);
    let client = timeout(SESSION_MAX, connecting).await.unwrap_or(Err(Error::Timeout))?;
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
