//! Work in a workspace beside the same work on the plain disk, in the same run.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use distcifs_tests::Mount;
use serde_json::json;

use crate::report::{Measure, median};

/// Each measure holds its mount for less.
const LIMIT: Duration = Duration::from_secs(120);

/// Folders of small files, and files in each.
const FOLDERS: usize = 50;
const FILES: usize = 100;

/// Rounds of the small files, inside and outside in turn, so that a busy machine slows both.
const ROUNDS: usize = 3;

/// The large file, bytes, and the pieces in which it is written and read.
const LARGE: usize = 1 << 30;
const PIECE: usize = 1 << 20;

/// Rounds of the large file.
const LARGE_ROUNDS: usize = 2;

/// 5,000 small files: unpacked, cloned, built upon, removed; then captured with the result.
pub(crate) fn small_files() {
    let mount = Mount::with(&[], LIMIT);
    let origin = mount.out().join("origin");
    make_origin(&origin);
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    let claim = mount.claim("q", "t").expect("the claim");
    let inside = mount.path("tickets/q/t/workspace");
    let outside = mount.out().join("plain");
    fs::create_dir(&outside).expect("own folder");
    let steps: [(&str, &str); 4] = [
        ("workspace.tar", "tar -xf $ORIGIN/../origin.tar"),
        (
            "workspace.build",
            "for d in d*; do cat $d/* > $d.all; cp $d/f1* .; done; find . -size +0 > list",
        ),
        (
            "workspace.clone",
            "git clone -q --no-hardlinks $ORIGIN clone && git -C clone status --short",
        ),
        ("workspace.remove", "rm -r -- *"),
    ];
    for (name, script) in steps {
        both(name, &inside, &outside, &origin, script);
    }
    run(&inside, &origin, "tar -xf $ORIGIN/../origin.tar");
    let begun = Instant::now();
    mount.result("q", "t", "0").expect("the result");
    let captured = begun.elapsed().as_secs_f64();
    drop(claim);
    let begun = Instant::now();
    run(&outside, &origin, "tar -xf $ORIGIN/../origin.tar && sync -f .");
    Measure::new("workspace.capture", captured, "s", "none")
        .peer("tar x and sync on the plain disk", begun.elapsed().as_secs_f64())
        .note("files", FOLDERS * FILES)
        .print();
}

/// A repository of git with the files, and a tar of them.
fn make_origin(origin: &Path) {
    for folder in 0..FOLDERS {
        let folder = origin.join(format!("d{folder}"));
        fs::create_dir_all(&folder).expect("own folder");
        for file in 0..FILES {
            let text = format!("{} {file}\n", folder.display()).repeat(1 + file % 40);
            fs::write(folder.join(format!("f{file}")), text).expect("own file");
        }
    }
    run(
        origin,
        origin,
        "tar -cf ../origin.tar . && git init -q . && git add . && git -c user.name=a -c user.email=a@b commit -qm a",
    );
}

/// The same script inside and outside, several times; one line.
fn both(name: &str, inside: &Path, outside: &Path, origin: &Path, script: &str) {
    let rounds = if script.starts_with("rm") { 1 } else { ROUNDS };
    let (mut within, mut without) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for folder in [inside, outside] {
            run(folder, origin, "rm -rf clone d*.all list");
        }
        without.push(run(outside, origin, script));
        within.push(run(inside, origin, script));
    }
    Measure::new(name, median(&within), "s", "none")
        .runs(&within)
        .peer("the plain disk", median(&without))
        .note("files", FOLDERS * FILES)
        .print();
}

/// Runs a script in a folder; seconds.
fn run(folder: &Path, origin: &Path, script: &str) -> f64 {
    let begun = Instant::now();
    let done = Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .env("ORIGIN", origin)
        .output()
        .expect("sh runs");
    assert!(done.status.success(), "{script}: {done:?}");
    begun.elapsed().as_secs_f64()
}

/// One file of 1 GiB: written, read, published.
pub(crate) fn large_file() {
    let mount = Mount::with(&[], LIMIT);
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    let claim = mount.claim("q", "t").expect("the claim");
    let inside = mount.path("tickets/q/t/workspace/large");
    let outside = mount.out().join("large");
    let piece = noise();
    let rate = |seconds: f64| LARGE as f64 / (1 << 20) as f64 / seconds;
    let (mut written, mut read) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..LARGE_ROUNDS {
        for (at, path) in [&outside, &inside].into_iter().enumerate() {
            written[at].push(rate(write(path, &piece, false)));
            read[at].push(rate(read_whole(path)));
            fs::remove_file(path).expect("own file");
        }
    }
    for (name, [plain, within]) in [("large.write", &written), ("large.read", &read)] {
        Measure::new(name, median(within), "MiB/s", "none")
            .runs(within)
            .peer("the plain disk", median(plain))
            .print();
    }
    write(&mount.path("tickets/q/t/artifacts/large"), &piece, false);
    let begun = Instant::now();
    mount.result("q", "t", "0").expect("the result");
    let published = rate(begun.elapsed().as_secs_f64());
    drop(claim);
    let plain = rate(write(&outside, &piece, true));
    Measure::new("large.publish", published, "MiB/s", "none")
        .peer("write and fdatasync on the plain disk", plain)
        .print();
}

/// A piece that no store can make smaller.
fn noise() -> Vec<u8> {
    let mut piece = vec![0; PIECE];
    let mut random = File::open("/dev/urandom").expect("/dev/urandom");
    random.read_exact(&mut piece).expect("random bytes");
    piece
}

/// Writes the large file, each piece another; seconds.
fn write(path: &Path, piece: &[u8], sync: bool) -> f64 {
    let mut piece = piece.to_vec();
    let begun = Instant::now();
    let mut file = File::create(path).expect("own file");
    for number in 0..(LARGE / PIECE) as u64 {
        piece[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&piece).expect("room on the disk");
    }
    if sync {
        file.sync_data().expect("fdatasync");
    }
    drop(file);
    begun.elapsed().as_secs_f64()
}

/// Reads it whole; seconds.
fn read_whole(path: &Path) -> f64 {
    let mut piece = vec![0; PIECE];
    let begun = Instant::now();
    let mut file = File::open(path).expect("own file");
    while file.read(&mut piece).expect("a read") > 0 {}
    begun.elapsed().as_secs_f64()
}
