//! The watch of a channel: asked for when somebody listens, again when it is lost, ended when nobody
//! has listened for a while.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::sync::watch::{Receiver, Sender};

use super::super::rados::{Outcome, Watch};

/// Time until a watch that was refused is asked for again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a watch is kept that nobody needs: making one is a write.
const KEPT: Duration = Duration::from_secs(30);

/// Age of the cluster's last confirmation from which on notices may have been missed. A watch that
/// stands is confirmed every 5 seconds.
const STALE: Duration = Duration::from_secs(8);

/// What a watch needs.
pub(super) enum Due {
    Nothing,
    /// To be looked at again then.
    Later(Instant),
    /// It is to be asked for.
    Watch,
    /// The channel is to be made.
    Make,
    /// It is to be ended.
    End(Watch),
}

/// The receiving end of a channel: its watch.
pub(super) struct Subscriber {
    state: State,
    /// Whether somebody listens.
    wanted: bool,
    /// When somebody listened last.
    used: Instant,
    /// Whether a watch stood before, so that something may have been missed since.
    before: bool,
    /// Number of times that a watch was asked for.
    round: u64,
    stands: Sender<bool>,
}

enum State {
    /// None; to be asked for when it is wanted, not before that time.
    None(Instant),
    /// The channel is not there.
    Missing,
    /// Something is under way.
    Busy,
    /// It stands; whether the cluster has not confirmed it for long.
    Stands(Watch, bool),
    /// It is lost.
    Lost(Watch),
}

impl Subscriber {
    pub(super) fn new(now: Instant) -> Subscriber {
        Subscriber {
            state: State::None(now),
            wanted: false,
            used: now,
            before: false,
            round: 0,
            stands: Sender::new(false),
        }
    }

    /// Somebody listens; tells when the watch stands.
    pub(super) fn want(&mut self) -> Receiver<bool> {
        self.wanted = true;
        self.stands.subscribe()
    }

    /// Whether somebody listens.
    pub(super) fn wanted(&mut self, wanted: bool, now: Instant) {
        // Who is waiting for the watch may not be counted yet.
        self.wanted = wanted || self.stands.receiver_count() > 0;
        if self.wanted {
            self.used = now;
        }
    }

    /// The number of the watch that was asked for last.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    pub(super) fn due(&mut self, now: Instant) -> Due {
        match &self.state {
            State::None(at) if self.wanted && *at > now => Due::Later(*at),
            State::None(_) if self.wanted => {
                self.state = State::Busy;
                self.round += 1;
                Due::Watch
            }
            State::Missing => {
                self.state = State::Busy;
                Due::Make
            }
            State::Stands(..) if !self.wanted && now.duration_since(self.used) >= KEPT => self.end(now),
            State::Lost(_) => self.end(now),
            State::None(_) | State::Busy | State::Stands(..) => Due::Nothing,
        }
    }

    fn end(&mut self, now: Instant) -> Due {
        self.stands.send_replace(false);
        match std::mem::replace(&mut self.state, State::None(now)) {
            State::Stands(watch, _) => {
                // Nobody is there who could have missed something.
                self.before = false;
                Due::End(watch)
            }
            State::Lost(watch) => Due::End(watch),
            _ => Due::Nothing,
        }
    }

    /// What was asked for is answered; whether something may have been missed before.
    pub(super) fn watched(&mut self, watch: Outcome<Watch>, now: Instant) -> bool {
        match watch {
            Ok(watch) => {
                self.state = State::Stands(watch, false);
                self.stands.send_replace(true);
                return std::mem::replace(&mut self.before, true);
            }
            Err(Errno::ENOENT) => self.state = State::Missing,
            Err(errno) => {
                tracing::debug!(%errno, "a watch is refused");
                self.state = State::None(now + RETRY);
            }
        }
        false
    }

    /// The channel was made, or not.
    pub(super) fn made(&mut self, made: bool, now: Instant) {
        self.state = State::None(if made { now } else { now + RETRY });
    }

    /// A watch is over; nothing if that is known.
    pub(super) fn lost(&mut self, round: u64) {
        if round != self.round {
            return;
        }
        self.state = match std::mem::replace(&mut self.state, State::Busy) {
            State::Stands(watch, _) => {
                self.stands.send_replace(false);
                State::Lost(watch)
            }
            other => other,
        };
    }

    /// Whether the cluster confirms the watch again after it has not for long.
    pub(super) fn came_back(&mut self) -> bool {
        let State::Stands(watch, stale) = &mut self.state else {
            return false;
        };
        match watch.age() {
            Ok(age) => std::mem::replace(stale, age >= STALE) && age < STALE,
            Err(_) => {
                let round = self.round;
                self.lost(round);
                false
            }
        }
    }

    /// Whether the cluster has not confirmed the watch for long, or is asked for one: its connection may
    /// stand still.
    pub(super) fn is_doubtful(&self) -> bool {
        matches!(self.state, State::Busy | State::Stands(_, true))
    }

    /// Ends it for good.
    pub(super) fn close(&mut self) -> Option<Watch> {
        match std::mem::replace(&mut self.state, State::Busy) {
            State::Stands(watch, _) | State::Lost(watch) => Some(watch),
            State::None(_) | State::Missing | State::Busy => None,
        }
    }
}
