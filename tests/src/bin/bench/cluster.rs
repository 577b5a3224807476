//! What several mounts of one repository cost, beside what ZooKeeper and Ceph take for the same
//! without distcifs, in the same run on the same servers.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use distcifs_tests::cluster::Cluster;
use distcifs_tests::mount::Words;
use distcifs_tests::repository::Repository;
use distcifs_tests::{Mount, Worker, wait_for};
use serde_json::json;

use crate::report::{Measure, median, milliseconds};

/// Each measure holds its mounts for less.
const LIMIT: Duration = Duration::from_secs(600);

/// Claims and builds measured one after another.
const RUNS: usize = 100;

/// Builds triggered at once.
const AT_ONCE: usize = 200;

/// Mounts that claim from one queue together, and claims that each of them makes.
const CLAIMANTS: usize = 8;
const CLAIMS: usize = 500;

/// Before each claim and create that is measured by itself: what the one before it left to be done is over.
const QUIET: Duration = Duration::from_millis(5);

/// Bytes of the large artifact.
const LARGE: u64 = 1 << 30;

/// Mounts on which it is read, one after another.
const READS: usize = 3;

/// Jobs that are listed.
const JOBS: usize = 10_000;

/// Lines that are followed from one mount to the other.
const LINES: usize = 200;

pub(crate) fn mounts(number: usize) -> (Repository, Vec<Mount>) {
    let repository = Repository::on(Cluster::shared());
    let mounts = (0..number)
        .map(|i| Mount::of(&repository, &format!("n{i}"), Words::default(), LIMIT))
        .collect();
    (repository, mounts)
}

/// The time that a claim takes, by turns with a bare create on the server that the mount is connected to.
pub(crate) fn claim() {
    let (_repository, mounts) = mounts(1);
    let mount = &mounts[0];
    mount.queue("q");
    // Posted before, so that the listing of the queue is no part of it.
    let ids: Vec<String> = (0..RUNS)
        .map(|i| mount.post("q", &json!({ "id": format!("t{i}") })))
        .collect();
    // As whoever claims by hand does, who learns of them so.
    let listed = fs::read_dir(mount.path("tickets/q")).expect("the queue").count();
    assert!(listed >= RUNS, "{listed} names in the queue");
    let mut bare = Bare::connect(&server_of(mount));
    let (mut claims, mut runs, mut creates) = (Vec::new(), Vec::new(), Vec::new());
    for id in &ids {
        std::thread::sleep(QUIET);
        let begun = Instant::now();
        claims.push(mount.claim("q", id).expect("a claim"));
        runs.push(milliseconds(begun.elapsed()));
        std::thread::sleep(QUIET);
        creates.push(bare.create_time());
    }
    Measure::new("cluster.claim", median(&runs), "ms", "<= 1.5 creates")
        .runs(&runs)
        .peer("create of ZooKeeper", median(&creates))
        .print();
}

/// The server of ZooKeeper that a mount is connected to, `address:port`.
fn server_of(mount: &Mount) -> String {
    let servers = Cluster::shared().zookeepers();
    let table = format!("/proc/{}/net/tcp", mount.daemon());
    let table = fs::read_to_string(table).expect("the kernel has it");
    let files = fs::read_dir(format!("/proc/{}/fd", mount.daemon())).expect("its files");
    let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    let sockets: Vec<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    // Number, own and other address, state, …, and the tenth: the inode.
    let port = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = sockets.iter().any(|inode| words.get(9) == Some(&inode.as_str()));
        let port = u16::from_str_radix(words.get(2)?.rsplit(':').next()?, 16).ok()?;
        ours.then_some(port)
    };
    let ports: Vec<u16> = table.lines().filter_map(port).collect();
    let connected = servers.into_iter().find(|server| {
        let wanted = server.rsplit(':').next().and_then(|port| port.parse().ok());
        wanted.is_some_and(|port| ports.contains(&port))
    });
    connected.expect("the mount is connected")
}

/// Claims of eight mounts from one queue, beside the creates of eight bare clients.
pub(crate) fn claims_together() {
    let (_repository, mounts) = mounts(CLAIMANTS);
    mounts[0].queue("q");
    for i in 0..CLAIMANTS * CLAIMS {
        mounts[0].post("q", &json!({ "id": format!("t{i}") }));
    }
    let before = creates_together();
    let (taken, ready) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let opened = Instant::now();
    let (shares, took, opening) = std::thread::scope(|scope| {
        let claimants = mounts
            .iter()
            .map(|mount| scope.spawn(|| claim_all(mount, &taken, &ready)));
        let claimants: Vec<_> = claimants.collect();
        all_ready(&ready);
        let begun = Instant::now();
        let shares: Vec<usize> = claimants
            .into_iter()
            .map(|claimant| claimant.join().expect("a claimant"))
            .collect();
        (shares, begun.elapsed(), begun - opened)
    });
    let claimed = shares.iter().sum::<usize>() - CLAIMANTS;
    let rate = claimed as f64 / took.as_secs_f64();
    // Before and after: the servers grow faster for minutes after they were started.
    let creates = (before + creates_together()) / 2.0;
    Measure::new("cluster.claims", rate, "claims/s", ">= 0.5 of the creates")
        .peer("creates of eight clients", creates)
        .note("shares", shares)
        .note("opening_ms", milliseconds(opening))
        .print();
}

