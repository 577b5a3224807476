//! What is done to the workers, the mounts and the stores. Each fault undoes itself.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::dice::Dice;
use super::farm::{Farm, SESSION_TIMEOUT};
use super::history::Call;
use super::network::Cut;
use crate::process;
use crate::wait::wait_for;

/// The stores are away this long; issue and contract speak of half a minute.
const AWAY: Duration = Duration::from_secs(30);

/// Shorter than the session's timeout, even if somebody is slow.
const SHORT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(2500));

/// Well over it.
const LONG: (Duration, Duration) = (
    Duration::from_secs(SESSION_TIMEOUT.as_secs() + 2),
    Duration::from_secs(SESSION_TIMEOUT.as_secs() + 9),
);

/// A server that was killed is started again after this.
const DEAD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// How long the pool stays full after everybody sees it so.
const FULL: Duration = Duration::from_secs(8);

/// A pool is seen to be full, or not, within this.
const QUOTA_SEEN: Duration = Duration::from_secs(40);

/// How long a mount may take to come back: until whatever befalls the stores is over.
const BACK: Duration = Duration::from_secs(180);

/// Between two tries to mount.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// How long something lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Shorter than a session outlives its mount.
    Short,
    /// Longer.
    Long,
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL for a worker.
    KillWorker,
    /// SIGSTOP and SIGCONT.
    StopWorker(Length),
    /// SIGKILL for a daemon, and a mount again.
    KillMount,
    /// SIGSTOP and SIGCONT.
    StopMount(Length),
    /// SIGKILL for the ZooKeeper server that leads.
    KillLeader,
    /// SIGKILL for an OSD.
    KillOsd,
    /// Two of three ZooKeeper servers are away.
    LoseQuorum,
    /// All OSDs are away.
    LoseCeph,
    /// A mount is cut off.
    CutOff(Cut, Length),
    /// The pool takes nothing.
    FullPool,
}

/// Those that befall workers and mounts.
pub const OF_MOUNTS: [Fault; 8] = [
    Fault::KillWorker,
    Fault::StopWorker(Length::Short),
    Fault::KillWorker,
    Fault::StopWorker(Length::Long),
    Fault::KillMount,
    Fault::StopMount(Length::Short),
    Fault::StopMount(Length::Long),
    Fault::KillMount,
];

/// Those that befall the stores, or the way to them.
pub const OF_STORES: [Fault; 9] = [
    Fault::KillLeader,
    Fault::KillOsd,
    Fault::LoseQuorum,
    Fault::LoseCeph,
    Fault::CutOff(Cut::Zookeeper, Length::Short),
    Fault::CutOff(Cut::Zookeeper, Length::Long),
    Fault::CutOff(Cut::Ceph, Length::Long),
    Fault::CutOff(Cut::Both, Length::Long),
    Fault::FullPool,
];

impl Fault {
    /// Does it, waits, undoes it. `lane`: who does it, in the history.
    pub fn befall(self, farm: &Farm, lane: &str, dice: &mut Dice) {
        let some = usize::try_from(dice.below(farm.nodes().len() as u64)).unwrap_or(0);
        match self {
            Fault::KillWorker | Fault::StopWorker(_) => self.befall_worker(farm, lane, some, dice),
            Fault::KillMount => kill_mount(farm, lane, some, dice),
            Fault::StopMount(length) => stop_mount(farm, lane, some, time(length, dice)),
            Fault::KillLeader => {
                if let Some(leader) = farm.cluster().leader() {
                    let pause = dice.between(DEAD.0, DEAD.1);
                    away(farm, lane, "kill-leader", &[&leader], pause);
                }
            }
            Fault::KillOsd => {
                let osd = format!("osd{}", dice.below(3));
                let pause = dice.between(DEAD.0, DEAD.1);
                away(farm, lane, "kill-osd", &[&osd], pause);
            }
            Fault::LoseQuorum => {
                let servers = dice.shuffled(&["zk1", "zk2", "zk3"]);
                away(farm, lane, "lose-quorum", &servers[..2], AWAY);
            }
            Fault::LoseCeph => away(farm, lane, "lose-ceph", &["osd0", "osd1", "osd2"], AWAY),
            Fault::CutOff(cut, length) => cut_off(farm, lane, cut, time(length, dice), dice),
            Fault::FullPool => full_pool(farm, lane),
        }
    }

