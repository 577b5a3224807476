//! Control groups: what bounds memory, processors and processes of a script, and finds all of them.
//!
//! Both versions are served. In version 1 each controller has a hierarchy of its own and groups are
//! made below the worker's; in version 2 there is one, in which a group with processes can't bound
//! its children: root makes groups below the hierarchy's own `distcifs`, anybody else below the
//! group that was delegated to him, after moving its processes aside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use distcifs_settings::task::Limits;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// Controllers that are used.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Period over which processor time is counted, microseconds: the kernel's default.
const CPU_PERIOD_US: f64 = 100_000.0;

/// Shortest processor time in a period that the kernel takes, microseconds.
const CPU_QUOTA_US_MIN: f64 = 1_000.0;

/// How long the kernel may take to let go of a group whose processes were killed.
const REMOVE_MAX: Duration = Duration::from_secs(5);

/// Pause between two tries meanwhile.
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// Where root makes groups in a hierarchy of version 2.
const ROOT_GROUP: &str = "distcifs";

/// Where the processes of a delegated group of version 2 are moved.
const ASIDE_GROUP: &str = "distcifs-workers";

/// Where groups can be made, and what they can bound there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    folder: PathBuf,
    controllers: Vec<&'static str>,
    unified: bool,
}

/// What this machine offers to this process.
#[derive(Debug, Default)]
pub struct Cgroups {
    places: Vec<Place>,
    /// Why something is missing.
    faults: Vec<String>,
}

impl Cgroups {
    /// Looks what there is, by groups of this name. Each folder is noted before it is made.
    pub fn find(name: &str, mut note: impl FnMut(&Path) -> io::Result<()>) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let found = places(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let mut all = Cgroups::default();
        for mut place in found {
            match prepare(&mut place, name, &mut note) {
                Ok(()) => all.places.push(place),
                Err(error) => all.faults.push(format!("{}: {error}", place.folder.display())),
            }
        }
        all
    }

    /// Whether a controller can be used.
    pub fn has(&self, controller: &str) -> bool {
        self.places.iter().any(|place| place.controllers.contains(&controller))
    }

    /// Why a controller can't be used, and what to do about it.
    pub fn why_not(&self, controller: &str) -> String {
        let seen = match self.faults.first() {
            Some(fault) => format!(" ({fault})"),
            None => String::new(),
        };
        format!(
            "this worker has no control group for {controller}{seen}: run it as root, or by systemd with Delegate=yes"
        )
    }

    /// Makes a group with these bounds, in every place that is needed for it. Each folder is noted
    /// before it is made.
    ///
    /// # Errors
    /// For people: what could not be set.
    pub fn group(
        &self,
        name: &str,
        limits: &Limits,
        mut note: impl FnMut(&Path) -> io::Result<()>,
    ) -> Result<Group, String> {
        let mut group = Group::default();
        for place in &self.places {
            let folder = place.folder.join(name);
            let what = |error: io::Error| format!("can't make the control group {}: {error}", folder.display());
            note(&folder).map_err(what)?;
            fs::create_dir(&folder).map_err(what)?;
            group.folders.push(folder.clone());
            for (file, value) in bounds(place, limits) {
                let path = folder.join(file);
                set(&path, &value).map_err(|error| format!("can't set {} to {value}: {error}", path.display()))?;
            }
            if place.controllers.contains(&"pids") {
                group.pids_max = Some(folder.join("pids.max"));
            }
        }
        Ok(group)
    }
}

/// What is written into the files of a group; what can't be bounded there is left out.
fn bounds(place: &Place, limits: &Limits) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let has = |controller| place.controllers.contains(&controller);
    if let Some(cpus) = limits.cpus.filter(|_| has("cpu")) {
        let quota = (cpus * CPU_PERIOD_US).max(CPU_QUOTA_US_MIN).round();
        if place.unified {
            all.push(("cpu.max", format!("{quota} {CPU_PERIOD_US}")));
        } else {
            all.push(("cpu.cfs_period_us", CPU_PERIOD_US.to_string()));
            all.push(("cpu.cfs_quota_us", quota.to_string()));
        }
    }
    if let Some(memory) = limits.memory.filter(|_| has("memory")) {
        if place.unified {
            all.push(("memory.max", memory.to_string()));
        } else {
            all.push(("memory.limit_in_bytes", memory.to_string()));
        }
        // Memory that is swapped out would not count: none is, where the kernel counts it at all.
        let (file, value) = if place.unified {
            ("memory.swap.max", 0)
        } else {
            ("memory.memsw.limit_in_bytes", memory)
        };
        if counts_swap(place) {
            all.push((file, value.to_string()));
        }
    }
    if let Some(processes) = limits.processes.filter(|_| has("pids")) {
        all.push(("pids.max", processes.to_string()));
    }
    all
}

/// Whether swap is counted here. The file is in the groups below a root and in the root of version 1.
fn counts_swap(place: &Place) -> bool {
    let file = if place.unified {
        "memory.swap.max"
    } else {
        "memory.memsw.limit_in_bytes"
    };
    place.folder.join(file).exists()
}

