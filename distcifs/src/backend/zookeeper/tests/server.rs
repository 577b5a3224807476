//! ZooKeeper servers of a test: on loopback addresses of their own, in a folder of their own,
//! ended with the test.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Where Debian's package has the server.
const JAR: &str = "/usr/share/java/zookeeper.jar";

/// What it needs beside: Debian's jar forgets what encryption is made of, and logs nothing without
/// a logger.
const JARS: &str =
    "/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar:/usr/share/java/slf4j-simple.jar";

/// How long servers may take until they serve: a busy machine with two cores needs 5 s for three.
const START_MAX: Duration = Duration::from_secs(60);

/// Pause between two looks whether they do.
const START_PAUSE: Duration = Duration::from_millis(50);

/// ZooKeeper's unit of time, milliseconds: sessions of a second are possible, and expire on time
/// to within one.
const TICK_MS: u32 = 250;

/// The port for clients.
const PORT: u16 = 2181;

/// Some servers that agree with each other.
pub(super) struct Ensemble {
    dir: TempDir,
    servers: Vec<Server>,
}

struct Server {
    address: Ipv4Addr,
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl Ensemble {
    /// Starts servers and waits until they serve.
    pub(super) fn start(count: usize) -> Ensemble {
        Self::start_with(count, |_, _| String::new())
    }

    /// Starts servers with some more lines of configuration, made for a folder and an address.
    pub(super) fn start_with(count: usize, more: impl Fn(&Path, Ipv4Addr) -> String) -> Ensemble {
        assert!(
            Path::new(JAR).exists(),
            "{JAR} is missing: install zookeeper (scripts/setup --cluster)"
        );
        let dir = tempfile::tempdir().unwrap();
        // All of 127/8 is the loopback: an address of one's own spares the search for free ports.
        let mut random = [0; 2];
        File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
        let address = |i: usize| Ipv4Addr::new(127, 1 + random[0] % 250, random[1], 1 + u8::try_from(i).unwrap());
        let members: String = (0..count)
            .map(|i| format!("server.{}={}:2888:3888;{}:{PORT}\n", i + 1, address(i), address(i)))
            .collect();
        let members = if count == 1 { "" } else { &members };
        let server = |i| {
            let more = more(dir.path(), address(i));
            Server::new(dir.path(), i + 1, address(i), members, &more)
        };
        let servers = (0..count).map(server).collect();
        let mut ensemble = Ensemble { dir, servers };
        for i in 0..count {
            ensemble.run(i);
        }
        ensemble.wait();
        ensemble
    }

    /// Where clients connect to.
    pub(super) fn hosts(&self) -> Vec<String> {
        self.servers.iter().map(Server::host).collect()
    }

    /// A folder that goes with the servers.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a server again, or for the first time.
    pub(super) fn run(&mut self, index: usize) {
        let server = &mut self.servers[index];
        let log = File::options().create(true).append(true).open(&server.log).unwrap();
        // The kernel kills the server with the thread that started it: that of the test.
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "java",
            "-Xmx192m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
        ]);
        command.args([
            "-Dzookeeper.admin.enableServer=false",
            "-Dzookeeper.4lw.commands.whitelist=srvr,wchs",
        ]);
        command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
        command.args([
            "-cp",
            &format!("{JAR}:{JARS}"),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        ]);
        command.arg(&server.config).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        server.process = Some(command.spawn().unwrap());
    }

    /// Kills a server.
    pub(super) fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.servers[index].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Sends a server a signal.
    pub(super) fn signal(&self, index: usize, signal: Signal) {
        let process = self.servers[index].process.as_ref().expect("a running server");
        kill(Pid::from_raw(i32::try_from(process.id()).unwrap()), signal).unwrap();
    }

    /// Waits until all that run serve.
    pub(super) fn wait(&self) {
        let begun = Instant::now();
        for server in self.servers.iter().filter(|server| server.process.is_some()) {
            while server.mode().is_none() {
                let log = || fs::read_to_string(&server.log).unwrap_or_default();
                assert!(begun.elapsed() < START_MAX, "no server at {}: {}", server.host(), log());
                sleep(START_PAUSE);
            }
        }
    }

    /// Number of watches that a server holds.
    pub(super) fn watches(&self, index: usize) -> usize {
        let said = self.servers[index].ask("wchs").unwrap();
        let total = said.lines().find_map(|line| line.strip_prefix("Total watches:"));
        total.unwrap().trim().parse().unwrap()
    }

    /// The server that leads.
    pub(super) fn leader(&self) -> usize {
        let leads = |server: &Server| server.mode().is_some_and(|mode| mode == "leader");
        self.servers.iter().position(leads).expect("a leader")
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        for i in 0..self.servers.len() {
            self.kill(i);
        }
    }
}

impl Server {
    fn new(dir: &Path, id: usize, address: Ipv4Addr, members: &str, more: &str) -> Server {
        let data = dir.join(format!("data-{id}"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("myid"), id.to_string()).unwrap();
        let client = if members.is_empty() {
            format!("clientPort={PORT}\nclientPortAddress={address}\n")
        } else {
            String::new()
        };
        let data = data.display();
        let config = dir.join(format!("{id}.cfg"));
        // Writes to the loopback's disk need not survive the test: forceSync=no spares it the disk.
        let text = format!(
            "tickTime={TICK_MS}\ninitLimit=40\nsyncLimit=20\ndataDir={data}\n{client}{members}\
             maxSessionTimeout=60000\nmaxClientCnxns=0\nforceSync=no\n{more}"
        );
        fs::write(&config, text).unwrap();
        let log = dir.join(format!("{id}.log"));
        Server {
            address,
            config,
            log,
            process: None,
        }
    }

    fn host(&self) -> String {
        format!("{}:{PORT}", self.address)
    }

    /// What it does in the ensemble, if it serves.
    fn mode(&self) -> Option<String> {
        let said = self.ask("srvr")?;
        let mode = said.lines().find_map(|line| line.strip_prefix("Mode: "))?;
        Some(mode.to_owned())
    }

    /// What it answers to a command of four letters.
    fn ask(&self, command: &str) -> Option<String> {
        let address = SocketAddr::from((self.address, PORT));
        let mut stream = TcpStream::connect_timeout(&address, START_PAUSE).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(command.as_bytes()).ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said)
    }
}
