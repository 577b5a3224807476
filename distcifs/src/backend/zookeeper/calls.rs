//! Calls: when they may be made, how long they may take, what their errors mean.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout, timeout_at};
use zookeeper_client::{Client, Error as ClientError};

use super::link::{Link, is_connected, is_over};
use super::{Shared, clock};
use crate::storage::{Error, Result, Session};

/// Longest time of a call: less than the 10 s after which those above give up, so that they hear
/// what became of it.
pub(super) const CALL_MAX: Duration = Duration::from_secs(8);

/// How long after a connection was lost calls wait for the next one; later ones fail at once. The
/// election of a leader takes about this long.
pub(super) const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// Pause before a read is made again whose connection was lost.
pub(super) const AGAIN_PAUSE: Duration = Duration::from_millis(5);

impl Shared {
    /// The session that lives and its client, as soon as that is connected.
    ///
    /// # Errors
    /// `Expired` if the session is over, `Unavailable` if there is no connection.
    pub(super) async fn reach(&self, what: &str) -> Result<(Arc<Link>, Client)> {
        let link = self.link();
        let expired = || Error::Expired { what: what.to_owned() };
        let Some(client) = link.client() else {
            self.publish(&link);
            return Err(expired());
        };
        if is_connected(client.state()) {
            return Ok((link, client));
        }
        let mut states = client.state_watcher();
        let connected = async {
            let mut state = states.peek_state();
            while !is_connected(state) && !is_over(state) {
                state = states.changed().await;
            }
            is_connected(state)
        };
        match timeout_at(link.away_since() + RECONNECT_MAX, connected).await {
            Ok(true) if matches!(link.standing(), Session::Lost { .. }) => Err(expired()),
            Ok(true) => Ok((link, client)),
            Ok(false) => Err(expired()),
            Err(_) => Err(unavailable(what, "no connection to ZooKeeper")),
        }
    }

    /// Like [`Shared::reach`], and waits for the next session if one is over: for calls that
    /// belong to none.
    pub(super) async fn reach_any(&self, what: &str) -> Result<(Arc<Link>, Client)> {
        let mut links = self.links.subscribe();
        loop {
            links.mark_unchanged();
            match self.reach(what).await {
                Err(Error::Expired { .. }) => {}
                other => return other,
            }
            if !matches!(timeout(RECONNECT_MAX, links.changed()).await, Ok(Ok(()))) {
                return Err(unavailable(what, "the session is over and there is no new one yet"));
            }
        }
    }

    /// Makes a call that changes nothing, again where its connection was lost.
    pub(super) async fn read<T, F>(&self, what: &str, call: impl Fn(Client) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, ClientError>>,
    {
        let reading = async {
            loop {
                let (_, client) = self.reach_any(what).await?;
                match call(client).await {
                    Ok(value) => return Ok(value),
                    Err(error) if is_lost(&error) => sleep(AGAIN_PAUSE).await,
                    Err(error) => return Err(refusal(what, &error)),
                }
            }
        };
        match timeout(CALL_MAX, reading).await {
            Ok(read) => read,
            Err(_) => Err(unavailable(what, &slow())),
        }
    }

    /// Returns when what was committed anywhere before can be read here.
    pub(super) async fn catch_up(&self) -> Result<()> {
        let syncing = async {
            loop {
                let (link, client) = self.reach_any("sync").await?;
                let sent = clock::now();
                match client.sync("/").await {
                    Ok(()) => {
                        link.hear(sent);
                        return Ok(());
                    }
                    Err(error) if is_lost(&error) => sleep(AGAIN_PAUSE).await,
                    Err(error) => return Err(refusal("sync", &error)),
                }
            }
        };
        match timeout(CALL_MAX, syncing).await {
            Ok(synced) => synced,
            Err(_) => Err(unavailable("sync", &slow())),
        }
    }
}

/// Why a call took too long.
pub(super) fn slow() -> String {
    format!("no answer from ZooKeeper within {} s", CALL_MAX.as_secs())
}

/// The error of a call that did not happen for want of a server.
pub(super) fn unavailable(what: &str, why: &str) -> Error {
    Error::Unavailable {
        what: what.to_owned(),
        why: why.to_owned(),
    }
}

/// Whether the call may have reached a server, or none that can say: everything but an answer.
pub(super) fn is_lost(error: &ClientError) -> bool {
    use ClientError as E;
    let of_the_entry = matches!(
        error,
        E::NoNode | E::NodeExists | E::BadVersion | E::NotEmpty | E::NoChildrenForEphemerals | E::NoAuth
    );
    let of_the_call = matches!(
        error,
        E::InvalidAcl | E::BadArguments(_) | E::MarshallingError | E::Unimplemented | E::QuotaExceeded
    );
    !of_the_entry && !of_the_call
}

/// The error for an answer that refuses the call, whatever is tried again.
pub(super) fn refusal(what: &str, error: &ClientError) -> Error {
    let (what, why) = (what.to_owned(), error.to_string());
    match error {
        ClientError::QuotaExceeded => Error::Full { what, why },
        ClientError::NoAuth | ClientError::InvalidAcl => Error::Refused {
            what,
            why: format!("{why}: it belongs to other credentials than ours"),
        },
        ClientError::Unimplemented => Error::Refused {
            what,
            why: format!("{why}: ZooKeeper 3.6 or later is needed"),
        },
        _ => Error::Refused { what, why },
    }
}