/// Waits until each mount has its first ticket.
fn all_ready(ready: &AtomicUsize) {
    wait_for("a ticket for each mount", Duration::from_secs(60), || {
        ready.load(Ordering::SeqCst) == CLAIMANTS
    });
}

/// Creates per second of eight bare clients.
fn creates_together() -> f64 {
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let clients: Vec<_> = (0..CLAIMANTS)
            .zip(Cluster::shared().zookeepers().into_iter().cycle())
            .map(|(_, server)| {
                scope.spawn(move || {
                    let mut bare = Bare::connect(&server);
                    for _ in 0..CLAIMS {
                        bare.create_time();
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().expect("a client");
        }
        (CLAIMANTS * CLAIMS) as f64 / begun.elapsed().as_secs_f64()
    })
}

/// Takes tickets by `.next` until all are taken; how many were taken here. They are held until then. The
/// first one comes with the look at the whole queue, as the session comes before a bare client's first
/// create: then all begin together.
fn claim_all(mount: &Mount, taken: &AtomicUsize, ready: &AtomicUsize) -> usize {
    let path = mount.path("tickets/q/.next");
    let mut next = File::options().read(true).write(true).open(path).expect(".next");
    next.write_all(b"linux\n").expect("labels are taken");
    let (mut line, mut mine) = ([0; 256], 0);
    while taken.load(Ordering::SeqCst) < CLAIMANTS * CLAIMS {
        if next.read(&mut line).expect(".next answers") > 1 {
            taken.fetch_add(1, Ordering::SeqCst);
            mine += 1;
            if mine == 1 {
                ready.fetch_add(1, Ordering::SeqCst);
                all_ready(ready);
            }
        }
    }
    mine
}

/// From trigger to final state of a build of one `true`, and two hundred at once.
pub(crate) fn builds() {
    let (_repository, mounts) = mounts(1);
    let mount = &mounts[0];
    let _workers = Worker::usual(mount, 2);
    mount.shell_job("a", &["true"]);
    let once = || {
        let begun = Instant::now();
        let build = mount.trigger("a", "");
        mount.wait_state("a", build);
        milliseconds(begun.elapsed())
    };
    once();
    let runs: Vec<f64> = (0..RUNS).map(|_| once()).collect();
    // Six changes stand one after another on the way.
    let mut bare = Bare::connect(&server_of(mount));
    let creates: Vec<f64> = (0..RUNS).map(|_| bare.create_time()).collect();
    let peer = 6.0 * median(&creates);
    Measure::new("cluster.build.p50", median(&runs), "ms", "<= 60")
        .runs(&runs)
        .peer("six creates of ZooKeeper", peer)
        .print();
    let begun = Instant::now();
    let builds: Vec<u64> = (0..AT_ONCE).map(|_| mount.trigger("a", "")).collect();
    let triggered = milliseconds(begun.elapsed());
    for build in builds {
        mount.wait_state_within("a", build, Duration::from_secs(60));
    }
    let rate = AT_ONCE as f64 / begun.elapsed().as_secs_f64();
    Measure::new("cluster.throughput", rate, "builds/s", ">= 40")
        .note("triggered_ms", triggered)
        .print();
}

/// A line written on one mount until it can be read on another.
pub(crate) fn console() {
    let (_repository, mounts) = mounts(2);
    mounts[0].queue("q");
    let id = mounts[0].post("q", &json!({}));
    let _claim = mounts[0].claim("q", &id).expect("a claim");
    let path = format!("tickets/q/{id}/console");
    let mut writer = File::options()
        .append(true)
        .open(mounts[0].path(&path))
        .expect("the claimant's console");
    writer.write_all(b"first\n").expect("a line");
    let reader = File::open(mounts[1].path(&path)).expect("the console elsewhere");
    let mut read = wait_for_bytes(&reader, 0);
    let mut once = |line: usize| {
        let begun = Instant::now();
        writeln!(writer, "line {line}").expect("a line");
        read = wait_for_bytes(&reader, read);
        milliseconds(begun.elapsed())
    };
    let mut runs: Vec<f64> = (0..LINES).map(&mut once).collect();
    let p50 = median(&runs);
    runs.sort_by(f64::total_cmp);
    let p99 = runs[runs.len() * 99 / 100];
    Measure::new("cluster.console", p50, "ms", "<= 10").runs(&runs).print();
    Measure::new("cluster.console.p99", p99, "ms", "<= 50").print();
}

/// Reads until there is more than was read before; how much was read then.
fn wait_for_bytes(file: &File, before: u64) -> u64 {
    let mut buffer = [0; 4096];
    let begun = Instant::now();
    loop {
        match file.read_at(&mut buffer, before).expect("a console") {
            0 => std::thread::yield_now(),
            more => return before + more as u64,
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "no line came");
    }
}

/// A large artifact: published, read on a fresh mount, published again.
pub(crate) fn large() {
    let cluster = Cluster::shared();
    let pool_write = rados_bench(cluster, &["15", "write", "--no-cleanup"]);
    let (repository, mounts) = mounts(1);
    let mount = &mounts[0];
    mount.queue("q");
    let source = mount.out().join("large");
    random_file(&source);
    let write = publish(mount, &source, "first");
    let before = bytes_written(cluster);
    let again = publish(mount, &source, "second");
    let moved = bytes_written(cluster).saturating_sub(before);
    let mib = (LARGE >> 20) as f64;
    Measure::new("cluster.write", mib / write, "MiB/s", ">= 0.8 of the pool")
        .peer("rados bench write", pool_write)
        .print();
    // By turns, as both depend on what the servers do beside.
    let reads: Vec<(f64, f64)> = (0..READS)
        .map(|i| (rados_bench(cluster, &["15", "seq"]), mib / cold_read(&repository, i)))
        .collect();
    let (pool, ours): (Vec<f64>, Vec<f64>) = reads.into_iter().unzip();
    Measure::new("cluster.read", median(&ours), "MiB/s", ">= 0.8 of the pool")
        .runs(&ours)
        .peer("rados bench seq", median(&pool))
        .print();
    Measure::new("cluster.again", moved as f64, "bytes", "<= 0.01 of the artifact")
        .peer("the artifact", LARGE as f64)
        .note("seconds", again)
        .print();
    drop(cluster.rados(&["cleanup"]));
}

/// Reads the large artifact on a mount that has never seen it; seconds.
fn cold_read(repository: &Repository, i: usize) -> f64 {
    let elsewhere = Mount::of(repository, &format!("cold{i}"), Words::default(), LIMIT);
    let begun = Instant::now();
    let mut file = File::open(elsewhere.path("tickets/q/first/artifacts/large")).expect("what was published");
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).expect("a read") > 0 {}
    begun.elapsed().as_secs_f64()
}

/// Copies a file into a ticket's artifacts and finishes it; seconds from the copy's end, as
/// copying is the local disk's.
fn publish(mount: &Mount, source: &Path, id: &str) -> f64 {
    mount.post("q", &json!({ "id": id }));
    let claim = mount.claim("q", id).expect("a claim");
    fs::copy(source, mount.path(&format!("tickets/q/{id}/artifacts/large"))).expect("a copy");
    let begun = Instant::now();
    mount.result("q", id, "success").expect("a result");
    drop(claim);
    begun.elapsed().as_secs_f64()
}

fn random_file(path: &Path) {
    let mut random = File::open("/dev/urandom").expect("random bytes").take(LARGE);
    std::io::copy(&mut random, &mut File::create(path).expect("own folder")).expect("a large file");
}

/// MiB/s that the pool does by itself, with objects of 4 MiB.
fn rados_bench(cluster: &Cluster, words: &[&str]) -> f64 {
    let line = [&["bench"], words].concat();
    let said = cluster.rados(&line).expect("rados bench");
    let bandwidth = said.lines().find_map(|line| line.strip_prefix("Bandwidth (MB/sec):"));
    bandwidth
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or_default()
}

/// Bytes that clients have sent to the OSDs since these began.
fn bytes_written(cluster: &Cluster) -> u64 {
    let sent = ["osd.0", "osd.1", "osd.2"].map(|osd| {
        let said = cluster.ceph(&["tell", osd, "perf", "dump", "osd", "op_in_bytes"]);
        let json: serde_json::Value = serde_json::from_str(&said.expect("the OSD's counters")).unwrap_or_default();
        json["osd"]["op_in_bytes"].as_u64().expect("a counter of bytes")
    });
    sent.iter().sum()
}

/// Ten thousand jobs, listed warm and on a fresh mount.
pub(crate) fn many() {
    let (repository, mounts) = mounts(1);
    for i in 0..JOBS {
        fs::create_dir(mounts[0].path(&format!("jobs/job{i}"))).expect("a job");
    }
    list(&mounts[0]);
    let warm: Vec<f64> = (0..5).map(|_| list(&mounts[0])).collect();
    let fresh = Mount::of(&repository, "fresh", Words::default(), LIMIT);
    let cold = list(&fresh);
    Measure::new("cluster.ls-l", median(&warm), "s", "<= 1")
        .runs(&warm)
        .print();
    Measure::new("cluster.ls-l.cold", cold, "s", "<= 3").print();
}

fn list(mount: &Mount) -> f64 {
    let begun = Instant::now();
    let output = Command::new("ls")
        .arg("-l")
        .arg(mount.path("jobs"))
        .output()
        .expect("ls runs");
    assert!(output.status.success());
    begun.elapsed().as_secs_f64()
}

/// What is lost when something dies: the time until another has the ticket.
pub(crate) fn recovery() {
    let (_repository, mounts) = mounts(2);
    mounts[0].queue("q");
    let mut of_worker = Vec::new();
    for i in 0..5 {
        let id = mounts[0].post("q", &json!({ "id": format!("w{i}") }));
        let holder = mounts[0].start(&format!("exec 9> tickets/q/{id}/claim; echo held; sleep 100"));
        wait_for("the claim", LIMIT, || holder.so_far().contains("held"));
        let begun = Instant::now();
        drop(holder);
        of_worker.push(milliseconds(claimed_after(&mounts[1], &id, begun)));
    }
    Measure::new("cluster.recovery.worker", median(&of_worker), "ms", "<= 1000")
        .runs(&of_worker)
        .print();
    let id = mounts[0].post("q", &json!({ "id": "node" }));
    let _claim = mounts[0].claim("q", &id).expect("a claim");
    let begun = Instant::now();
    mounts[0].kill9();
    let took = milliseconds(claimed_after(&mounts[1], &id, begun));
    Measure::new(
        "cluster.recovery.mount",
        took,
        "ms",
        "<= session timeout (10 s) + a tick + 1 s",
    )
    .print();
}

/// Waits in `.next` until the ticket is ours.
fn claimed_after(mount: &Mount, wanted: &str, begun: Instant) -> Duration {
    loop {
        let (_next, id) = mount.ask("q", "linux").expect(".next answers");
        if id == wanted {
            return begun.elapsed();
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{wanted} is never offered again"
        );
    }
}

/// A client of ZooKeeper that can make entries and nothing else: what a create costs without us.
struct Bare {
    stream: TcpStream,
    path: String,
    number: i32,
}

impl Bare {
    /// Connects to a server, and makes an entry to work below.
    fn connect(server: &str) -> Bare {
        let stream = TcpStream::connect(server).expect("ZooKeeper answers");
        stream.set_nodelay(true).expect("a socket");
        let mut hello = Vec::new();
        // Protocol version, last transaction seen, time-out, session, password.
        hello.extend(0_i32.to_be_bytes());
        hello.extend(0_i64.to_be_bytes());
        hello.extend(10_000_i32.to_be_bytes());
        hello.extend(0_i64.to_be_bytes());
        hello.extend(16_i32.to_be_bytes());
        hello.extend([0; 16]);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let thread = format!("{:?}", std::thread::current().id());
        let digits: String = thread.chars().filter(char::is_ascii_digit).collect();
        let mut bare = Bare {
            stream,
            path: format!("/bare-{}-{}-{digits}", std::process::id(), now.as_nanos()),
            number: 0,
        };
        bare.send(&hello);
        bare.receive();
        let path = bare.path.clone();
        bare.create(&path);
        bare
    }

    /// The time of a create, milliseconds.
    fn create_time(&mut self) -> f64 {
        let begun = Instant::now();
        self.create(&format!("{}/{}", self.path, self.number));
        milliseconds(begun.elapsed())
    }

    fn create(&mut self, path: &str) {
        self.number += 1;
        let mut request = Vec::new();
        request.extend(self.number.to_be_bytes());
        // Operation: create.
        request.extend(1_i32.to_be_bytes());
        for text in [
            path,
            "data of an entry like those of a claim, a hundred bytes or so, as it stands there",
        ] {
            request.extend((text.len() as i32).to_be_bytes());
            request.extend(text.as_bytes());
        }
        // One rule: all rights for anybody; flags: it stays.
        request.extend(1_i32.to_be_bytes());
        request.extend(31_i32.to_be_bytes());
        for text in ["world", "anyone"] {
            request.extend((text.len() as i32).to_be_bytes());
            request.extend(text.as_bytes());
        }
        request.extend(0_i32.to_be_bytes());
        self.send(&request);
        let answer = self.receive();
        let error = answer.get(12..16).map(|bytes| bytes.to_vec());
        assert_eq!(error.as_deref(), Some(&[0; 4][..]), "a create");
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut frame = (bytes.len() as u32).to_be_bytes().to_vec();
        frame.extend(bytes);
        self.stream.write_all(&frame).expect("ZooKeeper listens");
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("ZooKeeper answers");
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut bytes).expect("ZooKeeper answers");
        bytes
    }
}