/// The group of one script.
#[derive(Debug, Default)]
pub struct Group {
    folders: Vec<PathBuf>,
    pids_max: Option<PathBuf>,
}

impl Group {
    /// The files that a process writes 0 into to be in it, opened.
    ///
    /// # Errors
    /// If one can't be opened.
    pub fn doors(&self) -> io::Result<Vec<File>> {
        let open = |folder: &PathBuf| OpenOptions::new().write(true).open(folder.join("cgroup.procs"));
        self.folders.iter().map(open).collect()
    }

    /// The file with the bound of processes, for an environment that needs some for itself.
    pub fn pids_max(&self) -> Option<&Path> {
        self.pids_max.as_deref()
    }

    /// How many processes the kernel killed in it because its memory was used up.
    pub fn killed_for_memory(&self) -> u64 {
        let count = |folder: &PathBuf| {
            ["memory.events", "memory.oom_control"].iter().find_map(|file| {
                let text = fs::read_to_string(folder.join(file)).ok()?;
                let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
                line.trim().parse::<u64>().ok()
            })
        };
        self.folders.iter().filter_map(count).sum()
    }

    /// Lets no process in it start another: what is killed then has no successor.
    pub fn stop_forking(&self) {
        if let Some(path) = &self.pids_max {
            // A group that is gone has no processes.
            let _ = set(path, "0");
        }
    }
}

/// Kills all that is left in groups and removes them, those inside them first. True if they are gone.
pub fn remove(folders: &[PathBuf]) -> bool {
    let bound = Instant::now() + REMOVE_MAX;
    loop {
        let left = folders.iter().filter(|folder| !remove_once(folder)).count();
        if left == 0 {
            return true;
        }
        if Instant::now() >= bound {
            return false;
        }
        thread::sleep(REMOVE_PAUSE);
    }
}

/// One try; whether the group is gone.
fn remove_once(folder: &Path) -> bool {
    let inner = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_once(&entry.path());
    }
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match fs::remove_dir(folder) {
        Ok(()) => return true,
        Err(error) if gone(&error) => return true,
        Err(_) => {}
    }
    // What is not there can't be written, and what has ended can't be killed: either is well.
    let _ = set(&folder.join("pids.max"), "0");
    for pid in processes(folder) {
        let _ = kill(pid, Signal::SIGKILL);
    }
    false
}

/// The processes of a group.
fn processes(folder: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.parse::<i32>().ok());
    // 0 stands for one that can't be seen from here.
    pids.filter(|pid| *pid > 0).map(Pid::from_raw).collect()
}

fn set(path: &Path, value: &str) -> io::Result<()> {
    // Never made: these files are the kernel's.
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Where each controller is, from the text of /proc/self/mountinfo and /proc/self/cgroup.
fn places(mounts: &str, own: &str) -> Vec<Place> {
    let mut found: Vec<Place> = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (Some(root), Some(point)) = (left.get(3), left.get(4)) else {
            continue;
        };
        let unified = right.first() == Some(&"cgroup2");
        if !unified && right.first() != Some(&"cgroup") {
            continue;
        }
        let options: Vec<&str> = right.get(2).unwrap_or(&"").split(',').collect();
        let known = |name: &&str| found.iter().any(|place| place.controllers.contains(name));
        let controllers: Vec<_> = CONTROLLERS
            .into_iter()
            .filter(|name| (unified || options.contains(name)) && !known(name))
            .collect();
        let Some(path) = own_group(own, if unified { None } else { controllers.first().copied() }) else {
            continue;
        };
        if controllers.is_empty() {
            continue;
        }
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
        found.push(Place {
            folder: Path::new(point).join(below.trim_start_matches('/')),
            controllers,
            unified,
        });
    }
    found
}

/// The path of this process's group in the hierarchy of a controller; `None`: in that of version 2.
fn own_group<'a>(own: &'a str, controller: Option<&str>) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let here = match controller {
            None => number == "0" && names.is_empty(),
            Some(controller) => names.split(',').any(|name| name == controller),
        };
        here.then_some(path)
    })
}

/// Sees to it that groups can be made in a place, which moves to where they can.
fn prepare(place: &mut Place, name: &str, note: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    if place.unified {
        prepare_unified(place)?;
    }
    // Trying is surer than asking: a container may have it mounted read-only.
    let probe = place.folder.join(name);
    note(&probe)?;
    fs::create_dir(&probe)?;
    let usable = |name: &&'static str| {
        let file = match (*name, place.unified) {
            ("cpu", true) => "cpu.max",
            ("cpu", false) => "cpu.cfs_quota_us",
            ("memory", true) => "memory.max",
            ("memory", false) => "memory.limit_in_bytes",
            _ => "pids.max",
        };
        OpenOptions::new().write(true).open(probe.join(file)).is_ok()
    };
    let controllers: Vec<_> = place.controllers.iter().copied().filter(usable).collect();
    fs::remove_dir(&probe)?;
    place.controllers = controllers;
    if place.controllers.is_empty() {
        return Err(io::Error::other("no controller can be used in it"));
    }
    Ok(())
}

