//! Those who use the mounts while they fail: they trigger, configure and look.

use std::fs::File;
use std::io::{self, Read, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::checker::says;
use super::crew::HAND;
use super::dice::Dice;
use super::farm::Farm;
use super::found::{ARTIFACT_LINES, version_of};
use super::groups;
use super::history::Call;
use crate::mount::Mount;

/// The jobs that are built; the last two have groups.
pub const JOBS: [&str; 4] = ["a", "b.1", "line", "push"];

/// Of so many triggers each job has one, and the jobs without groups one more.
const TURNS: u64 = 6;

/// Between two triggers of a mount.
const TRIGGER_EVERY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(2500));

/// Builds under way beyond which nobody triggers: what waits at the end must be through in time.
const UNDER_WAY_MAX: usize = 30;

/// Between two configurations of a mount.
const CONFIGURE_EVERY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(4000));

/// Between two looks.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));

/// Between two tries of a trigger that failed.
const AGAIN: Duration = Duration::from_millis(300);

/// A keyed trigger is tried for as long as any fault may last.
const INSIST: Duration = Duration::from_secs(120);

/// The configuration of a job that is built: a script, a worker that writes down what it is told,
/// and a script again. `history`: where the scripts do the same.
pub fn config(job: &str, history: &str, version: &str) -> String {
    if let Some(grouped) = groups::of(job) {
        return groups::config(grouped, history, version);
    }
    let shell = |task: u32| {
        let script = script(history, task);
        json!({ "type": "execute-shell", "attempts": 10, "params": { "script": script } })
    };
    let hand: Value = json!({ "type": HAND, "attempts": 10 });
    let description = format!("version {version}");
    let tasks = [shell(0), hand, shell(2)];
    json!({ "description": description, "parameters": { "token": null }, "tasks": tasks }).to_string()
}

/// The script of a task, which writes down what it is told.
pub(super) fn script(history: &str, task: u32) -> String {
    format!(
        "read -r up _ < /proc/uptime; token=s{task}-$$-$up
        write() {{ read -r up _ < /proc/uptime; echo \"$up $token - $*\" >> '{history}'; }}
        write begin before $JOB_NAME.$BUILD_NUMBER.{task}
        if before=$(LC_ALL=C cat steps 2>&1); then write end ok \"$(echo \"$before\" | tr '\\n' ',')\"
        else case $before in
        *'No such file'*) write end ok '' ;;
        *) write end unread \"$before\"; exit 1 ;;
        esac; fi
        echo \"{}\"
        yes $token | head -n {ARTIFACT_LINES} > ../artifacts/{task}.txt
        sleep 0.$((BUILD_NUMBER % 10))
        echo $token >> steps\n",
        says("$token")
    )
}

/// One of the jobs.
fn any_job(dice: &mut Dice) -> String {
    let turn = dice.below(TURNS) as usize;
    JOBS[turn % JOBS.len()].to_owned()
}

impl Farm {
    /// Triggers on a mount until it is time to stop; with a key, until it is told a number.
    pub(super) fn trigger_on(&self, node: usize, seed: u64) {
        let (who, mut dice) = (format!("trigger-{node}"), Dice::new(seed, 100 + node as u64));
        for count in 0.. {
            sleep(dice.between(TRIGGER_EVERY.0, TRIGGER_EVERY.1));
            if self.is_closing() {
                return;
            }
            if self.under_way() > UNDER_WAY_MAX {
                continue;
            }
            let job = any_job(&mut dice);
            let (token, keyed) = (format!("t{node}-{count}"), dice.below(2) == 0);
            let key = if keyed {
                format!("@key={token}\n")
            } else {
                String::new()
            };
            let body = format!("token={token}\n{key}");
            let call = Call::Trigger {
                job: job.clone(),
                token,
                keyed,
            };
            let begun = Instant::now();
            for other in node.. {
                let at = &self.nodes()[other % self.nodes().len()];
                let told = self
                    .recorder()
                    .call(&who, at.name(), &call, || trigger(at.mount(), &job, &body));
                if let Ok(number) = told {
                    self.made(&job, number);
                }
                if told.is_ok() || !keyed || begun.elapsed() > INSIST {
                    break;
                }
                sleep(AGAIN);
            }
        }
    }

    /// Configures on a mount, and looks at once whether it is so.
    pub(super) fn configure_on(&self, node: usize, seed: u64) {
        let (who, mut dice) = (format!("configure-{node}"), Dice::new(seed, 200 + node as u64));
        let (at, history) = (&self.nodes()[node], self.history());
        for count in 0.. {
            sleep(dice.between(CONFIGURE_EVERY.0, CONFIGURE_EVERY.1));
            if self.is_closing() {
                return;
            }
            let job = any_job(&mut dice);
            let version = format!("v{node}-{count}");
            let (path, text) = (format!("jobs/{job}/config.json"), config(&job, &history, &version));
            let call = Call::Configure { job, version };
            let told = self.recorder().call(&who, at.name(), &call, || {
                at.mount().write(&path, &text)?;
                Ok("")
            });
            drop(told); // Whether it went well is the checker's to judge.
        }
    }

    /// Looks at builds and configurations on a mount.
    pub(super) fn look_on(&self, node: usize, seed: u64) {
        let (who, mut dice) = (format!("look-{node}"), Dice::new(seed, 300 + node as u64));
        let at = &self.nodes()[node];
        while !self.is_over() {
            sleep(dice.between(LOOK_EVERY.0, LOOK_EVERY.1));
            let (path, call) = match self.any_build(&mut dice) {
                Some((job, build)) if dice.below(4) > 0 => {
                    (format!("jobs/{job}/builds/{build}/state"), Call::State { job, build })
                }
                _ => {
                    let job = any_job(&mut dice);
                    (format!("jobs/{job}/config.json"), Call::Config { job })
                }
            };
            let told = self.recorder().call(&who, at.name(), &call, || {
                let text = std::fs::read_to_string(at.mount().path(&path))?;
                match &call {
                    Call::Config { .. } => version_of(&text).ok_or_else(|| io::Error::other("it names no version")),
                    _ => Ok(text.trim().to_owned()),
                }
            });
            if let (Call::State { job, build }, Ok(word)) = (&call, told) {
                self.saw(job, *build, &word);
            }
        }
    }
}

/// Triggers and gives the number.
pub fn trigger(mount: &Mount, job: &str, body: &str) -> io::Result<u64> {
    let path = mount.path(&format!("jobs/{job}/trigger"));
    let mut file = File::options().read(true).write(true).open(path)?;
    file.write_all(body.as_bytes())?;
    let mut text = [0_u8; 64];
    let length = file.read(&mut text)?;
    let number = std::str::from_utf8(&text[..length]).unwrap_or_default().trim();
    number
        .parse()
        .map_err(|_| io::Error::other(format!("{number:?} is no number")))
}
