//! Keeps a session: asks for signs of life, says how it stands, and makes a new one when it is
//! over.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use zookeeper_client::{Client, Error, SessionState};

use super::link::{Link, is_connected, is_over};
use super::options::Access;
use super::{Shared, clock, opening};
use crate::storage::Session;

/// Signs of life are asked for this many times in a session timeout: before claims are in doubt
/// three may get lost.
const BEATS: u32 = 6;

/// Longest sleep between two looks at the clock, as timers stand still while the machine sleeps.
const LOOK: Duration = Duration::from_millis(500);

/// First and longest pause before a new session is tried for again.
const RENEW_PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// Pause after a sign of life that did not come.
const BEAT_PAUSE: Duration = Duration::from_millis(100);

/// Keeps a session for as long as it is not stopped, one after another.
pub(super) async fn keep(shared: Arc<Shared>) {
    loop {
        let link = shared.link();
        tokio::select! {
            () = beat(&shared, &link) => {}
            () = tend(&shared, &link) => {}
        }
        let client = link.retire();
        shared.publish(&link);
        tracing::warn!(session = %format_args!("{:#x}", link.id()), "the session with ZooKeeper is over; making a new one");
        let next = renew(&shared.access, client).await;
        tracing::info!(session = %format_args!("{:#x}", next.id()), "a new session with ZooKeeper");
        if let Some(file) = &shared.session_file {
            file.save(next.id());
        }
        shared.replace(next);
    }
}

/// Asks for signs of life until the session is over. A sync goes through the leader and changes
/// nothing; a read would prove only that one server lives.
async fn beat(shared: &Shared, link: &Link) {
    let every = link.timeout() / BEATS;
    while let Some(client) = link.client() {
        let due = every.saturating_sub(link.silence());
        if !due.is_zero() {
            sleep(due).await;
            continue;
        }
        let sent = clock::now();
        let answered = is_connected(client.state())
            && timeout(link.timeout(), client.sync("/"))
                .await
                .is_ok_and(|answer| answer.is_ok());
        if answered {
            link.hear(sent);
            shared.publish(link);
        } else {
            sleep(BEAT_PAUSE).await;
        }
    }
}

/// Follows what the client says of its connection and what the clock says of the session, until
/// that is over.
async fn tend(shared: &Shared, link: &Link) {
    let Some(mut states) = link.client().map(|client| client.state_watcher()) else {
        return;
    };
    let mut state = states.peek_state();
    loop {
        link.note(state);
        shared.publish(link);
        if is_over(state) || matches!(link.standing(), Session::Lost { .. }) {
            return;
        }
        let silence = link.silence();
        let next = if silence < link.doubt() {
            link.doubt()
        } else {
            link.timeout()
        };
        tokio::select! {
            changed = states.changed() => state = changed,
            () = sleep(next.saturating_sub(silence).clamp(Duration::from_millis(1), LOOK)) => {}
        }
    }
}

/// Makes a new session, trying for ever. The former one is ended first where the server has not
/// said that it is over: what was sent under it, and is still on its way, can't happen once the
/// new one lives.
async fn renew(access: &Access, former: Option<Client>) -> Link {
    let mut former = former.and_then(|client| {
        let open = client.state() != SessionState::Expired;
        open.then(|| client.session().clone())
    });
    let [mut pause, longest] = RENEW_PAUSES;
    let mut failures = 0_u64;
    loop {
        let ended = match &former {
            Some(session) => opening::end(access, session.clone()).await,
            None => Ok(()),
        };
        let opened: Result<Link, Error> = match ended {
            Ok(()) => {
                former = None;
                opening::reopen(access).await
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(link) => return link,
            Err(error) if failures == 0 => tracing::warn!(%error, "no new session with ZooKeeper yet; trying on"),
            Err(error) => tracing::debug!(%error, failures, "no new session with ZooKeeper yet"),
        }
        failures += 1;
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}
