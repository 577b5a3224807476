//! What befalls one of several mounts, on servers in memory: what cluster.rs has on real ones, in
//! seconds and wherever the tests run; and a power cut, which no real server gives us.

use std::sync::OnceLock;
use std::time::Duration;

use super::crash::{End, Place, after_each_write, after_each_write_that_adds};
use super::{Stores, faults, holes, runtime};
use crate::backend::memory::{Link, Memory, MemoryMount};
use crate::repository::format;

/// How long a session outlives its process: short, as each death of one is waited for.
const SESSION_TIMEOUT: Duration = Duration::from_millis(400);

/// A repository of its own; its first process can be cut off.
pub(super) struct Servers {
    memory: Memory,
    first: OnceLock<Link>,
}

impl Servers {
    /// A new repository.
    pub(super) fn new() -> Servers {
        let memory = Memory::with_session_timeout(SESSION_TIMEOUT);
        runtime().block_on(async {
            let mount = memory.mount();
            let made = format::make(&mount.coordination(), &mount.contents(), false).await;
            made.unwrap();
        });
        let first = OnceLock::new();
        Servers { memory, first }
    }
}

/// The stores of one of several mounts.
fn shared(mount: &MemoryMount) -> Stores {
    Stores {
        shared: true,
        ..Stores::alone(mount)
    }
}

impl Place for Servers {
    async fn first(&self) -> Stores {
        let mount = self.memory.mount();
        assert!(self.first.set(mount.link()).is_ok(), "there is one first");
        shared(&mount)
    }

    async fn next(&self) -> Stores {
        shared(&self.memory.mount())
    }

    fn cut(&self) {
        self.first.get().unwrap().cut();
    }

    fn heal(&self) {
        self.first.get().unwrap().heal();
    }
}

/// Its session, and the claims in it, outlive it: the next mount waits for their end and goes on.
#[test]
fn a_mount_that_is_killed_after_any_write_loses_nothing() {
    after_each_write(End::Killed, Servers::new);
}

/// It writes on to the contents, and to the coordinator as soon as it can again: the next mount, which has
/// done its work by then, and whoever looks afterwards see nothing of that.
#[test]
fn a_mount_that_is_cut_off_after_any_write_loses_nothing() {
    after_each_write(End::Cut, Servers::new);
}

/// A machine whose power fails: what was not synced is lost with it.
struct Machine(Memory);

impl Place for Machine {
    async fn first(&self) -> Stores {
        Stores::alone(&self.0.mount())
    }

    async fn next(&self) -> Stores {
        Stores::alone(&self.0.crash().mount())
    }

    /// Who has it is not apart from it.
    fn cut(&self) {}

    fn heal(&self) {}
}

/// "What is told is durable": each row of the order of writes syncs what the next one refers to.
#[test]
fn a_power_cut_after_any_write_loses_nothing() {
    after_each_write(End::Killed, || Machine(Memory::new()));
}

/// "Each added task is made once", wherever the mount of the task that adds it ends.
#[test]
fn a_mount_that_is_killed_while_tasks_are_added_loses_and_doubles_none() {
    after_each_write_that_adds(End::Killed, Servers::new);
}

/// The same of one that is cut off, and comes back.
#[test]
fn a_mount_that_is_cut_off_while_tasks_are_added_loses_and_doubles_none() {
    after_each_write_that_adds(End::Cut, Servers::new);
}

#[test]
fn nothing_is_lost_or_done_twice_when_calls_fail() {
    let servers = Servers::new();
    runtime().block_on(async {
        let mount = servers.memory.mount();
        faults::round(mount.clone(), mount, true, 1).await;
    });
}

#[test]
fn a_ticket_outlasts_a_store_that_is_away() {
    let servers = Servers::new();
    runtime().block_on(async {
        let mount = servers.memory.mount();
        faults::outlasts(mount.clone(), mount, true).await;
    });
}

#[test]
fn a_claim_that_was_made_again_by_another_is_fenced() {
    let servers = Servers::new();
    runtime().block_on(async {
        let stores = [servers.next().await, servers.next().await];
        holes::a_claim_made_again(stores).await;
    });
}

#[test]
fn a_record_has_the_whole_length_of_its_consoles() {
    let servers = Servers::new();
    runtime().block_on(async {
        let stores = [servers.next().await, servers.next().await];
        holes::lengths_are_asked(stores).await;
    });
}
