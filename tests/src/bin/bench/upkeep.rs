//! What looking after a folder costs while it builds: gc beside builds, and a first backup.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use distcifs_tests::{Mount, Worker, programs};

use crate::report::{Measure, median};

/// Each measure holds its mount for less, however slow the machine is.
const LIMIT: Duration = Duration::from_secs(3600);

/// Chunks in the folder that gc looks after; the variable names another number.
const CHUNKS: usize = 1_000_000;
const CHUNKS_VARIABLE: &str = "DISTCIFS_BENCH_CHUNKS";

/// Chunks that one build publishes, a file each: larger ones than stand in listings.
const OF_A_BUILD: usize = 5_000;
const FILE_BYTES: usize = 3000;

/// Of so many builds one is garbage.
const GARBAGE_OF: usize = 5;

/// How long builds are counted without gc.
const ALONE: Duration = Duration::from_secs(15);

/// Builds under way at once.
const AT_ONCE: usize = 4;

/// Mebibytes that a first backup brings, in files of one, and how often it is made.
const SAVED_MIB: usize = 256;
const TURNS: usize = 3;

fn chunks() -> usize {
    let number = std::env::var(CHUNKS_VARIABLE).ok().and_then(|text| text.parse().ok());
    number.unwrap_or(CHUNKS)
}

/// gc of a folder of a million chunks, a fifth of them garbage, and the builds meanwhile.
pub(crate) fn gc() {
    let mount = Mount::with(&[], LIMIT);
    let workers = Worker::usual(&mount, 2);
    let builds = (chunks() / OF_A_BUILD).max(1);
    let bytes = OF_A_BUILD * FILE_BYTES;
    let script = format!("head -c {bytes} /dev/urandom | split -a 4 -b {FILE_BYTES} - ../artifacts/");
    mount.shell_job("kept", &[&script]);
    mount.shell_job("gone", &[&script]);
    for number in 0..builds {
        let name = if number % GARBAGE_OF == 0 { "gone" } else { "kept" };
        let build = mount.trigger(name, "");
        mount.wait_state_within(name, build, LIMIT);
    }
    mount.run("rm -r jobs/gone; rm jobs/.trash/*");
    mount.shell_job("a", &["true"]);
    let (done, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let build = mount.trigger("a", "");
                    mount.wait_state_within("a", build, LIMIT);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let rate = |work: &mut dyn FnMut()| {
            let (begun, before) = (Instant::now(), done.load(Ordering::Relaxed));
            work();
            let seconds = begun.elapsed().as_secs_f64();
            ((done.load(Ordering::Relaxed) - before) as f64 / seconds, seconds)
        };
        let mut wait = || std::thread::sleep(ALONE);
        let (before, _) = rate(&mut wait);
        let mut said = String::new();
        let (beside, seconds) = rate(&mut || said = run(&["gc", mount.repository().source()]));
        let (after, _) = rate(&mut wait);
        over.store(true, Ordering::Relaxed);
        Measure::new("gc.seconds", seconds, "s", "<= 60")
            .note("chunks", builds * OF_A_BUILD)
            .note("said", said.trim())
            .print();
        Measure::new("gc.builds", beside, "builds/s", ">= 0.9 of the rate without")
            .peer("before and after it", (before + after) / 2.0)
            .print();
    });
    drop(workers);
}

/// A first backup beside `cp -a` of the same folder, by turns, each with a sync of its file system.
pub(crate) fn backup() {
    let mount = Mount::with(&[], LIMIT);
    let workers = Worker::usual(&mount, 1);
    let script = format!(
        "for i in $(seq {SAVED_MIB}); do head -c 1M /dev/urandom > ../artifacts/$i; done; \
         head -c 12M /dev/urandom | split -a 4 -b {FILE_BYTES} - ../artifacts/s"
    );
    mount.shell_job("a", &[&script]);
    let build = mount.trigger("a", "");
    mount.wait_state_within("a", build, LIMIT);
    drop(workers);
    let (source, out) = (mount.repository().source().to_owned(), mount.out());
    let bytes = SAVED_MIB as f64 + 12.0;
    let mut rates = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        let copy = out.join(format!("copy-{turn}"));
        // Without the folders of claimants, which no backup has.
        let objects = Path::new(&source).join("objects");
        rates[0].push(bytes / timed(|| synced(Command::new("cp").arg("-a").args([&objects, &copy]))));
        let dir = out.join(format!("saved-{turn}"));
        let mut saving = Command::new(programs::distcifs());
        saving.args(["backup", "--copy", &source]).arg(&dir);
        rates[1].push(bytes / timed(|| synced(&mut saving)));
        for used in [copy, dir] {
            std::fs::remove_dir_all(used).expect("own folder");
        }
    }
    let [plain, saved] = &rates;
    Measure::new("backup.first", median(saved), "MiB/s", ">= 0.7 of cp -a")
        .runs(saved)
        .peer("cp -a and sync, by turns", median(plain))
        .note("peer_runs", plain.clone())
        .print();
    let dir = out.join("saved");
    let source = source.as_str();
    let dir = dir.to_str().expect("a temporary path is text");
    let linked = timed(|| drop(run(&["backup", source, dir])));
    let again = timed(|| drop(run(&["backup", source, dir])));
    Measure::new("backup.again", again, "s", "none")
        .peer("the first, linked on the same file system", linked)
        .print();
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// Runs a command, and has what it wrote on the disk.
fn synced(command: &mut Command) {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    assert!(Command::new("sync").status().expect("sync runs").success());
}

fn run(words: &[&str]) -> String {
    let output = Command::new(programs::distcifs())
        .args(words)
        .output()
        .expect("distcifs runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