    fn befall_worker(self, farm: &Farm, lane: &str, node: usize, dice: &mut Dice) {
        let living = farm.nodes()[node].crew().living();
        let Some((_, name, pid)) = dice.pick(&living) else {
            return;
        };
        match self {
            Fault::StopWorker(length) => noted(farm, lane, "stop-worker", name, || {
                process::signal(*pid, Signal::SIGSTOP);
                sleep(time(length, dice));
                process::signal(*pid, Signal::SIGCONT);
            }),
            _ => noted(farm, lane, "kill-worker", name, || {
                process::signal(*pid, Signal::SIGKILL);
            }),
        }
    }
}

fn time(length: Length, dice: &mut Dice) -> Duration {
    match length {
        Length::Short => dice.between(SHORT.0, SHORT.1),
        Length::Long => dice.between(LONG.0, LONG.1),
    }
}

/// Writes down when it began and when it was undone.
fn noted(farm: &Farm, lane: &str, kind: &str, target: &str, act: impl FnOnce()) {
    let call = Call::Fault {
        kind: kind.to_owned(),
        target: target.to_owned(),
    };
    let done = farm.recorder().call(lane, "-", &call, || {
        act();
        Ok("")
    });
    done.expect("it can't fail");
}

fn kill_mount(farm: &Farm, lane: &str, node: usize, dice: &mut Dice) {
    let node = &farm.nodes()[node];
    noted(farm, lane, "kill-mount", node.name(), || {
        node.mount().kill9();
        sleep(dice.between(SHORT.0, LONG.1));
        let begun = Instant::now();
        while let Err(why) = node.mount().try_mount() {
            assert!(begun.elapsed() < BACK, "{}: {why}", node.name());
            sleep(TRY_EVERY);
        }
    });
}

fn stop_mount(farm: &Farm, lane: &str, node: usize, time: Duration) {
    let node = &farm.nodes()[node];
    let daemon = node.mount().daemon();
    noted(farm, lane, "stop-mount", node.name(), || {
        process::signal(daemon, Signal::SIGSTOP);
        sleep(time);
        process::signal(daemon, Signal::SIGCONT);
    });
}

/// Kills servers and starts them again.
fn away(farm: &Farm, lane: &str, kind: &str, servers: &[&str], time: Duration) {
    noted(farm, lane, kind, &servers.join(","), || {
        servers.iter().for_each(|server| farm.cluster().kill(server));
        sleep(time);
        servers.iter().for_each(|server| farm.cluster().start(server));
    });
}

fn cut_off(farm: &Farm, lane: &str, cut: Cut, time: Duration, dice: &mut Dice) {
    let apart: Vec<_> = farm
        .nodes()
        .iter()
        .filter_map(|node| Some((node, node.network()?)))
        .collect();
    let Some((node, network)) = dice.pick(&apart) else {
        return;
    };
    noted(farm, lane, &format!("cut-{cut:?}"), node.name(), || {
        network.cut(cut, &farm.cluster().zookeepers());
        sleep(time);
        network.heal(cut);
    });
}

fn full_pool(farm: &Farm, lane: &str) {
    let quota = |bytes: &str, full: bool| {
        let set = farm
            .cluster()
            .ceph(&["osd", "pool", "set-quota", "distci", "max_bytes", bytes]);
        set.unwrap_or_else(|why| panic!("the quota of the pool: {why}"));
        wait_for("the quota to be seen", QUOTA_SEEN, || {
            let pools = farm.cluster().ceph(&["osd", "pool", "ls", "detail"]);
            pools.is_ok_and(|pools| pools.contains("full_quota") == full)
        });
    };
    noted(farm, lane, "full-pool", "distci", || {
        quota("1", true);
        sleep(FULL);
        quota("0", false);
    });
}