/// Version 2: a group whose children may have bounds must have no processes itself.
fn prepare_unified(place: &mut Place) -> io::Result<()> {
    let aside = |folder: &Path| folder.file_name().is_some_and(|name| name == ASIDE_GROUP);
    if geteuid().is_root() {
        // The root of the hierarchy is the one group that may have both.
        let mut top = place.folder.clone();
        while top.parent().is_some_and(|above| above.join("cgroup.procs").exists()) {
            top.pop();
        }
        enable(&top)?;
        place.folder = top.join(ROOT_GROUP);
        if let Err(error) = fs::create_dir(&place.folder)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
    } else if aside(&place.folder) {
        place.folder.pop();
    } else {
        let inner = place.folder.join(ASIDE_GROUP);
        if let Err(error) = fs::create_dir(&inner)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        for pid in processes(&place.folder) {
            // One that ended meanwhile need not move.
            let _ = set(&inner.join("cgroup.procs"), &pid.to_string());
        }
    }
    enable(&place.folder)
}

/// Lets the children of a group have bounds, each controller by itself: one may be missing.
fn enable(folder: &Path) -> io::Result<()> {
    let file = folder.join("cgroup.subtree_control");
    let tried = CONTROLLERS.map(|name| set(&file, &format!("+{name}")));
    match tried.into_iter().partition::<Vec<_>, _>(Result::is_ok) {
        (good, bad) if good.is_empty() => bad.into_iter().next().unwrap_or(Ok(())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN_1: &str = "9:name=systemd:/\n8:pids:/\n4:memory:/api/7\n2:cpu,cpuacct:/\n0::/\n";
    const OWN_2: &str = "0::/system.slice/ci.service\n";

    fn places_of(mounts: &str, own: &str) -> Vec<(String, Vec<&'static str>, bool)> {
        let plain = |place: Place| (place.folder.display().to_string(), place.controllers, place.unified);
        places(mounts, own).into_iter().map(plain).collect()
    }

    #[test]
    fn version_1_has_a_hierarchy_for_each_controller() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             31 25 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
             32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             33 25 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
             34 25 0:30 / /proc rw - proc proc rw\n";
        assert_eq!(
            places_of(mounts, OWN_1),
            [
                ("/sys/fs/cgroup/cpu,cpuacct/".into(), vec!["cpu"], false),
                ("/sys/fs/cgroup/memory/api/7".into(), vec!["memory"], false),
                ("/sys/fs/cgroup/pids/".into(), vec!["pids"], false),
            ]
        );
    }

    #[test]
    fn version_2_has_one_for_what_version_1_left() {
        let unified = "35 25 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            places_of(unified, OWN_2),
            [(
                "/sys/fs/cgroup/system.slice/ci.service".into(),
                vec!["cpu", "memory", "pids"],
                true
            )]
        );
        let both = format!("31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n{unified}");
        let found = places_of(&both, OWN_1);
        assert_eq!(found[1], ("/sys/fs/cgroup/".into(), vec!["cpu", "pids"], true));
    }

    #[test]
    fn a_container_sees_a_part_of_the_hierarchy() {
        let mounts = "31 25 0:27 /api /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(places_of(mounts, OWN_1)[0].0, "/sys/fs/cgroup/memory/7");
    }

    #[test]
    fn bounds_are_written_as_each_version_has_them() {
        let limits = Limits {
            cpus: Some(0.5),
            memory: Some(1 << 20),
            processes: Some(7),
            disk: None,
        };
        let place = |unified| Place {
            folder: "/nowhere".into(),
            controllers: CONTROLLERS.to_vec(),
            unified,
        };
        let texts = |unified| -> Vec<String> {
            bounds(&place(unified), &limits)
                .into_iter()
                .map(|(file, value)| format!("{file}={value}"))
                .collect()
        };
        assert_eq!(
            texts(false),
            [
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=1048576",
                "pids.max=7"
            ]
        );
        assert_eq!(
            texts(true),
            ["cpu.max=50000 100000", "memory.max=1048576", "pids.max=7"]
        );
    }

    /// So a worker that is killed at any moment leaves no group that nobody knows of.
    #[test]
    fn groups_are_tried_only_after_they_are_noted() {
        let name = format!("distcifs-test-{}", std::process::id());
        let refused = Cgroups::find(&name, |group| {
            assert!(!group.exists(), "{}", group.display());
            Err(io::Error::other("no room for a note"))
        });
        assert!(CONTROLLERS.iter().all(|controller| !refused.has(controller)));
        let mut noted = Vec::new();
        let found = Cgroups::find(&name, |group| {
            noted.push(group.to_owned());
            Ok(())
        });
        assert!(noted.len() >= found.places.len());
        assert!(
            noted.iter().all(|group| group.ends_with(&name) && !group.exists()),
            "{noted:?}"
        );
    }

    #[test]
    fn nothing_can_be_bounded_where_there_are_no_groups() {
        let none = Cgroups::default();
        assert!(!none.has("memory"));
        assert!(none.why_not("memory").contains("Delegate=yes"));
    }
}
